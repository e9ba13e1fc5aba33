"""Schedules: what runs where by which rule, and who may know of it."""

from typing import Any, Final

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import Conflict, ScheduleNotFound
from cmdop_appliance.model import Schedule
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.transaction import Tx, reads, to_json

ORDER: Final = {
    "created_at": "schedule.created_ms",
    "updated_at": "schedule.updated_ms",
    "name": "schedule.name",
    "next_run": "schedule.next_ms",
}
# Schedules of one workspace: who needs more means one for many machines.
MOST: Final = 10_000

# With these a record tells of its last run.
_COLUMNS: Final = (
    "schedule.*, command.started_ms AS last_at_ms, command.exit_code AS last_exit_code,"
    " command.duration_ms AS last_duration_ms"
)
_SOURCE: Final = (
    "schedule LEFT JOIN run ON run.id = schedule.last_run_id"
    " LEFT JOIN command ON command.id = run.command_id"
)
# It names the machine, or the machine carries all of its tags now.
_INCLUDES: Final = (
    "(EXISTS (SELECT 1 FROM schedule_machine WHERE schedule_machine.schedule_id = schedule.id"
    " AND schedule_machine.machine_id = :machine_id)"
    " OR schedule.tags_json IS NOT NULL AND EXISTS (SELECT 1 FROM machine AS member"
    " WHERE member.id = :machine_id AND member.workspace_id = schedule.workspace_id"
    " AND member.removed_ms IS NULL AND NOT EXISTS (SELECT 1 FROM schedule_tag"
    " WHERE schedule_tag.schedule_id = schedule.id AND NOT EXISTS (SELECT 1 FROM machine_tag"
    " WHERE machine_tag.machine_id = member.id AND machine_tag.tag = schedule_tag.tag))))"
)


def insert(tx: Tx, schedule: Schedule) -> None:
    """Record a new schedule.

    Raises:
        Conflict: the workspace has `MOST`.
    """
    held = tx.value(
        "SELECT count(*) FROM schedule WHERE workspace_id = :workspace_id",
        workspace_id=schedule.workspace_id,
    )
    if held >= MOST:
        raise Conflict(
            f"this workspace has {MOST} schedules, and no more can be",
            hint="delete some, or let one schedule run on many machines (machine_ids, tags)",
        )
    tx.execute(
        "INSERT INTO schedule (id, workspace_id, name, description, machine_id, machine_ids_json,"
        " tags_json, command, spec_json, cron, timezone, is_enabled, overlap, misfire,"
        " misfire_window_ms, notify_json, operator, created_ms, updated_ms, next_ms, decided_ms)"
        " VALUES (:id, :workspace_id, :name, :description, :machine_id, :machine_ids, :tags,"
        " :command, :spec, :cron, :timezone, :is_enabled, :overlap, :misfire, :misfire_window_ms,"
        " :notify, :operator, :created_ms, :updated_ms, :next_ms, :decided_ms)",
        workspace_id=schedule.workspace_id,
        created_ms=schedule.created_ms,
        **_columns(schedule),
    )
    _name_members(tx, schedule)


@reads
def get(tx: Tx, reach: Reach, schedule_id: str) -> Schedule:
    """One schedule, with its last run.

    Raises:
        ScheduleNotFound: no such schedule is in reach.
    """
    is_within, values = _within(reach)
    schedule = tx.one(
        Schedule,
        f"SELECT {_COLUMNS} FROM {_SOURCE} WHERE schedule.id = :id AND {is_within}",  # noqa: S608
        id=schedule_id,
        **values,
    )
    if schedule is None:
        raise ScheduleNotFound("Schedule not found", schedule_id=schedule_id)
    return schedule


@reads
def find(tx: Tx, schedule_id: str) -> Schedule | None:
    """A schedule that is there still."""
    return tx.one(Schedule, "SELECT * FROM schedule WHERE id = :id", id=schedule_id)


@reads
def page(
    tx: Tx,
    reach: Reach,
    paging: Paging,
    *,
    machine_id: str | None = None,
    is_enabled: bool | None = None,
) -> Page[Schedule]:
    """The schedules in reach, with their last runs; `machine_id`: those that include it now."""
    return select_page(
        tx,
        Schedule,
        paging,
        columns=_COLUMNS,
        source=_SOURCE,
        within=_within(reach),
        filters={
            _INCLUDES: machine_id,
            "schedule.is_enabled = :is_enabled": None if is_enabled is None else int(is_enabled),
        },
        order=ORDER,
        key="schedule.id",
    )


def update(tx: Tx, before: Schedule, after: Schedule) -> None:
    """Record a schedule as it is from now on."""
    tx.execute(
        "UPDATE schedule SET name = :name, description = :description, machine_id = :machine_id,"
        " machine_ids_json = :machine_ids, tags_json = :tags, command = :command,"
        " spec_json = :spec, cron = :cron, timezone = :timezone, is_enabled = :is_enabled,"
        " overlap = :overlap, misfire = :misfire, misfire_window_ms = :misfire_window_ms,"
        " notify_json = :notify, operator = :operator, updated_ms = :updated_ms,"
        " next_ms = :next_ms,"
        " decided_ms = :decided_ms WHERE id = :id",
        **_columns(after),
    )
    if named(before) != named(after) or before.tags != after.tags:
        _forget_members(tx, after.id)
        _name_members(tx, after)


def set_last(tx: Tx, schedule_id: str, run_id: str, now_ms: int) -> None:
    """Record which run was the last to end; the end of an older one does not count any more.

    Unless what counts so far came while the clock was ahead.
    """
    tx.execute(
        "UPDATE schedule SET last_run_id = :run_id WHERE id = :id"
        " AND (coalesce(last_run_id, '') < :run_id OR EXISTS (SELECT 1 FROM run"
        " WHERE run.id = schedule.last_run_id AND run.created_ms > :now_ms))",
        id=schedule_id,
        run_id=run_id,
        now_ms=now_ms,
    )


def delete(tx: Tx, schedule_id: str) -> None:
    """Take a schedule out; what it left behind is forgotten bit by bit (`runs.forget`)."""
    _forget_members(tx, schedule_id)
    tx.execute("DELETE FROM schedule WHERE id = :id", id=schedule_id)
    tx.execute("INSERT INTO schedule_gone (id) VALUES (:id)", id=schedule_id)


def named(schedule: Schedule) -> list[str]:
    """The machines that a schedule names, one or many; none, if it is for those with tags."""
    return schedule.machine_ids or ([schedule.machine_id] if schedule.machine_id else [])


def _columns(schedule: Schedule) -> dict[str, Any]:
    """What may change of a schedule, and its id."""
    return {
        "id": schedule.id,
        "operator": schedule.operator,
        "name": schedule.name,
        "description": schedule.description,
        "machine_id": schedule.machine_id,
        "machine_ids": _json_or_null(schedule.machine_ids),
        "tags": _json_or_null(schedule.tags),
        "command": schedule.command,
        "spec": to_json(schedule.spec),
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "is_enabled": int(schedule.is_enabled),
        "overlap": schedule.overlap,
        "misfire": schedule.misfire,
        "misfire_window_ms": schedule.misfire_window_ms,
        "notify": to_json(schedule.notify),
        "updated_ms": schedule.updated_ms,
        "next_ms": schedule.next_ms,
        "decided_ms": schedule.decided_ms,
    }


def _json_or_null(names: list[str] | None) -> str | None:
    return None if names is None else to_json(names)


def _name_members(tx: Tx, schedule: Schedule) -> None:
    tx.many(
        "INSERT INTO schedule_machine (schedule_id, machine_id) VALUES (:id, :machine_id)",
        [{"id": schedule.id, "machine_id": machine_id} for machine_id in named(schedule)],
    )
    tx.many(
        "INSERT INTO schedule_tag (schedule_id, tag) VALUES (:id, :tag)",
        [{"id": schedule.id, "tag": tag} for tag in schedule.tags or ()],
    )


def _forget_members(tx: Tx, schedule_id: str) -> None:
    tx.execute("DELETE FROM schedule_machine WHERE schedule_id = :id", id=schedule_id)
    tx.execute("DELETE FROM schedule_tag WHERE schedule_id = :id", id=schedule_id)


def _within(reach: Reach) -> tuple[str, dict[str, Any]]:
    """The condition that a schedule is in reach, and its parameters.

    A key that is restricted to tags reaches a schedule if it reaches every machine that this
    names, or that could come to carry all of its tags.
    """
    conditions = ["schedule.workspace_id = :workspace_id"]
    values: dict[str, Any] = {"workspace_id": reach.workspace_id}
    for number, tag in enumerate(reach.tags):
        conditions.append(
            "(EXISTS (SELECT 1 FROM schedule_tag WHERE schedule_tag.schedule_id = schedule.id"  # noqa: S608
            f" AND schedule_tag.tag = :reach_{number})"
            " OR schedule.tags_json IS NULL AND NOT EXISTS (SELECT 1 FROM schedule_machine"
            " WHERE schedule_machine.schedule_id = schedule.id AND NOT EXISTS"
            " (SELECT 1 FROM machine_tag"
            " WHERE machine_tag.machine_id = schedule_machine.machine_id"
            f" AND machine_tag.tag = :reach_{number})))"
        )
        values[f"reach_{number}"] = tag
    return " AND ".join(conditions), values
