"""The Python SDK: everything a program can do with a hub, over its public HTTP API."""

from typing import TYPE_CHECKING, Any

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
    Untrusted,
)
from cmdop_appliance.sdk.types import Ended, EventGap, Gap, Output

if TYPE_CHECKING:
    from cmdop_appliance.sdk.aio.client import AsyncClient

__all__ = [
    "APIError",
    "AsyncClient",
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
    "Untrusted",
]


def __getattr__(name: str) -> Any:
    if name == "AsyncClient":
        from cmdop_appliance.sdk.aio.client import AsyncClient  # anyio, h11: 70 ms

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
