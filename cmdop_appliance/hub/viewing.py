"""One viewer of a terminal: an operator, who types, or an observer, who looks.

Each reads the output by itself, at its own pace: of a slow one only the piece under way is held
here, and the rest at its machine. What was written before somebody looked asks nobody.
"""

import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio

from cmdop_appliance.auth import Caller
from cmdop_appliance.errors import ApplianceError, Forbidden
from cmdop_appliance.hub.audience import Audience
from cmdop_appliance.hub.bus import SWEEP_S, Bus
from cmdop_appliance.hub.connection import LinkClosed
from cmdop_appliance.hub.following import follow
from cmdop_appliance.hub.screening import Screener
from cmdop_appliance.hub.terminal_link import Seen, TerminalLink, Typed, Watch, typed_subject
from cmdop_appliance.hub.viewed import (
    Away,
    Back,
    Ended,
    Gap,
    News,
    Piece,
    Resized,
    Shown,
    Taken,
    Viewers,
)
from cmdop_appliance.model import ClientMode, Terminal
from cmdop_appliance.protocol.frames import Screen
from cmdop_appliance.protocol.limits import INPUT_BYTES
from cmdop_appliance.protocol.terminals import (
    Size,
    TerminalGap,
    TerminalInput,
    TerminalResize,
    TerminalWatched,
)
from cmdop_appliance.store import clients
from cmdop_appliance.store import terminals as rows
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.transaction import Tx, brief, reads

# What one viewer types and its machine has not taken yet: as much as a terminal holds.
_TYPING_BYTES: Final = 4 * INPUT_BYTES
# Output is screened in parts, and in one pass of the loop for one viewer only: a part of the worst
# takes some 3 ms, for which all of the hub waits. Of plain text a turn is more than one frame.
_PART_BYTES: Final = 512
_TURN_S: Final = 0.001
# A window that is dragged has more sizes than this, and each is written to the disk.
_RESIZE_S: Final = 0.05
# A machine that is there tells where output begins within this.
_FIRST_S: Final = 5.0


class Viewing:
    """One viewer. What goes wrong is raised by `next`."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        audience: Audience,
        caller: Caller,
        terminal: Terminal,
        mode: ClientMode,
        *,
        offset: int | None,
        size: Size | None,
        writer: str | None,
        screening: trio.Lock,
    ) -> None:
        self.terminal = terminal  # as it was looked at last
        self.mode = mode  # an operator may become an observer
        self.begins = offset or 0  # the byte from which on it is shown output
        self.size = size  # of an operator's screen
        self._store = store
        self._bus = bus
        self._audience = audience
        self._caller = caller
        self._writer = writer
        self._screener = Screener(offset or 0)
        self._screening = screening  # held while any viewer's output is screened
        self._wanted: Size | None = None  # by its screen, and perhaps not seen to yet
        self._resized = trio.Event()
        self._is_placed = offset is not None  # it is known where its output begins
        self._asks_from = 0  # what stands before this byte asks nobody
        self._link: TerminalLink | None = None  # the last one, which may be over
        self._is_away = False  # the machine is, and it was told so
        self._has_met = False  # the machine was there
        self._is_missed = False  # it was not yet when something was typed
        self._taken: int | None = None  # of what it types; None: it has not begun
        self._news: dict[type[News], News] = {}  # of each kind the last, which counts
        self._piece: Piece | None = None  # until it is taken
        self._failure: ApplianceError | None = None
        self._begun = trio.Event()
        self._changed = trio.Event()

    @property
    def offset(self) -> int:
        """What stands before this byte of the output was shown, or is not kept."""
        return self._screener.offset

    async def next(self) -> Piece | News:
        """What happened next.

        Raises:
            TerminalNotFound: the terminal is known no more, or out of the caller's reach.
            TooManyTerminals, TerminalsNotSupported: its machine takes no viewer now.
            Unavailable: the hub is stopping.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            if self._news:
                return self._news.pop(next(iter(self._news)))
            if self._piece is not None:
                piece, self._piece = self._piece, None
                self._change()
                return piece
            await self._changed.wait()

    async def type(self, offset: int, data: bytes) -> None:
        """Type 1 to `INPUT_BYTES` bytes, which stand at byte `offset` of all that it types.

        Never waits. Of much that was not taken yet the rest is refused, and `Taken` repeated. While
        the machine is away all is: whoever hears `Back` types again from where it heard `Taken`
        last.

        Raises:
            Forbidden: it may only look.
        """
        self._require_operator()
        await trio.lowlevel.checkpoint()
        if self._taken is None:
            self._taken = offset
        if self._link is None:
            self._is_missed = True
        elif self._link.is_crowded or offset + len(data) > self._taken + _TYPING_BYTES:
            self._tell(Taken(self._taken))
        else:
            assert self._writer is not None
            with suppress(LinkClosed):
                self._link.post(
                    TerminalInput(
                        id=self.terminal.id, writer=self._writer, offset=offset, data=data
                    )
                )

    async def resize(self, size: Size) -> None:
        """The viewer's screen has this size now; of many within a moment the last counts.

        Raises:
            Forbidden: it may only look.
        """
        self._require_operator()
        self._wanted = size
        self._resized.set()
        for _ in range(2):  # two in a row ask for a repaint: the first is seen to in one pass
            await trio.lowlevel.checkpoint()

    # ── for `Viewings` and its audience ──────────────────────────────────────────────────────────

    def tell_count(self, operators: int, observers: int) -> None:
        """So many look now."""
        self._tell(Viewers(operators, observers))

    async def wait_begun(self) -> None:
        """Wait until it is known where output begins, as far as the machine is there."""
        with trio.move_on_after(_FIRST_S):
            await self._begun.wait()

    async def run(self) -> None:
        """Read what is for this viewer, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run, self._follow)
            nursery.start_soon(self._run, self._listen)
            nursery.start_soon(self._run, self._fit)

    async def _run(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except ApplianceError as exc:
            self._failure = exc
            self._begun.set()
            self._change()

    async def _follow(self) -> None:
        ended = await follow(self._store, self._bus, self.terminal.id, self)
        self._begun.set()
        await self._put(Ended(ended))

    async def _fit(self) -> None:
        """Have the terminal fit the viewer's screen."""
        while True:
            await self._resized.wait()
            self._resized = trio.Event()
            if self.mode == "operator":
                self.size = self._wanted
                await self._audience.fit(self.terminal)
            await trio.sleep(_RESIZE_S)

    async def _listen(self) -> None:
        """Hear what the machine has taken, and look after whatever else may have changed."""
        looked = -math.inf
        subjects = [rows.subject_of(self.terminal.id)]
        if self._writer is not None:
            subjects.append(typed_subject(self.terminal.id, self._writer))
        with self._bus.subscribe(*subjects) as news:
            while True:
                heard = None if looked < 0 else await news.next()
                if isinstance(heard, Typed):
                    self._hear(heard)
                    if trio.current_time() < looked + SWEEP_S:
                        continue
                await self._look()
                looked = trio.current_time()

    def _hear(self, typed: Typed) -> None:
        if self.mode == "operator":
            self._taken = typed.offset
            self._tell(Taken(typed.offset))

    async def _look(self) -> None:
        before, caller = self.terminal, self._caller
        self.terminal, may_type = await self._store.run(_look_at, caller, before.id)
        size = Size(self.terminal.cols, self.terminal.rows)
        if size != Size(before.cols, before.rows):
            self._tell(Resized(size))
        if self.mode == "operator" and not may_type:
            self.mode, self.size = "observer", None
            await self._audience.settle(self.terminal)

    def _require_operator(self) -> None:
        if self.mode != "operator":
            raise Forbidden("an observer may only look", hint="attach as an operator")

    # ── as the reader of the output ──────────────────────────────────────────────────────────────

    @property
    def position(self) -> int | None:
        """From where on it is to be shown output."""
        return self.offset if self._is_placed else None

    async def take(self, link: TerminalLink, watch: Watch, seen: Seen) -> None:
        """Show what came, as far as it may be shown; waits until the viewer has taken it."""
        match seen:
            case TerminalWatched():
                await self._meet(link, seen)
            case Screen(offset=offset, data=data):
                if shown := await self._screen(offset, data):
                    await self._put(Shown(self.offset, shown))
                watch.grant(offset + len(data))
            case TerminalGap(offset=offset):
                self._screener.skip(offset)
                await self._put(Gap(offset))
                watch.grant(offset)

    async def lose(self) -> None:
        """The machine is away."""
        self._is_away = True
        self._begun.set()
        await self._put(Away())

    async def miss(self, ended: Terminal) -> None:
        """The last output is missing; one that is lost tells so by itself."""
        self._begun.set()
        if ended.end != "lost":
            await self._put(Gap(self.offset))

    async def _meet(self, link: TerminalLink, seen: TerminalWatched) -> None:
        fitting = self._audience.smallest
        if fitting is not None and fitting != seen.size:
            link.post(TerminalResize(id=self.terminal.id, size=fitting))
        self._asks_from = 0 if self._audience.is_young and not self._has_met else seen.end
        is_gap = self._is_placed and seen.offset != self.offset
        self._screener.skip(seen.offset)  # what was held back comes again
        self._is_placed = True
        was_away, self._is_away = self._is_away, False
        has_met, self._has_met = self._has_met, True
        if not has_met:
            self.begins = seen.offset
        self._link = link
        self._begun.set()
        if has_met and not was_away:
            await self._put(Away())  # what was typed meanwhile may be lost
        if has_met or was_away or self._is_missed:
            await self._put(Back())
        if is_gap:
            await self._put(Gap(seen.offset))

    async def _screen(self, offset: int, data: bytes) -> bytes:
        """What may be shown of it; waits for its turns among all viewers of the hub."""
        shown, at = bytearray(), 0
        while at < len(data):
            async with self._screening:
                until = time.perf_counter() + _TURN_S
                while at < len(data):
                    shown += self._screen_part(offset + at, data[at : at + _PART_BYTES])
                    at += _PART_BYTES
                    if time.perf_counter() >= until:
                        break
        return bytes(shown)

    def _screen_part(self, offset: int, data: bytes) -> bytes:
        screen, audience = self._screener.screen, self._audience
        if not audience.is_asked(self):
            return screen(data)
        old = max(0, max(self._asks_from, audience.asked) - offset)
        audience.asked = max(audience.asked, offset + len(data))
        return screen(data[:old]) + screen(data[old:], may_ask=True)

    async def _put(self, piece: Piece) -> None:
        self._piece = piece
        self._change()
        while self._piece is piece:
            await self._changed.wait()

    def _tell(self, news: News) -> None:
        self._news[type(news)] = news
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@brief
@reads
def _look_at(tx: Tx, caller: Caller, terminal_id: str) -> tuple[Terminal, bool]:
    """The terminal, and whether this caller may type there."""
    terminal = rows.get(tx, caller.reach, terminal_id)
    try:
        clients.require_operator(tx, caller.key_id, terminal.machine_id)
    except Forbidden:
        return terminal, False
    return terminal, True
