"""People who look at a terminal of a scripted machine."""

from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import trio

from cmdop_appliance.auth import Caller
from cmdop_appliance.errors import ApplianceError
from cmdop_appliance.hub.viewed import Resized, Taken, Viewers
from cmdop_appliance.hub.viewing import Viewing
from cmdop_appliance.model import ClientMode, Terminal
from cmdop_appliance.protocol.frames import Screen
from cmdop_appliance.protocol.terminals import Size, TerminalWatch, TerminalWatched
from cmdop_appliance.protocol.words import Message
from tests.hub.scripted_terminals import SHELL, PtyMachine
from tests.support.live_hub import BOUND, CALLER

M = TypeVar("M", bound=Message)
WRITER = "a" * 32
SIZE = Size()
Met = dict[str, int | Size]


class Gallery:
    """A terminal, and those who look at it."""

    def __init__(self, box: PtyMachine, terminal: Terminal) -> None:
        self.box = box
        self.terminal = terminal
        self.hub = box.live.hub
        self.told: list[Message] = []  # to the machine, beside what a test waited for

    @classmethod
    async def opened(cls, box: PtyMachine, **opening) -> "Gallery":
        return cls(box, await box.opened(SHELL, **opening))

    async def heard(self, kind: type[M]) -> M:
        """The next of this kind that the machine is told."""
        while True:
            message = await self.box.link.hear()
            if isinstance(message, kind):
                return message
            assert isinstance(message, Message)
            self.told.append(message)

    async def meet(self, at: int | None = None, end: int = 0, size: Size = SIZE) -> TerminalWatch:
        """The machine answers the next reader: output begins at `at`, as asked by default."""
        asked = await self.heard(TerminalWatch)
        begin = (asked.offset or 0) if at is None else at
        self.watch = asked.watch
        await self.box.link.say(
            TerminalWatched(watch=asked.watch, offset=begin, end=max(begin, end), size=size)
        )
        return asked

    async def write(self, offset: int, data: bytes, watch: int | None = None) -> None:
        """Output, for the reader who came last or another."""
        await self.box.link.say(Screen(self.watch if watch is None else watch, offset, data))

    @asynccontextmanager
    async def look(self, mode: ClientMode = "operator", *, met: Met | None = None, **asked):
        """Somebody looks, and the machine answers as `met`; what is raised comes as it is."""
        failure = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(self.meet, **(met or {})))
            try:
                async with self.ask(mode, **asked) as viewing:
                    yield viewing
            except (ApplianceError, AssertionError) as exc:
                failure = exc
        if failure is not None:
            raise failure

    def ask(
        self,
        mode: ClientMode = "operator",
        *,
        size: Size | None = SIZE,
        offset: int | None = None,
        writer: str = WRITER,
        caller: Caller = CALLER,
    ):
        """The same, and the machine says nothing."""
        return self.hub.viewings.view(
            caller, self.terminal, mode, offset=offset, size=size, writer=writer
        )


async def news(viewing: Viewing) -> object:
    with trio.fail_after(BOUND):
        return await viewing.next()


async def piece(viewing: Viewing) -> object:
    """What comes next of the output, and of the machine."""
    while True:
        heard = await news(viewing)
        if not isinstance(heard, Viewers | Resized | Taken):
            return heard


async def of(viewing: Viewing, kind: type) -> object:
    """The next of this kind."""
    while True:
        heard = await news(viewing)
        if isinstance(heard, kind):
            return heard
