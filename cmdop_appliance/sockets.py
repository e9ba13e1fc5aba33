"""A socket's stream for what is short and frequent: requests and answers, messages, events.

Trio's own goes through the scheduler after each call, also when it had nothing to wait for: for a
message of 200 bytes that is most of what it costs, on each of its ways (measured).
"""

import errno
import os
from typing import Final

import trio

# So many calls may go on at once before the others have their turn.
_AT_ONCE: Final = 16
_READ_BYTES: Final = 64 * 1024
# What a closed socket says that is ours no more.
_CLOSED: Final = (errno.EBADF, errno.ENOTSOCK)


class QuickStream(trio.abc.HalfCloseableStream):
    """As `trio.SocketStream`, but a call that has nothing to wait for seldom lets others run."""

    def __init__(self, stream: trio.SocketStream) -> None:
        """`stream` is this one's from now on."""
        self._stream = stream
        self._calls = 0
        self._is_sending = False  # somebody waits until it takes more

    @property
    def socket(self) -> trio.socket.SocketType:
        """The connection's socket, for its two addresses."""
        return self._stream.socket

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As `trio.abc.SendStream`."""
        await self._pause()
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending")
        sent = 0
        try:
            sent = os.write(self._stream.socket.fileno(), data)
        except BlockingIOError:
            pass
        except OSError as exc:
            raise _broken(exc) from exc
        if sent == len(data):
            return
        self._is_sending = True
        try:
            await self._stream.send_all(memoryview(data)[sent:])
        finally:
            self._is_sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As `trio.abc.ReceiveStream`."""
        await self._pause()
        while True:
            try:
                return os.read(self._stream.socket.fileno(), max_bytes or _READ_BYTES)
            except BlockingIOError:
                pass  # and nothing is kept of it while we wait
            except OSError as exc:
                raise _broken(exc) from exc
            await trio.lowlevel.wait_readable(self._stream.socket)

    async def wait_send_all_might_not_block(self) -> None:
        """As `trio.abc.SendStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """As `trio.abc.HalfCloseableStream`."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """As `trio.abc.AsyncResource`."""
        await self._stream.aclose()

    async def _pause(self) -> None:
        self._calls += 1
        if self._calls == _AT_ONCE:
            self._calls = 0
            await trio.lowlevel.checkpoint()  # also for whoever is to end


def _broken(error: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
    if error.errno in _CLOSED:
        return trio.ClosedResourceError("this socket was already closed")
    return trio.BrokenResourceError(f"socket connection broken: {error}")
