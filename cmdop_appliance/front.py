"""The one listener: reads each request head, then hands the connection to whom it is for.

Nobody has shown a credential yet when a connection is here, so this stage is bounded in time, in
bytes and in connections. Whoever has sent a whole head has left it: an open connection that is
being served counts against nothing here.
"""

import logging
import re
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

import trio

from cmdop_appliance.errors import StartupError
from cmdop_appliance.secured import SecuredStream
from cmdop_appliance.sockets import QuickStream

Socket = Literal["agent", "terminal", "live"]

# A fleet that reconnects at once must fit: with the usual 100, 1,000 agents took 8.1 s to come
# back instead of 3 s (measured). The kernel lowers it to net.core.somaxconn.
BACKLOG: Final = 4096  # connections

_READ_BYTES: Final = 16 * 1024  # one recv(2): a whole head, as a rule

_HEAD_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)

_SPEAKS_TLS: Final = b"this port speaks TLS: ask for https://\n"
_NOT_TLS: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_SPEAKS_TLS), _SPEAKS_TLS)
)
_HANDSHAKE: Final = b"\x16"  # the record that begins every TLS connection (RFC 8446 §5.1)

# The readers behind us (h11) take a bare LF for CRLF; a head ends for us where it ends for them.
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_UPGRADE_TO_WEBSOCKET: Final = re.compile(rb"\nupgrade:[ \t]*websocket[ \t]*\r?\n", re.IGNORECASE)
# The request lines of those who may want one. With any query, too: whoever puts a credential there
# is to be told that it is refused.
_LINES: Final[dict[Socket, re.Pattern[bytes]]] = {
    "agent": re.compile(rb"GET /agent HTTP/1\.1\r?\n"),
    "terminal": re.compile(
        rb"GET /(?:api/)?v1/terminals/[^/? ]+/socket(?:\?[^ ]*)? HTTP/1\.1\r?\n"
    ),
    "live": re.compile(rb"GET /(?:api/)?v1/live(?:\?[^ ]*)? HTTP/1\.1\r?\n"),
}

_log = logging.getLogger("cmdop.front")


Stream = QuickStream | SecuredStream


class PeekedStream(trio.abc.HalfCloseableStream):
    """A stream that gives back what was already read from it, then goes on as before.

    `stream` may be a PeekedStream itself: who has served some requests can hand on the rest.
    """

    def __init__(self, stream: "Stream | PeekedStream", unread: bytes) -> None:
        self._stream = stream
        self._unread = unread

    @property
    def socket(self) -> trio.socket.SocketType:
        """The connection's socket, for its two addresses."""
        return self._stream.socket

    @property
    def binding(self) -> bytes:
        """What stands for the certificate that was shown (protocol.handshake); b"": none was."""
        return b"" if isinstance(self._stream, QuickStream) else self._stream.binding

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As `trio.abc.ReceiveStream`, the unread bytes first."""
        if not self._unread:
            return await self._stream.receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        size = len(self._unread) if max_bytes is None else max_bytes
        taken, self._unread = self._unread[:size], self._unread[size:]
        return taken

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As `trio.abc.SendStream`."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As `trio.abc.SendStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """As `trio.abc.HalfCloseableStream`."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """As `trio.abc.AsyncResource`; unread bytes are gone."""
        self._unread = b""
        await self._stream.aclose()


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontLimits:
    """What a connection may take before it has sent one whole request head (trust.md, row 27)."""

    head_timeout_s: float = 10.0
    head_bytes: int = 16 * 1024  # also h11's own limit, so both agree on what is too large
    waiting_per_address: int = 64  # connections
    waiting_total: int = 1024  # connections; a whole fleet that reconnects (stack.md §7) passes


DEFAULT_LIMITS: Final = FrontLimits()


@dataclass(frozen=True, slots=True)
class Tls:
    """How the front speaks TLS."""

    context: ssl.SSLContext
    binding: bytes  # of its certificate (protocol.handshake)
    certificate: str  # the certificate (PEM)


Serve = Callable[[PeekedStream], Awaitable[None]]
# What was read of a request that is for another handler; b"": the connection has ended.
ServeHttp = Callable[[PeekedStream], Awaitable[bytes]]


class Front:
    """Accepts connections, and gives each to whom it is for.

    Who wants a websocket at `/agent` goes to `serve_agent`, who wants one at the socket of a
    terminal to `serve_terminal`, at `/live` to `serve_live`, everybody else to `serve_http`, which
    gives back a connection on which somebody wants one later. A handler owns its stream until it
    returns; whatever it raises ends only that connection.
    """

    def __init__(
        self,
        *,
        serve_agent: Serve,
        serve_terminal: Serve,
        serve_live: Serve,
        serve_http: ServeHttp,
        limits: FrontLimits = DEFAULT_LIMITS,
        tls: Tls | None = None,
    ) -> None:
        """`tls`: None is plain HTTP; it may be changed for the connections to come."""
        self.tls = tls
        self._serve_agent = serve_agent
        self._serve_terminal = serve_terminal
        self._serve_live = serve_live
        self._serve_http = serve_http
        self._limits = limits
        self._waiting: Counter[str] = Counter()  # connections without a head, by address
        self._accepting = trio.CancelScope()
        self._ended = trio.Event()

    async def run(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept until drained, or cancelled: then every connection is cut, too.

        Too few file descriptors stop neither this nor what is already served: trio waits 100 ms
        and tries again.
        """
        async with trio.open_nursery() as connections:
            with self._accepting:
                await trio.serve_listeners(
                    self._serve,
                    list(listeners),
                    handler_nursery=connections,
                    task_status=task_status,
                )
        self._ended.set()

    async def drain(self) -> None:
        """Accept no more; return when every connection has ended by itself."""
        self._accepting.cancel()
        await self._ended.wait()

    async def _serve(self, dialled: trio.SocketStream) -> None:
        try:
            host, port = dialled.socket.getpeername()[:2]
        except OSError:  # it has been reset while it was in the backlog
            return
        stream = QuickStream(dialled)
        try:
            with self._place_in_line(host) as admitted:
                opened, head = await self._open(stream) if admitted else (stream, b"")
            while head:
                head = await self._hand_on(head, PeekedStream(opened, head))
        except* Exception:  # noqa: BLE001 - the one owner of a connection
            _log.exception("connection failed", extra={"peer": f"{host}:{port}"})

    async def _hand_on(self, head: bytes, stream: PeekedStream) -> bytes:
        match socket_of(head):
            case "agent":
                await self._serve_agent(stream)
            case "terminal":
                await self._serve_terminal(stream)
            case "live":
                await self._serve_live(stream)
            case None:
                return await self._serve_http(stream)
        return b""

    @contextmanager
    def _place_in_line(self, host: str) -> Iterator[bool]:
        """False: too many connections wait already, so this one is to be closed."""
        if (
            self._waiting[host] >= self._limits.waiting_per_address
            or self._waiting.total() >= self._limits.waiting_total
        ):
            yield False
            return
        self._waiting[host] += 1
        try:
            yield True
        finally:
            self._waiting[host] -= 1
            if not self._waiting[host]:
                del self._waiting[host]  # or the table grows with every address ever seen

    async def _open(self, stream: QuickStream) -> tuple[Stream, bytes]:
        """The connection, and what was read of it, at least one whole request head.

        b"": there is nothing to serve.
        """
        with trio.move_on_after(self._limits.head_timeout_s):
            if self.tls is None:
                return stream, await self._read_head(stream)
            try:
                if await stream.socket.recv(1, socket.MSG_PEEK) != _HANDSHAKE:
                    await _refuse(stream, _NOT_TLS)
                    return stream, b""
                secured = SecuredStream(stream, self.tls.context, self.tls.binding)
                await secured.shake_hands()
            except (OSError, trio.BrokenResourceError):
                return stream, b""
            return secured, await self._read_head(secured)
        return stream, b""

    async def _read_head(self, stream: Stream) -> bytes:
        """What was read, at least one whole request head. b"": there is nothing to serve."""
        read = bytearray()
        while chunk := await _receive(stream):
            searched = max(0, len(read) - len(b"\n\r"))
            read += chunk
            end = _END_OF_HEAD.search(read, searched)
            if (end.end() if end else len(read)) > self._limits.head_bytes:
                await _refuse(stream, _HEAD_TOO_LARGE)
                break
            # No request starts with a control character: a TLS client on our plain port,
            # say, learns at once from the HTTP side that this is no place for it.
            if end or read[0] < ord("!"):
                return bytes(read)
        return b""


def socket_of(head: bytes) -> Socket | None:
    """Whose websocket a request asks for whose whole head is here; None: it is for HTTP."""
    asked = next((socket for socket, line in _LINES.items() if line.match(head)), None)
    end = _END_OF_HEAD.search(head) if asked else None
    if end is None or _UPGRADE_TO_WEBSOCKET.search(head, 0, end.end()) is None:
        return None
    return asked


def is_for_socket(head: bytes) -> bool:
    """True: the request asks for a websocket that somebody serves."""
    return socket_of(head) is not None


async def _receive(stream: Stream) -> bytes | bytearray:
    try:
        return await stream.receive_some(_READ_BYTES)
    except trio.BrokenResourceError:
        return b""


async def _refuse(stream: Stream, answer: bytes) -> None:
    """Send `answer`, then read on until the peer is done.

    Closing with bytes unread resets the connection, and a reset may overtake the answer.
    """
    try:
        await stream.send_all(answer)
        await stream.send_eof()
    except trio.BrokenResourceError:
        return
    while await _receive(stream):
        pass


def listeners_on(sockets: Sequence[int]) -> list[trio.SocketListener]:
    """Listen on what another program has opened; `sockets` are its descriptors, now ours."""
    return [
        trio.SocketListener(trio.socket.from_stdlib_socket(socket.socket(fileno=handle)))
        for handle in sockets
    ]


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on every address `host` stands for.

    Raises:
        StartupError: the address is taken, not ours, not allowed, or no address at all.
    """
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except (OSError, ValueError) as error:  # ValueError: a name no DNS can hold
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise StartupError(
            f"cannot listen on {host}:{port}: {reason.lower()}",
            hint="choose another address or port, or stop the program that has this one",
        ) from error
