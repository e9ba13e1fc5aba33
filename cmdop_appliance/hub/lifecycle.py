"""What may happen to a command, as transactions: recorded, sent, started, ended.

pending: never sent (no session), or sent; of what was sent only its machine knows more.
A function that ends a command also moves its batch on, so that no crash comes in between; it
returns every record that changed, for those who wait for it.
"""

from collections.abc import Iterable
from functools import partial
from typing import Final

import msgspec

from cmdop_appliance.auth import Caller, Reach
from cmdop_appliance.errors import (
    ApplianceError,
    CommandNotFound,
    Conflict,
    Forbidden,
    SessionNotActive,
)
from cmdop_appliance.hub import ends, presence
from cmdop_appliance.hub.audit import Audit
from cmdop_appliance.hub.output import Unsafe, save_all
from cmdop_appliance.ids import made_ms
from cmdop_appliance.model import (
    Action,
    Batch,
    Command,
    CommandStatus,
    Machine,
    Refusal,
)
from cmdop_appliance.protocol.frames import StreamName
from cmdop_appliance.protocol.messages import Finished, Spec, Started
from cmdop_appliance.store import audit, batches, clients, events, machines, sessions, terminals
from cmdop_appliance.store import commands as rows
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.idempotency import Once, claim
from cmdop_appliance.store.transaction import Tx, brief, reads

# Commands that are kept though unknown here: a machine may invent as many as it likes.
UNKNOWN_MOST: Final = 1000

_STATUS_OF_END: Final[dict[str, CommandStatus]] = {
    "timeout": "timeout",
    "cancelled": "cancelled",
    "failed": "failed",
    "lost": "lost",
    "expired": "expired",
}


class StaleConnection(Exception):
    """A newer connection of the machine has taken over, or it was removed."""


# ── recorded ─────────────────────────────────────────────────────────────────────────────────────


@brief
def start(tx: Tx, caller: Caller, command: Command, once: Once | None) -> list[Command]:
    """The command first, then those whose place it takes.

    Raises:
        MachineNotFound, SessionNotActive, Forbidden, IdempotencyConflict: nothing was recorded.
    """
    if once is not None:
        made = claim(tx, once, command.id).made_id
        if made != command.id:
            return [rows.get(tx, caller.reach, made)]
    _require_operator(tx, caller, command.machine_id)
    placed = ends.placed(tx, caller.reach, command)
    rows.insert(tx, placed)
    _record(tx, caller, placed.created_ms, "command.accepted", placed)
    return [placed, *ends.supersede(tx, placed, placed.created_ms)]


def start_batch(
    tx: Tx,
    log: Audit,
    caller: Caller,
    batch: Batch,
    new: list[Command],
    once: Once | None,
    resumes: str | None = None,
) -> tuple[Batch, list[Command]]:
    """The batch, and its commands; machines that take none are in `batch.refused`.

    Raises:
        Conflict, IdempotencyConflict: nothing was recorded; `resumes` was resumed before.
        Forbidden: nothing was recorded; an observer must not use up the one way to resume.
    """
    if once is not None:
        made = claim(tx, once, batch.id).made_id
        if made != batch.id:
            first = batches.get(tx, Reach(batch.workspace_id), made)
            return first, batches.commands_of(tx, caller.reach, made)
    if resumes is not None:
        for command in new:
            _require_operator(tx, caller, command.machine_id)
    taken: list[Command] = []
    refused: dict[str, Refusal] = {}
    for command in new:
        try:
            _require_operator(tx, caller, command.machine_id)
            taken.append(ends.placed(tx, caller.reach, command))
        except ApplianceError as exc:
            refused[command.machine_id] = Refusal(exc.code, exc.message, exc.details)
    batch = msgspec.structs.replace(batch, refused=refused)
    batches.insert(tx, batch)
    if resumes is not None and not batches.resume(tx, resumes, batch.id):
        raise Conflict("this batch was resumed before", batch_id=resumes)
    _record_batch(tx, log, caller, batch, taken, resumes)
    changed: dict[str, Command] = {}
    for command in taken:
        held = msgspec.structs.replace(command, session_id=None, is_held=True)
        rows.insert(tx, held)
        changed[held.id] = held
    changed |= {each.id: each for each in ends.move_on(tx, batch, batch.created_ms)}
    return batch, list(changed.values())


@reads
def rest_of(tx: Tx, caller: Caller, batch_id: str) -> tuple[Batch, list[Command]]:
    """A batch, and those of its commands that were skipped.

    Raises:
        BatchNotFound: no such batch is in reach.
        Conflict: nothing of it was skipped, or not all of it is in reach: it is resumed once.
    """
    batch = batches.get(tx, caller.reach, batch_id)
    commands = batches.commands_of(tx, Reach(caller.workspace_id), batch_id)
    if caller.tags and commands != batches.commands_of(tx, caller.reach, batch_id):
        raise Conflict("this key does not reach all machines of this batch", batch_id=batch_id)
    skipped = [each for each in commands if each.status == "skipped"]
    if not skipped:
        raise Conflict("nothing of this batch was skipped", batch_id=batch_id)
    return batch, skipped


def adopt(
    tx: Tx,
    machine: Machine,
    epoch: int,
    session_id: str,
    command_ids: list[str],
    now_ms: int,
) -> list[Command]:
    """Keep commands of which their machine knows more: this hub was restored from a backup.

    In that there is nothing of them, or they wait for being sent, or have ended as never sent.
    Those whose id is known, for another machine, are left out, and what is too much.

    Raises:
        StaleConnection: a newer connection speaks for the machine.
    """
    if machines.epoch_of(tx, machine.id) != epoch:
        raise StaleConnection
    adopted = []
    room = max(0, UNKNOWN_MOST - rows.count_unknown(tx, machine.id))
    for command_id in command_ids:
        if (unsent := rows.reopen_unsent(tx, machine.id, session_id, command_id)) is not None:
            adopted.append(unsent)
            continue
        if not room or rows.exists(tx, command_id):
            continue
        room -= 1
        made = min(made_ms(command_id), now_ms)
        command = Command(
            id=command_id,
            workspace_id=machine.workspace_id,
            machine_id=machine.id,
            session_id=session_id,
            command="",
            spec=Spec(argv=[""]),
            spec_hash=b"",
            status="running",
            operator="",
            created_ms=made,
            start_until_ms=made,
            is_bounded=True,
            is_unknown_to_hub=True,
        )
        rows.insert(tx, command)
        adopted.append(command)
    return adopted


# ── started and ended, as the machine says ───────────────────────────────────────────────────────


@reads
def own(tx: Tx, machine_id: str, epoch: int, command_id: str) -> Command:
    """A command of which this connection of its machine may speak.

    Raises:
        CommandNotFound: it is not this machine's.
        StaleConnection: a newer connection speaks for the machine.
    """
    command = rows.of_connection(tx, machine_id, epoch, command_id)
    if command is None:
        if machines.epoch_of(tx, machine_id) != epoch:
            raise StaleConnection
        raise CommandNotFound("not a command of this machine", command_id=command_id)
    return command


@brief
def accepted(tx: Tx, machine_id: str, epoch: int, command_ids: Iterable[str]) -> None:
    """These wait on their machine: if they are dispatched once more, it is as for the first time.

    Raises:
        CommandNotFound, StaleConnection: as `own`; nothing was recorded.
    """
    for command_id in command_ids:
        rows.accept(tx, own(tx, machine_id, epoch, command_id).id, machine_id)


@brief
def started(tx: Tx, machine_id: str, epoch: int, message: Started, now_ms: int) -> Command | None:
    """The record of a command that runs now. None: that was known, or it has ended since."""
    command = own(tx, machine_id, epoch, message.id)
    started_ms = between(command.created_ms, message.started_ms, now_ms)
    if not rows.started(tx, command.id, machine_id, started_ms):
        return None
    command = msgspec.structs.replace(command, status="running", started_ms=started_ms)
    ends.tell(tx, "command.started", command, now_ms)
    return command


@brief
def finished(
    tx: Tx,
    machine_id: str,
    epoch: int,
    ends: list[tuple[Finished, dict[StreamName, int]]],
    unsafe: list[Unsafe],
    now_ms: int,
) -> list[list[Command]]:
    """For each end what changed: the record first, as its machine tells it.

    Nothing, if an end was there before: it stands. Of a stream of which more bytes are held, the
    numbers beside an end, than it tells of, a power cut has taken the rest from the machine: what
    is held counts, and nobody knows the hash.
    """
    return [
        _finished(
            tx,
            own(tx, machine_id, epoch, message.id),
            message,
            held,
            [item for item in unsafe if item.command_id == message.id],
            now_ms,
        )
        for message, held in ends
    ]


def _finished(
    tx: Tx,
    command: Command,
    message: Finished,
    held: dict[StreamName, int],
    unsafe: list[Unsafe],
    now_ms: int,
) -> list[Command]:
    if command.finished_ms is not None:
        return []
    status = _STATUS_OF_END.get(message.end, "completed" if message.exit_code == 0 else "failed")
    started_ms = command.started_ms
    if started_ms is None and message.started_ms is not None:
        started_ms = between(command.created_ms, message.started_ms, now_ms)
        begun = msgspec.structs.replace(command, status="running", started_ms=started_ms)
        ends.tell(tx, "command.started", begun, now_ms)
    finished_ms = now_ms
    if started_ms is not None and message.duration_ms is not None:
        finished_ms = between(started_ms, started_ms + message.duration_ms, now_ms)
    save_all(tx, unsafe)
    stdout, stderr = message.stdout, message.stderr
    return ends.end(
        tx,
        msgspec.structs.replace(
            command,
            status=status,
            started_ms=started_ms,
            finished_ms=finished_ms,
            duration_ms=message.duration_ms,
            exit_code=message.exit_code if message.end == "exited" else None,
            signal=message.signal,
            error_code=message.reason,
            error_message=message.message,
            stdout_bytes=max(stdout.bytes, held["stdout"]),
            stderr_bytes=max(stderr.bytes, held["stderr"]),
            stdout_sha256=stdout.sha256 if stdout.bytes >= held["stdout"] else None,
            stderr_sha256=stderr.sha256 if stderr.bytes >= held["stderr"] else None,
        ),
        now_ms,
    )


def rejected(
    tx: Tx, log: Audit, machine_id: str, epoch: int, command_id: str, reason: str, now_ms: int
) -> list[Command]:
    """As `ends.end`, for a command that its machine refuses to start or to know."""
    command = own(tx, machine_id, epoch, command_id)
    if command.finished_ms is None:
        entry = Entry.by_hub(
            now_ms,
            "command.rejected",
            command_id,
            workspace_id=command.workspace_id,
            machine_id=machine_id,
        )
        log.append(tx, machine_id, entry.refused())
    return ends.end_here(tx, command, "failed", reason, "the machine refused the command", now_ms)


def unknown(
    tx: Tx, machine_id: str, epoch: int, command_id: str, reason: str, now_ms: int
) -> list[Command]:
    """As `ends.end`, for a command that was sent, and of which its machine knows nothing."""
    command = own(tx, machine_id, epoch, command_id)
    return ends.end_here(
        tx, command, "lost", reason, "the machine knows nothing of this command", now_ms
    )


def unfit(
    tx: Tx, machine_id: str, epoch: int, command_id: str, code: str, message: str, now_ms: int
) -> list[Command]:
    """As `ends.end`, for a command that was not sent: its machine's agent cannot carry it out."""
    return ends.end_here(
        tx, own(tx, machine_id, epoch, command_id), "failed", code, message, now_ms
    )


# ── ended, as the hub knows ──────────────────────────────────────────────────────────────────────


def cancel(tx: Tx, caller: Caller, command_id: str, now_ms: int) -> list[Command]:
    """The record first; it ends here if it certainly was never sent, it has no session.

    Raises:
        CommandNotFound, CommandNotRunning, Forbidden: nothing was recorded.
    """
    before = rows.get(tx, caller.reach, command_id)
    _require_operator(tx, caller, before.machine_id)
    command = rows.request_cancel(tx, caller.reach, command_id, now_ms)
    if before.cancel_requested_ms is None:
        _record(tx, caller, now_ms, "command.cancelled", command)
    if command.session_id is not None:
        return [command]
    return ends.end_here(tx, command, "cancelled", None, "", now_ms)


def remove_machine(tx: Tx, caller: Caller, machine_id: str, now_ms: int) -> list[Command]:
    """Take a machine out; what it may have heard of is lost.

    Raises:
        MachineNotFound: the workspace has no such machine.
    """
    machine = machines.remove(tx, caller.reach, machine_id, now_ms)
    audit.append(tx, Entry.by(caller, now_ms, "machine.removed", machine_id))
    sessions.end_of(tx, machine_id, now_ms)
    changed = []
    for terminal in terminals.live_of(tx, machine_id):
        terminals.end(
            tx,
            terminal,
            "lost",
            ended_ms=now_ms,
            now_ms=now_ms,
            code="machine_removed",
            message="the machine was removed while the terminal was open",
        )
    for command in rows.open_on(tx, machine_id):
        was_sent = command.session_id is not None
        message = "the machine was removed while the command was open"
        status: CommandStatus = "lost" if was_sent else "cancelled"
        changed += ends.end_here(tx, command, status, "machine_removed", message, now_ms)
    hostname = machine.facts.hostname
    events.append(
        tx,
        machine.workspace_id,
        "machine.removed",
        subject=machine_id,
        machine_id=machine_id,
        data={"machine_id": machine_id, "hostname": hostname, "name": machine.name},
        now_ms=now_ms,
    )
    return changed


def sweep(tx: Tx, now_ms: int, silent_before_ms: int) -> list[Command]:
    """End what waited too long for its machine, and give up on machines that are silent."""
    presence.detach_keyless(tx, now_ms)
    changed = []
    for command in rows.unsent_since(tx, now_ms):
        code = None if command.is_queued else SessionNotActive.code
        changed += ends.end_here(tx, command, "expired", code, ends.NOT_THERE, now_ms)
    for command in rows.silent_since(tx, silent_before_ms):
        message = "its machine has not been heard of for long; its true end counts if it returns"
        changed += ends.end_here(tx, command, "lost", rows.SILENT, message, now_ms)
    return changed


def ready(
    tx: Tx, session_id: str, epoch: int, machine_id: str, now_ms: int
) -> list[Command] | None:
    """A machine is CONNECTED: what was sent to it, or is to be sent now, in one transaction.

    None: the session is over, or a newer connection has it.
    """
    if not sessions.ready(tx, session_id, epoch, now_ms):
        return None
    rows.reopen_silent(tx, machine_id)
    rows.send_queued(tx, machine_id, session_id, now_ms)
    return rows.sent_to(tx, machine_id)


# ── inside ───────────────────────────────────────────────────────────────────────────────────────


def _require_operator(tx: Tx, caller: Caller, machine_id: str) -> None:
    """Every command that enters a machine comes through here: only who may do more than look."""
    clients.require_operator(tx, caller.key_id, machine_id)


def _record(tx: Tx, caller: Caller, at_ms: int, action: Action, command: Command) -> None:
    machine_id = command.machine_id
    audit.append(tx, Entry.by(caller, at_ms, action, command.id, machine_id=machine_id))


def _record_batch(
    tx: Tx, log: Audit, caller: Caller, batch: Batch, taken: list[Command], resumes: str | None
) -> None:
    action: Action = "batch.accepted" if resumes is None else "batch.resumed"
    more = {} if resumes is None else {"resumes": resumes}
    entry = partial(Entry.by, caller, batch.created_ms, action, batch.id, **more)
    started = entry(machine_ids=[command.machine_id for command in taken])
    if taken:
        audit.append(tx, started)
    else:
        log.append(tx, caller.key_id, started)
    forbidden = [
        machine_id for machine_id, why in batch.refused.items() if why.code == Forbidden.code
    ]
    if forbidden:
        log.append(tx, caller.key_id, entry(machine_ids=forbidden).refused())


def between(low: int, value: int, high: int) -> int:
    """A time that a machine tells, held to what the hub's own clock allows."""
    return max(low, min(value, high))
