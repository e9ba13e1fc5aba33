"""An application with the habits that bring servers down, served as the product serves its own."""

import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio
from quart import request, websocket
from quart_trio import QuartTrio

from cmdop_appliance.api.guard import HttpServer
from cmdop_appliance.front import DEFAULT_LIMITS, Front, FrontLimits, PeekedStream, open_listeners

BOUND = 20  # seconds any of this may take on a busy machine; nothing here waits for it

# More sends than a socket with its buffers could ever take: who comes to the end of them was
# never stopped, and a test can say so where an endless loop would only hang.
FLOOD = 100_000  # messages

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


def upgrade(path: bytes = b"/echo", **headers: bytes) -> bytes:
    """A websocket handshake with some headers changed, added, or (empty) left out."""
    lines = (UPGRADE % path).rstrip().split(b"\r\n")
    for name, value in headers.items():
        key = name.replace("_", "-").encode()
        lines = [line for line in lines if not line.lower().startswith(key + b":")]
        if value:
            lines.append(key + b": " + value)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def get(target: bytes = b"/", *headers: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", b"Host: x", *headers, b"", b""])


def frame(opcode: int, payload: bytes, *, fin=True, masked=True, length: int | None = None):
    """One websocket frame of a client, as broken as asked for. The mask is zero."""
    size = len(payload) if length is None else length
    mask = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        head += bytes([mask | size])
    elif size < 2**16:
        head += bytes([mask | 126]) + struct.pack(">H", size)
    else:
        head += bytes([mask | 127]) + struct.pack(">Q", size)
    return head + (bytes(4) if masked else b"") + payload


async def send(stream: trio.abc.SendStream, data: bytes) -> None:
    """Send what the server lets us: it may have closed long before the end."""
    with trio.move_on_after(0.3):
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)


def reset(stream: trio.SocketStream) -> None:
    """Close with a TCP reset, as a crashing peer or a middlebox does."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def read_until(stream: trio.abc.ReceiveStream, mark: bytes) -> bytes:
    read = bytearray()
    while mark not in read:
        chunk = await stream.receive_some()
        assert chunk, f"closed before {mark!r}: {bytes(read)!r}"
        read += chunk
    return bytes(read)


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    read = bytearray()
    try:
        while chunk := await stream.receive_some():
            read += chunk
    except trio.BrokenResourceError:
        pass
    return bytes(read)


@dataclass
class Target:
    """A running server, and the connections a test has made to it."""

    server: HttpServer
    front: Front
    port: int
    seen: Counter[str]  # what happened in the application
    stop: trio.CancelScope
    _opened: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def connect(self, send: bytes = b"", *, receive_buffer: int = 0) -> trio.SocketStream:
        """A connection that stays open to the end of the test unless it closes it itself."""
        sock = trio.socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        stream = await self._opened.enter_async_context(trio.SocketStream(sock))
        await sock.connect(("127.0.0.1", self.port))
        await stream.send_all(send)
        return stream

    async def websocket(self, path: bytes = b"/echo", **options: int) -> trio.SocketStream:
        stream = await self.connect(UPGRADE % path, **options)
        answer = b""
        while b"\r\n\r\n" not in answer:  # by bytes: what follows is a frame already
            answer += await stream.receive_some(1)
        assert answer.startswith(b"HTTP/1.1 101"), answer
        return stream

    async def answer(self, sent: bytes) -> bytes:
        """All that comes back for `sent` until the server closes."""
        async with await self.connect(sent) as stream:
            return await read_all(stream)

    async def is_alive(self) -> bool:
        head = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        return (await self.answer(head)).startswith(b"HTTP/1.1 200")

    async def hang_up(self) -> None:
        await self._opened.aclose()

    async def until_idle(self) -> None:
        """Wait until nothing runs for any connection any more."""
        await until(lambda: not self.server._connections and not self.front._waiting)

    async def until_seen(self, event: str) -> None:
        await until(lambda: self.seen[event] > 0)


def make_app(seen: Counter[str]) -> QuartTrio:
    app = QuartTrio(__name__)

    @app.get("/")
    async def index():
        return {"client": request.scope["client"][0]}

    @app.post("/upload")
    async def upload():
        return {"bytes": len(await request.get_data())}

    @app.get("/slow")
    async def slow():
        seen["slow began"] += 1
        try:
            await trio.sleep_forever()
        finally:
            seen["slow ended"] += 1

    @app.get("/fail")
    async def fail():
        raise ValueError("on purpose")

    @app.get("/stream")
    async def stream():
        async def lines():
            seen["stream began"] += 1
            try:
                for _ in range(FLOOD):
                    yield bytes(64 * 1024)
                seen["stream ran dry"] += 1
            finally:
                seen["stream ended"] += 1

        return lines()

    @app.websocket("/echo")
    async def echo():
        while True:
            await websocket.send(await websocket.receive() or b"")
            seen["echo"] += 1

    @app.websocket("/flood")
    async def flood():
        seen["flood began"] += 1
        try:
            for _ in range(FLOOD):
                await websocket.send(bytes(64 * 1024))
                seen["flood"] += 1
            seen["flood ran dry"] += 1
        finally:
            seen["flood ended"] += 1

    @app.websocket("/deaf")
    async def deaf():
        await websocket.accept()
        seen["deaf began"] += 1
        try:
            await trio.sleep_forever()
        finally:
            seen["deaf ended"] += 1

    @app.websocket("/leave")
    async def leave():
        await websocket.accept()
        await websocket.receive()

    @app.websocket("/refuse")
    async def refuse():
        return {"no": "thanks"}, 403

    @app.websocket("/raise")
    async def raise_():
        await websocket.accept()
        raise ValueError("on purpose")

    return app


@asynccontextmanager
async def serving(
    app=None, *, limits: FrontLimits = DEFAULT_LIMITS, **options
) -> AsyncIterator[Target]:
    """The app behind guard and front on a free port of 127.0.0.1."""
    seen: Counter[str] = Counter()
    server = HttpServer(app or make_app(seen), **options)

    async def no_agents(stream: PeekedStream) -> None:
        raise AssertionError("no test of this file is an agent")

    front = Front(
        serve_agent=no_agents,
        serve_terminal=no_agents,
        serve_live=no_agents,
        serve_http=server.serve,
        limits=limits,
    )
    listeners = await open_listeners("127.0.0.1", 0)
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(front.run, listeners)
        target = Target(server, front, port, seen, nursery.cancel_scope)
        try:
            yield target
        finally:
            with trio.CancelScope(shield=True):
                await target.hang_up()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def bystander(target: Target) -> AsyncIterator[Counter[str]]:
    """Somebody else's connection, opened before the attack and used all through it."""
    served: Counter[str] = Counter()

    async def ask_again_and_again() -> None:
        async with await trio.open_tcp_stream("127.0.0.1", target.port) as stream:
            while True:
                await stream.send_all(GET)
                await read_until(stream, b"}")
                served["answers"] += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_again_and_again)
        yield served
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - none of these has an event to wait for
        await trio.sleep(0.005)


async def until_served(served: Counter[str], more: int) -> None:
    wanted = served["answers"] + more
    await until(lambda: served["answers"] >= wanted)
