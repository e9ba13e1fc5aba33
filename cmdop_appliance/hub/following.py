"""The output of one terminal through all connections of its machine, to its end."""

from typing import Protocol

import trio

from cmdop_appliance.errors import SessionNotActive, TerminalNotFound
from cmdop_appliance.hub.bus import SWEEP_S, Bus
from cmdop_appliance.hub.connection import LinkClosed
from cmdop_appliance.hub.terminal_link import Seen, TerminalLink, Watch, find_terminal_link
from cmdop_appliance.model import Terminal
from cmdop_appliance.protocol.terminals import TerminalDone
from cmdop_appliance.store import terminals as rows
from cmdop_appliance.store.engine import Store


class Reader(Protocol):
    """Who is given the output."""

    @property
    def position(self) -> int | None:
        """The byte offset from which it has none yet; None: any."""
        ...

    async def take(self, link: TerminalLink, watch: Watch, seen: Seen) -> None:
        """Take what came; first of each connection `TerminalWatched`, never `TerminalDone`."""
        ...

    async def lose(self) -> None:
        """The machine is away."""
        ...

    async def miss(self, ended: Terminal) -> None:
        """The terminal has ended, and of its output there may have been more."""
        ...


async def follow(
    store: Store, bus: Bus, terminal_id: str, reader: Reader, *, is_recorder: bool = False
) -> Terminal:
    """Give a reader all output there is, until the terminal has ended; the record of its end.

    Raises:
        TerminalNotFound: it is known no more.
        TerminalsNotSupported, TooManyTerminals: its machine takes no reader.
        Unavailable: the hub is stopping.
    """
    following = _Following(store, bus, terminal_id, reader, is_recorder=is_recorder)
    while (ended := await following.wait_link()) is None:
        await following.read()
    return ended


class _Following:
    def __init__(
        self, store: Store, bus: Bus, terminal_id: str, reader: Reader, *, is_recorder: bool
    ) -> None:
        self._store = store
        self._bus = bus
        self._terminal_id = terminal_id
        self._reader = reader
        self._is_recorder = is_recorder
        self._link: TerminalLink | None = None
        self._has_begun = False  # its machine has told where output begins
        self._is_over = False  # no more output comes
        self._has_all = False  # and there was no more

    async def wait_link(self) -> Terminal | None:
        """Wait for the machine; its record if the terminal has ended, and nothing more will come.

        What has ended meanwhile may still be read, until its machine has forgotten it.
        """
        is_told = False
        with self._bus.subscribe(rows.subject_of(self._terminal_id)) as news:
            while True:
                terminal = await self._look()
                has_begun = terminal.status != "starting"
                self._link = None
                if has_begun and not self._is_over:
                    self._link = await self._find_link(terminal.machine_id)
                if self._link is not None:
                    return None
                if terminal.status == "ended":
                    if terminal.started_ms is not None and not self._has_all:
                        await self._reader.miss(terminal)
                    return terminal
                if has_begun and not self._is_over and not is_told:
                    await self._reader.lose()
                    is_told = True
                await news.next()

    async def read(self) -> None:
        """Read until there is no more, or the link is lost."""
        link = self._link
        assert link is not None
        self._has_begun = False
        try:
            position, is_recorder = self._reader.position, self._is_recorder
            with link.watch(self._terminal_id, position, is_recorder=is_recorder) as watch:
                while not self._is_over:
                    seen = await self._next(watch)
                    if seen is not None:
                        await self._reader.take(link, watch, seen)
        except LinkClosed:
            pass

    async def _next(self, watch: Watch) -> Seen | None:
        seen: Seen | None = None
        with trio.move_on_after(SWEEP_S):
            seen = await watch.next()
        if isinstance(seen, TerminalDone):
            self._is_over = True
            self._has_all = self._has_begun  # else its machine knows nothing of it any more
            return None
        if seen is None and (await self._look()).status == "ended":
            self._is_over = True  # though its machine has not said so
        self._has_begun |= seen is not None
        return seen

    async def _look(self) -> Terminal:
        terminal = await self._store.run(rows.find, self._terminal_id)
        if terminal is None:
            raise TerminalNotFound("Terminal not found", terminal_id=self._terminal_id)
        return terminal

    async def _find_link(self, machine_id: str) -> TerminalLink | None:
        try:
            return await find_terminal_link(self._bus, machine_id)
        except SessionNotActive:
            return None
