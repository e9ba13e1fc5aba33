"""Every terminal of a keeper: read in turn, and no faster than a machine and its disk can bear.

What is read is paid by the byte. A terminal in debt for more than one pass is not read until it has
paid, so a flood fills the kernel's few KiB and its program waits. Nobody else does: who writes
little owes nothing.
"""

import select
from collections.abc import Callable

from cmdop_appliance.agent.keeper.pty import Pty
from cmdop_appliance.agent.keeper.records import Event
from cmdop_appliance.agent.keeper.requests import Input, Resize, TerminalRequest, Watch

# Shared by those in debt, and far above what anybody can look at. At four times as much, `yes` in
# ten terminals keeps two cores busy, and keys typed elsewhere wait for tens of ms (measured).
RATE_BYTES_S = 4 * 1024 * 1024
PASS_BYTES = 16 * 1024

_DEBT_S = PASS_BYTES / RATE_BYTES_S
_RETRY_S = 0.5  # to look again for a program that has the terminal open, or for room on the disk
_DRAIN_PASSES = 4  # far more than the kernel holds back


class Screens:
    """The terminals whose programs live, by their descriptors in `epoll`."""

    def __init__(self, epoll: select.epoll, tell: Callable[[Event], None]) -> None:
        """`tell` is called with what the agent is to hear."""
        self.wake_at = float("inf")  # call `resume` then
        self._epoll = epoll
        self._tell = tell
        self._buffer = memoryview(bytearray(PASS_BYTES))
        self._ptys: dict[int, Pty] = {}  # by descriptor
        self._wanted: dict[int, int] = {}  # what epoll looks for, by descriptor
        self._paid_at: dict[int, float] = {}
        self._paused: dict[int, float] = {}  # until when, by descriptor

    def add(self, pty: Pty) -> None:
        """Look after it from now on."""
        self._ptys[pty.master] = pty
        self._look_at(pty)

    def find(self, fd: int) -> Pty | None:
        """The terminal of a descriptor that epoll names."""
        return self._ptys.get(fd)

    def handle(self, pty: Pty, request: TerminalRequest) -> None:
        """Do what the agent asks."""
        match request:
            case Input(writer=writer, offset=offset, data=data):
                pty.type(writer, offset, data)
                self._type(pty)
            case Resize(cols=cols, rows=rows):
                pty.resize(cols, rows)
            case Watch(offset=offset):
                pty.watched = offset if pty.watched is None else min(pty.watched, offset)
                self._tell_written(pty)

    def serve(self, pty: Pty, happened: int, now: float) -> None:
        """Type and read a pass, as epoll says."""
        if happened & select.EPOLLOUT:
            self._type(pty)
        if happened & ~select.EPOLLOUT:
            self._read(pty, now)
            self._tell_written(pty)

    def resume(self, now: float) -> None:
        """Go on with those that have waited long enough."""
        for fd in [fd for fd, until in self._paused.items() if until <= now]:
            del self._paused[fd]
            self._look_at(self._ptys[fd])
        self.wake_at = min(self._paused.values(), default=float("inf"))

    def unwatch(self) -> None:
        """Nobody waits for output any more."""
        for pty in self._ptys.values():
            pty.watched = None

    def drain(self, pty: Pty) -> bool:
        """Store what its program has left behind. False: the disk has no room for it now."""
        for _ in range(_DRAIN_PASSES):
            # A read that finds nothing has waited for what is on its way (tty_buffer_flush_work).
            if pty.read(self._buffer) < PASS_BYTES:
                break
        return not pty.is_stuck

    def close(self, pty: Pty) -> None:
        """Look after it no longer, and hang up."""
        fd = pty.master
        self._want(fd, 0)
        self._paused.pop(fd, None)
        self._paid_at.pop(fd, None)
        del self._ptys[fd]
        pty.close()

    def _read(self, pty: Pty, now: float) -> None:
        fd = pty.master
        debtors = 1 + sum(at > now for other, at in self._paid_at.items() if other != fd)
        cost_s = pty.read(self._buffer) * debtors / RATE_BYTES_S
        paid_at = max(now, self._paid_at.get(fd, now)) + cost_s
        self._paid_at[fd] = paid_at
        if pty.is_hung_up or pty.is_stuck:
            self._pause(pty, now + _RETRY_S)
        elif paid_at > now + _DEBT_S:
            self._pause(pty, paid_at)

    def _type(self, pty: Pty) -> None:
        for writer, offset in pty.flush():
            self._tell({"event": "taken", "id": pty.id, "writer": writer, "offset": offset})
        self._look_at(pty)

    def _tell_written(self, pty: Pty) -> None:
        end = pty.output.stored_end
        if pty.watched is not None and pty.watched < end:
            pty.watched = None
            self._tell({"event": "written", "id": pty.id, "end": end})

    def _look_at(self, pty: Pty) -> None:
        if pty.master not in self._paused:
            self._want(pty.master, select.EPOLLIN | (select.EPOLLOUT if pty.pending_bytes else 0))

    def _pause(self, pty: Pty, until: float) -> None:
        self._paused[pty.master] = until
        self.wake_at = min(self.wake_at, until)
        self._want(pty.master, 0)  # out of epoll: a hang-up is told to whoever is in it

    def _want(self, fd: int, wanted: int) -> None:
        present = self._wanted.pop(fd, 0)
        if wanted:
            self._wanted[fd] = wanted
        if present == wanted:
            return
        if not present:
            self._epoll.register(fd, wanted)
        elif wanted:
            self._epoll.modify(fd, wanted)
        else:
            self._epoll.unregister(fd)
