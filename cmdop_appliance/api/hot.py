"""POST /commands without a web framework: it is called the most, and Quart costs it the most.

A connection whose requests are for that route is served here with h11 alone; at the first request
for anything else it goes to the HTTP server, for good. Both ways end in `exchange.respond`, so
there is one set of rules (measured: 810–913 commands/s at 64 callers against 396–568 by Quart).
"""

from typing import Final

import h11
import trio

from cmdop_appliance.api import exchange
from cmdop_appliance.api.guard import HEAD_BYTES, KEEP_ALIVE_S, SEND_TIMEOUT_S, HttpServer
from cmdop_appliance.api.registry import PREFIXES, ROUTES
from cmdop_appliance.errors import PayloadTooLarge
from cmdop_appliance.front import PeekedStream
from cmdop_appliance.hub.hub import Hub

_PATH: Final = "/commands"
_STARTS: Final = tuple(f"POST {prefix}{_PATH} HTTP/1.1\r\n".encode() for prefix in PREFIXES)
_READ_BYTES: Final = 64 * 1024
# A request body must be here within this (as for every other route).
_BODY_S: Final = 60.0


class HotRoute:
    """Serves HTTP connections; hands those that ask for other routes on to `http`."""

    def __init__(self, hub: Hub, http: HttpServer) -> None:
        self._hub = hub
        self._http = http
        self._stopping = False
        self._route = next(r for r in ROUTES if (r.method, r.path) == ("POST", _PATH))

    def stop(self) -> None:
        """Close each connection after its current answer."""
        self._stopping = True

    async def serve(self, stream: PeekedStream) -> None:
        """Carry one connection to its end."""
        try:
            data = bytes(await stream.receive_some(_READ_BYTES))
            while data:
                if not data.startswith(_STARTS) or b"\r\nexpect:" in data.lower():
                    await self._http.serve(PeekedStream(stream, data))
                    return
                data = await self._serve_one(stream, data)
        except (trio.BrokenResourceError, trio.TooSlowError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve_one(self, stream: PeekedStream, data: bytes) -> bytes:
        """Answer the request that begins with `data`; the first bytes of the next, or b""."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        connection.receive_data(data)
        try:
            with trio.fail_after(_BODY_S):
                head = await _next_event(connection, stream)
                assert isinstance(head, h11.Request)  # the first event, by h11's own table
                body = await self._read_body(connection, stream)
        except h11.RemoteProtocolError as exc:
            await _send(stream, _refusal(connection, exc.error_status_hint))
            return b""
        answer = await exchange.respond(self._hub, self._route, {}, _request(head, body, stream))
        whole = connection.their_state is h11.DONE
        await _send(stream, _encode(connection, answer, last=self._stopping or not whole))
        if (connection.our_state, connection.their_state) != (h11.DONE, h11.DONE):
            return b""
        if waiting := bytes(connection.trailing_data[0]):
            return waiting
        with trio.fail_after(KEEP_ALIVE_S):
            return bytes(await stream.receive_some(_READ_BYTES))

    async def _read_body(
        self, connection: h11.Connection, stream: PeekedStream
    ) -> bytes | PayloadTooLarge:
        body = bytearray()
        while isinstance(event := await _next_event(connection, stream), h11.Data):
            body += event.data
            if len(body) > self._hub.config.limits.body_bytes:
                return PayloadTooLarge("the request body is too large")
        return bytes(body)


async def _next_event(connection: h11.Connection, stream: PeekedStream) -> h11.Event:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(bytes(await stream.receive_some(_READ_BYTES)))
    assert isinstance(event, h11.Event)  # PAUSED cannot be: we stop at the end of a message
    return event


def _request(
    head: h11.Request, body: bytes | PayloadTooLarge, stream: PeekedStream
) -> exchange.Request:
    async def read_body() -> bytes:
        if isinstance(body, PayloadTooLarge):
            raise body
        return body

    return exchange.Request(
        method="POST",
        path=head.target.decode("ascii"),
        query="",
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers},
        peer=stream.socket.getpeername()[0],
        read_body=read_body,
    )


def _encode(connection: h11.Connection, answer: exchange.Response, *, last: bool) -> bytes:
    assert isinstance(answer.body, bytes)  # the route streams nothing
    headers = [*answer.headers.items(), ("Content-Length", str(len(answer.body)))]
    if last:
        headers.append(("Connection", "close"))
    head = h11.Response(status_code=answer.status, headers=headers)
    return b"".join(
        connection.send(part) or b""
        for part in (head, h11.Data(data=answer.body), h11.EndOfMessage())
    )


def _refusal(connection: h11.Connection, status: int) -> bytes:
    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return b""
    return _encode(connection, exchange.Response(status, {}, b""), last=True)


async def _send(stream: PeekedStream, data: bytes) -> None:
    with trio.fail_after(SEND_TIMEOUT_S):
        await stream.send_all(data)
