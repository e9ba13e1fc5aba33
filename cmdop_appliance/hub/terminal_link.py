"""Terminals on one connection of a machine: what is said to them, and what they write.

A reader lives in a `with`; leaving it tells the machine. What a machine sends is bounded by the
credit that its reader gave, and held to its offsets.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import trio

from cmdop_appliance.errors import (
    RemoteProtocolError,
    TerminalsNotSupported,
    TooManyTerminals,
)
from cmdop_appliance.hub import links
from cmdop_appliance.hub.bus import Bus
from cmdop_appliance.hub.connection import LinkClosed
from cmdop_appliance.hub.line import Line
from cmdop_appliance.protocol.frames import Screen
from cmdop_appliance.protocol.limits import SCREEN_BYTES, TERMINALS, WATCH_BYTES, WATCHES
from cmdop_appliance.protocol.terminals import (
    TerminalCredit,
    TerminalDone,
    TerminalEnd,
    TerminalGap,
    TerminalInput,
    TerminalOpen,
    TerminalResize,
    TerminalUnwatch,
    TerminalWatch,
    TerminalWatched,
)

# What a machine says to a reader.
Seen = TerminalWatched | Screen | TerminalGap | TerminalDone

NOT_SUPPORTED: Final = "the agent of this machine is of a release that carries no terminals"

# Credit is given anew when so much of it was used: some two frames share one message.
_GRANT_EVERY: Final = WATCH_BYTES // 4
# What is held for one reader, in pieces: a machine that has much to send sends it in large ones.
_PIECES: Final = 256


@dataclass(frozen=True, slots=True)
class FindTerminalLink:
    """Bus question: who carries this machine's terminals?"""


@dataclass(frozen=True, slots=True)
class Typed:
    """Bus, on `typed_subject`: what the writer types is typed up to byte `offset`."""

    offset: int


def typed_subject(terminal_id: str, writer: str) -> str:
    """Where it is told what has been typed into a terminal of what `writer` types."""
    return f"typed.{terminal_id}.{writer}"


def terminals_subject(machine_id: str) -> str:
    """Where connections of a machine are asked for their `TerminalLink`."""
    return f"terminals.{machine_id}"


async def find_terminal_link(bus: Bus, machine_id: str) -> "TerminalLink":
    """The way to the terminals of a machine that is connected now.

    Raises:
        SessionNotActive: it is not.
        TerminalsNotSupported: its agent is too old.
    """
    subject = terminals_subject(machine_id)
    link = await links.find(bus, subject, FindTerminalLink(), TerminalLink, machine_id)
    if not link.is_supported:
        raise TerminalsNotSupported(
            NOT_SUPPORTED,
            hint="install the hub's release there, and start the agent again",
            machine_id=machine_id,
        )
    return link


class TerminalLink:
    """What one connection carries of terminals. `LinkClosed`: it is over."""

    def __init__(self, line: Line) -> None:
        self.is_supported = False  # by the agent, which says so when it is ready
        self._line = line
        self._watches: dict[int, Watch] = {}
        self._next_watch = 0
        self._is_over = False

    @property
    def is_crowded(self) -> bool:
        """True: much waits to be said, because the machine takes little."""
        return self._line.is_crowded

    def post(self, message: TerminalOpen | TerminalEnd | TerminalInput | TerminalResize) -> None:
        """Have this said to the machine now; never waits.

        Whoever types keeps what is under way below what a terminal holds.
        """
        if self._is_over:
            raise LinkClosed
        self._line.post(message)

    @contextmanager
    def watch(
        self, terminal_id: str, offset: int | None, *, is_recorder: bool = False
    ) -> Iterator["Watch"]:
        """Read a terminal's output from a byte offset on; None: all that is kept.

        Viewers leave room for the recorder of each terminal.

        Raises:
            TooManyTerminals: as many read on this connection as can.
        """
        if self._is_over:
            raise LinkClosed
        most = WATCHES if is_recorder else WATCHES - TERMINALS
        if len(self._watches) >= most:
            raise TooManyTerminals(
                f"{most} readers look at terminals of this machine, and no more can",
                hint="close some of them",
            )
        watch = Watch(self._next_watch, terminal_id, self._line)
        self._next_watch += 1
        self._watches[watch.id] = watch
        try:
            self._line.post(
                TerminalWatch(watch=watch.id, id=terminal_id, offset=offset, quiet=is_recorder)
            )
            yield watch
        finally:
            del self._watches[watch.id]
            if not (watch.is_done or self._is_over):
                with suppress(LinkClosed):
                    self._line.post(TerminalUnwatch(watch=watch.id))

    def is_read(self, terminal_id: str) -> bool:
        """True: somebody reads this terminal's output."""
        return any(watch.terminal_id == terminal_id for watch in self._watches.values())

    def hear(self, message: Seen) -> None:
        """Take what the machine says to a reader; never waits.

        Raises:
            RemoteProtocolError: nobody reads there, or it breaks offsets or credit.
        """
        watch = self._watches.get(message.watch)
        if watch is not None:
            watch.hear(message)
        elif message.watch >= self._next_watch:
            raise RemoteProtocolError(f"output for reader {message.watch}, which never was")

    def shut(self) -> None:
        """The connection is over, and whoever reads is told so."""
        self._is_over = True
        for watch in self._watches.values():
            watch.fail()


class Watch:
    """One reader of one terminal's output."""

    def __init__(self, number: int, terminal_id: str, line: Line) -> None:
        self.id = number
        self.terminal_id = terminal_id
        self.is_done = False  # True: the machine has said its last
        self._line = line
        self._position: int | None = None  # offset behind what arrived; None: not begun
        self._limit = 0  # credit given
        self._seen: deque[Seen] = deque()
        self._is_over = False
        self._news = trio.Event()

    async def next(self) -> Seen:
        """What came next: `TerminalWatched` first, then output in its order; last `TerminalDone`.

        Raises:
            LinkClosed: the connection is over, and all that came was given.
        """
        while not self._seen:
            if self._is_over:
                raise LinkClosed
            self._news = trio.Event()
            await self._news.wait()
        return self._seen.popleft()

    def grant(self, offset: int) -> None:
        """The reader has done with all output up to this byte offset: as much more may come."""
        limit = offset + WATCH_BYTES
        if self.is_done or self._is_over or limit - self._limit < _GRANT_EVERY:
            return
        self._limit = limit
        with suppress(LinkClosed):  # `next` tells
            self._line.post(TerminalCredit(watch=self.id, offset=limit))

    def hear(self, message: Seen) -> None:
        """Take what the machine says.

        Raises:
            RemoteProtocolError: it breaks offsets or credit, or does not belong here.
        """
        position = self._position
        match message:
            case _ if self.is_done:
                raise RemoteProtocolError(f"more for reader {self.id}, which had its last")
            case TerminalWatched() if position is None and message.offset <= message.end:
                self._position = message.offset
                self._limit = message.offset + WATCH_BYTES
            case Screen() if message.offset == position:
                self._position = message.offset + len(message.data)
                if self._position > self._limit:
                    raise RemoteProtocolError(f"reader {self.id} has no room beyond {self._limit}")
            case TerminalGap() if position is not None and message.offset > position:
                self._position = message.offset
            case TerminalDone() if position in (None, message.end):
                self.is_done = True
            case _:
                kind = type(message).__name__
                raise RemoteProtocolError(f"{kind} does not belong to reader {self.id} now")
        self._put(message)
        self._news.set()

    def fail(self) -> None:
        """Nothing more will come."""
        self._is_over = True
        self._news.set()

    def _put(self, message: Seen) -> None:
        """Keep it for the reader: small pieces that wait become one."""
        last = self._seen[-1] if self._seen else None
        if (
            isinstance(message, Screen)
            and isinstance(last, Screen)
            and len(last.data) + len(message.data) <= SCREEN_BYTES
        ):
            self._seen[-1] = Screen(self.id, last.offset, last.data + message.data)
            return
        if len(self._seen) >= _PIECES:
            raise RemoteProtocolError(f"{_PIECES} pieces wait for reader {self.id}")
        self._seen.append(message)
