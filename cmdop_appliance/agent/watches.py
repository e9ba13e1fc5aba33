"""Readers of terminals: each is sent output by byte offset, as far as it gave credit.

Nothing is held for a reader but the piece under way. A slow one finds a gap where more was written
than is kept.
"""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from cmdop_appliance.agent.keeper_client import kept_screen, read_screen
from cmdop_appliance.agent.outbox import Outbox
from cmdop_appliance.agent.terminal import Terminal
from cmdop_appliance.errors import RemoteProtocolError
from cmdop_appliance.protocol.frames import Screen
from cmdop_appliance.protocol.limits import SCREEN_BYTES, WATCH_BYTES, WATCHES
from cmdop_appliance.protocol.terminals import TerminalDone, TerminalGap, TerminalWatched
from cmdop_appliance.transfer import Outgoing

log = logging.getLogger("cmdop.agent.watches")

# When output cannot be read, such as for want of a file descriptor.
_RETRY_S: Final = 1.0


class Watches:
    """The readers of one connection after another; lives as long as the agent."""

    def __init__(
        self,
        state_dir: Path,
        outbox: Outbox,
        wait_output: Callable[[Terminal, int], Awaitable[None]],
    ) -> None:
        """`wait_output` returns once there is output behind an offset, or none to come."""
        self._state_dir = state_dir
        self._outbox = outbox
        self._wait_output = wait_output
        self._open: dict[int, _Watch] = {}

    def begin(
        self, number: int, terminal: Terminal | None, offset: int | None
    ) -> Callable[[], Awaitable[None]]:
        """What serves this reader until there is no more, or it leaves.

        Raises:
            RemoteProtocolError: the number is that of another reader, or there are too many.
        """
        if number in self._open:
            raise RemoteProtocolError(f"reader {number} came twice")
        if len(self._open) >= WATCHES:
            raise RemoteProtocolError(f"more than {WATCHES} readers of terminals")
        watch = self._open[number] = _Watch(number)

        async def serve() -> None:
            with watch.scope:
                await self._serve(watch, terminal, offset)
            if self._open.get(number) is watch:
                del self._open[number]

        return serve

    def allow(self, number: int, limit: int) -> None:
        """A reader has room for output up to byte offset `limit`; nothing if there is none."""
        if (watch := self._open.get(number)) is not None:
            watch.outgoing.allow(limit)

    def end(self, number: int) -> None:
        """A reader leaves; nothing if there is none."""
        if (watch := self._open.pop(number, None)) is not None:
            watch.scope.cancel()

    def hold(self) -> None:
        """The connection has ended, and every reader has left."""
        for number in list(self._open):
            self.end(number)

    async def _serve(self, watch: "_Watch", terminal: Terminal | None, offset: int | None) -> None:
        if terminal is not None:
            await terminal.wait_started()
        if terminal is None or terminal.slot is None:
            await self._outbox.show(TerminalDone(watch=watch.number, end=0))
        else:
            await self._show(watch, terminal, terminal.slot, offset)

    async def _show(
        self, watch: "_Watch", terminal: Terminal, slot: int, offset: int | None
    ) -> None:
        number, outgoing = watch.number, watch.outgoing
        start, end = kept_screen(self._state_dir, slot)
        at = start if offset is None else max(start, min(offset, end))
        outgoing.offset = at
        outgoing.allow(at + WATCH_BYTES)
        await self._outbox.show(
            TerminalWatched(watch=number, offset=at, end=end, size=terminal.size)
        )
        while terminal.end is None or at < terminal.end:
            room = await outgoing.wait_room()
            begin, data = await self._read(slot, at, min(room, SCREEN_BYTES))
            if data and begin > at:
                # What follows needs credit of its own.
                at = outgoing.offset = begin
                await self._outbox.show(TerminalGap(watch=number, offset=at))
            elif data:
                await self._outbox.show(Screen(number, at, data))
                at = outgoing.offset = at + len(data)
            elif terminal.end is None:
                # Beyond all that was told of: it may be told and not kept.
                await self._wait_output(terminal, max(at, terminal.written))
            else:
                at = terminal.end
                await self._outbox.show(TerminalGap(watch=number, offset=at))
        await self._outbox.show(TerminalDone(watch=number, end=at))

    async def _read(self, slot: int, offset: int, most: int) -> tuple[int, bytes]:
        """What the page cache holds, so that it needs no thread."""
        while True:
            try:
                return read_screen(self._state_dir, slot, offset, most)
            except OSError as exc:
                log.warning("cannot read a screen", extra={"slot": slot, "why": exc.strerror})
            await trio.sleep(_RETRY_S)


class _Watch:
    """One reader."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.scope = trio.CancelScope()  # of all that is done for it
        self.outgoing = Outgoing(0, credit=0)
