"""POST /commands without a web framework: it is called the most, and Quart costs it the most.

A connection that begins with plain requests for that route is served here with h11 alone. At the
first request that is anything else (another route, a chunked or large body, bytes that are no
HTTP) the connection goes to the HTTP server, for good, with all that was read. Both ways end in
`exchange.respond`, so there is one set of rules (measured: twice the commands a second).
"""

import re
import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from math import inf
from typing import Final

import h11
import trio

from cmdop_appliance.addresses import Proxies
from cmdop_appliance.api import exchange
from cmdop_appliance.api.guard import HEAD_BYTES, KEEP_ALIVE_S, SEND_TIMEOUT_S, HttpServer
from cmdop_appliance.api.registry import CMDOP, ROUTES
from cmdop_appliance.front import PeekedStream
from cmdop_appliance.hub.hub import Hub

_PATH: Final = "/commands"
_STARTS: Final = tuple(f"POST {prefix}{_PATH} HTTP/1.1\r\n".encode() for prefix in CMDOP.prefixes)
# How large a body may be to be served here: a command with its env and stdin seldom is.
_BODY_BYTES: Final = 64 * 1024
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d{1,5}) *\r\n", re.IGNORECASE)
_SPECIAL: Final = re.compile(rb"\r\n(?:transfer-encoding|expect|upgrade) *:", re.IGNORECASE)
_READ_BYTES: Final = 64 * 1024
# A request that has begun must be whole within this.
_REQUEST_S: Final = 10.0


class HotRoute:
    """Serves HTTP connections; hands those that ask for anything else on to `http`."""

    def __init__(self, hub: Hub, http: HttpServer) -> None:
        self._hub = hub
        self._http = http
        self._stopping = False
        here = (CMDOP, "POST", _PATH)
        self._route = next(r for r in ROUTES if (r.plane, r.method, r.path) == here)

    def stop(self) -> None:
        """Close each connection after its current answer."""
        self._stopping = True

    async def serve(self, stream: PeekedStream) -> bytes:
        """Carry one connection; when this returns, it has ended, or goes on with these bytes."""
        try:
            unserved = await self._serve_hot(stream)
        except (trio.BrokenResourceError, OSError):
            return b""
        return await self._http.serve(PeekedStream(stream, unserved)) if unserved else b""

    async def _serve_hot(self, stream: PeekedStream) -> bytes:
        """Answer requests for the route; what was read of the first other one, or b""."""
        data = bytearray()
        peer = str(stream.socket.getpeername()[0])
        parse = _Parser(peer, self._hub.proxies)
        with trio.CancelScope() as patience:  # one for all waits: its deadline moves along
            while True:
                whole = await _receive(stream, data, patience)
                if whole is None:
                    return bytes(data)
                patience.deadline = inf
                try:
                    request, is_last = parse(bytes(data[:whole]))
                except h11.RemoteProtocolError:
                    return bytes(data)
                answer = await exchange.respond(self._hub, self._route, {}, request)
                is_last = is_last or self._stopping
                patience.deadline = trio.current_time() + SEND_TIMEOUT_S
                await stream.send_all(_encode(answer, is_last=is_last))
                if is_last:
                    return b""
                del data[:whole]
        return b""


async def _receive(stream: PeekedStream, data: bytearray, patience: trio.CancelScope) -> int | None:
    """Read on into `data` until the request in front is whole; how many bytes it takes.

    None: it is not for us, or (and then there is no data) its sender has closed.
    """
    size: int | None = 0
    looked_at = 0
    patience.deadline = trio.current_time() + (_REQUEST_S if data else KEEP_ALIVE_S)
    while True:
        if data and size == 0:
            size = _size(data, looked_at)
        if size is None or 0 < size <= len(data):
            return size
        looked_at = len(data)
        chunk = await stream.receive_some(_READ_BYTES)
        if not chunk:
            data.clear()
            return None
        if not data:
            patience.deadline = trio.current_time() + _REQUEST_S
        data += chunk


def _size(data: bytearray, looked_at: int) -> int | None:
    """How many bytes the request in front takes; 0: its head is not all here; None: not for us.

    In the first `looked_at` bytes the head does not end.
    """
    if not data.startswith(_STARTS):
        return None
    end = data.find(b"\r\n\r\n", max(looked_at - 3, 0)) + 4
    if end < 4:
        return 0 if len(data) < HEAD_BYTES else None
    head = data[: end - 2]
    length = _LENGTH.search(head)
    if length is None or int(length[1]) > _BODY_BYTES:
        return None
    if _SPECIAL.search(head) or head.count(b"\n") != head.count(b"\r\n"):
        return None  # a bare newline ends a line, and even the head, for h11
    return end + int(length[1])


class _Parser:
    """Reads the requests of one connection. A head that says what the last one said is read once.

    That is nearly every head of a program that keeps its connection, and a third of the work.
    """

    def __init__(self, peer: str, proxies: Proxies) -> None:
        self._peer = peer
        self._proxies = proxies
        self._head = b""  # the last one
        self._read: tuple[str, dict[str, str], str, bool, bool] = ("", {}, "", False, False)

    def __call__(self, data: bytes) -> tuple[exchange.Request, bool]:
        """(the whole request in `data`, True if its sender wants no other answer after it).

        Raises:
            h11.RemoteProtocolError: it is none.
        """
        head, blank, body = data.partition(b"\r\n\r\n")
        if head != self._head:
            self._read = self._read_head(head + blank, body)
            self._head = head
        path, headers, client, is_secure, is_last = self._read

        async def read_body() -> bytes:
            return body

        request = exchange.Request(
            method="POST",
            path=path,
            query="",
            headers=headers,
            peer=client,
            is_secure=is_secure,
            read_body=read_body,
        )
        return request, is_last

    def _read_head(self, head: bytes, body: bytes) -> tuple[str, dict[str, str], str, bool, bool]:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        connection.receive_data(head + body)
        read = connection.next_event()
        assert isinstance(read, h11.Request)  # the first event, by h11's own table
        while isinstance(connection.next_event(), h11.Data):
            pass
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in read.headers]
        forwarded = [value for name, value in pairs if name == "x-forwarded-for"]
        headers = dict(pairs)
        proto = headers.get("x-forwarded-proto", "")
        return (
            read.target.decode("ascii"),
            headers,
            self._proxies.client_of(self._peer, forwarded),
            self._proxies.are_reached_by_https(self._peer, proto),
            connection.their_state is not h11.DONE,
        )


def _encode(answer: exchange.Response, *, is_last: bool) -> bytes:
    """The answer as bytes. Every header is our own, so none needs to be checked."""
    assert isinstance(answer.body, bytes)  # the route streams nothing
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    lines.append(f"Content-Length: {len(answer.body)}")
    lines.append(f"Date: {_date(int(time.time()))}")  # who has a clock must (RFC 9110 §6.6.1)
    if is_last:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + answer.body


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
