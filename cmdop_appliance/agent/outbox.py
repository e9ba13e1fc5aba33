"""What the agent has to say to the hub, in the order in which its one writer says it.

Answers wait in a short queue. Commands are only noted here as having something to say: their
output is read at the moment it can be sent, so that a slow link costs no memory. Data of files
waits in a short queue, of each reader of a terminal one piece; they take turns with output. What a
terminal echoes is short, and stands behind answers only. Samples wait for all of them; unlike all
else they are kept while there is no connection.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import trio

from cmdop_appliance.agent.backlog import Backlog
from cmdop_appliance.agent.command import Command
from cmdop_appliance.protocol.frames import Data, Output, Screen
from cmdop_appliance.protocol.limits import DATA_BYTES, TRANSFER_BYTES
from cmdop_appliance.protocol.messages import (
    FEATURES,
    Background,
    FileEnd,
    FileFailed,
    Samples,
    Telemetry,
)
from cmdop_appliance.protocol.terminals import TerminalDone, TerminalGap, TerminalWatched
from cmdop_appliance.protocol.words import Message

# Answers waiting; each is below 1 KiB. When full the reader waits, and so does the hub.
QUEUE_MESSAGES: Final = 256
# Pieces of files waiting: as much as one file may have under way without new credit.
QUEUE_DATA: Final = TRANSFER_BYTES // DATA_BYTES
# A piece of a screen up to this is an echo, or what a person has to answer: a few lines, redrawn.
ECHO_BYTES: Final = 4096
# On a link that always has output to carry, a message of samples goes first once in so long.
SAMPLES_WAIT_S: Final = 30.0

# What a reader of a terminal is sent, in this order.
Shown = Screen | TerminalWatched | TerminalGap | TerminalDone
Item = Message | Output | Data | Screen


class Outbox:
    """Lives as long as the agent; while it is shut, whatever is said is dropped."""

    def __init__(self) -> None:
        self.is_open = False
        self.is_in_background = False
        self._not_known = frozenset(FEATURES)  # what this connection's hub would not understand
        self._answers: deque[Message] = deque()
        self._data: deque[Data | FileEnd | FileFailed] = deque()
        self._echoes: dict[trio.Event, Shown] = {}  # by what is set when one was taken
        self._screens: dict[trio.Event, Shown] = {}
        self._commands: dict[Command, None] = {}  # have something to say; in turn
        self._polls: dict[Command, float] = {}  # silent now; when to look again, Trio's clock
        # What comes in large amounts, the one first that was silent for longest.
        self._turns: list[Callable[[], Item | None]] = [
            self._next_screen,
            self._next_output,
            self._next_data,
        ]
        self._backlog = Backlog()
        self._samples_due = math.inf  # when they go before all output, Trio's clock
        self._sampled = trio.Event()
        self._wake = trio.Event()
        self._room = trio.Event()
        self._sleep = trio.CancelScope()  # the writer's

    def open(self, features: Iterable[str]) -> None:
        """A connection is ready, to a hub that knows these messages beyond the first release's."""
        self.is_open = True
        self._not_known = frozenset(FEATURES).difference(features)
        self._samples_due = trio.current_time() + SAMPLES_WAIT_S
        if self.is_in_background and self._is_known(Background):
            self._answers.append(Background(on=True))

    def shut(self) -> None:
        """The connection has ended: forget what was not said, the inventory says it anew."""
        self.is_open = False
        self._answers.clear()
        self._data.clear()
        for waiting in (self._echoes, self._screens):
            for taken in waiting:
                taken.set()
            waiting.clear()
        self._commands.clear()
        self._polls.clear()
        self._backlog.break_off()
        self._room.set()

    async def say(self, message: Message) -> None:
        """Queue an answer, if the hub knows such; waits while the queue is full."""
        if not self._is_known(type(message)):
            return
        while self.is_open and len(self._answers) >= QUEUE_MESSAGES:
            await self._wait_room()
        if self.is_open:
            self._answers.append(message)
            self._wake.set()

    async def send(self, item: Data | FileEnd | FileFailed) -> None:
        """Queue a piece of a file, or an end behind all of them; waits while the queue is full."""
        while self.is_open and len(self._data) >= QUEUE_DATA:
            await self._wait_room()
        if self.is_open:
            self._data.append(item)
            self._wake.set()

    async def show(self, item: Shown) -> None:
        """Hand over what a reader of a terminal is sent next; waits until its turn has come."""
        if not self.is_open:
            return
        is_short = not isinstance(item, Screen) or len(item.data) <= ECHO_BYTES
        waiting = self._echoes if is_short else self._screens
        taken = trio.Event()
        waiting[taken] = item
        self._wake.set()
        try:
            await taken.wait()
        finally:
            waiting.pop(taken, None)  # its reader has gone

    async def set_background(self, *, on: bool) -> None:
        """Tell the hub where this machine is, now and on each connection."""
        self.is_in_background = on
        await self.say(Background(on=on))

    def keep(self, telemetry: Telemetry) -> None:
        """Keep a sample that was taken now until the hub holds it.

        It goes with the heartbeat that it brings about: to a hub, each frame is work.
        """
        self._backlog.add(telemetry)
        self._sampled.set()

    async def wait_sample(self) -> None:
        """Return when one is kept."""
        self._sampled = trio.Event()
        await self._sampled.wait()

    def sampled(self, number: int) -> None:
        """The hub holds the samples up to this one: there may be more."""
        self._backlog.confirm(number)
        self._wake.set()

    def look_at(self, command: Command) -> None:
        """This command may have something to say now."""
        if self.is_open and command.outflow.active:
            self._polls.pop(command, None)
            self._commands[command] = None
            self._wake.set()

    def look_later(self, command: Command) -> None:
        """This command may have something to say soon, when its poll interval has passed."""
        if self.is_open and command.outflow.active:
            at = self._polls[command] = trio.current_time() + command.poll_s
            # The writer need not wake for this: it only must not sleep longer.
            self._sleep.deadline = min(self._sleep.deadline, at)

    async def next(self) -> Item:
        """The next thing to say, as soon as there is one.

        Answers first, then echoes, then screens, commands and files in turn, then samples.
        """
        while (item := self.next_nowait()) is None:
            if self._commands:
                await trio.lowlevel.checkpoint()  # hashing a large output is long work
                continue
            self._wake = trio.Event()
            self._sleep = trio.CancelScope(deadline=min(self._polls.values(), default=math.inf))
            with self._sleep:
                await self._wake.wait()
        return item

    def next_nowait(self) -> Item | None:
        """The next thing to say; None: there is none, or it has to be prepared first."""
        if self._answers:
            self._room.set()
            return self._answers.popleft()
        if self._echoes:
            return _take_first(self._echoes)
        now = trio.current_time()
        if now >= self._samples_due and (samples := self._next_samples(now)) is not None:
            return samples
        for command in [key for key, at in self._polls.items() if at <= now]:
            self.look_at(command)
        for source in self._turns:
            if (item := source()) is not None:
                self._turns.remove(source)
                self._turns.append(source)
                return item
        return None if self._commands else self._next_samples(now)

    async def _wait_room(self) -> None:
        if self._room.is_set():
            self._room = trio.Event()
        await self._room.wait()

    def _next_screen(self) -> Shown | None:
        return _take_first(self._screens) if self._screens else None

    def _next_output(self) -> Message | Output | None:
        while self._commands:
            command = next(iter(self._commands))
            del self._commands[command]
            if command.outflow.catch_up():
                self._commands[command] = None
                return None
            if (item := command.next()) is not None:
                self._commands[command] = None
                return item
            if command.is_untold:
                self.look_later(command)
        return None

    def _next_data(self) -> Data | FileEnd | FileFailed | None:
        if not self._data:
            return None
        self._room.set()
        return self._data.popleft()

    def _next_samples(self, now: float) -> Samples | None:
        samples = self._backlog.next() if self._is_known(Samples) else None
        if samples is not None:
            self._samples_due = now + SAMPLES_WAIT_S
        return samples

    def _is_known(self, kind: type[Message]) -> bool:
        return kind.__struct_config__.tag not in self._not_known


def _take_first(waiting: dict[trio.Event, Shown]) -> Shown:
    taken = next(iter(waiting))
    taken.set()
    return waiting.pop(taken)
