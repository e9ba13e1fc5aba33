"""One command as the agent sees it: how far it is, how it ended, and what to tell the hub of it."""

import hashlib
import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from cmdop_appliance.agent.output import Outflow
from cmdop_appliance.protocol.frames import Output
from cmdop_appliance.protocol.limits import LABEL_CHARS
from cmdop_appliance.protocol.messages import (
    Accepted,
    End,
    Finished,
    Known,
    Spec,
    Started,
    Stream,
)
from cmdop_appliance.protocol.words import Message

# A start within this time makes the message that it waits superfluous, and an end the one that it
# has started (one commit less at the hub); later than this a person would notice what is missing.
START_NOTICE_S: Final = 0.010
# How often a running command's files are looked at: at first, and at most when it is silent.
POLL_LEAST_S: Final = 0.010
POLL_MOST_S: Final = 0.200
# What a waiting command takes of memory beside its spec.
_QUEUED_BYTES: Final = 4096


class Phase(Enum):
    """How far a command is on this machine."""

    QUEUED = auto()
    STARTING = auto()  # given to the keeper, which has not answered yet
    RUNNING = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a command ended; `exit_code` is None unless it ended by itself."""

    end: End
    exit_code: int | None = None
    signal: str | None = None
    reason: str | None = None
    message: str | None = None
    started_ms: int | None = None
    duration_ms: int | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0


class Command:
    """One command that the hub has not acknowledged yet."""

    def __init__(
        self,
        command_id: str,
        spec_hash: bytes | None,
        *,
        spec: Spec | None = None,
        serial_key: str | None = None,
        expires: float = math.inf,
    ) -> None:
        self.id = command_id
        self.spec_hash = spec_hash  # None: no dispatch of it was ever seen
        self.spec = spec  # until it is given to the keeper
        self.serial_key = serial_key  # of equal ones only one runs at a time
        self.expires = expires  # Trio's clock: not to be started later
        self.phase = Phase.QUEUED
        self.cancelled = False  # the hub asked for its end
        self.ending: Ending | None = None
        self.outflow = Outflow(command_id)
        self.poll_s = START_NOTICE_S  # to the next look at its output
        self.started_ms = 0
        self._told = False  # that it runs, or that it has ended, on this connection
        self._is_accepted = expires < math.inf  # or said so: an inventory says it from then on

    @property
    def weight_bytes(self) -> int:
        """About what it takes of memory while it waits."""
        if self.spec is None:
            return _QUEUED_BYTES
        texts = [*self.spec.argv, *self.spec.env, *self.spec.env.values()]
        return _QUEUED_BYTES + sum(map(len, texts)) + len(self.spec.stdin or b"")

    @property
    def is_running(self) -> bool:
        """True: more output may appear at any time."""
        return self.phase is Phase.RUNNING

    @property
    def is_untold(self) -> bool:
        """True: it has something to say, now or later: it runs, or its state was not told yet."""
        match self.phase:
            case Phase.QUEUED:
                return not self._is_accepted
            case Phase.ENDED:
                return not self._told
            case Phase.STARTING | Phase.RUNNING:
                return self.is_running

    def start(self, started_ms: int) -> None:
        """It runs."""
        self.phase, self.started_ms = Phase.RUNNING, started_ms
        self.poll_s = START_NOTICE_S

    def finish(self, ending: Ending) -> None:
        """It has ended, or will never start."""
        self.phase, self.ending, self.spec = Phase.ENDED, ending, None
        self.outflow.end(ending.stdout_bytes, ending.stderr_bytes)
        self._told = False

    def repeat(self) -> None:
        """Tell its state once more."""
        self._told = False

    def known(self) -> Known:
        """Its line in the inventory."""
        match self.phase:
            case Phase.QUEUED:
                return Known(id=self.id, phase="queued")
            case Phase.ENDED:
                return Known(id=self.id, phase="ended")
            case Phase.STARTING | Phase.RUNNING:
                return Known(id=self.id, phase="running")

    def next(self) -> Message | Output | None:
        """What to tell the hub now: that it waits, that it runs, then its output, then its end."""
        if not self.outflow.active:
            return None
        if self.phase is Phase.QUEUED:
            return self._accepted()
        if self.is_running and not self._told:
            self._told = True
            return Started(id=self.id, started_ms=self.started_ms)
        if (output := self.outflow.next()) is not None:
            self.poll_s = POLL_LEAST_S
            return output
        self.poll_s = min(POLL_MOST_S, 2 * self.poll_s)
        return self._finished()

    def _accepted(self) -> Accepted | None:
        if self._is_accepted:
            return None
        self._is_accepted = True
        return Accepted(id=self.id)

    def _finished(self) -> Finished | None:
        totals = self.outflow.totals()
        if self.ending is None or totals is None or self._told:
            return None
        self._told = True
        stdout, stderr = totals
        return Finished(
            id=self.id,
            end=self.ending.end,
            stdout=stdout,
            stderr=stderr,
            exit_code=self.ending.exit_code,
            signal=self.ending.signal,
            reason=self.ending.reason,
            message=self.ending.message[:LABEL_CHARS] if self.ending.message else None,
            started_ms=self.ending.started_ms,
            duration_ms=self.ending.duration_ms,
        )


def forgotten(
    command_id: str,
    message: str = "this command has ended before, and the hub acknowledged its end",
) -> Finished:
    """For a hub that asks for an id it acknowledged, because it was restored from a backup."""
    nothing = Stream(0, hashlib.sha256().digest())
    return Finished(
        id=command_id,
        end="lost",
        stdout=nothing,
        stderr=nothing,
        reason="forgotten",
        message=message,
    )
