"""A hub, its machines and its callers in virtual time, with what was planned going wrong."""

import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, cast

import trio

from cmdop_appliance.agent.coding.spawn import CodingSessions
from cmdop_appliance.agent.commands import Commands
from cmdop_appliance.agent.enrolment import enrolment_of
from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.journal import Journal
from cmdop_appliance.agent.link import LinkLost
from cmdop_appliance.agent.outbox import Outbox
from cmdop_appliance.agent.pace import Pace
from cmdop_appliance.agent.policy import CommandsPolicy, Policy
from cmdop_appliance.agent.session import HubSession, Verdict
from cmdop_appliance.agent.state import locked_state
from cmdop_appliance.agent.telemetry import Sampler
from cmdop_appliance.agent.terminals import Terminals
from cmdop_appliance.agent.transfers import Transfers
from cmdop_appliance.agent.upgrade import Upgrades
from cmdop_appliance.config import CommandsConfig, Config
from cmdop_appliance.errors import ApplianceError, StorageFull, Unavailable
from cmdop_appliance.hub.hub import OUTPUT_FOLDER, Hub
from cmdop_appliance.hub.welcome import serve_agent
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.store import sessions
from cmdop_appliance.store.engine import DATABASE_FILE, Store, open_store
from tests.simulation.actors import DISK_S, Actor, Disks
from tests.simulation.dice import Dice
from tests.simulation.keeper import KeptMachine, Timers
from tests.simulation.plans import Fault, Plan
from tests.simulation.wire import LATENCY_S, AgentEnd, Wire, dialled
from tests.support.clocks import LoopClock

T = TypeVar("T")

# A service manager starts again what died, seconds; sometimes it takes longer than a grace period.
RESTART_S: Final = (0.05, 3.0)
LONG_S: Final = (35.0, 120.0)
# As hub/sweep.py sweeps, but less often.
SWEEP_S: Final = 5.0
# So that a machine that takes long may be taken for lost, until it returns.
LOST_AFTER_MS: Final = 60_000
# Of a machine of the `wild` cases.
MAX_PARALLEL: Final = 2
# A case in which something is open for so long has a command without an end.
PATIENCE_S: Final = 600.0
# When the backup is made that may be restored, seconds.
BACKUP_S: Final = (0.2, 2.5)
# Between two looks whether all is quiet.
LOOK_S: Final = 0.5


class Gone(Exception):
    """The hub died before it answered: whether it did what it was asked is not known."""


class World:
    """One case."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.dice = Dice(f"{plan} world")
        self.disks = Disks()
        self.timers = Timers()
        self.steps = 0
        self.trace: list[str] = []
        self.errors: list[str] = []  # that no program should log
        self.leftovers: list[str] = []  # what did not come to rest
        # What ended between a backup and its restore, and was acknowledged: no hub can know of it.
        self.forgotten: set[str] = set()
        self._struck: list[Fault] = []
        self._faults: dict[tuple[int, bool], list[Fault]] = {}
        for fault in plan.faults:
            self._faults.setdefault((fault.step, fault.after), []).append(fault)
        self.hub = HubHost(self, folder / "hub")
        self.machines = [
            Machine(self, number, path) for number, path in enumerate(sorted(folder.glob("agent*")))
        ]

    def take_step(self, who: str, what: str) -> int:
        """Number a crossing."""
        self.steps += 1
        self.trace.append(f"{self.steps} {trio.current_time():.6f} {who} {what}")
        return self.steps

    def strike(self, step: int, *, after: bool) -> None:
        """Let happen what was planned for this moment."""
        for fault in self._faults.get((step, after), ()):
            self.trace.append(f"{fault}")
            self._struck.append(fault)
            if fault.victim == "restore":
                self.forgotten.update(*(machine.let_go() for machine in self.machines))
            if fault.victim in ("hub", "restore"):
                self.hub.kill(restore=fault.victim == "restore")
            elif fault.machine < len(self.machines):
                self.machines[fault.machine].strike(fault.victim)

    @property
    def was_restored(self) -> bool:
        """True: the hub may know less than its machines remember."""
        return any(fault.victim == "restore" for fault in self._struck)

    @property
    def happened(self) -> Plan:
        """Of the plan what it came to."""
        return Plan(self.plan.shape, self.plan.seed, tuple(self._struck))

    def pause(self) -> float:
        """Until something is started again, seconds."""
        return self.dice.uniform(*(LONG_S if self.dice.chance(0.04) else RESTART_S))

    async def run(self, callers: Callable[["World"], Awaitable[None]]) -> None:
        """Until all callers have what they wanted and all is quiet, or too much time has passed."""
        handler, logger = _Errors(self), logging.getLogger("cmdop")
        logger.addHandler(handler)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.timers.run)
                nursery.start_soon(self.hub.run)
                for machine in self.machines:
                    nursery.start_soon(machine.run)
                with trio.move_on_after(PATIENCE_S) as scope:
                    await callers(self)
                    while self._open():  # noqa: ASYNC110 - nobody tells that all is quiet
                        await trio.sleep(LOOK_S)
                if scope.cancelled_caught:
                    self.leftovers = self._open() or ["a caller waits for ever"]
                nursery.cancel_scope.cancel()
        finally:
            logger.removeHandler(handler)
            for machine in self.machines:
                machine.kept.close()

    def _open(self) -> list[str]:
        return [*self.hub.open(), *(text for machine in self.machines for text in machine.open())]


class HubHost:
    """The hub's machine: its disk, and one hub after another."""

    def __init__(self, world: World, folder: Path) -> None:
        self.folder = folder
        self.config = Config(commands=CommandsConfig(lost_after_ms=LOST_AFTER_MS))
        self.actor = Actor(world, "hub")
        self._world = world
        self._hub: Hub | None = None  # takes calls
        self._up = trio.Event()
        self._doors: trio.MemorySendChannel[Callable[[], Awaitable[None]]] | None = None
        self._answers: dict[_Answer[Any], None] = {}  # awaited
        self._wires: list[Wire] = []
        self._power_cut = self._is_restored = False
        self._backup = folder / "backup.db"
        if world.plan.strikes("restore"):
            world.timers.after(world.dice.uniform(*BACKUP_S), self.back_up)

    def open(self) -> list[str]:
        """What has not come to rest here."""
        if self._hub is None:
            return ["there is no hub"]
        rows = self._hub.store._writer.execute(
            "SELECT id, status, machine_id FROM command WHERE status IN ('pending', 'running')"
            " OR error_code = 'silent'"
        )
        gone = [machine.id for machine in self._world.machines if machine.is_removed]
        return [
            f"{command_id} is {status} at the hub"
            for command_id, status, machine_id in rows
            if status != "lost" or machine_id not in gone
        ]

    async def run(self) -> None:
        """Serve; when killed, serve again after a while."""
        while True:
            await self.actor.live(self._serve)
            if self._power_cut:
                self._lose_unsafe()
            if self._is_restored:
                for path in self.folder.glob(f"{DATABASE_FILE}*"):
                    path.unlink()
                shutil.copyfile(self._backup, self.folder / DATABASE_FILE)
            await trio.sleep(self._world.pause())
            self.actor = Actor(self._world, "hub")

    def back_up(self) -> None:
        """Keep the store as it is now for a `restore`."""
        if self._hub is not None and not self._backup.exists():
            self._hub.store._writer.execute("VACUUM INTO :path", {"path": str(self._backup)})

    def kill(self, *, restore: bool = False) -> None:
        """The process alone, or its machine with it; to `restore` it, once there is a backup."""
        if not self.actor.alive:
            return
        self._is_restored = restore and self._backup.exists()
        self._power_cut = self._world.dice.chance(0.3)
        self.actor.kill()
        self._hub = self._doors = None
        for wire in self._wires:
            if self._power_cut:
                wire.lose()
            else:
                wire.cut()
        for answer in self._answers:
            answer.give(error=Gone())
        self._answers.clear()

    def dial(self, agent: Actor) -> Wire:
        """A new connection.

        Raises:
            LinkLost: nobody listens.
        """
        if self._doors is None:
            raise LinkLost("connection refused")
        wire = Wire(self._world.dice, agent, self.actor)
        self._wires.append(wire)
        self._doors.send_nowait(partial(self._serve_link, wire))
        return wire

    async def ask(self, fn: Callable[[Hub], Awaitable[T]]) -> T:
        """What `fn` gives, which the hub calls for a caller outside.

        Raises:
            ApplianceError: as the hub answered.
            Gone: it did not answer.
        """
        await trio.sleep(self._world.dice.uniform(*LATENCY_S))
        while self._doors is None:
            await self._up.wait()
        answer: _Answer[T] = _Answer()
        self._answers[answer] = None
        self._doors.send_nowait(partial(self._answer, fn, answer))
        return await answer.wait()

    async def _serve(self) -> None:
        clock = LoopClock()
        async with open_store(self.folder, inline=True) as store:
            _watch(store, self.actor, self._world.dice)
            hub = await Hub.open(self.config, clock, store, self.folder)
            now_ms = clock.now_ms()
            grace_until_ms = now_ms + self.config.sessions.grace_ms
            await store.run(sessions.recover, now_ms=now_ms, grace_until_ms=grace_until_ms)
            doors, incoming = trio.open_memory_channel[Callable[[], Awaitable[None]]](1000)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(hub.outputs.flush_forever)
                    nursery.start_soon(_sweep, hub)
                    self._open_doors(hub, doors)
                    async for door in incoming:
                        nursery.start_soon(door)
            finally:
                hub.outputs.close()

    def _open_doors(self, hub: Hub, doors: Any) -> None:
        for wire in self._wires:  # of a hub that had no time to say goodbye
            wire.cut()
        self._wires.clear()
        self._hub, self._doors = hub, doors
        self._up.set()
        self._up = trio.Event()

    async def _serve_link(self, wire: Wire) -> None:
        assert self._hub is not None
        await serve_agent(self._hub.sessions, wire.hub_end)  # type: ignore[arg-type]
        await wire.hub_end.close(Close.STOPPING, "")

    async def _answer(self, fn: Callable[[Hub], Awaitable[T]], answer: "_Answer[T]") -> None:
        assert self._hub is not None
        result: T | None = None
        error: ApplianceError | None = None
        try:
            result = await fn(self._hub)
        except ApplianceError as exc:
            error = exc
        with self.actor.crossing("answer"):
            self._answers.pop(answer)
            answer.give(result, error)

    def _lose_unsafe(self) -> None:
        for path in sorted((self.folder / OUTPUT_FOLDER).rglob("cmd_*")):
            self._world.disks.cut_power(path, self._world.dice)


class _Answer(Generic[T]):
    """What a caller outside waits for."""

    def __init__(self) -> None:
        self._there = trio.Event()
        self._result: T | None = None
        self._error: Exception | None = None

    def give(self, result: T | None = None, error: Exception | None = None) -> None:
        self._result, self._error = result, error
        self._there.set()

    async def wait(self) -> T:
        await self._there.wait()
        if self._error is not None:
            raise self._error
        return cast("T", self._result)


class Machine:
    """A machine: its keeper and processes, and one agent after another."""

    def __init__(self, world: World, number: int, state_dir: Path) -> None:
        self.number = number
        self.id = machine_id(number)
        self.kept = KeptMachine(
            state_dir, world.timers, Dice(f"{world.plan} {number}"), world.disks
        )
        self.actor = Actor(world, f"agent{number}")
        self.is_removed = False
        self.outboxes: list[Outbox] = []  # of each life of its agent
        self._policy = Policy()
        if world.plan.shape == "wild":
            self._policy = Policy(commands=CommandsPolicy(max_parallel=MAX_PARALLEL))
        self._world = world
        self._state_dir = state_dir
        self._commands: Commands | None = None
        self._journal: Journal | None = None
        self._stop = trio.Event()
        self._wire: Wire | None = None
        self._reachable_at = 0.0
        self.removal = trio.Event()  # somebody is to remove it

    def let_go(self) -> list[str]:
        """The commands that the hub has acknowledged."""
        return [] if self._journal is None else list(self._journal.tombstones)

    def open(self) -> list[str]:
        """What is left here of any command."""
        if self.is_removed:
            return []
        if self._commands is None or self._journal is None:
            return [f"there is no agent {self.number}"]
        known = (command.id for command in self._commands.inventory())
        return [
            *(f"{command_id} is known to agent {self.number}" for command_id in known),
            *(f"{command_id} is in journal {self.number}" for command_id in self._journal.entries),
            *(f"{command_id} is kept by keeper {self.number}" for command_id in self.kept.records),
        ]

    async def run(self) -> None:
        """Serve; when killed or stopped, serve again after a while."""
        while await self.actor.live(self._serve) is not Verdict.REMOVED:
            await trio.sleep(self._world.pause())
            self.actor = Actor(self._world, f"agent{self.number}")
        self.is_removed = True

    def strike(self, victim: str) -> None:
        """Let this happen to it now."""
        match victim:
            case "agent":
                self._kill_agent()
            case "link":
                self._break_link()
            case "keeper":
                self.kept.kill_keeper()
            case "machine":
                self._kill_agent(silently=self._world.dice.chance(0.5))
                self.kept.restart(power_cut=self._world.dice.chance(0.5))
            case "stop":
                self._stop.set()
            case "remove":
                self.removal.set()

    def _kill_agent(self, *, silently: bool = False) -> None:
        if not self.actor.alive:
            return
        self.actor.kill()
        self._commands = None
        if self._wire is not None:
            if silently:
                self._wire.lose()
            else:
                self._wire.cut()

    def _break_link(self) -> None:
        if self._wire is None:
            return
        dice = self._world.dice
        self._reachable_at = trio.current_time() + (
            0.0 if dice.chance(0.5) else self._world.pause()
        )
        if dice.chance(0.7):
            self._wire.cut()
        else:
            to_hub = dice.chance(0.7)
            self._wire.lose(to_hub=to_hub, to_agent=not to_hub or dice.chance(0.5))

    async def _serve(self) -> Verdict:
        self._stop = trio.Event()
        with locked_state(self._state_dir) as state:
            if state.membership is None:  # killed as it left: nobody starts it again
                return Verdict.REMOVED
            identity = state.make_identity()
            enrolment = enrolment_of(state, None, None, None)
            journal = Journal(self._state_dir / "journal.log")
            try:
                outbox = Outbox()
                self.outboxes.append(outbox)
                coding = CodingSessions(state.path, self._policy, {})
                terminals = Terminals(state.path, journal, outbox, self._policy, coding)
                commands = Commands(
                    state.path,
                    journal,
                    outbox,
                    self._policy,
                    terminals=terminals,
                    open_keeper=self.kept.open_keeper,
                )
                session = HubSession(
                    state,
                    identity,
                    enrolment,
                    commands,
                    terminals,
                    Transfers(Files(state.path, self._policy.files), outbox),
                    Upgrades(
                        state.path,
                        enrolment.url,
                        self._policy.upgrade,
                        outbox,
                        None,
                        on_trial=None,
                    ),
                    outbox,
                    Pace(),
                    open_link=self._open_link,
                )
                self._commands, self._journal = commands, journal
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(commands.run)
                    nursery.start_soon(terminals.run)
                    nursery.start_soon(Sampler(outbox, Pace()).run)
                    verdict = await session.run(self._stop)
                    nursery.cancel_scope.cancel()
                self._commands = None
                if verdict is Verdict.REMOVED:
                    journal.forget_all()
                    state.leave()
            finally:
                journal.close()
        return verdict

    @asynccontextmanager
    async def _open_link(
        self, _url: str, pace: Pace, *, through_proxy: bool
    ) -> AsyncIterator[AgentEnd]:
        assert not through_proxy
        await trio.sleep(self._world.dice.uniform(*LATENCY_S))
        if trio.current_time() < self._reachable_at:
            raise LinkLost("no route to host")
        self._wire = self._world.hub.dial(self.actor)
        async with dialled(self._wire, pace) as end:
            yield end


def machine_id(number: int) -> str:
    """The id of a machine of every case."""
    return f"mach_{number:026}"


def _watch(store: Store, actor: Actor, dice: Dice) -> None:
    """Writes wait in line for the one writer, reads for nobody, and both take their time."""
    run, line = store.run, trio.Lock()

    async def watched(fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        def guarded(*inside: Any, **named: Any) -> T:
            actor.check()
            return fn(*inside, **named)

        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            if getattr(fn, "reads", False):
                if dice.chance(0.5):
                    await trio.sleep(dice.uniform(0, DISK_S))
                return await run(guarded, *args, **kwargs)
            async with line:
                await trio.sleep(dice.uniform(0, DISK_S))
                with actor.crossing(f"commit {getattr(fn, '__name__', '')}"):
                    result = await run(guarded, *args, **kwargs)
            if dice.chance(0.3):  # others may run before the caller hears of it
                await trio.sleep(dice.uniform(0, DISK_S))
                actor.check()
            return result

    store.run = watched  # type: ignore[method-assign]


async def _sweep(hub: Hub) -> None:
    while True:
        with suppress(StorageFull, Unavailable):
            await hub.store.run(sessions.end_expired, hub.clock.now_ms())
            await hub.commands.sweep()
            await hub.commands.look()
        await trio.sleep(SWEEP_S)


class _Errors(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if self._world.was_restored and record.name == "cmdop.hub.audit":
            return  # the machines remember an audit log that the backup does not have
        error = repr(record.exc_info[1]) if record.exc_info else ""
        self._world.errors.append(f"{record.name}: {record.getMessage()} {error}")
