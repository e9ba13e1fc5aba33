"""Runs: the history of a schedule, and how long it is kept."""

from collections.abc import Iterable
from typing import Final

from cmdop_appliance.auth import Reach
from cmdop_appliance.model import Command, Record, Run
from cmdop_appliance.store import commands
from cmdop_appliance.store.listing import Page, Paging
from cmdop_appliance.store.reach import within
from cmdop_appliance.store.transaction import Tx, is_any, reads

KEPT_MS: Final = 90 * 86_400_000
# Dropped at a time, once a second: more than a hub enters, and few enough to hold nobody up.
_FORGOTTEN: Final = 1000


class Past(Record, frozen=True, kw_only=True):
    """A line of a history: a run, and its command as it stands."""

    run: Run
    command: Command | None


def insert(tx: Tx, runs: Iterable[Run]) -> None:
    """Enter the rows of firings."""
    tx.many(
        "INSERT INTO run (id, workspace_id, schedule_id, scheduled_ms, claim_ms, position,"
        " first_ms, first_run_id, machine_id, command_id, status, reason, message, is_ahead,"
        " created_ms) VALUES (:id, :workspace_id, :schedule_id, :scheduled_ms, :claim_ms,"
        " :position, :first_ms, :first_run_id, :machine_id, :command_id, :status, :reason,"
        " :message, :is_ahead, :created_ms)",
        (
            {name: getattr(run, name) for name in run.__struct_fields__}
            | {"is_ahead": int(run.is_ahead)}
            for run in runs
        ),
    )


@reads
def get(tx: Tx, run_id: str) -> Run | None:
    """One run."""
    return tx.one(Run, "SELECT * FROM run WHERE id = :id", id=run_id)


@reads
def made_by_hand(tx: Tx, reach: Reach, run_id: str) -> list[Run]:
    """All runs of what was asked for together with this one."""
    return tx.all(
        Run,
        "SELECT run.* FROM run JOIN run AS first ON first.id = :id"
        " AND run.schedule_id = first.schedule_id AND run.created_ms = first.created_ms"
        " AND run.first_run_id = first.id WHERE run.workspace_id = :workspace_id"
        " ORDER BY run.position",
        id=run_id,
        workspace_id=reach.workspace_id,
    )


@reads
def page(
    tx: Tx, reach: Reach, schedule_id: str, paging: Paging, *, since_ms: int | None = None
) -> Page[Past]:
    """What became of a schedule, newest first, as far as it is about machines in reach, or none."""
    where = "run.schedule_id = :schedule_id"
    values: dict[str, object] = {"schedule_id": schedule_id}
    if since_ms is not None:
        where += " AND run.created_ms >= :since_ms"
        values["since_ms"] = since_ms
    if reach.tags:
        is_within, reached = within(reach, "run", by_index=False)
        where += f" AND (run.machine_id IS NULL OR {is_within})"
        values |= reached
    total = tx.value(f"SELECT count(*) FROM run WHERE {where}", **values)  # noqa: S608
    found = tx.all(
        Run,
        f"SELECT * FROM run WHERE {where}"  # noqa: S608 - names of our own
        " ORDER BY created_ms DESC, id DESC LIMIT :limit OFFSET :offset",
        limit=paging.limit,
        offset=paging.offset,
        **values,
    )
    started = _commands_of(tx, found)
    return Page(
        [Past(run=run, command=started.get(run.command_id)) for run in found], total, paging
    )


def forget(tx: Tx, now_ms: int) -> None:
    """Drop some of what is older than is promised, or of a schedule that was deleted.

    Called again and again, it drops all, but for the last run of a schedule that is there.
    """
    tx.execute(
        "DELETE FROM run WHERE id IN (SELECT run.id FROM run WHERE run.created_ms < :before"
        " AND NOT EXISTS (SELECT 1 FROM schedule WHERE schedule.id = run.schedule_id"
        " AND schedule.last_run_id = run.id) ORDER BY run.created_ms LIMIT :most)",
        before=now_ms - KEPT_MS,
        most=_FORGOTTEN,
    )
    gone = tx.value("SELECT min(id) FROM schedule_gone")
    if gone is None:
        return
    left = tx.execute(
        "DELETE FROM run WHERE id IN"
        " (SELECT id FROM run WHERE schedule_id = :schedule_id LIMIT :most)",
        schedule_id=gone,
        most=_FORGOTTEN,
    )
    if left < _FORGOTTEN:
        tx.execute("DELETE FROM schedule_gone WHERE id = :id", id=gone)


def _commands_of(tx: Tx, runs: Iterable[Run]) -> dict[str | None, Command]:
    """By id the commands of these runs, as they stand."""
    is_theirs, ids = is_any("id", (run.command_id for run in runs if run.command_id is not None))
    if not ids:
        return {}
    found = tx.all(
        Command,
        f"SELECT {commands.COLUMNS} FROM command WHERE {is_theirs}",  # noqa: S608
        **ids,
    )
    return {command.id: command for command in found}
