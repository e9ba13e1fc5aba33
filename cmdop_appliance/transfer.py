"""Bytes on the agent link, of a file or screen: who sends waits for credit, who receives gives it.

Both ends of the link use it. What a receiver holds is bounded by the credit that it gave, whatever
its peer sends; and a reader of the link never waits for a disk or a slow client.
"""

import os
import socket
from typing import Final

import trio

from cmdop_appliance.errors import RemoteProtocolError
from cmdop_appliance.protocol.frames import Data
from cmdop_appliance.protocol.limits import TRANSFER_BYTES, UNSENT_BYTES

# Credit is given anew when so much of it was used: some eight frames share one message.
_GRANT_EVERY: Final = TRANSFER_BYTES // 4


class Incoming:
    """Data on its way in, from `offset` on."""

    def __init__(self, offset: int) -> None:
        self.end = offset  # offset behind the last byte that arrived
        self.is_ended = False  # True: there will be no more
        self._taken = offset  # offset behind the last byte that was taken
        self._limit = offset + TRANSFER_BYTES  # credit given
        self._held = bytearray()
        self._failure: Exception | None = None
        self._news = trio.Event()

    def put(self, data: Data) -> None:
        """Data arrived; never waits.

        Raises:
            RemoteProtocolError: it does not go on where the last ended, or was given no credit.
        """
        end = data.offset + len(data.data)
        if self.is_ended or data.offset != self.end or end > self._limit:
            raise RemoteProtocolError(f"data at {data.offset} of a file that stands at {self.end}")
        self._held += data.data
        self.end = end
        self._news.set()

    def finish(self, end: int) -> None:
        """All was sent.

        Raises:
            RemoteProtocolError: it was not, or that was said before.
        """
        if self.is_ended or end != self.end:
            raise RemoteProtocolError(f"the end of a file at {end}, which stands at {self.end}")
        self.is_ended = True
        self._news.set()

    def fail(self, failure: Exception) -> None:
        """There will be no more, for this reason, which is raised to whoever takes."""
        self._failure = failure
        self._news.set()

    async def take(self) -> bytearray:
        """All that is here, as soon as there is something; empty: that was all."""
        while not (self._held or self.is_ended or self._failure):
            self._news = trio.Event()
            await self._news.wait()
        if self._failure is not None:
            raise self._failure
        taken, self._held = self._held, bytearray()
        self._taken += len(taken)
        return taken

    def grant(self) -> int | None:
        """Up to where there is room now; None: that is not worth a message."""
        limit = self._taken + TRANSFER_BYTES
        if self.is_ended or limit - self._limit < _GRANT_EVERY:
            return None
        self._limit = limit
        return limit


class Outgoing:
    """Data on its way out, from `offset` on, for so much of which there is credit."""

    def __init__(self, offset: int, credit: int = TRANSFER_BYTES) -> None:
        self.offset = offset  # of the next byte to send
        self._limit = offset + credit
        self._failure: Exception | None = None
        self._news = trio.Event()

    def allow(self, limit: int) -> None:
        """The receiver has room up to `limit`."""
        self._limit = max(self._limit, limit)
        self._news.set()

    def fail(self, failure: Exception) -> None:
        """Nobody receives any more, for this reason, which is raised to whoever sends."""
        self._failure = failure
        self._news.set()

    async def wait_room(self) -> int:
        """How many bytes may be sent now, once it is at least one."""
        while self._limit <= self.offset and self._failure is None:
            self._news = trio.Event()
            await self._news.wait()
        if self._failure is not None:
            raise self._failure
        return self._limit - self.offset


class Room:
    """Tells when little of what was sent on a socket still waits in it.

    The kernel would take megabytes of a file otherwise, and all that is said after them would stand
    behind. It has a descriptor of its own: Trio lets one task wait for a socket, and that is who
    sends on it.
    """

    def __init__(self, link: trio.socket.SocketType) -> None:
        """Watch `link`, which stays open until this is closed.

        Raises:
            OSError: it is open no more, or there is no descriptor left.
        """
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux and macOS
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self._fd = os.dup(link.fileno())

    async def wait(self) -> None:
        """Return when there is room, or the link has broken.

        Raises:
            trio.ClosedResourceError: this was closed.
        """
        if self._fd < 0:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_writable(self._fd)

    def close(self) -> None:
        """Let go of the socket. It may be said twice."""
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
            self._fd = -1
