"""What becomes of the runs of schedules, told by events in the transaction that ends them."""

from typing import Any

from cmdop_appliance.clock import rfc3339
from cmdop_appliance.model import Command, EventType, Run, Schedule
from cmdop_appliance.store import events, runs, schedules
from cmdop_appliance.store.transaction import Tx


def ended(tx: Tx, command: Command, now_ms: int) -> None:
    """A command of a schedule has ended: its run is the last one, and told as is wished."""
    assert command.schedule_id is not None
    assert command.run_id is not None
    schedule = schedules.find(tx, command.schedule_id)
    run = runs.get(tx, command.run_id)
    if schedule is None or run is None:  # it was deleted since
        return
    kind = _kind_of(schedule, command)
    if command.started_ms is not None:
        schedules.set_last(tx, schedule.id, run.id, now_ms)
    if kind is not None:
        has_begun = command.started_ms is not None
        more = {
            "status": command.status,
            "reason": command.error_code or (None if has_begun else command.status),
            "message": command.error_message,
            "exit_code": command.exit_code,
            "duration": command.duration_ms,
            "late": command.is_late,
        }
        tell(tx, kind, schedule, run, now_ms, **more)


def tell(
    tx: Tx, kind: EventType, schedule: Schedule, run: Run, now_ms: int, **more: object
) -> None:
    """Record an event about a run of a schedule."""
    data: dict[str, Any] = {
        "schedule_id": schedule.id,
        "name": schedule.name,
        "run_id": run.id,
        "scheduled_at": None if run.scheduled_ms is None else rfc3339(run.scheduled_ms),
        "machine_id": run.machine_id,
        "command_id": run.command_id,
        "status": run.status,
        "reason": run.reason,
        "message": run.message,
    }
    events.append(
        tx,
        schedule.workspace_id,
        kind,
        subject=schedule.id,
        machine_id=run.machine_id,
        data=data | more,
        now_ms=now_ms,
    )


def _kind_of(schedule: Schedule, command: Command) -> EventType | None:
    if command.status == "completed":
        return "schedule.completed" if schedule.notify.on_success else None
    if command.started_ms is None and command.status in ("expired", "cancelled"):
        return "schedule.missed"
    return "schedule.failed" if schedule.notify.on_failure else None
