"""A machine's keeper and processes in virtual time, with real records and real output files.

The keeper answers as agent/keeper/main.py does. It outlives agents; killed, its processes run on
unwatched; when the machine restarts, they are gone.
"""

import heapq
import itertools
import math
import os
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from cmdop_appliance.agent.keeper.ending import KILL_GRACE_S
from cmdop_appliance.agent.keeper.records import Record, apply, record_of
from cmdop_appliance.agent.keeper_client import Exited, KeeperLost, Refused, Started, output_path
from cmdop_appliance.protocol.frames import STREAMS
from tests.simulation.actors import ACTOR, Disks
from tests.simulation.dice import Dice
from tests.support.records import NOW

# A line over the unix socket takes up to this, seconds; so long starts a keeper.
SOCKET_S: Final = 0.0005
LAUNCH_S: Final = 0.06


class Piece(msgspec.Struct, frozen=True):
    """Output: `size` bytes drawn from `seed`, `at` seconds after the start."""

    at: float
    stream: int
    size: int
    seed: int

    def content(self) -> bytes:
        return random.Random(self.seed).randbytes(self.size)


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """What a command does; it travels as the last argument."""

    ends_at: float = 0.01  # seconds after the start
    exit_code: int = 0
    signal: str | None = None  # ends by this one instead
    refused: str | None = None  # does not start, with this code
    ignores_term: bool = False
    output: tuple[Piece, ...] = ()
    late: int = 0  # bytes that a descendant writes after the leader's end

    def argv(self) -> list[str]:
        return ["simulated", msgspec.json.encode(self).decode()]


class Process:
    """What really happened: the judge's side of a command."""

    def __init__(self, command_id: str, behaviour: Behaviour, files: tuple[int, int]) -> None:
        self.id = command_id
        self.behaviour = behaviour
        self.files = files
        self.lives = True
        self.began = trio.current_time()
        self.ended = math.inf
        self.ending: str | None = None  # "timeout" or "cancelled", once it was made to end
        self.end: dict[str, Any] | None = None  # as its keeper saw it
        self.written = (bytearray(), bytearray())
        self.late = b""

    def write(self, piece: Piece) -> None:
        if self.lives:
            data = piece.content()
            self.written[piece.stream].extend(data)
            os.write(self.files[piece.stream], data)

    def write_late(self) -> None:
        """After its end; whoever saw that does not count it."""
        self.late = bytes(self.behaviour.late)
        os.write(self.files[0], self.late)


class Timers:
    """What happens on the machines by itself, in the order of its time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = itertools.count()
        self._wake = trio.Event()

    def after(self, delay: float, fn: Callable[..., None], *args: Any) -> None:
        """Call `fn` in `delay` seconds."""
        at = trio.current_time() + delay
        heapq.heappush(self._heap, (at, next(self._count), fn, args))
        self._wake.set()

    async def run(self) -> None:
        """Call what is due, until cancelled."""
        while True:
            self._wake = trio.Event()
            while self._heap and self._heap[0][0] <= trio.current_time():
                _, _, fn, args = heapq.heappop(self._heap)
                fn(*args)
            with trio.move_on_at(self._heap[0][0] if self._heap else float("inf")):
                await self._wake.wait()


class KeeperLink:
    """An agent's connection, as `agent.keeper_client.Keeper`."""

    def __init__(self, keeper: "KeeperProcess") -> None:
        self.keeper_id = keeper.keeper_id
        self.boot_id = keeper.boot_id
        self.pid = 1
        self.has_pty = True
        self.records = keeper.snapshot()
        self.requests: deque[tuple[Callable[..., None], Any]] = deque()  # in the socket
        self.is_over = False
        self._keeper = keeper
        self._events: deque[tuple[float, Any]] = deque()
        self._arrived = trio.Event()

    async def start(self, **request: Any) -> None:
        await self._send(self._keeper.start, request)

    async def cancel(self, command_id: str) -> None:
        await self._send(self._keeper.cancel, command_id)

    async def forget(self, command_ids: Any) -> None:
        await self._send(self._keeper.forget, list(command_ids))

    async def next_event(self) -> Any:
        await trio.lowlevel.checkpoint()
        while True:
            if self._events and self._events[0][0] <= trio.current_time():
                actor = ACTOR.get()
                assert actor is not None
                event = self._events[0]
                with actor.crossing("keeper event"):
                    taken = bool(self._events) and self._events[0] is event
                    if taken:  # else it was cut off at the last moment
                        self._events.popleft()
                if taken:
                    return event[1]
                continue
            if self.is_over:
                raise KeeperLost("the keeper has gone")
            self._arrived = trio.Event()
            with trio.move_on_at(self._events[0][0] if self._events else float("inf")):
                await self._arrived.wait()

    def tell(self, event: Any) -> None:
        """An event on its way to the agent."""
        at = trio.current_time() + self._keeper.dice.uniform(0, SOCKET_S)
        self._events.append((max(at, self._events[-1][0]) if self._events else at, event))
        self._arrived.set()

    def hang_up(self) -> None:
        """The keeper's side is gone; what it told before may still be read, or not."""
        self.is_over = True
        for _ in range(self._keeper.dice.randint(0, len(self._events))):
            self._events.pop()
        self._arrived.set()

    def handle_next(self) -> None:
        """The keeper reads one line."""
        if self.requests:
            fn, request = self.requests.popleft()
            fn(request)

    async def _send(self, fn: Callable[..., None], request: Any) -> None:
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
        actor = ACTOR.get()
        assert actor is not None
        actor.check()
        if self.is_over:
            raise KeeperLost("the keeper has gone")
        with actor.crossing("keeper request"):
            if not self.is_over:  # else it is lost in the socket
                self.requests.append((fn, request))
                self._keeper.timers.after(self._keeper.dice.uniform(0, SOCKET_S), self.handle_next)


class KeeperProcess:
    """One life of a keeper."""

    def __init__(self, machine: "KeptMachine", log: list[dict[str, Any]]) -> None:
        self.keeper_id = f"keeper-{machine.dice.getrandbits(40):x}"
        self.boot_id = machine.boot_id
        self.timers = machine.timers
        self.dice = machine.dice
        self.link: KeeperLink | None = None
        self.alive = True
        self._machine = machine
        self._log = log
        self._records: dict[str, Record] = {}
        for event in log:
            apply(self._records, event)
        for record in self._records.values():
            if record.state == "running":
                record.state = "orphaned"

    def snapshot(self) -> dict[str, Record]:
        """Every record, as an agent that connects is told."""
        told = {}
        for record in self._records.values():
            event = {name: getattr(record, name) for name in Record.__slots__}
            process = self._machine.processes.get(record.id)
            event["alive"] = record.state == "orphaned" and bool(process and process.lives)
            told[record.id] = Record(**event)
        return told

    def accept(self) -> KeeperLink:
        """A new agent takes the place of the one before, whose last lines may go unread."""
        if self.link is not None:
            for _ in range(self.dice.randint(0, len(self.link.requests))):
                self.link.handle_next()
            self.link.requests.clear()
            self.link.hang_up()
        self.link = KeeperLink(self)
        return self.link

    def die(self) -> None:
        """As kill -9 does; what was not read is never read."""
        self.alive = False
        if self.link is not None:
            self.link.requests.clear()
            self.link.hang_up()

    def start(self, request: dict[str, Any]) -> None:
        command_id = request["id"]
        if (known := self._records.get(command_id)) is not None:
            self._tell(record_of(known.as_event(), known.state))
            return
        behaviour = msgspec.json.decode(request["argv"][-1], type=Behaviour)
        if behaviour.refused is not None:
            self._publish(
                {
                    "event": "refused",
                    "id": command_id,
                    "code": behaviour.refused,
                    "message": "refused by the simulation",
                }
            )
            return
        process, slot = self._machine.start(command_id, behaviour)
        started = trio.current_time()
        self._publish(
            {
                "event": "started",
                "id": command_id,
                "pid": 100 + slot,
                "start_ticks": round(started * 100),
                "slot": slot,
                "started_ms": NOW + round(started * 1000),
                "boot_id": self.boot_id,
                "keeper_id": self.keeper_id,
            }
        )
        for piece in behaviour.output:
            if piece.at <= behaviour.ends_at:
                self.timers.after(piece.at, process.write, piece)
        self.timers.after(behaviour.ends_at, self._ends_by_itself, process, started)
        if request["timeout_ms"] is not None:
            self.timers.after(request["timeout_ms"] / 1000, self._make_end, process, "timeout")

    def cancel(self, command_id: str) -> None:
        process = self._machine.processes.get(command_id)
        record = self._records.get(command_id)
        if process is not None and record is not None and record.state == "running":
            self._make_end(process, "cancelled")

    def forget(self, command_ids: list[str]) -> None:
        known = [i for i in command_ids if i in self._records]
        gone = [i for i in known if self._records[i].state != "running"]
        if gone:
            for command_id in gone:
                if (slot := self._records[command_id].slot) is not None:
                    self._machine.remove_output(slot)
            event = {"event": "forgotten", "ids": gone}
            apply(self._records, event)
            self._log.append(event)

    def _make_end(self, process: Process, end: str) -> None:
        if not self.alive or not process.lives or process.ending is not None:
            return
        process.ending = end
        stubborn = process.behaviour.ignores_term
        delay = KILL_GRACE_S if stubborn else self.dice.uniform(0.0005, 0.01)
        self.timers.after(delay, self._ended, process, "SIGKILL" if stubborn else "SIGTERM")

    def _ends_by_itself(self, process: Process, started: float) -> None:
        if not process.lives or process.ending is not None:
            return
        behaviour = process.behaviour
        process.lives = False
        if self.alive:
            self._exited(
                process,
                exit_code=None if behaviour.signal else behaviour.exit_code,
                signal=behaviour.signal,
                end="exited",
                duration_ms=round((trio.current_time() - started) * 1000),
                killed=None,
            )
        if behaviour.late:
            self.timers.after(0.001, process.write_late)

    def _ended(self, process: Process, signal: str) -> None:
        """By us: it is gone, and if we are not, we tell."""
        if process.lives:
            process.lives = False
            if self.alive:
                self._exited(
                    process,
                    exit_code=None,
                    signal=signal,
                    end=process.ending,
                    duration_ms=1,
                    killed=signal,
                )

    def _exited(self, process: Process, **end: Any) -> None:
        process.end, process.ended = end, trio.current_time()
        sizes = [len(data) for data in process.written]
        self._publish(
            {
                "event": "exited",
                "id": process.id,
                "stdout_bytes": sizes[0],
                "stderr_bytes": sizes[1],
                **end,
            }
        )

    def _publish(self, event: dict[str, Any]) -> None:
        apply(self._records, event)
        self._log.append(event)
        self._tell(msgspec.convert(event, Started | Refused | Exited))

    def _tell(self, event: Any) -> None:
        if self.link is not None and not self.link.is_over:
            self.link.tell(event)


class KeptMachine:
    """A machine's boot, its processes and its keepers, one after another."""

    def __init__(self, state_dir: Path, timers: Timers, dice: Dice, disks: Disks) -> None:
        self.state_dir = state_dir
        self.timers = timers
        self.dice = dice
        self.boots = 1
        self.starts: dict[str, int] = {}  # the ledger: how often each id was started
        self.processes: dict[str, Process] = {}  # each that ever ran
        self.keeper: KeeperProcess | None = None
        self._disks = disks
        self._log: list[dict[str, Any]] = []
        self._slot = 0

    @property
    def boot_id(self) -> str:
        """Another one after each restart."""
        return f"boot-{self.boots}"

    @property
    def records(self) -> dict[str, Record]:
        """What the keeper holds, or its log does."""
        if self.keeper is not None:
            return self.keeper.snapshot()
        return KeeperProcess(self, self._log).snapshot()

    @asynccontextmanager
    async def open_keeper(self, _state_dir: Path) -> AsyncIterator[KeeperLink]:
        """As `agent.keeper_client.open_keeper`."""
        actor = ACTOR.get()
        assert actor is not None
        await trio.sleep(self.dice.uniform(0, SOCKET_S))
        if self.keeper is None:
            await trio.sleep(LAUNCH_S)
        actor.check()
        if self.keeper is None:
            self.keeper = KeeperProcess(self, self._log)
            slots = (record.slot for record in self.keeper.snapshot().values())
            self.tidy_output(slot for slot in slots if slot is not None)
        yield self.keeper.accept()

    def start(self, command_id: str, behaviour: Behaviour) -> tuple[Process, int]:
        """A new process and the slot of its output."""
        self._slot += 1
        self.starts[command_id] = self.starts.get(command_id, 0) + 1
        out, err = (
            os.open(
                output_path(self.state_dir, self._slot, stream),
                os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL,
            )
            for stream in STREAMS
        )
        process = self.processes[command_id] = Process(command_id, behaviour, (out, err))
        return process, self._slot

    def tidy_output(self, kept: Iterable[int]) -> None:
        """A keeper starts: what it knows nothing of goes, and it counts on from what it knows."""
        slots = set(kept)
        self._slot = max(slots, default=0)
        for path in (self.state_dir / "keeper" / "output").iterdir():
            if int(path.stem) not in slots:
                path.unlink()

    def remove_output(self, slot: int) -> None:
        """Of a command that is forgotten."""
        output_path(self.state_dir, slot, "stdout").unlink(missing_ok=True)
        output_path(self.state_dir, slot, "stderr").unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of every file."""
        for process in self.processes.values():
            for file in process.files:
                os.close(file)

    def kill_keeper(self) -> None:
        """Its processes run on."""
        if self.keeper is not None:
            self.keeper.die()
            self.keeper = None

    def restart(self, *, power_cut: bool) -> None:
        """All processes are gone; after a power cut so may be what was not synced."""
        self.kill_keeper()
        for process in self.processes.values():
            process.lives = False
        self.boots += 1
        if power_cut:
            if self._log:
                del self._log[self.dice.randint(0, len(self._log)) :]
            for path in (self.state_dir / "keeper" / "output").iterdir():
                self._disks.cut_power(path, self.dice)
            self._disks.cut_power(self.state_dir / "journal.log", self.dice)
