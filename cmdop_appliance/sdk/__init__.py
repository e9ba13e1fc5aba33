"""The Python SDK: everything a program can do with a hub, over its public HTTP API."""

from cmdop_appliance.sdk.client import Client
from cmdop_appliance.sdk.errors import (
    APIError,
    CmdopError,
    CodingRefused,
    Conflict,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    NotFound,
    RateLimited,
    ServerError,
    Unauthorized,
    UnexpectedAnswer,
)
from cmdop_appliance.sdk.types import Ended, EventGap, Gap, Output

__all__ = [
    "APIError",
    "Client",
    "CmdopError",
    "CodingRefused",
    "Conflict",
    "ConnectionFailed",
    "Ended",
    "EventGap",
    "Forbidden",
    "Gap",
    "InvalidRequest",
    "NotFound",
    "Output",
    "RateLimited",
    "ServerError",
    "Unauthorized",
    "UnexpectedAnswer",
]
