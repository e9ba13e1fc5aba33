"""Serves HTTP/1.1 and websockets on one accepted stream with hypercorn's parsers, not its server.

Whoever can open a connection can hang or kill hypercorn 0.18 on trio. The reasons lie in its
`TCPServer` and `TaskGroup`, which are not used here, and in two methods of its protocol classes,
which are replaced. What goes wrong there, and what holds here:

* A byte after a websocket handshake, or a header it cannot decode, raises out of the connection
  and ends the process (hypercorn #225, #329, #177). Here nothing a peer does raises, and no
  exception leaves its connection.
* A handler that only sends never yields once its peer has closed: the loop stands still. Here
  every send passes the transport, which blocks, or ends the connection.
* A send cannot be cancelled and waits without bound for a peer that does not read, so SIGTERM
  does not end the process. Here a send has a deadline, and may be cancelled at any time.
* Telling an application that its peer is gone waits for room in a queue that nobody may read any
  more. Here it takes no room.
* A websocket message above the limit is refused, and then read on into memory without bound.
* Who asks first whether to send a body (`Expect: 100-continue`) is told to at once. Here the
  application may refuse before: the first `receive` says it.

One rule replaces most of hypercorn's care: *a send that does not complete ends the connection*,
together with all that runs for it, because bytes its protocol believes to be sent are lost.

HTTP/2 is never spoken, nor is permessage-deflate (#307): decompression is amplification.
"""

import logging
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Any, Final, Protocol

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, Data, Request, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ASGIReceiveEvent, ASGISendEvent, ConnectionState, Scope
from wsproto.events import Event as WebsocketEvent
from wsproto.utilities import LocalProtocolError

# A peer that takes less than SEND_BYTES in this time is stuck (stack.md, decision 3). Per piece,
# not per send: a long answer to a slow reader may take as long as it keeps moving.
SEND_TIMEOUT_S: Final = 10.0
SEND_BYTES: Final = 64 * 1024  # 52 kbit/s

# How long a connection may wait for its next request (nginx's default): longer than the 60 s after
# which usual clients and proxies drop an idle one, so that they are not cut off in mid-request.
KEEP_ALIVE_S: Final = 75.0

HEAD_BYTES: Final = 16 * 1024  # request line and headers (trust.md, row 27)
MESSAGE_BYTES: Final = 1024 * 1024  # one websocket message (trust.md, row 27)

# Pieces of a body (≤ 128 KiB each) or messages an application may be behind; then we stop reading.
QUEUED_EVENTS: Final = 2

# How long to read on after an answer that ended the connection before all was read: closing with
# bytes unread makes the kernel send a reset, which may overtake the answer.
LINGER_S: Final = 2.0

# One recv(2). Large bodies pass at 1.6 GB/s a core; with half of this at 1.1, and with the double,
# for which the allocator goes to the kernel each time, at 0.65 (measured).
_READ_BYTES: Final = 128 * 1024

_NO_LINGER: Final = struct.pack("ii", 1, 0)  # closing resets (socket(7), SO_LINGER)

# Headers of a websocket handshake that upstream decodes, and raises if it cannot.
_DECODED_AS_ASCII: Final = {b"connection", b"sec-websocket-protocol"}

_log = logging.getLogger("cmdop.http")


class HttpStream(Protocol):
    """What is served: a `trio.SocketStream`, or one of which a part has been read."""

    @property
    def socket(self) -> trio.socket.SocketType: ...
    async def receive_some(self, max_bytes: int | None = None, /) -> bytes | bytearray: ...
    async def send_all(self, data: bytes | bytearray | memoryview, /) -> None: ...
    async def send_eof(self) -> None: ...


def _never(_: bytes) -> bool:
    return False


class HttpServer:
    """Serves an ASGI application on streams that somebody else accepts."""

    def __init__(
        self,
        app: ASGIFramework,
        *,
        is_for_others: Callable[[bytes], bool] = _never,
        send_timeout_s: float = SEND_TIMEOUT_S,
        keep_alive_s: float = KEEP_ALIVE_S,
        message_bytes: int = MESSAGE_BYTES,
    ) -> None:
        """`is_for_others`: whether a head is that of a request which somebody else serves."""
        self.app = app
        self.is_for_others = is_for_others
        self.send_timeout_s = send_timeout_s
        self.keep_alive_s = keep_alive_s
        self.stopping = False
        self.config = Config()
        self.config.h11_max_incomplete_size = HEAD_BYTES
        self.config.websocket_max_message_size = message_bytes
        self.config.max_app_queue_size = QUEUED_EVENTS
        self.config.keep_alive_max_requests = sys.maxsize
        self.config.include_server_header = False
        self.config.errorlog = None
        self._connections: set[_Connection] = set()

    async def serve(self, stream: HttpStream) -> bytes:
        """Serve requests until either side ends the connection. The caller closes `stream`.

        Requests may have been served on it before. A request that is for others ends this, too,
        and what was read of it is returned; else b"". Raises nothing, whatever peer or application
        do: an exception of the application is logged and ends this connection only.
        """
        connection = _Connection(self, stream)
        self._connections.add(connection)
        try:
            await connection.run()
        except* Exception:  # noqa: BLE001 - the one owner of a connection
            _log.exception("connection failed", extra={"peer": connection.peer})
        finally:
            self._connections.discard(connection)
        return connection.unserved

    def stop(self) -> None:
        """Close the connections that wait for a request, and others after their current answer.

        Websockets, and requests whose answer does not end, stay until they are cancelled.
        """
        self.stopping = True
        self.config.keep_alive_max_requests = 0  # answers now say `connection: close`
        for connection in self._connections:
            connection.stop()


class _Connection:
    """One connection: moves bytes between its stream and hypercorn's HTTP/1.1 protocol."""

    def __init__(self, server: HttpServer, stream: HttpStream) -> None:
        self.peer = "unknown"
        self.unserved = b""  # a request that is for others
        self._server = server
        self._stream = stream
        self._sending = trio.Lock()
        self._all = trio.CancelScope()  # everything that runs for this connection
        self._reader = trio.CancelScope()
        self._receiving = trio.CancelScope()  # the receive of this moment; has the idle deadline
        self._idle_until = trio.current_time() + server.keep_alive_s  # inf: in a request
        self._closed = False  # for sending; the peer may not have noticed

    async def run(self) -> None:
        try:
            client = self._stream.socket.getpeername()[:2]
            here = self._stream.socket.getsockname()[:2]
        except OSError:  # it is gone already
            return
        self.peer = "{}:{}".format(*client)
        with self._all:
            tasks = _Tasks(self.peer)
            async with tasks:
                protocol = _Http1(
                    self._server.app,  # type: ignore[arg-type] # only ever given to _Tasks
                    self._server.config,
                    WorkerContext(max_requests=None),
                    tasks,
                    ConnectionState({}),
                    False,
                    client,
                    here,
                    self._send,
                )
                tasks.invite = protocol.invite
                with self._reader:
                    await self._read(protocol)
                await protocol.handle(Closed())  # the application learns it, if there is one
                self._closed = True
                if not self.unserved:
                    await self._say_goodbye()

    def stop(self) -> None:
        if self._idle_until < inf:
            self._wait_until(trio.current_time())

    async def _read(self, protocol: H11Protocol) -> None:
        while True:
            data = None
            with trio.CancelScope(deadline=self._idle_until) as self._receiving:
                data = await self._receive()
            if data is None:  # idle for too long
                return
            # A proxy sends any request on a connection that it has, one for a websocket, too. A
            # head in parts is not recognised: it is refused, and comes again.
            if self._idle_until < inf and self._server.is_for_others(bytes(data)):
                self.unserved = bytes(data)
                return
            await protocol.handle(RawData(bytes(data)))
            if not data:
                return

    async def _receive(self) -> bytes | bytearray:
        try:
            return await self._stream.receive_some(_READ_BYTES)
        except trio.BrokenResourceError:
            return b""

    async def _send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._send_bytes(event.data)
        elif isinstance(event, Updated):
            self._set_idle(idle=event.idle)
        elif isinstance(event, Closed):
            # Only marks the end: an application that calls this may be cancelled at any await.
            self._closed = True
            self._reader.cancel()

    async def _send_bytes(self, data: bytes) -> None:
        """Send all of `data` or end the connection. No data: still waits its turn, and checks."""
        complete = False
        try:
            async with self._sending:
                if not self._closed:
                    await self._send_all(data)
                    complete = True
        except (trio.BrokenResourceError, trio.TooSlowError):
            pass
        finally:
            if not complete:
                self._all.cancel()
        if not complete:
            await trio.lowlevel.checkpoint()  # raises Cancelled

    async def _send_all(self, data: bytes) -> None:
        complete = False
        try:
            view = memoryview(data)  # a slice of it is no copy
            for start in range(0, len(data), SEND_BYTES):
                with trio.fail_after(self._server.send_timeout_s):
                    await self._stream.send_all(view[start : start + SEND_BYTES])
            complete = True
        finally:
            if not complete:  # the kernel drops what it holds, too: it may be megabytes
                with suppress(OSError):
                    self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)

    def _set_idle(self, *, idle: bool) -> None:
        if not idle:
            self._wait_until(inf)
        elif self._server.stopping:
            self._wait_until(trio.current_time())
        else:
            self._wait_until(trio.current_time() + self._server.keep_alive_s)

    def _wait_until(self, deadline: float) -> None:
        self._idle_until = self._receiving.deadline = deadline

    async def _say_goodbye(self) -> None:
        async with self._sending:
            with suppress(trio.BrokenResourceError):
                await self._stream.send_eof()
        if self._idle_until == inf:  # in a request, of which parts may be unread
            with trio.move_on_after(LINGER_S):
                while await self._receive():
                    pass


class _Tasks(TaskGroup):
    """Runs the application; its queue of events never holds up the one who says goodbye."""

    invite: Callable[[], Awaitable[None]]  # called whenever the application asks for events

    def __init__(self, peer: str) -> None:
        super().__init__()
        self._peer = peer

    async def spawn_app(self, app: Any, config: Config, scope: Scope, send: Any) -> Any:
        """Start the application. Returns the function that hands it events."""
        events, inbox = trio.open_memory_channel[ASGIReceiveEvent](config.max_app_queue_size)
        farewell: Any = {"type": f"{scope['type']}.disconnect"}

        async def receive() -> ASGIReceiveEvent:
            await self.invite()
            try:
                return await inbox.receive()
            except trio.EndOfChannel:
                return farewell  # type: ignore[no-any-return]

        async def put(event: Any) -> None:
            if event["type"] == farewell["type"]:
                farewell.update(event)
                events.close()
            else:
                with suppress(trio.ClosedResourceError):  # it has ended while we waited for room
                    await events.send(event)

        self.spawn(self._run, app, scope, receive, send)
        return put

    async def _run(self, app: ASGIFramework, scope: Scope, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except* Exception:  # noqa: BLE001 - the one owner of a request
            _log.exception("application failed", extra={"peer": self._peer})
        # Its exception may have replaced the Cancelled of a connection that is over.
        await trio.lowlevel.checkpoint_if_cancelled()
        await send(None)


class _Http1(H11Protocol):
    """Hypercorn's HTTP/1.1, without its ways into HTTP/2, and with fewer writes."""

    _held = b""  # an answer's head, kept back to leave together with its body

    async def _check_protocol(self, event: h11.Request) -> None:
        """Stay with HTTP/1.1: upstream would hand `Upgrade: h2c` and `PRI` to its HTTP/2."""

    async def _create_stream(self, request: h11.Request) -> None:
        if request.http_version not in {b"1.0", b"1.1"}:
            await self._refuse(505)
            return
        # `*`, `host:port` and `http://host/…` are for proxies; Quart fails on an empty path.
        if not request.target.startswith(b"/"):
            await self._refuse(400)
            return
        headers = list(request.headers)
        kind: type[HTTPStream | WSStream] = HTTPStream
        if _asks_for_websocket(request):
            if not all(value.isascii() for name, value in headers if name in _DECODED_AS_ASCII):
                await self._refuse(400)
                return
            kind = _Websocket
            headers = [(n, v) for n, v in headers if n != b"sec-websocket-extensions"]
            assert isinstance(self.connection, h11.Connection)
            self.connection = H11WSConnection(self.connection)
        self.stream = kind(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=headers,
                http_version=request.http_version.decode(),
                method=request.method.decode(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )

    async def invite(self) -> None:
        """Tell the peer to send the body, if that is what it waits for."""
        if self.connection.they_are_waiting_for_100_continue:
            headers = self.config.response_headers("h11")
            await super()._send_h11_event(
                h11.InformationalResponse(status_code=100, headers=headers)
            )

    async def _refuse(self, status: int) -> None:
        await self._send_error_response(status)
        await self.send(Closed())

    async def _send_h11_event(self, event: Any) -> None:
        if isinstance(event, h11.InformationalResponse) and event.status_code == 100:
            return  # upstream says it too early; `invite` does when the time has come
        try:
            data = self._held + (self.connection.send(event) or b"")
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            data = b""  # the peer broke the protocol, and has been answered
        self._held = b""
        if isinstance(event, h11.Response) and _has_length(event):
            self._held = data  # one write and one packet less for each answer of known length
        elif data or not isinstance(event, h11.EndOfMessage):
            await self.send(RawData(data))


def _has_length(answer: h11.Response) -> bool:
    return any(name == b"content-length" for name, _ in answer.headers)


def _asks_for_websocket(request: h11.Request) -> bool:
    upgrade = connection = b""
    for name, value in request.headers:
        if name == b"upgrade":
            upgrade = value
        elif name == b"connection":
            connection += b"," + value
    tokens = (token.strip() for token in connection.lower().split(b","))
    return request.method == b"GET" and upgrade.lower() == b"websocket" and b"upgrade" in tokens


class _Websocket(WSStream):
    """Hypercorn's websocket, whose every end is told to both sides."""

    async def handle(self, event: StreamEvent) -> None:
        """Take what the peer did."""
        if isinstance(event, Body | Data) and not self.closed and not self.handshake.accepted:
            # RFC 6455 §4.1: the peer has to wait for our answer. Upstream sends a 400, which h11
            # forbids when the application has begun to answer at the same moment.
            await self._end()
        else:
            await super().handle(event)

    async def app_send(self, message: ASGISendEvent | None) -> None:
        """Take what the application does."""
        if self.closed and message is not None:
            await self._pass_transport()
        else:
            await super().app_send(message)

    async def _handle_events(self) -> None:
        await super()._handle_events()
        if self.buffer.length > self.buffer.max_length:
            await self._end()  # the peer has been told 1009; upstream reads on

    async def _send_error_response(self, status_code: int) -> None:
        await super()._send_error_response(status_code)
        await self._end()  # upstream keeps the connection open for ever

    async def _send_wsproto_event(self, event: WebsocketEvent) -> None:
        try:
            data = self.connection.send(event)
        except LocalProtocolError:  # the websocket is closing
            await self._pass_transport()
        else:
            await self.send(Data(stream_id=self.stream_id, data=data))

    async def _pass_transport(self) -> None:
        """Send nothing: this waits until it could be sent, or ends the connection if it cannot."""
        await self.send(Data(stream_id=self.stream_id, data=b""))

    async def _end(self) -> None:
        await self.send(StreamClosed(stream_id=self.stream_id))
