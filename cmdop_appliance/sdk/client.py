# Made from sdk/aio/client.py by scripts/fix: change it there.
"""The synchronous client: the public HTTP API as Python calls."""

import os
from collections.abc import Generator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self, cast

from cmdop_appliance.sdk.errors import CmdopError
from cmdop_appliance.sdk.resources.audit import Audit
from cmdop_appliance.sdk.resources.commands import Commands
from cmdop_appliance.sdk.resources.enrollment_tokens import EnrollmentTokens
from cmdop_appliance.sdk.resources.events import Events
from cmdop_appliance.sdk.resources.keys import Keys
from cmdop_appliance.sdk.resources.machines import Machines
from cmdop_appliance.sdk.resources.resource import data_of
from cmdop_appliance.sdk.resources.sessions import Sessions
from cmdop_appliance.sdk.resources.workspaces import Workspaces
from cmdop_appliance.sdk.transport import TIMEOUT_S, Transport
from cmdop_appliance.sdk.types import Caller

if TYPE_CHECKING:
    from cmdop_appliance.sdk.resources.coding import Coding
    from cmdop_appliance.sdk.resources.files import Files
    from cmdop_appliance.sdk.resources.schedules import Schedules
    from cmdop_appliance.sdk.resources.terminals import Terminals
    from cmdop_appliance.sdk.resources.upgrades import Upgrades
    from cmdop_appliance.sdk.resources.webhooks import Webhooks

# Counting what is in a large store may take the hub so long before it says a word.
BACKUP_IDLE_S: Final = 600.0


class Client:
    """One hub, as one API key sees it. Use it in a `with` block, or call `close()`.

    A hub that restarts is waited for, and so is a machine whose agent has not found it again: what
    a call asks for is done once. Besides what a call names, each raises

        ConnectionFailed: the hub is not there, or broke off and stayed away; Untrusted: nobody
            vouches for who is there.
        Unauthorized, Forbidden: the key is good no more, or may not.
        RateLimited: too many requests; `retry_after` says for how many seconds.
        ServerError: the hub failed, or has not enough space.
        UnexpectedAnswer: what answers is no hub.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        ca_file: str | os.PathLike[str] | None = None,
        certificate: str | None = None,
    ) -> None:
        """`base_url` and `api_key`: by default what CMDOP_URL and CMDOP_API_KEY say.

        `timeout_s`: how long a hub is waited for that says nothing, or that was there and went.
        `ca_file`: certificates (PEM) of which one must vouch for the hub, or be its own; by default
        what CMDOP_CA_FILE names, or else the authorities of the system. `certificate`: the hub's
        own (PEM), whatever name it is reached by.

        Raises:
            CmdopError: the URL or the key cannot be one, or nothing names it; or the file cannot
                be read.
        """
        if base_url is None:
            base_url = os.environ.get("CMDOP_URL") or os.environ.get("CMDOP_BASE_URL")
        if api_key is None:
            api_key = os.environ.get("CMDOP_API_KEY")
        if base_url is None or api_key is None:
            missing = "CMDOP_URL" if base_url is None else "CMDOP_API_KEY"
            raise CmdopError(f"no hub is named: pass base_url and api_key, or set {missing}")
        self._open(
            Transport(
                base_url, api_key, timeout_s=timeout_s, ca_file=ca_file, certificate=certificate
            )
        )

    def _open(self, transport: Transport) -> None:
        self._transport = transport
        self.machines = Machines(transport)
        self.sessions = Sessions(transport)
        self.commands = Commands(transport)
        self.events = Events(transport)
        self.keys = Keys(transport)
        self.workspaces = Workspaces(transport)
        self.enrollment_tokens = EnrollmentTokens(transport)
        self.audit = Audit(transport)

    @cached_property
    def files(self) -> "Files":
        """The files of machines."""
        from cmdop_appliance.sdk.resources.files import Files  # 5 ms, which only files cost

        return Files(self._transport)

    @cached_property
    def schedules(self) -> "Schedules":
        """Commands that the hub starts by a rule."""
        from cmdop_appliance.sdk.resources.schedules import Schedules  # 3 ms, as above

        return Schedules(self._transport)

    @cached_property
    def upgrades(self) -> "Upgrades":
        """Releases for the hub and its machines."""
        from cmdop_appliance.sdk.resources.upgrades import Upgrades

        return Upgrades(self._transport)

    @cached_property
    def webhooks(self) -> "Webhooks":
        """Receivers that the hub tells of events."""
        from cmdop_appliance.sdk.resources.webhooks import Webhooks  # 3 ms, as above

        return Webhooks(self._transport)

    @cached_property
    def terminals(self) -> "Terminals":
        """PTYs on machines."""
        from cmdop_appliance.sdk.resources.terminals import Terminals

        return Terminals(self._transport)

    @cached_property
    def coding(self) -> "Coding":
        """AI coding agents in terminals of machines."""
        from cmdop_appliance.sdk.resources.coding import Coding

        return Coding(self._transport)

    def copy(self) -> "Client":
        """A client of the same hub for another thread, with a connection of its own."""
        twin = object.__new__(Client)
        twin._open(self._transport.copy())
        return twin

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the hub."""
        self._transport.close()

    def me(self) -> Caller:
        """Who the hub takes the key for, and what it allows."""
        return cast("Caller", data_of(self._transport.request("GET", "/auth/me")))

    def backup(self) -> Generator[bytes]:
        """All that the hub knows, as the bytes of one file: they are worth what its keys are.

        Raises:
            APIError: the key may not, another backup is being made, or there is no room.
            ConnectionFailed: what came is not all of it.
        """
        with self._transport.stream("/backup", idle_timeout_s=BACKUP_IDLE_S, headers={}) as pieces:
            yield from pieces

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> dict[str, Any]:
        """The whole answer to any call that is answered with JSON: its `data` and its `meta`.

        `path`: below /api/v1, or begins with /api/ itself. It is repeated as every other call is.

        Raises:
            APIError: the hub refused.
            ConnectionFailed, UnexpectedAnswer
        """
        return self._transport.request(method, path, query=query, body=body)
