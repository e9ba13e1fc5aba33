"""The synchronous client: the public HTTP API as Python calls."""

from functools import cached_property
from typing import TYPE_CHECKING, Self, cast

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
    from cmdop_appliance.sdk.resources.webhooks import Webhooks


class Client:
    """One hub, as one API key sees it. Use it in a `with` block, or call `close()`."""

    def __init__(self, base_url: str, api_key: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """`timeout_s`: how long a hub is waited for that says nothing, or that was there and went.

        Raises:
            CmdopError: the URL or the key cannot be one.
        """
        self._open(Transport(base_url, api_key, timeout_s=timeout_s))

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
        """Close the connection to the hub."""
        self._transport.close()

    def me(self) -> Caller:
        """Who the hub takes the key for, and what it allows."""
        return cast("Caller", data_of(self._transport.request("GET", "/auth/me")))
