"""A websocket to the hub, over the streams of anyio."""

from collections import deque
from collections.abc import Mapping
from typing import Self

import anyio
from anyio.abc import ByteStream
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from cmdop_appliance.sdk.aio.connection import BROKEN, open_stream, reason_of
from cmdop_appliance.sdk.errors import Away
from cmdop_appliance.sdk.trust import Trust
from cmdop_appliance.sdk.websocket_terms import (
    CLOSE_S,
    MESSAGE_BYTES,
    OPEN_S,
    PING_S,
    PONG_S,
    PROTOCOL,
    Closed,
    not_opened,
)


class WebSocket:
    """An open one. One task receives, any task may send.

    A hub is asked whether it is there, and answered, only while somebody receives.
    """

    def __init__(self, stream: ByteStream, protocol: ClientProtocol) -> None:
        self._stream = stream
        self._protocol = protocol
        self._messages: deque[str | bytes] = deque()
        self._parts: list[bytes] = []  # of a message that has begun
        self._is_text = False
        self._alive_until = anyio.current_time() + PING_S  # when the hub is asked, or is away
        self._is_asked = False
        self._sending = anyio.Lock()
        self._receiving = anyio.Lock()

    @classmethod
    async def open(cls, url: str, headers: Mapping[str, str], trust: Trust = Trust()) -> Self:  # noqa: B008 - it is frozen
        """A new one.

        Raises:
            APIError: the hub refused.
            Away, UnexpectedAnswer
        """
        where = parse_uri(url)
        try:
            with anyio.fail_after(OPEN_S):
                stream = await open_stream(where.host, where.port, trust if where.secure else None)
                protocol = ClientProtocol(where, subprotocols=[PROTOCOL], max_size=MESSAGE_BYTES)
                socket = cls(stream, protocol)
                await socket._shake_hands(headers)
        except InvalidHandshake as exc:
            raise not_opened(exc) from exc
        except TimeoutError as exc:
            raise Away("the hub does not answer") from exc
        except (*BROKEN, UnicodeError) as exc:
            raise Away(f"cannot reach the hub: {reason_of(exc)}") from exc
        return socket

    async def _shake_hands(self, headers: Mapping[str, str]) -> None:
        request = self._protocol.connect()
        request.headers.update(headers)
        self._protocol.send_request(request)
        try:
            await self._flush()
            while self._protocol.state is State.CONNECTING and not self._protocol.handshake_exc:
                await self._take_in()
            if self._protocol.handshake_exc is not None:
                raise self._protocol.handshake_exc
        finally:
            if self._protocol.state is not State.OPEN:
                await anyio.aclose_forcefully(self._stream)

    async def receive(self, timeout_s: float) -> str | bytes | None:
        """The next message; None: there is none in that time.

        Raises:
            Closed
        """
        deadline = anyio.current_time() + timeout_s
        while not self._messages:
            if self._protocol.state is State.CLOSED:
                raise Closed(self._protocol.close_code, self._protocol.close_reason)
            if anyio.current_time() >= deadline:
                return None
            await self._take_in(deadline)
        return self._messages.popleft()

    async def send(self, message: str | bytes) -> None:
        """Send a message; to a connection that has ended it is lost."""
        if self._protocol.state is State.OPEN:
            if isinstance(message, str):
                self._protocol.send_text(message.encode())
            else:
                self._protocol.send_binary(message)
            await self._flush()

    async def aclose(self) -> None:
        """Hang up."""
        try:
            with anyio.move_on_after(CLOSE_S):
                if self._protocol.state is State.OPEN:
                    self._protocol.send_close(1000)
                    await self._flush()
                while self._protocol.state is not State.CLOSED:
                    await self._take_in()
        finally:
            await anyio.aclose_forcefully(self._stream)

    async def _take_in(self, deadline: float = float("inf")) -> None:
        """Wait for bytes, until `deadline` or until the hub has to be asked whether it is there."""
        async with self._receiving:
            if self._protocol.state is State.CLOSED:
                return  # another task has taken in the end
            if self._protocol.state is State.CLOSING:
                self._alive_until = min(self._alive_until, anyio.current_time() + CLOSE_S)
            data: bytes | None = None
            with anyio.move_on_after(min(deadline, self._alive_until) - anyio.current_time()):
                data = await self._read()
            now = anyio.current_time()
            is_open = self._protocol.state is State.OPEN
            if data:
                self._protocol.receive_data(data)
                if is_open:
                    self._alive_until, self._is_asked = now + PING_S, False
            elif data is not None or (now >= self._alive_until and (self._is_asked or not is_open)):
                self._protocol.receive_eof()
            elif now >= self._alive_until:
                self._protocol.send_ping(b"")
                self._alive_until, self._is_asked = now + PONG_S, True
            for event in self._protocol.events_received():
                if isinstance(event, Frame):
                    self._keep(event)
        await self._flush()

    async def _read(self) -> bytes:
        """The next bytes; b"" is the end."""
        try:
            return await self._stream.receive()
        except BROKEN:
            return b""

    def _keep(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._parts.append(bytes(frame.data))
        if frame.fin:
            message = b"".join(self._parts)
            self._parts.clear()
            self._messages.append(message.decode() if self._is_text else message)

    async def _flush(self) -> None:
        async with self._sending:
            if data := b"".join(self._protocol.data_to_send()):
                try:
                    await self._stream.send(data)
                except BROKEN:
                    pass  # whoever receives hears of it
                except BaseException:  # nothing can be sent after half a frame
                    await anyio.aclose_forcefully(self._stream)
                    raise
