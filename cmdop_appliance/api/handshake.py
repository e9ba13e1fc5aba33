"""Who gets a websocket: by the rules of every other request, and those of browsers.

A page of another origin gets none, whatever it shows: its user may not know what it does.
"""

import re
from dataclasses import replace
from functools import partial
from urllib.parse import unquote

from cmdop_appliance.api.exchange import Call, Request, Response, respond
from cmdop_appliance.api.registry import CMDOP, OTHER_SPELLING, Route
from cmdop_appliance.api.same_origin import require_own_socket
from cmdop_appliance.auth import NOBODY, Caller, Scope
from cmdop_appliance.errors import ApplianceError, InvalidRequest, NotFound
from cmdop_appliance.hub.connection import Answer, Asked
from cmdop_appliance.hub.hub import Hub


class Handshake:
    """Judges one request for the socket of `route`, on which `subprotocol` is spoken."""

    def __init__(self, hub: Hub, route: Route, subprotocol: str) -> None:
        self._hub = hub
        self._route = route
        self._subprotocol = subprotocol
        prefixes = "|".join(map(re.escape, CMDOP.prefixes))
        self._path = re.compile(f"(?:{prefixes}){route.path_with('(?P<{}>[^/]+)')}")
        self.caller: Caller = NOBODY

    async def judge(self, asked: Asked) -> Answer:
        """What to tell them; `caller` is whose it is, if that is 101."""
        path, _, query = asked.target.partition("?")
        headers = dict(asked.headers) | {"host": asked.host}
        request = Request("GET", path, query, headers, asked.address, asked.is_secure)
        parameters = {}
        try:
            match = self._path.fullmatch(path)
            if match is None or OTHER_SPELLING.search(path.encode()):
                raise NotFound("Not found")
            parameters = {name: unquote(value) for name, value in match.groupdict().items()}
            require_own_socket(asked, self._hub.config.server.public_host)
            self._require_subprotocol(asked)
            route = self._route_for(asked)
        except ApplianceError as exc:
            route = replace(self._route, handler=partial(_refuse, exc), scopes=(Scope.PUBLIC,))
        response = await respond(self._hub, route, parameters, request)
        assert isinstance(response.body, bytes)
        if response.status == 101:
            return Answer(101, response.headers, subprotocol=self._subprotocol)
        return Answer(response.status, response.headers, response.body)

    def _require_subprotocol(self, asked: Asked) -> None:
        if self._subprotocol not in asked.subprotocols:
            raise InvalidRequest(
                f"the subprotocol {self._subprotocol} is not offered",
                hint=f"ask with `Sec-WebSocket-Protocol: {self._subprotocol}`",
            )

    def _route_for(self, _: Asked) -> Route:
        """By which route they are admitted."""
        return replace(self._route, handler=self._admit)

    async def _admit(self, call: Call[None, None]) -> Response:
        self.caller = call.caller
        return Response(101, {}, b"")


async def _refuse(error: ApplianceError, _: Call[None, None]) -> Response:
    raise error
