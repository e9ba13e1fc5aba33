"""The programs that can be killed, and what they share with a machine: files, threads, clocks.

Whatever a program does that outlives it is a crossing: numbered, and a place where something can
strike. Once killed it crosses nothing any more, whatever its `finally` blocks try.
"""

import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import trio

from cmdop_appliance import ids
from cmdop_appliance.agent import facts, telemetry
from tests.support.records import FACTS, NOW, TELEMETRY

T = TypeVar("T")

# A thread or a disk takes up to this long, seconds.
DISK_S: Final = 0.002


class Killed(BaseException):
    """The program that gets this is dead: it is on its way out and touches nothing."""


class Steps(Protocol):
    """What a crossing tells of itself, and asks."""

    dice: random.Random

    def take_step(self, who: str, what: str) -> int:
        """Number a crossing."""
        ...

    def strike(self, step: int, *, after: bool) -> None:
        """Let happen what was planned for this moment."""
        ...


class Actor:
    """One life of a program."""

    def __init__(self, steps: Steps, name: str) -> None:
        self.steps = steps
        self.name = name
        self.alive = True
        self.scope = trio.CancelScope()

    def kill(self) -> None:
        """As kill -9 does."""
        self.alive = False
        self.scope.cancel()

    def check(self) -> None:
        """Raise `Killed` in a dead program."""
        if not self.alive:
            raise Killed

    @contextmanager
    def crossing(self, what: str) -> Iterator[None]:
        """Around something that outlives this program."""
        self.check()
        step = self.steps.take_step(self.name, what)
        self.steps.strike(step, after=False)
        self.check()
        yield
        self.steps.strike(step, after=True)
        self.check()

    async def live(self, life: Callable[[], Awaitable[T]]) -> T | None:
        """Run `life` as this program. None: it was killed."""
        token = ACTOR.set(self)
        try:
            with self.scope:
                return await life()
        except* Killed:
            pass
        except* Exception:
            if self.alive:
                raise
        finally:
            ACTOR.reset(token)
        return None


# Whose code is running: every task of a program inherits it.
ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)


class Disks:
    """Which bytes of which file would survive a power cut."""

    def __init__(self) -> None:
        self._safe: dict[tuple[int, int], int] = {}

    def synced(self, fd: int) -> None:
        """The whole file is safe."""
        state = os.fstat(fd)
        self._safe[state.st_dev, state.st_ino] = state.st_size

    def cut_power(self, path: Path, dice: random.Random) -> None:
        """A file that may lose what was not synced loses some of it, or all, or nothing."""
        if not path.exists():
            return
        state = path.stat()
        safe = self._safe.get((state.st_dev, state.st_ino), 0)
        if state.st_size > safe:
            os.truncate(path, dice.choice((safe, dice.randint(safe, state.st_size), state.st_size)))


@contextmanager
def one_machine(dice: random.Random, disks: Disks) -> Iterator[None]:
    """Everything that a program asks of its machine is simulated or watched within."""
    real = (os.write, os.pwrite, os.fsync, os.fdatasync)
    os_write, os_pwrite, _, _ = real

    def write(fd: int, data: bytes) -> int:
        if (actor := ACTOR.get()) is None:
            return os_write(fd, data)
        with actor.crossing("write"):
            return os_write(fd, data)

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if (actor := ACTOR.get()) is None:
            return os_pwrite(fd, data, offset)
        with actor.crossing("pwrite"):
            return os_pwrite(fd, data, offset)

    def sync(fd: int) -> None:
        if (actor := ACTOR.get()) is None:
            disks.synced(fd)
            return
        with actor.crossing("sync"):
            disks.synced(fd)

    def now_s() -> float:
        return NOW / 1000 + trio.current_time()

    def now_ns() -> int:
        return NOW * 1_000_000 + round(trio.current_time() * 1e9)

    async def run_in_thread(
        fn: Callable[..., Any], *args: Any, abandon_on_cancel: bool = False, limiter: Any = None
    ) -> Any:
        del limiter
        actor = ACTOR.get()
        with trio.CancelScope(shield=not abandon_on_cancel):
            await trio.sleep(dice.uniform(0, DISK_S))
        if actor is not None:
            actor.check()
        return _QUICK.get(fn, fn)(*args)

    def boot_clock_ns(_clock: int) -> int:
        return now_ns()

    kept = (time.time, time.time_ns, time.perf_counter, trio.to_thread.run_sync, ids._last)
    clock_gettime_ns = time.clock_gettime_ns
    state = random.getstate()
    random.seed(dice.random())
    os.write, os.pwrite, os.fsync, os.fdatasync = write, pwrite, sync, sync
    time.time, time.time_ns, time.perf_counter = now_s, now_ns, trio.current_time
    time.clock_gettime_ns = boot_clock_ns
    trio.to_thread.run_sync, ids._last = run_in_thread, 0
    try:
        yield
    finally:
        os.write, os.pwrite, os.fsync, os.fdatasync = real
        time.time, time.time_ns, time.perf_counter, trio.to_thread.run_sync, ids._last = kept
        time.clock_gettime_ns = clock_gettime_ns
        random.setstate(state)


# What takes a while on a real machine, and says nothing about commands.
_QUICK: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    facts.facts: lambda: FACTS,
    telemetry.sample: lambda _: (telemetry.Processor(0, 0), TELEMETRY),
}
