"""Firings: which schedules have come due, on which machines, and the rows that they leave.

A firing is decided for good with the transaction that enters its rows: the run with position 0 is
the claim of (schedule, instant), and no second one can be entered.
"""

from collections.abc import Iterable
from typing import Any, Final

from cmdop_appliance.model import Command, Record, Schedule
from cmdop_appliance.store.conditions import IS_CONNECTED, IS_CURRENT, IS_OPEN
from cmdop_appliance.store.transaction import Tx, reads

# A clock that was set back by more than this was wrong before (semantics.md, Schedules 4).
BACK_MS: Final = 3 * 3_600_000

# What has come due, up to the last of those that are decided together.
_IS_DUE: Final = "(schedule.next_ms, schedule.id) <= (:until_ms, :until_id)"
# SQLite takes the tables of a CROSS JOIN in the order in which they stand: from the schedules on.
_LIVE: Final = (
    f"LEFT JOIN session ON session.machine_id = machine.id AND {IS_CURRENT} AND {IS_CONNECTED}"
)


class Member(Record, frozen=True, kw_only=True):
    """A machine that a firing is for."""

    schedule_id: str
    machine_id: str
    session_id: str | None  # through which commands reach it now


class _Decided(Record, frozen=True, kw_only=True):
    schedule_id: str
    scheduled_ms: int
    is_claimed: bool


@reads
def next_due(tx: Tx, now_ms: int) -> int | None:
    """When there is something to decide, ms since 1970; not later than `now_ms` if at once."""
    if tx.value(
        "SELECT 1 FROM schedule WHERE next_ms IS NOT NULL AND decided_ms > :ahead_ms LIMIT 1",
        ahead_ms=now_ms + BACK_MS,
    ):
        return now_ms
    at_ms: int | None = tx.value("SELECT min(next_ms) FROM schedule WHERE next_ms IS NOT NULL")
    return at_ms


@reads
def due(tx: Tx, now_ms: int, most: int) -> list[Schedule]:
    """The schedules that have come due, the first first."""
    return tx.all(
        Schedule,
        "SELECT * FROM schedule WHERE next_ms <= :now_ms ORDER BY next_ms, id LIMIT :most",
        now_ms=now_ms,
        most=most,
    )


@reads
def ahead(tx: Tx, now_ms: int, most: int) -> list[Schedule]:
    """Schedules that were decided by a clock which was wrong, as it tells now."""
    return tx.all(
        Schedule,
        "SELECT * FROM schedule WHERE next_ms IS NOT NULL AND decided_ms > :ahead_ms LIMIT :most",
        ahead_ms=now_ms + BACK_MS,
        most=most,
    )


@reads
def enabled(tx: Tx) -> list[Schedule]:
    """The schedules that fire."""
    return tx.all(Schedule, "SELECT * FROM schedule WHERE next_ms IS NOT NULL")


@reads
def members_due(tx: Tx, last: Schedule) -> list[Member]:
    """The machines of all schedules that have come due, up to `last`, in no order."""
    return tx.all(Member, _members(_IS_DUE), **_until(last))


@reads
def members(tx: Tx, schedule_id: str) -> list[Member]:
    """The machines that a schedule is for now, in no order."""
    return tx.all(Member, _members("schedule.id = :id"), id=schedule_id)


@reads
def open_due(tx: Tx, last: Schedule) -> list[Command]:
    """The commands that have not ended of all schedules that have come due, up to `last`."""
    return tx.all(
        Command,
        "SELECT command.* FROM schedule CROSS JOIN command"  # noqa: S608
        f" WHERE {_IS_DUE} AND command.schedule_id = schedule.id AND {IS_OPEN}"
        " ORDER BY command.created_ms, command.id",
        **_until(last),
    )


@reads
def unsent(tx: Tx, schedule_id: str) -> list[Command]:
    """The commands of a schedule that wait for their machines."""
    return tx.all(
        Command,
        f"SELECT * FROM command WHERE schedule_id = :id AND {IS_OPEN}"  # noqa: S608
        " AND session_id || '' IS NULL",
        id=schedule_id,
    )


@reads
def decided_due(tx: Tx, last: Schedule, now_ms: int) -> dict[tuple[str, int], bool]:
    """(schedule, instant) of what was decided before and comes again: the clock was set back.

    True: it is claimed, and must not be fired again.
    """
    found = tx.all(
        _Decided,
        "SELECT run.schedule_id, run.scheduled_ms,"  # noqa: S608
        " run.claim_ms IS NOT NULL AS is_claimed FROM schedule CROSS JOIN run"
        f" WHERE {_IS_DUE} AND run.schedule_id = schedule.id"
        " AND run.scheduled_ms >= schedule.next_ms AND run.scheduled_ms <= :now_ms",
        now_ms=now_ms,
        **_until(last),
    )
    decided: dict[tuple[str, int], bool] = {}
    for each in found:
        instant = each.schedule_id, each.scheduled_ms
        decided[instant] = each.is_claimed or decided.get(instant, False)
    return decided


def decide(tx: Tx, decided: Iterable[tuple[str, int | None]], now_ms: int) -> None:
    """Record for each schedule which instant is the next; None: it is disabled from now on."""
    tx.many(
        "UPDATE schedule SET next_ms = :next_ms, decided_ms = :now_ms,"
        " is_enabled = CASE WHEN :next_ms IS NULL THEN 0 ELSE 1 END WHERE id = :id",
        ({"id": id_, "next_ms": next_ms, "now_ms": now_ms} for id_, next_ms in decided),
    )


def move(tx: Tx, moved: Iterable[tuple[Schedule, int | None]]) -> None:
    """Record that schedules come due at another instant, unless that has changed meanwhile."""
    tx.many(
        "UPDATE schedule SET next_ms = :next_ms,"
        " is_enabled = CASE WHEN :next_ms IS NULL THEN 0 ELSE 1 END"
        " WHERE id = :id AND next_ms = :before_ms",
        (
            {"id": schedule.id, "next_ms": next_ms, "before_ms": schedule.next_ms}
            for schedule, next_ms in moved
        ),
    )


def mark_ahead(tx: Tx, schedule_id: str, now_ms: int) -> None:
    """Mark what a clock that was ahead has fired or missed, though its time is still to come.

    What has run keeps its claim. What has not may run yet: its row makes way.
    """
    tx.execute(
        "UPDATE run SET is_ahead = 1 WHERE schedule_id = :id AND claim_ms > :now_ms",
        id=schedule_id,
        now_ms=now_ms,
    )
    tx.execute(
        "UPDATE run SET claim_ms = NULL WHERE schedule_id = :id AND claim_ms > :now_ms"
        " AND NOT EXISTS (SELECT 1 FROM run AS other WHERE other.schedule_id = run.schedule_id"
        " AND other.claim_ms = run.claim_ms AND other.command_id IS NOT NULL)",
        id=schedule_id,
        now_ms=now_ms,
    )


def _members(which: str) -> str:
    """The query for the machines of these schedules: those they name, and those with all tags."""
    is_there = "machine.workspace_id = schedule.workspace_id AND machine.removed_ms IS NULL"
    return (
        "SELECT schedule.id AS schedule_id, machine.id AS machine_id, session.id AS session_id"  # noqa: S608
        f" FROM schedule CROSS JOIN schedule_machine CROSS JOIN machine {_LIVE}"
        f" WHERE {which} AND schedule_machine.schedule_id = schedule.id"
        f" AND machine.id = schedule_machine.machine_id AND {is_there}"
        " UNION ALL SELECT schedule.id, machine.id, session.id"
        f" FROM schedule CROSS JOIN schedule_tag CROSS JOIN machine_tag CROSS JOIN machine {_LIVE}"
        f" WHERE {which} AND schedule_tag.schedule_id = schedule.id"
        " AND machine_tag.tag = schedule_tag.tag"
        f" AND machine.id = machine_tag.machine_id AND {is_there}"
        # By next_ms first: that is how the schedules are found.
        " GROUP BY schedule.next_ms, schedule.id, machine.id, session.id"
        " HAVING count(*) = (SELECT count(*) FROM schedule_tag AS every"
        " WHERE every.schedule_id = schedule.id)"
    )


def _until(last: Schedule) -> dict[str, Any]:
    return {"until_ms": last.next_ms, "until_id": last.id}
