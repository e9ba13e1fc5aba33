"""Commands from the hub's side: recorded, dispatched, waited for, ended.

What starts here is on disk before anyone hears of it; what an agent reports is on disk before the
agent may forget it. In between, everything is found again from the store.
"""

import hashlib
import logging
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from cmdop_appliance.auth import Caller
from cmdop_appliance.clock import Clock
from cmdop_appliance.errors import ApplianceError, CommandNotFound, Unavailable
from cmdop_appliance.hub.bus import Bus, Subscription
from cmdop_appliance.hub.output import Outputs, Unsafe, save_all
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Command, CommandStatus
from cmdop_appliance.protocol.messages import Finished, Rejected, Spec, Started
from cmdop_appliance.store import commands as rows
from cmdop_appliance.store import machines, sessions
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.transaction import Tx, reads

# A command that did not reach its machine within this is not started there later, and one whose
# caller waits must have begun by then. As long as a session's grace period (contract.md §2).
DELIVER_MS: Final = 30_000
# A caller who waits is not kept waiting for a start much longer than for the command itself, but a
# busy machine gets this long.
_START_AT_LEAST_MS: Final = 5_000
# How much longer than its timeout a caller waits: SIGTERM, 10 s, SIGKILL, and the way back.
_END_S: Final = 15.0

_STATUS_OF_END: Final[dict[str, CommandStatus]] = {
    "timeout": "timeout",
    "cancelled": "cancelled",
    "failed": "failed",
    "lost": "lost",
    "expired": "expired",
}


_log = logging.getLogger("cmdop.hub.commands")


@dataclass(frozen=True, slots=True)
class Dispatched:
    """Bus: a new command for a machine."""

    command: Command


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Bus: a command of a machine is to end."""

    command_id: str


@dataclass(frozen=True, slots=True)
class Removed:
    """Bus: the machine was taken out; its agent is to end."""


@dataclass(frozen=True, slots=True)
class Changed:
    """Bus: a command's record as it stands now."""

    command: Command


def machine_subject(machine_id: str) -> str:
    """What is published for the connection of one machine."""
    return f"machine.{machine_id}"


def removal_subject(machine_id: str) -> str:
    """Apart from the rest, so that no busy connection hears of its removal late."""
    return f"removal.{machine_id}"


def command_subject(command_id: str) -> str:
    """Changes of one command."""
    return f"command.{command_id}"


def output_subject(command_id: str) -> str:
    """Wake-ups: a command has new output."""
    return f"output.{command_id}"


class Commands:
    """Starts, follows and ends commands for callers and for agents' connections."""

    def __init__(self, store: Store, bus: Bus, outputs: Outputs, clock: Clock) -> None:
        self._store = store
        self._bus = bus
        self._outputs = outputs
        self._clock = clock

    # ── for callers ──────────────────────────────────────────────────────────────────────────

    async def start(self, caller: Caller, machine_id: str, text: str, spec: Spec) -> Command:
        """Record a command and send it on its way.

        Raises:
            MachineNotFound, SessionNotActive: nothing was recorded.
        """
        command = self._new(caller, machine_id, text, spec)
        return _unless_error(await self._start([command]), machine_id)

    async def start_each(
        self, caller: Caller, machine_ids: Iterable[str], text: str, spec: Spec
    ) -> dict[str, Command | ApplianceError]:
        """`start` on many machines at once, for a caller who waits for each with `wait_end`.

        Each machine has its command, or the reason why not.
        """
        return await self._start(
            [self._new(caller, m, text, spec, is_awaited=True) for m in machine_ids]
        )

    async def run(self, caller: Caller, machine_id: str, text: str, spec: Spec) -> Command:
        """`start`, then wait for the end.

        Returns a record that is still open when the machine is lost, or the hub is stopping,
        before the end is known: the command may run on, and its id stays valid.
        """
        command = self._new(caller, machine_id, text, spec, is_awaited=True)
        with self._bus.subscribe(command_subject(command.id)) as changes:
            command = _unless_error(await self._start([command]), machine_id)
            return await self._wait_end(command, changes)

    async def wait_end(self, command: Command) -> Command:
        """Wait as `run` does for a command that was started before."""
        with self._bus.subscribe(command_subject(command.id)) as changes:
            command = await self._store.run(rows.get, command.workspace_id, command.id)
            return await self._wait_end(command, changes)

    async def wait_started(self, command: Command, within_s: float) -> Command:
        """The record once the command has begun, or as it is after `within_s`."""
        with self._bus.subscribe(command_subject(command.id)) as changes:
            command = await self._store.run(rows.get, command.workspace_id, command.id)
            with trio.move_on_after(within_s):
                while command.status == "pending":
                    message = await changes.next()
                    if isinstance(message, Changed):
                        command = message.command
                    else:
                        command, _ = await self._store.run(_look, command)
        return command

    async def cancel(self, caller: Caller, command_id: str) -> None:
        """Record that a command is to end, and tell its machine.

        Raises:
            CommandNotFound, CommandNotRunning: nothing was recorded.
        """
        command = await self._store.run(
            rows.request_cancel, caller.workspace_id, command_id, self._clock.now_ms()
        )
        self._bus.publish(machine_subject(command.machine_id), CancelRequested(command_id))

    async def remove_machine(self, caller: Caller, machine_id: str) -> None:
        """Take a machine out: its connection is cut, its open commands are lost.

        Raises:
            MachineNotFound: the caller's workspace has no such machine.
        """
        lost = await self._store.run(
            _remove_machine, caller.workspace_id, machine_id, self._clock.now_ms()
        )
        self._bus.publish(removal_subject(machine_id), Removed())
        for command in lost:
            await self._store.run(save_all, await self._outputs.sync(command.id))
            self._tell_end(command)

    # ── for agents' connections ──────────────────────────────────────────────────────────────

    async def started(self, machine_id: str, message: Started) -> None:
        """Record that a command runs."""
        changed = await self._store.run(_started, machine_id, message, now_ms=self._clock.now_ms())
        if changed is not None:
            self._bus.publish(command_subject(changed.id), Changed(changed))

    async def finished(self, machine_id: str, message: Finished) -> None:
        """Record an end with its output; when this returns, the agent may forget it.

        Raises:
            CommandNotFound: the command is not this machine's.
        """
        unsafe = await self._outputs.sync(message.id)
        ended = await self._store.run(
            _finished, machine_id, message, unsafe, now_ms=self._clock.now_ms()
        )
        self._tell_end(ended)

    async def rejected(self, machine_id: str, message: Rejected) -> None:
        """Record that an agent refused a dispatch which contradicts what it knows."""
        command = await self._store.run(rows.of_machine, machine_id, message.id)
        if command is None:
            raise CommandNotFound("not a command of this machine", command_id=message.id)
        _log.warning("dispatch rejected", extra={"command_id": message.id, "why": message.reason})
        await self._end_here(command, "failed", message.reason, "the machine refused the command")

    async def lose(self, command: Command, reason: str) -> None:
        """Record that nobody can tell how a command ended."""
        await self._end_here(command, "lost", reason, "the machine knows nothing of this command")

    # ── inside ───────────────────────────────────────────────────────────────────────────────

    def _new(
        self, caller: Caller, machine_id: str, text: str, spec: Spec, *, is_awaited: bool = False
    ) -> Command:
        now_ms = self._clock.now_ms()
        start_ms = DELIVER_MS
        if is_awaited and spec.timeout_ms is not None:
            start_ms = min(DELIVER_MS, max(spec.timeout_ms, _START_AT_LEAST_MS))
        return Command(
            id=new_id("cmd"),
            workspace_id=caller.workspace_id,
            machine_id=machine_id,
            session_id="",
            command=text,
            spec=spec,
            spec_hash=hashlib.sha256(msgspec.json.encode(spec)).digest(),
            status="pending",
            operator=caller.email,
            created_ms=now_ms,
            start_until_ms=now_ms + start_ms,
            is_awaited=is_awaited,
            cancel_requested_ms=None,
            started_ms=None,
            finished_ms=None,
            duration_ms=None,
            exit_code=None,
            signal=None,
            error_code=None,
            error_message=None,
            stdout_bytes=None,
            stderr_bytes=None,
            stdout_sha256=None,
            stderr_sha256=None,
        )

    async def _start(self, new: list[Command]) -> dict[str, Command | ApplianceError]:
        outcomes = await self._store.run(_insert_each, new)
        for outcome in outcomes.values():
            if isinstance(outcome, Command):
                self._outputs.begin(outcome.id)
                self._bus.publish(machine_subject(outcome.machine_id), Dispatched(outcome))
        return outcomes

    async def _end_here(
        self, command: Command, status: CommandStatus, reason: str, message: str
    ) -> None:
        sizes = await self._outputs.sizes(command.id)
        unsafe = await self._outputs.sync(command.id)
        ended = msgspec.structs.replace(
            command,
            status=status,
            finished_ms=self._clock.now_ms(),
            error_code=reason,
            error_message=message,
            stdout_bytes=sizes["stdout"],
            stderr_bytes=sizes["stderr"],
        )
        self._tell_end(await self._store.run(_end_and_save, ended, unsafe))

    def _tell_end(self, ended: Command) -> None:
        self._bus.publish(command_subject(ended.id), Changed(ended))
        self._bus.publish(output_subject(ended.id), None)
        self._outputs.end(ended.id)

    async def _wait_end(self, command: Command, changes: Subscription) -> Command:
        limit_s = math.inf
        if command.spec.timeout_ms is not None:
            start_ms = command.start_until_ms - command.created_ms
            limit_s = (start_ms + command.spec.timeout_ms) / 1000 + _END_S
        with trio.move_on_after(limit_s), suppress(Unavailable):
            reachable = True
            while reachable and command.finished_ms is None:
                message = await changes.next()
                if isinstance(message, Changed):
                    command = message.command
                else:
                    command, reachable = await self._store.run(_look, command)
        return command


@reads
def _look(tx: Tx, command: Command) -> tuple[Command, bool]:
    """The record as it stands, and whether its machine can still tell of its end."""
    machine = sessions.live_of(tx, command.workspace_id, command.machine_id)
    return rows.get(tx, command.workspace_id, command.id), machine is not None


def _insert_each(tx: Tx, new: list[Command]) -> dict[str, Command | ApplianceError]:
    outcomes: dict[str, Command | ApplianceError] = {}
    for command in new:
        try:
            session_id = rows.live_session(tx, command.workspace_id, command.machine_id)
        except ApplianceError as exc:
            outcomes[command.machine_id] = exc
        else:
            placed = msgspec.structs.replace(command, session_id=session_id)
            rows.insert(tx, placed)
            outcomes[command.machine_id] = placed
    return outcomes


def _remove_machine(tx: Tx, workspace_id: str, machine_id: str, now_ms: int) -> list[Command]:
    before = rows.open_on(tx, machine_id)
    machines.remove(tx, workspace_id, machine_id, now_ms)
    return [rows.get(tx, workspace_id, command.id) for command in before]


def _started(tx: Tx, machine_id: str, message: Started, *, now_ms: int) -> Command | None:
    command = _own(tx, machine_id, message.id)
    started_ms = _between(command.created_ms, message.started_ms, now_ms)
    if not rows.started(tx, command.id, machine_id, started_ms):
        return None
    return msgspec.structs.replace(command, status="running", started_ms=started_ms)


def _finished(
    tx: Tx, machine_id: str, message: Finished, unsafe: list[Unsafe], *, now_ms: int
) -> Command:
    command = _own(tx, machine_id, message.id)
    if command.finished_ms is not None:
        return command
    status = _STATUS_OF_END.get(message.end, "completed" if message.exit_code == 0 else "failed")
    started_ms = command.started_ms
    if started_ms is None and message.started_ms is not None:
        started_ms = _between(command.created_ms, message.started_ms, now_ms)
    finished_ms = now_ms
    if started_ms is not None and message.duration_ms is not None:
        finished_ms = _between(started_ms, started_ms + message.duration_ms, now_ms)
    ended = msgspec.structs.replace(
        command,
        status=status,
        started_ms=started_ms,
        finished_ms=finished_ms,
        duration_ms=message.duration_ms,
        exit_code=message.exit_code if message.end == "exited" else None,
        signal=message.signal,
        error_code=message.reason,
        error_message=message.message,
        stdout_bytes=message.stdout.bytes,
        stderr_bytes=message.stderr.bytes,
        stdout_sha256=message.stdout.sha256,
        stderr_sha256=message.stderr.sha256,
    )
    return _end_and_save(tx, ended, unsafe)


def _end_and_save(tx: Tx, ended: Command, unsafe: list[Unsafe]) -> Command:
    """The record as it then stands: an end that was there before is the one that counts."""
    if not rows.finish(tx, ended):
        return rows.get(tx, ended.workspace_id, ended.id)
    save_all(tx, unsafe)
    return ended


def _own(tx: Tx, machine_id: str, command_id: str) -> Command:
    command = rows.of_machine(tx, machine_id, command_id)
    if command is None:
        raise CommandNotFound("not a command of this machine", command_id=command_id)
    return command


def _between(low: int, value: int, high: int) -> int:
    """A time that a machine tells, held to what the hub's own clock allows."""
    return max(low, min(value, high))


def _unless_error(outcomes: dict[str, Command | ApplianceError], machine_id: str) -> Command:
    outcome = outcomes[machine_id]
    if isinstance(outcome, ApplianceError):
        raise outcome
    return outcome
