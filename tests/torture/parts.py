"""Parts of the torture: many cases each, side by side, and a ledger that says how to repeat one."""

import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.torture.asks import IMPATIENT

Case = Callable[[int, Random], None]


class NotTriedError(Exception):
    """A case that cannot be tried on this machine, and why."""


_SHOWN_CHARS = 400  # of a reason in the ledger; all of it was told when it happened


@dataclass(frozen=True, slots=True)
class Stage:
    """Where cases happen: a folder, and the seed for what goes on beside them."""

    place: Path
    seed: str
    say: Callable[[str], None]  # a line for the person who watches


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of torture. A stage is opened once for many cases, and anew after a failure."""

    name: str
    count: int  # cases of a full run
    case_s: float  # a bound for one case; a part that takes longer in all is stopped
    stage: Callable[[Stage], AbstractContextManager[Case]]
    lanes: int = 1  # cases side by side on one stage
    jobs_most: int = 64  # stages side by side


@dataclass(slots=True)
class Outcome:
    """How a part went."""

    name: str
    seed: int
    cases: int
    passed: int = 0
    seconds: float = 0.0
    failures: list[tuple[int | None, str]] = field(default_factory=list)  # case, and why
    was_interrupted: bool = False

    @property
    def untried(self) -> int:
        """Cases that were given up: time was up, somebody ended it, or this machine cannot."""
        return max(0, self.cases - self.passed - len(self.failures))

    @property
    def is_good(self) -> bool:
        """True: every case was tried, and passed."""
        return not self.failures and self.passed == self.cases


class Run:
    """A part under way."""

    def __init__(
        self,
        part: Part,
        numbers: Iterator[int],
        seed: int,
        place: Path,
        limit_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._part = part
        self._numbers = numbers
        self._seed = seed
        self._place = place
        self._say = say
        self._lock = threading.Lock()
        self._give_up = time.monotonic() + limit_s
        self._stages = 0
        self.stop = threading.Event()  # no more cases
        self.passed = 0
        self.failures: list[tuple[int | None, str]] = []

    def work(self) -> None:
        """Open one stage after the other until there are no more cases."""
        while (number := self._next()) is not None:
            with self._lock:
                self._stages += 1
                place = self._place / f"stage-{self._stages}"
            before = len(self.failures)
            try:
                stage = Stage(place, f"{self._seed}/{self._stages}", self._say)
                with self._part.stage(stage) as case, ThreadPoolExecutor(self._part.lanes) as pool:
                    broken = threading.Event()
                    lanes = [
                        pool.submit(self._cases, case, broken, number if lane == 0 else None)
                        for lane in range(self._part.lanes)
                    ]
                    for lane in lanes:
                        lane.result()
            except Exception as exc:  # noqa: BLE001 - the stage's owner: nobody else tells of it
                self._fail(None, exc)
            if len(self.failures) == before:
                shutil.rmtree(place, ignore_errors=True)

    def _cases(self, case: Case, broken: threading.Event, number: int | None) -> None:
        while not broken.is_set():
            if number is None and (number := self._next()) is None:
                return
            try:
                case(number, Random(f"{self._seed}/{self._part.name}/{number}"))
            except NotTriedError as exc:  # neither passed nor failed: the ledger says untried
                self._say(f"{self._part.name}: case {number} NOT TRIED: {exc}")
            except Exception as exc:  # noqa: BLE001 - the case's owner
                broken.set()
                self._fail(number, exc)
            else:
                with self._lock:
                    self.passed += 1
            number = None

    def _next(self) -> int | None:
        with self._lock:
            if self.stop.is_set():
                return None
            number = next(self._numbers, None)
            if number is not None and time.monotonic() > self._give_up:
                self.stop.set()
                self.failures.append((number, "out of time: not tried, nor is what follows"))
                return None
            return number

    def _fail(self, number: int | None, exc: Exception) -> None:
        what = "".join(traceback.format_exception_only(exc)).strip()
        at = traceback.extract_tb(exc.__traceback__)[-1]
        with self._lock:
            self.failures.append((number, f"{what} ({Path(at.filename).name}:{at.lineno})"))
            if number is None and self.passed == 0:
                self.stop.set()  # the stage itself does not hold
        self._say(f"{self._part.name}: case {number} of seed {self._seed} failed: {what}")


def run_part(
    part: Part,
    numbers: list[int],
    seed: int,
    jobs: int,
    place: Path,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Run these cases of a part, `jobs` stages side by side."""
    begun = time.monotonic()
    limit_s = 120 + part.case_s * len(numbers)
    run = Run(part, iter(numbers), seed, place / part.name, limit_s, say)
    workers = [
        threading.Thread(target=run.work, name=f"{part.name} {number}")
        for number in range(min(jobs, part.jobs_most, len(numbers)))
    ]
    for worker in workers:
        worker.start()
    outcome = Outcome(part.name, seed, len(numbers), failures=run.failures)
    try:
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        outcome.was_interrupted = True
        say(f"{part.name}: interrupted, ending what runs")
        run.stop.set()
        IMPATIENT.set()
        for worker in workers:
            worker.join()
    outcome.passed = run.passed
    outcome.seconds = time.monotonic() - begun
    return outcome


def print_ledger(outcomes: list[Outcome], say: Callable[[str], None] = print) -> None:
    """One line per part, and how to repeat each failure."""
    say(f"{'part':<20} {'cases':>8} {'passed':>8} {'failed':>8} {'untried':>8} {'seconds':>9}")
    for done in outcomes:
        say(
            f"{done.name:<20} {done.cases:>8} {done.passed:>8} {len(done.failures):>8}"
            f" {done.untried:>8} {done.seconds:>9.1f}"
        )
    for done in outcomes:
        for number, why in done.failures:
            case = "" if number is None else f" --case {number}"
            say(f"repeat: scripts/torture --only {done.name} --seed {done.seed}{case}")
            say(f"        {why.splitlines()[0][:_SHOWN_CHARS]}")
