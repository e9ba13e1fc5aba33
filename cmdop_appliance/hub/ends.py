"""How commands come to their ends and into their turn, within the transactions of `lifecycle`.

What ends a command also moves its batch on, and tells of the run of its schedule, so that no crash
comes in between.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from cmdop_appliance.auth import Reach
from cmdop_appliance.clock import rfc3339
from cmdop_appliance.errors import ApplianceError, SessionNotActive
from cmdop_appliance.hub import runs
from cmdop_appliance.model import Batch, Command, CommandStatus, EventType
from cmdop_appliance.store import batches, events
from cmdop_appliance.store import commands as rows
from cmdop_appliance.store.transaction import Tx

NOT_THERE: Final = "the machine was not there when its turn came"
# What was skipped never had its turn: its batch tells of it, no event does.
_EVENT_OF_END: Final[dict[CommandStatus, EventType]] = {
    "completed": "command.completed",
    "failed": "command.failed",
    "cancelled": "command.cancelled",
    "timeout": "command.timeout",
    "lost": "command.lost",
    "expired": "command.expired",
}


def end(tx: Tx, ended: Command, now_ms: int) -> list[Command]:
    """The record first; none, if an end was there before: that is the one that counts."""
    if not rows.finish(tx, ended):
        return []
    ended = msgspec.structs.replace(ended, is_held=False)
    tell(tx, _EVENT_OF_END[ended.status], ended, now_ms)
    if ended.run_id is not None:
        runs.ended(tx, ended, now_ms)
    if ended.batch_id is None:
        return [ended]
    batch = batches.get(tx, Reach(ended.workspace_id), ended.batch_id)
    return [ended, *move_on(tx, batch, now_ms)]


def end_here(
    tx: Tx, command: Command, status: CommandStatus, code: str | None, message: str, now_ms: int
) -> list[Command]:
    """`end` for what no machine says."""
    return end(
        tx,
        msgspec.structs.replace(
            command,
            status=status,
            finished_ms=max(command.created_ms, now_ms),
            error_code=code,
            error_message=message if code else None,
        ),
        now_ms,
    )


# ── turns ────────────────────────────────────────────────────────────────────────────────────────


def placed(tx: Tx, reach: Reach, command: Command) -> Command:
    """The command with the session through which it is sent at once, if there is one."""
    try:
        session_id = rows.live_session(tx, reach, command.machine_id)
    except SessionNotActive:
        if not command.is_queued:
            raise
        return command
    return msgspec.structs.replace(command, session_id=session_id)


def supersede(tx: Tx, command: Command, now_ms: int) -> list[Command]:
    """End the unsent commands whose place a new one takes."""
    if command.supersede_key is None:
        return []
    changed = []
    for older in rows.superseded_by(tx, command):
        message = _took_place(command.id)
        changed += end_here(tx, older, "cancelled", "superseded", message, now_ms)
    return changed


def _took_place(newer_id: str) -> str:
    return f"{newer_id} took its place before it was sent"


def move_on(tx: Tx, batch: Batch, now_ms: int) -> Iterator[Command]:
    """Let the next commands of a batch go, or skip them all; yields those that changed."""
    while (progress := batches.progress(tx, batch.id)).held:
        is_tried = progress.completed >= batch.canary
        errors = progress.failed + len(batch.refused)
        if (not is_tried and progress.failed) or (
            batch.max_errors is not None and errors > batch.max_errors
        ):
            message = f"its batch {batch.id} was stopped by errors; resume it on the rest"
            yield from rows.skip_held(tx, batch.id, "batch_stopped", message, now_ms)
            return
        room = batch.concurrency
        if not is_tried:
            room = min(room, batch.canary - progress.completed)
        turn = batches.held(tx, batch.id, max(0, room - progress.under_way))
        if not turn:
            return
        gone = [each for command in turn for each in _let_go(tx, command, now_ms)]
        yield from gone
        for command in gone:  # only now: what they make way for must see all of them
            if command.finished_ms is None:
                yield from supersede(tx, command, now_ms)


def _let_go(tx: Tx, command: Command, now_ms: int) -> Iterator[Command]:
    wait_ms = command.start_until_ms - command.created_ms
    command = msgspec.structs.replace(command, is_held=False, start_until_ms=now_ms + wait_ms)
    if command.supersede_key and (newer := rows.superseder_of(tx, command)):
        yield from _end_turn(tx, command, "cancelled", "superseded", _took_place(newer), now_ms)
        return
    try:
        command = placed(tx, Reach(command.workspace_id), command)
    except ApplianceError as exc:  # it went away while others had their turn
        if exc.details.get("current_status", "DISCONNECTED") == "DISCONNECTED":
            yield from _end_turn(tx, command, "expired", exc.code, NOT_THERE, now_ms)
            return
        # For a moment, as far as anybody knows: after a hub start every machine is away like this.
    if rows.place(tx, command):
        yield command


def _end_turn(
    tx: Tx, command: Command, status: CommandStatus, code: str, message: str, now_ms: int
) -> Iterator[Command]:
    """The end of a command whose batch looks itself at what comes next."""
    ended = msgspec.structs.replace(
        command, status=status, finished_ms=now_ms, error_code=code, error_message=message
    )
    if rows.finish(tx, ended):
        tell(tx, _EVENT_OF_END[ended.status], ended, now_ms)
        yield ended


def tell(tx: Tx, kind: EventType, command: Command, now_ms: int) -> None:
    """Record an event about a command."""
    events.append(
        tx,
        command.workspace_id,
        kind,
        subject=command.id,
        machine_id=command.machine_id,
        data={
            "command_id": command.id,
            "status": command.status,
            "machine_id": command.machine_id,
            "session_id": command.session_id,
            "batch_id": command.batch_id,
            "schedule_id": command.schedule_id,
            "exit_code": command.exit_code,
            "duration": command.duration_ms,
            "started_at": _shown(command.started_ms),
            "finished_at": _shown(command.finished_ms),
            "user_email": command.operator,
            "late": command.is_late,
        },
        now_ms=now_ms,
    )


def _shown(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)
