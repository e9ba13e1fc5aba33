"""What must be true of every case in the end, whatever went wrong."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from cmdop_appliance.agent.recovery import signal_number
from cmdop_appliance.hub.output import Outputs
from cmdop_appliance.model import OPEN_STATUSES, Command
from cmdop_appliance.protocol.frames import STREAMS
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.transaction import Tx, reads
from tests.simulation.callers import WAVE, Callers
from tests.simulation.keeper import Process
from tests.simulation.plans import Plan
from tests.simulation.world import MAX_PARALLEL, Machine, World

# More than any command prints here.
ALL_BYTES = 2**30
# Reason of a lost command → what must have gone wrong on its machine.
LOST_BY = {
    "start_unknown": ("agent", "keeper", "machine", "restore"),
    "forgotten": ("restore",),
    "keeper_killed": ("keeper",),
    "rebooted": ("machine",),
    "machine_removed": ("remove",),
    "silent": ("remove",),  # after a `restore` that forgot this, the machine never returns
}


Kind = Literal["double start", "no true end", "output", "samples", "left behind", "broken"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise that was not kept."""

    kind: Kind
    text: str


@dataclass(slots=True)
class Judgement:
    """All that was found; without findings everything that was promised was kept."""

    commands: Counter[str] = field(default_factory=Counter)  # by their ends
    starts: int = 0
    findings: list[Finding] = field(default_factory=list)


async def judge(world: World, callers: Callers, store: Store, outputs: Outputs) -> Judgement:
    """Hold the store and what callers were told against what really happened."""
    found, happened = Judgement(), world.happened
    found.findings += [Finding("broken", text) for text in world.errors]
    found.findings += [Finding("left behind", text) for text in world.leftovers]
    commands = {command.id: command for command in await store.run(_all)}
    for machine in world.machines:
        found.starts += sum(machine.kept.starts.values())
        for command_id, count in machine.kept.starts.items():
            if count > 1:
                text = f"{command_id} was started {count} times"
                found.findings.append(Finding("double start", text))
            # What ended after the backup, and was acknowledged, is known to nobody any more.
            if command_id not in commands and not happened.strikes("restore"):
                text = f"{command_id} was started and is not in the store"
                found.findings.append(Finding("no true end", text))
    for command in commands.values():
        found.commands[_kind(command)] += 1
        if command.id in world.forgotten:
            continue
        number = next(m.number for m in world.machines if m.id == command.machine_id)
        process = world.machines[number].kept.processes.get(command.id)
        output = [await outputs.read(command.id, stream, 0, ALL_BYTES) for stream in STREAMS]
        head = f"{command.id} {command.status} {command.error_code or ''}"
        for text in _judge_end(happened, number, command, process):
            found.findings.append(Finding("no true end", f"{head}: {text}"))
        if process is not None:
            cut_short = command.status == "lost" or happened.strikes("machine", machine=number)
            for text in _judge_output(command, process, output, cut_short=cut_short):
                found.findings.append(Finding("output", f"{head}: {text}"))
    if not happened.strikes("restore"):
        found.findings += [
            Finding("no true end", text)
            for _, told in callers.told
            for text in _judge_told(told, commands.get(told.id))
        ]
        found.findings += [
            Finding("no true end", f"{command_id}: its cancel was acknowledged and is forgotten")
            for command_id in callers.cancelled
            if commands[command_id].cancel_requested_ms is None
        ]
        found.findings += [Finding("double start", text) for text in _judge_once(callers, commands)]
    found.findings += [Finding("double start", text) for text in _judge_wave(world, commands)]
    counted = await store.run(_samples)
    for machine in world.machines:
        found.findings += [
            Finding("samples", text)
            for text in _judge_samples(happened, machine, counted.get(machine.id, 0))
        ]
        found.findings += [
            Finding("double start", text) for text in _judge_turns(world, machine.number, commands)
        ]
    return found


def _kind(command: Command) -> str:
    marks = [command.status]
    if command.status == "lost" or (command.error_code and command.status != "failed"):
        marks.append(command.error_code or "")
    if command.is_late:
        marks.append("late")
    if command.is_unknown_to_hub:
        marks.append("unknown to hub")
    return " ".join(marks)


def _judge_end(
    happened: Plan, machine: int, command: Command, process: Process | None
) -> Iterator[str]:
    if command.status in OPEN_STATUSES:
        yield "it has no end"
    elif command.status == "lost":
        yield from _judge_lost(happened, machine, command, process)
    elif process is None:
        yield from _judge_unstarted(command)
    elif process.end is None:
        yield "no keeper saw its end"
    else:
        yield from _judge_seen_end(command, process.end)


def _judge_lost(
    happened: Plan, machine: int, command: Command, process: Process | None
) -> Iterator[str]:
    if command.exit_code is not None:
        yield f"lost with exit code {command.exit_code}"
    causes = LOST_BY.get(command.error_code or "", ())
    at_hub = "restore" in causes and happened.strikes("restore")
    if not (at_hub or happened.strikes(*causes, machine=machine)):
        yield "nothing that was planned makes it lost"
    elif (
        command.error_code == "start_unknown"
        and process is not None
        and not happened.strikes("machine", machine=machine)  # whose keeper's log may be lost
        and not happened.strikes("restore")
    ):
        yield "it was started, and its keeper knows"


def _judge_unstarted(command: Command) -> Iterator[str]:
    if command.exit_code is not None or command.signal is not None:
        yield "it never started, and has an exit code"
    if command.status not in ("expired", "cancelled", "skipped") and not (
        command.status == "failed" and command.error_code == "exec_failed"
    ):
        yield "it never started"


def _judge_seen_end(command: Command, seen: dict[str, Any]) -> Iterator[str]:
    exit_code, signal = seen["exit_code"], seen["signal"]
    if seen["end"] == "exited":
        exit_code = 128 + signal_number(signal) if signal else exit_code
        truth = ("completed" if exit_code == 0 else "failed", exit_code, signal)
    else:
        truth = (seen["end"], None, signal)
    if (command.status, command.exit_code, command.signal) != truth:
        yield f"exit code {command.exit_code}, signal {command.signal}; in truth {truth}"


def _judge_output(
    command: Command, process: Process, output: list[bytes], *, cut_short: bool
) -> Iterator[str]:
    """All is there, or of what was `cut_short`, nothing that was not written."""
    said = (
        (command.stdout_bytes, command.stdout_sha256),
        (command.stderr_bytes, command.stderr_sha256),
    )
    for stream, data, truth, (size, sha256) in zip(
        STREAMS, output, process.written, said, strict=True
    ):
        if data != truth and not (cut_short and (truth + process.late).startswith(data)):
            yield f"{stream}: stored are {len(data)} bytes, written were {len(truth)}, or others"
        if size is not None and size != len(data):
            yield f"{stream}: said are {size} bytes, stored {len(data)}"
        if sha256 != hashlib.sha256(data).digest() and not (cut_short and sha256 is None):
            yield f"{stream}: the sha256 is of something else"


def _judge_once(callers: Callers, commands: dict[str, Command]) -> Iterator[str]:
    """With an Idempotency-Key an order is one command, however often it was asked for."""
    for order in {order.number: order for order, _ in callers.told if order.is_once}.values():
        made = {command.id for command in commands.values() if command.command == order.text}
        told = {command.id for ordered, command in callers.told if ordered is order}
        if len(made | told) != 1:
            yield f"{order.text} made {sorted(made)}, and its caller was told {sorted(told)}"


def _judge_turns(world: World, machine: int, commands: dict[str, Command]) -> Iterator[str]:
    """Not too many at a time, and one after another where it was asked for."""
    happened = world.happened
    if happened.strikes("keeper", "machine", machine=machine):
        return  # what runs unwatched is waited for by nobody
    processes = world.machines[machine].kept.processes.values()
    for process in processes:
        beside = [p for p in processes if p.began <= process.began < p.ended]
        if world.plan.shape == "wild" and len(beside) > MAX_PARALLEL:
            yield f"{process.id} was started beside {len(beside) - 1} others"
        keys = [commands[p.id].spec.serial_key for p in beside if p.id in commands]
        key = commands[process.id].spec.serial_key if process.id in commands else None
        if key is not None and keys.count(key) > 1:
            yield f"{process.id} was started beside another of its serial key"


def _judge_samples(happened: Plan, machine: Machine, counted: int) -> Iterator[str]:
    """Each sample was counted once, or is kept until it is."""
    backlogs = [outbox._backlog for outbox in machine.outboxes]
    taken = sum(backlog._number for backlog in backlogs)
    kept = sum(
        each.sample.count
        for backlog in backlogs
        for each in (*backlog._offered, *backlog._rolled, *backlog._full)
    )
    if counted > taken:
        yield f"{machine.id} took {taken} samples, {counted} were counted"
    if counted + kept < taken and not happened.strikes("restore"):
        yield f"{machine.id} took {taken} samples, {counted} were counted, {kept} kept"


def _judge_wave(world: World, commands: dict[str, Command]) -> Iterator[str]:
    """Of a batch with concurrency 1 only one command is under way."""
    happened = world.happened
    made = [command for command in commands.values() if command.command == WAVE]
    if len(made) > len(world.machines):
        yield f"the wave has {len(made)} commands"
    if happened.strikes("keeper", "machine", "remove", "restore"):
        return  # what is lost may run on
    ran = [m.kept.processes[c.id] for c in made for m in world.machines if c.id in m.kept.processes]
    for process in ran:
        if sum(p.began <= process.began < p.ended for p in ran) > 1:
            yield f"{process.id} was started beside another one of its wave"


def _judge_told(told: Command, stored: Command | None) -> Iterator[str]:
    if stored is None:
        yield f"{told.id} was acknowledged and is not in the store"
    elif (
        told.finished_ms is not None and told.error_code != "silent" and _end(told) != _end(stored)
    ):
        yield f"{told.id}: its caller was told {_end(told)}, stored is {_end(stored)}"


def _end(command: Command) -> tuple[object, ...]:
    return (
        command.status,
        command.exit_code,
        command.signal,
        command.error_code,
        command.finished_ms,
        command.stdout_bytes,
        command.stderr_bytes,
        command.stdout_sha256,
    )


@reads
def _samples(tx: Tx) -> dict[str, int]:
    rows = tx._connection.execute("SELECT machine_id, SUM(samples) FROM metric GROUP BY machine_id")
    return dict(rows.fetchall())


@reads
def _all(tx: Tx) -> list[Command]:
    return tx.all(Command, "SELECT * FROM command ORDER BY id")
