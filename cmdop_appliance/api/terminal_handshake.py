"""Who gets the websocket of a terminal: by the rules of every other request, and those of browsers.

A page of another origin gets none, whatever it shows: its user may not know what it does.
"""

import re
from dataclasses import replace
from functools import partial
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from cmdop_appliance.api.cmdop.terminals import open_terminal_socket
from cmdop_appliance.api.exchange import Call, Request, Response, count, respond
from cmdop_appliance.api.registry import CMDOP, OTHER_SPELLING, ROUTES
from cmdop_appliance.auth import NOBODY, Caller, Scope
from cmdop_appliance.errors import (
    ApplianceError,
    Forbidden,
    InvalidRequest,
    NotFound,
    Unauthorized,
)
from cmdop_appliance.hub.connection import Answer, Asked
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.model import ClientMode, Terminal
from cmdop_appliance.store import terminals as rows

SUBPROTOCOL: Final = "cmdop.terminal.v1"
TICKET: Final = "cmdop.ticket."  # and the ticket: a subprotocol, which is not spoken

ROUTE: Final = next(entry for entry in ROUTES if entry.handler is open_terminal_socket)
_PATH: Final = re.compile(
    f"(?:{'|'.join(map(re.escape, CMDOP.prefixes))}){ROUTE.path_with('(?P<{}>[^/]+)')}"
)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Admission:
    """Judges one request for a socket by the rules of every other request."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.caller: Caller = NOBODY
        self.terminal: Terminal
        self.mode: ClientMode | None = None  # that a ticket is for

    async def judge(self, asked: Asked) -> Answer:
        """What to tell them; `caller` and `terminal` are whose and which, if that is 101."""
        path, _, query = asked.target.partition("?")
        request = Request("GET", path, query, dict(asked.headers), asked.address)
        parameters = {}
        try:
            if (match := _PATH.fullmatch(path)) is None or OTHER_SPELLING.search(path.encode()):
                raise NotFound("Not found")
            parameters = {"id": unquote(match["id"])}
            ticket = _read(asked)
        except ApplianceError as exc:
            route = replace(ROUTE, handler=partial(_refuse, exc), scopes=(Scope.PUBLIC,))
        else:
            route = replace(ROUTE, handler=self._admit)
            if ticket is not None:
                handler = partial(self._admit_by, ticket)
                route = replace(ROUTE, handler=handler, scopes=(Scope.PUBLIC,))
        response = await respond(self._hub, route, parameters, request)
        assert isinstance(response.body, bytes)
        if response.status == 101:
            return Answer(101, response.headers, subprotocol=SUBPROTOCOL)
        return Answer(response.status, response.headers, response.body)

    async def _admit(self, call: Call[None, None]) -> Response:
        self.caller = call.caller
        reach = call.caller.reach
        self.terminal = await self._hub.store.run(rows.get, reach, call.path["id"])
        return Response(101, {}, b"")

    async def _admit_by(self, ticket: str, call: Call[None, None]) -> Response:
        caller, terminal_id, mode = await self._hub.tickets.redeem(ticket)
        count(self._hub, caller, call.request)
        if terminal_id != call.path["id"]:
            raise Unauthorized("the ticket is for another terminal")
        self.mode = mode
        return await self._admit(replace(call, caller=caller))


async def _refuse(error: ApplianceError, _: Call[None, None]) -> Response:
    raise error


def _read(asked: Asked) -> str | None:
    """The ticket of a request that has one.

    Raises:
        ApplianceError: nobody may have a socket who asks like this.
    """
    origins = [value for name, value in asked.headers if name == "origin"]
    if origins and (len(origins) > 1 or not _is_own(origins[0], asked.host)):
        raise Forbidden(
            "a page of another origin has no business here",
            hint="serve it at the address of the hub; a proxy must pass the Host header on",
        )
    if SUBPROTOCOL not in asked.subprotocols:
        raise InvalidRequest(
            f"the subprotocol {SUBPROTOCOL} is not offered",
            hint=f"ask with `Sec-WebSocket-Protocol: {SUBPROTOCOL}`",
        )
    tickets = [each.removeprefix(TICKET) for each in asked.subprotocols if each.startswith(TICKET)]
    if not tickets:
        return None
    if len(tickets) > 1 or any(name == "authorization" for name, _ in asked.headers):
        raise InvalidRequest("more than one credential", hint="send a ticket, or a key")
    if not origins:
        raise Forbidden("a ticket is for browsers, which send their Origin", hint="send a key")
    return tickets[0]


def _is_own(origin: str, host: str) -> bool:
    """True: a page of this origin was served by whoever is asked for as `host`."""
    page = _split(origin)
    asked = page and _split(f"{page.scheme}://{host}")
    if page is None or asked is None or page.username is not None:
        return False
    is_whole = origin.lower() == f"{page.scheme}://{page.netloc}".lower()
    return is_whole and _authority(page) == _authority(asked)


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - it is looked at now, and raises
    except ValueError:
        return None
    return parts if parts.scheme in _DEFAULT_PORTS and parts.hostname else None


def _authority(url: SplitResult) -> tuple[str | None, int]:
    return url.hostname, url.port or _DEFAULT_PORTS[url.scheme]
