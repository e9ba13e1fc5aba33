"""Who gets the websocket of a terminal: also who shows a ticket, where a browser has no key."""

from dataclasses import replace
from functools import partial
from typing import Final

from cmdop_appliance.api.cmdop.terminals import open_terminal_socket
from cmdop_appliance.api.exchange import Call, Response, count
from cmdop_appliance.api.handshake import Handshake
from cmdop_appliance.api.registry import ROUTES, Route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import Forbidden, InvalidRequest, Unauthorized
from cmdop_appliance.hub.connection import Asked
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.model import ClientMode, Terminal
from cmdop_appliance.store import terminals as rows

SUBPROTOCOL: Final = "cmdop.terminal.v1"
TICKET: Final = "cmdop.ticket."  # and the ticket: a subprotocol, which is not spoken

ROUTE: Final = next(entry for entry in ROUTES if entry.handler is open_terminal_socket)


class Admission(Handshake):
    """Judges one request for a socket; `terminal` is that of who is admitted."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, ROUTE, SUBPROTOCOL)
        self.terminal: Terminal
        self.mode: ClientMode | None = None  # that a ticket is for

    def _route_for(self, asked: Asked) -> Route:
        if (ticket := _ticket_of(asked)) is None:
            return super()._route_for(asked)
        return replace(ROUTE, handler=partial(self._admit_by, ticket), scopes=(Scope.PUBLIC,))

    async def _admit(self, call: Call[None, None]) -> Response:
        reach = call.caller.reach
        self.terminal = await self._hub.store.run(rows.get, reach, call.path["id"])
        return await super()._admit(call)

    async def _admit_by(self, ticket: str, call: Call[None, None]) -> Response:
        caller, terminal_id, mode = await self._hub.tickets.redeem(ticket)
        count(self._hub, caller, call.request)
        if terminal_id != call.path["id"]:
            raise Unauthorized("the ticket is for another terminal")
        self.mode = mode
        return await self._admit(replace(call, caller=caller))


def _ticket_of(asked: Asked) -> str | None:
    """The ticket of a request that has one.

    Raises:
        InvalidRequest, Forbidden: nobody may have a socket who asks like this.
    """
    tickets = [each.removeprefix(TICKET) for each in asked.subprotocols if each.startswith(TICKET)]
    if not tickets:
        return None
    names = [name for name, _ in asked.headers]
    if len(tickets) > 1 or "authorization" in names:
        raise InvalidRequest("more than one credential", hint="send a ticket, or a key")
    if "origin" not in names:
        raise Forbidden("a ticket is for browsers, which send their Origin", hint="send a key")
    return tickets[0]
