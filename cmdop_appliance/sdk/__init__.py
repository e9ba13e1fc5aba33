"""The Python SDK: everything a program can do with a hub, over its public HTTP API."""

from cmdop_appliance.sdk.client import Client
from cmdop_appliance.sdk.errors import (
    APIError,
    CmdopError,
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
from cmdop_appliance.sdk.types import Ended, Gap, Missed, Output

__all__ = [
    "APIError",
    "Client",
    "CmdopError",
    "Conflict",
    "ConnectionFailed",
    "Ended",
    "Forbidden",
    "Gap",
    "InvalidRequest",
    "Missed",
    "NotFound",
    "Output",
    "RateLimited",
    "ServerError",
    "Unauthorized",
    "UnexpectedAnswer",
]
