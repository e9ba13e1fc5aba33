"""The hub as it is, but its wall clock is a file that a test turns: quicker, or to another day.

    python -m tests.support.quick_hub serve --data-dir DIR      CLOCK=FILE STEPS=FILE

The time in the file goes on while a hub is dead, so the next one finds what it missed. Trio's clock
is left alone, and with it every interval and deadline; only what waits for the wall clock waits as
long by that of the file. STEPS is of `stepped`; its steps are those of firing.
"""

import functools
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tests.support.appliance import Hub, stopped_hub
from tests.support.stepped import Stepper, Steps

PROGRAM: Final = (sys.executable, "-m", "tests.support.quick_hub")
_MINUTE_MS: Final = 60_000
_STANDING_S: Final = 0.02  # between two looks at a clock that somebody turns by hand
FIRE: Final = "fire"  # what came due is decided, and not committed
FIRED: Final = "tell what was fired"  # it is committed, and nobody knows of it


class FileClock:
    """A wall clock in a file, shared by processes: it shows a time, and goes so much quicker."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def set(self, shown_ms: float, factor: float) -> None:
        """Show this time, ms since 1970 UTC, and go on as quick as that; 0: stand still."""
        new = self.path.with_suffix(".new")
        new.write_text(f"{time.monotonic_ns()} {shown_ms} {factor}")
        new.rename(self.path)

    def skip(self, ms: float) -> None:
        """Leave out so much time, as if the hub had slept; negative: set it back."""
        self.set(self.now() + ms, self.factor)

    def next_minute_ms(self) -> int:
        """When the next full minute comes."""
        return (self.now_ms() // _MINUTE_MS + 1) * _MINUTE_MS

    def stop(self) -> int:
        """Stand still; the time from now on."""
        now_ms = self.now_ms()
        self.set(now_ms, 0)
        return now_ms

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        return int(self.now())

    def now(self) -> float:
        """The same, finer."""
        begun_ns, shown_ms, factor = self._read()
        return shown_ms + (time.monotonic_ns() - begun_ns) / 1e6 * factor

    @property
    def factor(self) -> float:
        """How much quicker it goes than it should."""
        return self._read()[2]

    def left_s(self, at_ms: float) -> float:
        """How many seconds of everybody's time until it shows this; negative: it has."""
        return (at_ms - self.now()) / 1000 / self.factor

    def _read(self) -> tuple[int, float, float]:
        begun_ns, shown_ms, factor = self.path.read_text().split()
        return int(begun_ns), float(shown_ms), float(factor)


def ms_of(text: str) -> int:
    """A time of the API, ms since 1970 UTC."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@contextmanager
def quick_hub(place: Path, clock: FileClock, config: str = "") -> Iterator[Hub]:
    """A hub that has its time from `clock`, and falls as `steps_of` says."""
    with stopped_hub(place) as hub:
        hub.program = PROGRAM
        hub.variables = {"CLOCK": str(clock.path), "STEPS": str(steps_of(hub).path)}
        hub.start(config=config)
        yield hub


def steps_of(hub: Hub) -> Steps:
    """At which steps of firing a hub is to fall."""
    return Steps(hub.data_dir.with_name("steps.json"))


# ── in the hub ───────────────────────────────────────────────────────────────────────────────────


def _follow(clock: FileClock) -> None:
    from cmdop_appliance.clock import SystemClock
    from cmdop_appliance.scheduler.loop import Scheduler
    from cmdop_appliance.webhooks.deliver import Deliverer

    SystemClock.now_ms = lambda _: clock.now_ms()
    for owner, look in ((Scheduler, "step"), (Deliverer, "_look")):
        setattr(owner, look, _sooner(getattr(owner, look), clock))


def _sooner(look: Callable[..., Awaitable[float]], clock: FileClock) -> Callable[..., Any]:
    """It says after how many seconds to look again: those of the clock, or soon if that stands."""

    @functools.wraps(look)
    async def quick_look(*args: Any) -> float:
        wait_s, factor = await look(*args), clock.factor
        return wait_s / max(1.0, factor) if factor else min(wait_s, _STANDING_S)

    return quick_look


def _step_firing(stepper: Stepper) -> None:
    from cmdop_appliance.scheduler import firing
    from cmdop_appliance.store.engine import Store

    fire, commit = firing.fire, Store._commit
    has_fired = False

    @functools.wraps(fire)
    def stepped_fire(*args: Any) -> Any:
        nonlocal has_fired
        has_fired = True
        with stepper.step(FIRE):
            return fire(*args)

    def stepped_commit(*args: Any) -> Any:
        nonlocal has_fired
        done = commit(*args)
        if has_fired:
            has_fired = False
            with stepper.step(FIRED):
                pass
        return done

    firing.fire, Store._commit = stepped_fire, stepped_commit


def main() -> None:
    """Run the program."""
    from cmdop_appliance.__main__ import main as run

    _follow(FileClock(Path(os.environ.pop("CLOCK"))))
    if (path := os.environ.pop("STEPS", None)) is not None:
        _step_firing(Stepper(Steps(Path(path)), "hub"))
    run()


if __name__ == "__main__":
    main()
