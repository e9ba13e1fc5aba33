"""The plane of HAPI (contract.md §9). Importing it fills the route table."""

from cmdop_appliance.api.hapi import (
    paths as paths,
)
