"""One case from its plan, and the plans of a whole sweep."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from trio.testing import MockClock

from cmdop_appliance.agent.state import Membership, locked_state
from cmdop_appliance.hub.hub import OUTPUT_FOLDER
from cmdop_appliance.hub.output import Outputs
from cmdop_appliance.identity import Identity
from cmdop_appliance.private import write_private
from cmdop_appliance.store import machines, settings
from cmdop_appliance.store.engine import open_store
from tests.simulation.actors import one_machine
from tests.simulation.callers import Callers, machines_of
from tests.simulation.dice import Dice
from tests.simulation.judge import Judgement, judge
from tests.simulation.plans import SHAPES, SWEPT, VICTIMS, Fault, Plan, Shape
from tests.simulation.world import World, machine_id
from tests.support.records import machine

# Memory, where it can be had: nothing here needs a real disk.
SHARED_MEMORY = Path("/dev/shm")
MOST_MACHINES = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case went."""

    plan: Plan
    steps: int
    found: Judgement
    trace: list[str]

    @property
    def digest(self) -> str:
        """Names everything that happened, in its order."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


class Theatre:
    """A folder for cases, with a hub in it that knows its machines."""

    def __init__(self, folder: Path) -> None:
        self._model = folder / "model"
        self._stage = folder / "case"
        _build(self._model)

    def play(self, plan: Plan) -> Outcome:
        """Run one case."""
        shutil.copytree(self._model, self._stage)
        try:
            for number in range(machines_of(plan.shape), MOST_MACHINES):
                shutil.rmtree(self._stage / f"agent{number}")
            with _fixed_order(plan):
                return trio.run(_play, plan, self._stage, clock=MockClock(autojump_threshold=0))
        finally:
            shutil.rmtree(self._stage)


@contextmanager
def theatre() -> Iterator[Theatre]:
    """A place to play cases, gone in the end."""
    parent = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="cmdop-simulation-", dir=parent) as folder:
        yield Theatre(Path(folder))


async def _play(plan: Plan, folder: Path) -> Outcome:
    world, callers = World(plan, folder), Callers()
    with one_machine(Dice(f"{plan} threads"), world.disks):
        try:
            await world.run(callers)
        except BaseExceptionGroup as group:
            world.errors += [f"a program ended by itself: {error!r}" for error in _leaves(group)]
        async with open_store(world.hub.folder, inline=True) as store:
            folder, max_bytes = world.hub.folder / OUTPUT_FOLDER, world.hub.config.output.max_bytes
            found = await judge(world, callers, store, Outputs(store, folder, max_bytes))
    return Outcome(plan, world.steps, found, world.trace)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


@contextmanager
def _fixed_order(plan: Plan) -> Iterator[None]:
    """Trio takes the tasks that can run in an order that only the plan decides."""
    run = trio._core._run
    kept, state = run._ALLOW_DETERMINISTIC_SCHEDULING, run._r.getstate()
    run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    run._r.seed(f"{plan} order")
    try:
        yield
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING = kept  # type: ignore[misc]
        run._r.setstate(state)


def _build(folder: Path) -> None:
    hub = Identity(b"\1" * 32)
    keys = [Identity(bytes([2 + number]) * 32) for number in range(MOST_MACHINES)]
    (folder / "hub" / OUTPUT_FOLDER).mkdir(parents=True)
    for number, key in enumerate(keys):
        path = folder / f"agent{number}"
        (path / "keeper" / "output").mkdir(parents=True)
        write_private(path / "machine.key", key.seed.hex() + "\n")
        with locked_state(path) as state:
            state.join(Membership("http://hub.test:1", hub.public_key, machine_id(number), True))

    async def fill() -> None:
        async with open_store(folder / "hub", inline=True) as store:
            await store.run(settings.get_or_set, "hub_key", hub.seed.hex())
            for number, key in enumerate(keys):
                known = machine(id=machine_id(number), public_key=key.public_key)
                await store.run(machines.insert, known, "enr_model")

    trio.run(fill)


# ── the plans of a sweep ─────────────────────────────────────────────────────────────────────────


# A sweep of so many cases begins with one case of each shape, struck once at every step: one of
# 300 steps takes 1,800 faults.
COMPLETE_FROM = 10_000
COMPLETE_PLANS = 2_000


@dataclass(frozen=True, slots=True)
class Block:
    """Many plans about what happens in one case."""

    shape: Shape
    seed: int
    plans: int
    is_complete: bool  # each single fault before all others

    def plans_of(self, steps: int) -> Iterator[Plan]:
        """The case without a fault, which takes so many steps, and with one, two and more."""
        dice = Dice(f"{self} plans")
        yield Plan(self.shape, self.seed)
        singles = [
            Fault(victim, step, after)
            for step in range(1, steps + 1)
            for victim in SWEPT
            for after in (False, True)
        ]
        dice.shuffle(singles)
        share = self.plans if self.is_complete else self.plans * 4 // 10
        ones = singles[: min(share, self.plans - 1)]
        twos = (self.plans - len(ones)) * 7 // 10
        more = self.plans - 1 - len(ones) - twos
        for fault in ones:
            yield Plan(self.shape, self.seed, (fault,))
        for number in range(twos):
            first = singles[number % len(singles)]
            second = _later(dice, first, steps, SWEPT)
            yield Plan(self.shape, self.seed, (first, second))
        for _ in range(more):
            faults = [_later(dice, Fault("", 0, after=False), steps, VICTIMS)]
            for _ in range(dice.randint(0, 3)):
                faults.append(_later(dice, faults[-1], steps, VICTIMS))
            yield Plan(self.shape, self.seed, tuple(faults))


def blocks(seed: int, cases: int) -> list[Block]:
    """Blocks with so many plans in all; another seed, other ones."""
    made, left = list[Block](), cases
    while left > 0:
        number = len(made)
        is_complete = cases >= COMPLETE_FROM and number < len(SHAPES)
        plans = min(left, COMPLETE_PLANS if is_complete else max(20, min(250, cases // 10)))
        shape = SHAPES[number % len(SHAPES)]
        made.append(Block(shape, seed * 1_000_000 + number, plans, is_complete))
        left -= plans
    return made


def _later(dice: Dice, fault: Fault, steps: int, victims: tuple[str, ...]) -> Fault:
    """A fault some time after another one, which itself makes for more steps."""
    step = fault.step + dice.randint(1, max(30, steps - fault.step + 20))
    # Most of what is rare happens to the first machine, where most commands are.
    number = 1 if dice.chance(0.3) else 0
    return Fault(dice.choice(victims), step, dice.chance(0.5), number)
