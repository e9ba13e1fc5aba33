"""The plane of HAPI (contract.md §9). Importing it fills the route table."""

from cmdop_appliance.api.hapi import (
    auth as auth,
)
from cmdop_appliance.api.hapi import (
    machines as machines,
)
from cmdop_appliance.api.hapi import (
    paths as paths,
)
from cmdop_appliance.api.hapi import (
    sessions as sessions,
)
