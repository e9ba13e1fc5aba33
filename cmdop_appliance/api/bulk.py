"""Routes whose bodies may be of any size, either way, without a web framework.

Quart takes in whatever arrives, and would hold an upload in memory. Here a body is read when its
handler asks for it: what nobody takes waits in a queue of `guard.QUEUED_EVENTS` pieces, and then
with its sender. All other requests go on to Quart. Both ways end in `exchange.respond`, so there
is one set of rules.
"""

import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import trio

from cmdop_appliance.api import exchange
from cmdop_appliance.api.registry import OTHER_SPELLING, ROUTES, Route, plane_of
from cmdop_appliance.errors import ApplianceError, InvalidRequest
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.hub.requests import UNROUTED

# A client that sends nothing of a body for so long is taken for gone (nginx's default).
IDLE_S: Final = 60.0

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Asgi = Callable[[Any, Any, Any], Awaitable[None]]

_log = logging.getLogger("cmdop.api")


class BulkRoutes:
    """An ASGI application: the bulk routes of the table, and `others` for all else."""

    def __init__(self, hub: Hub, others: Asgi, *, idle_s: float = IDLE_S) -> None:
        self._hub = hub
        self._others = others
        self._idle_s = idle_s
        self._routes = [(_pattern(route), route) for route in ROUTES if route.is_bulk]

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one request."""
        found = self._find(scope)
        if found is None and scope["type"] != "websocket":
            await self._others(scope, receive, send)
            return
        body = _Body(scope["headers"], receive, self._idle_s)
        if found is None:
            await self._refuse_websocket(scope, body, send)
            return
        route, path = found
        request = self._request(scope, body)
        if route.takes is not None:
            await self._serve(route, path, request, body, send)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
            await self._serve(route, path, request, body, send)
            nursery.cancel_scope.cancel()

    async def _serve(
        self,
        route: Route,
        path: dict[str, str],
        request: exchange.Request,
        body: "_Body",
        send: Send,
    ) -> None:
        response = await exchange.respond(self._hub, route, path, request)
        if isinstance(response.body, bytes):
            await _send_whole(send, response, response.body, body)
            return
        sent: int | None = None  # of its body; None: not even the head

        async def stream(pieces: AsyncGenerator[bytes, None]) -> None:
            nonlocal sent
            piece = await anext(pieces, b"")
            sent = 0
            await send(_head(response, body))
            while piece:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                sent += len(piece)
                piece = await anext(pieces, b"")
            await send({"type": "http.response.body"})

        async with aclosing(response.body) as pieces:
            try:
                await exchange.first_of(partial(stream, pieces), request.until_revoked)
            except ApplianceError as exc:
                if sent is None:  # nothing has left, so it can still be said
                    failure = exchange.error_response(exc, request, route.plane, self._hub.clock)
                    assert isinstance(failure.body, bytes)
                    await _send_whole(send, failure, failure.body, body)
                    return
                # Without an end, and so it shows that this is not all.
                _log.warning(
                    "answer broken off",
                    extra={"request_id": request.request_id, "code": exc.code, "sent": sent},
                )

    async def _refuse_websocket(self, scope: Mapping[str, Any], body: "_Body", send: Send) -> None:
        """The front has kept those that somebody serves; Quart knows none, and would fail."""
        error = InvalidRequest(
            "there is no websocket here", hint="ask for that of a terminal on a new connection"
        )
        request = self._request({"method": "GET", **scope}, body)
        plane = plane_of(scope["path"])
        answer = exchange.error_response(error, request, plane, self._hub.clock)
        self._hub.requests.count(UNROUTED, answer.status, 0.0)
        start = {"type": "websocket.http.response.start", "status": answer.status}
        await send({**start, "headers": _head(answer, body)["headers"]})
        await send({"type": "websocket.http.response.body", "body": answer.body})

    def _find(self, scope: Mapping[str, Any]) -> tuple[Route, dict[str, str]] | None:
        """The route that a request is for, and what its path names; None: it is not for us."""
        if scope["type"] != "http" or OTHER_SPELLING.search(scope["raw_path"]):
            return None
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        for pattern, route in self._routes:
            if route.method == method and (match := pattern.fullmatch(scope["path"])):
                return route, match.groupdict()
        return None

    def _request(self, scope: Mapping[str, Any], body: "_Body") -> exchange.Request:
        headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ]
        forwarded = [value for name, value in headers if name == "x-forwarded-for"]
        peer, _ = scope["client"]
        proto = dict(headers).get("x-forwarded-proto", "")
        return exchange.Request(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
            headers=dict(headers),
            peer=self._hub.proxies.client_of(peer, forwarded),
            is_secure=self._hub.proxies.are_reached_by_https(peer, proto),
            pieces=body.pieces,
        )


def _pattern(route: Route) -> re.Pattern[str]:
    """Fits the whole path of a route, below any prefix of its plane."""
    prefixes = "|".join(map(re.escape, route.plane.prefixes))
    return re.compile(f"(?:{prefixes}){route.path_with('(?P<{}>[^/]+)')}")


class _Body:
    """What a client sends, read no sooner than it is asked for."""

    def __init__(self, headers: list[tuple[bytes, bytes]], receive: Receive, idle_s: float) -> None:
        self.is_read = not any(
            name == b"transfer-encoding" or (name == b"content-length" and int(value))
            for name, value in headers
        )
        self._receive = receive
        self._idle_s = idle_s

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, to its end.

        Raises:
            InvalidRequest: the end never came. What was sent is not what was to be sent.
        """
        while not self.is_read:
            event = None
            with trio.move_on_after(self._idle_s):
                event = await self._receive()
            if event is None:
                raise InvalidRequest(f"nothing more of the body came for {self._idle_s:g} s")
            if event["type"] == "http.disconnect":
                raise InvalidRequest("the client went away before the end of the body")
            self.is_read = not event["more_body"]
            if event["body"]:
                yield event["body"]


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _head(response: exchange.Response, body: _Body) -> dict[str, Any]:
    headers = dict(response.headers)
    if isinstance(response.body, bytes) and response.status != 304:
        headers.setdefault("Content-Length", str(len(response.body)))
    if not body.is_read:
        headers["Connection"] = "close"  # the next request would be behind all the rest of it
    return {
        "type": "http.response.start",
        "status": response.status,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }


async def _send_whole(send: Send, response: exchange.Response, content: bytes, body: _Body) -> None:
    await send(_head(response, body))
    await send({"type": "http.response.body", "body": content})
