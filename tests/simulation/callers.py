"""Those who use the hub: they start, wait, cancel, and hold on to what they were told."""

from dataclasses import dataclass
from functools import partial

import trio

from cmdop_appliance.auth import Caller
from cmdop_appliance.errors import (
    BatchNotFound,
    CommandNotFound,
    CommandNotRunning,
    MachineNotFound,
    SessionNotActive,
)
from cmdop_appliance.hub.commands import Ask
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.model import Batch, Command
from cmdop_appliance.protocol.messages import Spec
from cmdop_appliance.store import commands as rows
from cmdop_appliance.store.idempotency import Once
from tests.simulation.dice import Dice
from tests.simulation.keeper import Behaviour, Piece
from tests.simulation.plans import Plan, Shape
from tests.simulation.world import Gone, Machine, World
from tests.support.records import NOW, REACH, WORKSPACE

CALLER = Caller("key_1", "ci", WORKSPACE, "default", frozenset())
# When agents are connected, unless something goes wrong.
READY_S = 0.3
# Between two tries of a caller whose machine is away, and how many there are.
RETRY_S = 2.0
TRIES = 60
# A caller who does not wait looks after this, then less and less often.
LOOK_S = 0.2
LOOK_MOST_S = 3.0


@dataclass(frozen=True, slots=True)
class Order:
    """One command as its caller wants it; times are seconds from the start of the case."""

    number: int
    at: float
    machine: int
    waits: bool  # for its end, in the same call
    behaviour: Behaviour
    timeout_ms: int | None
    queue_ms: int | None
    serial_key: str | None
    supersede_key: str | None
    cancelled_after: float | None
    is_once: bool  # it has an Idempotency-Key, and asks again when the hub died before it answered

    @property
    def text(self) -> str:
        """Names it in the store."""
        return f"order {self.number}"


def orders(plan: Plan) -> list[Order]:
    """What the callers of a case want."""
    dice = Dice(f"{plan.shape}.{plan.seed} orders")
    least, most, within, machines = _EXTENT[plan.shape]
    return [_order(dice, number, within, machines) for number in range(dice.randint(least, most))]


# Commands, seconds, machines.
_EXTENT: dict[Shape, tuple[int, int, float, int]] = {
    "one": (1, 1, 0.0, 1),
    "few": (2, 4, 0.5, 1),
    "wild": (3, 6, 4.0, 2),
}


def machines_of(shape: Shape) -> int:
    """How many machines a case has."""
    return _EXTENT[shape][3]


@dataclass(frozen=True, slots=True)
class Wave:
    """One command for every machine, on one after another."""

    at: float
    behaviour: Behaviour
    canary: int
    max_errors: int | None


# Names the commands of a wave in the store.
WAVE = "wave"


def wave(plan: Plan) -> Wave | None:
    """The batch of a case, if it has one."""
    dice = Dice(f"{plan.shape}.{plan.seed} wave")
    if machines_of(plan.shape) == 1 or dice.chance(0.5):
        return None
    return Wave(
        at=READY_S + dice.uniform(0, 2),
        behaviour=Behaviour(ends_at=dice.uniform(0.01, 0.5), exit_code=dice.choice((0, 0, 1))),
        canary=dice.randint(0, 1),
        max_errors=dice.choice((None, 0)),
    )


def _order(dice: Dice, number: int, within: float, machines: int) -> Order:
    ends_at = dice.choice((0.003, 0.003, dice.uniform(0.02, 0.5), dice.uniform(0.3, 2.5)))
    pieces = [
        Piece(
            dice.uniform(0, ends_at),
            dice.randint(0, 1),
            dice.choice((1, 40, 500, 9_000, 40_000, 200_000)),
            dice.getrandbits(32),
        )
        for _ in range(dice.choice((0, 1, 2, 4)))
    ]
    return Order(
        number=number,
        at=READY_S + dice.uniform(0, within),
        machine=dice.randrange(machines),
        waits=dice.chance(0.4),
        behaviour=Behaviour(
            ends_at=ends_at,
            exit_code=dice.choice((0, 0, 0, 1, 255)),
            signal="SIGSEGV" if dice.chance(0.08) else None,
            refused="exec_failed" if dice.chance(0.06) else None,
            ignores_term=dice.chance(0.1),
            output=tuple(sorted(pieces, key=lambda piece: piece.at)),
            late=30 if dice.chance(0.1) else 0,
        ),
        timeout_ms=dice.randint(50, 1500) if dice.chance(0.25) else None,
        cancelled_after=dice.uniform(0, 0.6) if dice.chance(0.25) else None,
        queue_ms=dice.choice((2_000, 60_000)) if dice.chance(0.25) else None,
        serial_key="serial" if dice.chance(0.3) else None,
        supersede_key="upgrade" if dice.chance(0.1) else None,
        is_once=dice.chance(0.6),
    )


class Callers:
    """All callers of a case, and what they were told."""

    def __init__(self) -> None:
        self.told: list[tuple[Order, Command]] = []  # every record that was answered
        self.cancelled: set[str] = set()  # whose cancel was answered

    async def __call__(self, world: World) -> None:
        """Returns when each has what it wanted."""
        async with trio.open_nursery() as removals:
            for machine in world.machines:
                if world.plan.strikes("remove", machine=machine.number):
                    removals.start_soon(self._remove, world, machine)
            async with trio.open_nursery() as nursery:
                for order in orders(world.plan):
                    nursery.start_soon(self._place, world, order)
                if (batch := wave(world.plan)) is not None:
                    nursery.start_soon(self._roll, world, batch)
            removals.cancel_scope.cancel()  # it may never come to one

    async def _place(self, world: World, order: Order) -> None:
        await trio.sleep(order.at)
        command: Command | None = await self._start(world, order)
        if command is not None and order.cancelled_after is not None:
            await trio.sleep(order.cancelled_after)
            await self._cancel(world, command.id)
        wait = LOOK_S
        while command is not None and command.finished_ms is None:
            await trio.sleep(wait)
            wait = min(2 * wait, LOOK_MOST_S)
            command = await self._look(world, order, command)

    async def _start(self, world: World, order: Order) -> Command | None:
        machine_id = world.machines[order.machine].id
        spec = Spec(
            argv=order.behaviour.argv(),
            timeout_ms=order.timeout_ms,
            serial_key=order.serial_key,
        )
        ask = Ask(
            queue_ms=order.queue_ms,
            supersede_key=order.supersede_key,
            once=_once(order.text) if order.is_once else None,
        )

        async def start(hub: Hub) -> Command:
            do = hub.commands.run if order.waits else hub.commands.start
            return await do(CALLER, machine_id, order.text, spec, ask)

        for _ in range(TRIES):
            try:
                command = await world.hub.ask(start)
            except SessionNotActive:
                await trio.sleep(RETRY_S)
            except MachineNotFound:
                return None
            except Gone:
                if not order.is_once:
                    return None
            else:
                self.told.append((order, command))
                return command
        return None

    async def _roll(self, world: World, batch: Wave) -> None:
        await trio.sleep(batch.at)

        async def start(hub: Hub) -> tuple[Batch, list[Command]]:
            return await hub.batches.start(
                CALLER,
                [machine.id for machine in world.machines],
                WAVE,
                Spec(argv=batch.behaviour.argv()),
                Ask(once=_once(WAVE)),
                concurrency=1,
                canary=batch.canary,
                max_errors=batch.max_errors,
            )

        batch_id = None
        while True:
            try:
                if batch_id is None:
                    batch_id = (await world.hub.ask(start))[0].id
                found = partial(_find_batch, batch_id)
                if all(command.finished_ms for command in await world.hub.ask(found)):
                    return
            except Gone:
                continue
            except BatchNotFound:
                if world.plan.strikes("restore"):
                    return
                raise
            await trio.sleep(LOOK_MOST_S)

    async def _cancel(self, world: World, command_id: str) -> None:
        while True:
            try:
                await world.hub.ask(lambda hub: hub.commands.cancel(CALLER, command_id))
            except Gone:
                continue
            except CommandNotRunning:
                return
            except CommandNotFound:
                if world.plan.strikes("restore"):
                    return
                raise
            self.cancelled.add(command_id)
            return

    async def _look(self, world: World, order: Order, command: Command) -> Command | None:
        """None: the hub has forgotten it, because it was restored from a backup."""
        try:
            command = await world.hub.ask(lambda hub: hub.store.run(rows.get, REACH, command.id))
        except Gone:
            return command
        except CommandNotFound:
            if world.plan.strikes("restore"):
                return None
            raise
        self.told.append((order, command))
        return command

    async def _remove(self, world: World, machine: Machine) -> None:
        await machine.removal.wait()
        while True:
            try:
                await world.hub.ask(lambda hub: hub.commands.remove_machine(CALLER, machine.id))
            except Gone:
                continue
            except MachineNotFound:
                return
            return


async def _find_batch(batch_id: str, hub: Hub) -> list[Command]:
    return (await hub.batches.find(CALLER, batch_id))[1]


def _once(key: str) -> Once:
    return Once(
        api_key_id=CALLER.key_id,
        key=key,
        request_hash=b"h" * 32,
        salt=b"s" * 16,
        now_ms=NOW,
        caller_key="",
    )
