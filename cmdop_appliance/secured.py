"""TLS on a stream that somebody has dialled, the hub's end of it.

Trio's own does the same but for two things that HTTP needs: an end that leaves the other direction
open, and reads that keep little memory with a connection which once had much to say.
"""

import ssl
from contextlib import suppress
from typing import Final

import trio

from cmdop_appliance.sockets import QuickStream

# What stays with a connection grows with the pieces that it moves; a record has 16 KiB at most.
_RECORD_BYTES: Final = 16 * 1024
_SENT_BYTES: Final = 32 * 1024


class SecuredStream(trio.abc.HalfCloseableStream):
    """Speaks TLS on a connection. One task may send, while another receives."""

    def __init__(self, stream: QuickStream, context: ssl.SSLContext, binding: bytes = b"") -> None:
        """`binding`: see protocol.handshake."""
        self.binding = binding
        self._stream = stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._flushing = trio.Lock()
        self._is_broken = False
        self._has_ended = False  # we send no more

    @property
    def socket(self) -> trio.socket.SocketType:
        """The connection's socket, for its two addresses."""
        return self._stream.socket

    async def shake_hands(self) -> None:
        """Agree with the peer; nothing can be sent or received before.

        Raises:
            trio.BrokenResourceError: it does not want to, or is gone.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._read_on()
            except ssl.SSLError as exc:
                await self._flush()  # the peer is told why
                raise self._broken() from exc
            else:
                await self._flush()
                return

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As `trio.abc.ReceiveStream`. After `send_eof` it only tells when the peer has gone."""
        if self._has_ended:
            return bytes(await self._stream.receive_some(max_bytes))
        size = _RECORD_BYTES if max_bytes is None else min(max_bytes, _RECORD_BYTES)
        has_waited = False
        while True:
            data: bytes | None = b""
            try:
                data = self._tls.read(size)
            except ssl.SSLWantReadError:
                data = None  # and nothing is kept of the error while we wait
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # HTTP knows itself what is whole
                pass
            except ssl.SSLError as exc:
                raise self._broken() from exc
            if data is None:
                await self._flush()
                await self._read_on()
                has_waited = True
                continue
            if not has_waited:
                await trio.lowlevel.checkpoint()
            return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As `trio.abc.SendStream`."""
        view = memoryview(data)
        while view:
            try:
                sent = self._tls.write(view[:_SENT_BYTES])
            except ssl.SSLError as exc:
                raise self._broken() from exc
            view = view[sent:]
            await self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        """As `trio.abc.SendStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """As `trio.abc.HalfCloseableStream`: the peer knows that this was all."""
        if self._has_ended:
            return
        self._has_ended = True
        with suppress(ssl.SSLError):  # it waits for the peer's own end, which we do not
            self._tls.unwrap()
        await self._flush()
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """As `trio.abc.AsyncResource`."""
        await self._stream.aclose()

    async def _read_on(self) -> None:
        if received := await self._stream.receive_some(_RECORD_BYTES):
            self._incoming.write(received)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        """Send what TLS has to send; a part of that ends the connection."""
        if not self._outgoing.pending:
            return
        try:
            self._flushing.acquire_nowait()  # without a pass through the scheduler
        except trio.WouldBlock:
            await self._flushing.acquire()
        is_sent = False
        try:
            if self._is_broken:
                raise trio.BrokenResourceError
            while self._outgoing.pending:
                await self._stream.send_all(self._outgoing.read(_SENT_BYTES))
            is_sent = True
        finally:
            self._is_broken = not is_sent
            self._flushing.release()

    def _broken(self) -> trio.BrokenResourceError:
        self._is_broken = True
        return trio.BrokenResourceError()
