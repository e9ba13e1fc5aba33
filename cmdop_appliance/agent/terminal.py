"""One terminal as the agent sees it: how far it is, what it wrote, and how it ended."""

from typing import Literal, cast

import trio

from cmdop_appliance.agent.coding.attention import Attention
from cmdop_appliance.agent.command import Ending, Phase
from cmdop_appliance.ids import is_id
from cmdop_appliance.protocol.limits import LABEL_CHARS
from cmdop_appliance.protocol.terminals import (
    KnownTerminal,
    Size,
    TerminalEnded,
    TerminalOpened,
    TerminalWaiting,
    Worktree,
)

_End = Literal["exited", "cancelled", "idle", "lost"]


class Terminal:
    """A terminal that the hub has not let go of."""

    def __init__(self, terminal_id: str, size: Size) -> None:
        self.id = terminal_id
        self.size = size
        self.phase = Phase.QUEUED  # until it is given to the keeper
        self.slot: int | None = None  # of its output; None: it never ran
        self.directory: str | None = None  # where it runs, as far as that was asked for
        self.worktree: Worktree | None = None
        self.is_ending = False  # the hub asked for its end
        self.refusal: tuple[str, str] | None = None  # it did not start: code and message
        self.ended: TerminalEnded | None = None
        self.written = 0  # its output reaches so far at least
        self.end: int | None = None  # of its output; None: there will be more
        self.is_asked_for = False  # the keeper will tell of more output
        self.attention: Attention | None = None  # of a coding session that runs
        # A coding session waits for somebody, as the hub was told; None: by an earlier agent.
        self.is_waiting: bool | None = None
        self.changed = trio.Event()  # set, and replaced, when something of it has
        self.started_ms = 0

    @property
    def is_coding(self) -> bool:
        """True: an AI coding agent runs in it."""
        return is_id("session", self.id)

    def change(self) -> None:
        """Wake whoever waits for something of it."""
        self.changed.set()
        self.changed = trio.Event()

    def start(self, slot: int, started_ms: int) -> None:
        """It runs."""
        self.phase, self.slot, self.started_ms = Phase.RUNNING, slot, started_ms
        self.change()

    def refuse(self, code: str, message: str) -> None:
        """It did not start, and never will."""
        self.refusal = code, message[:LABEL_CHARS]
        self.change()

    def write(self, end: int) -> None:
        """Its output reaches byte offset `end`."""
        self.written, self.is_asked_for = max(self.written, end), False
        if self.attention is not None:
            self.attention.wrote(trio.current_time())
        self.change()

    def finish(self, ending: Ending) -> None:
        """It has ended; all its output is its stdout."""
        self.phase, self.end, self.attention = Phase.ENDED, ending.stdout_bytes, None
        self.ended = TerminalEnded(
            id=self.id,
            end=cast("_End", ending.end),  # no terminal has a timeout, and this one has started
            exit_code=ending.exit_code,
            signal=ending.signal,
            reason=ending.reason,
            message=ending.message[:LABEL_CHARS] if ending.message else None,
            started_ms=ending.started_ms,
            duration_ms=ending.duration_ms,
        )
        self.change()

    async def wait_started(self) -> None:
        """Wait until it runs, has ended or will never start."""
        while self.phase in (Phase.QUEUED, Phase.STARTING) and self.refusal is None:
            await self.changed.wait()

    def known(self) -> KnownTerminal:
        """Its line among those that the agent knows."""
        return KnownTerminal(id=self.id, phase="running" if self.ended is None else "ended")

    def opened(self) -> TerminalOpened:
        """What to tell of it while it runs."""
        return TerminalOpened(
            id=self.id,
            started_ms=self.started_ms,
            directory=self.directory,
            worktree=self.worktree,
        )

    def waiting(self) -> TerminalWaiting:
        """Whether it waits for somebody, as of the last look."""
        return TerminalWaiting(id=self.id, on=bool(self.is_waiting))
