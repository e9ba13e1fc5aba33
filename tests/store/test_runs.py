"""Runs: the pages of a history, and what of it is forgotten."""

from collections.abc import Iterator

import apsw
import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.model import Run, Schedule
from cmdop_appliance.store import commands, machines, migrate, runs, schedules
from cmdop_appliance.store.listing import Paging
from cmdop_appliance.store.transaction import Tx
from tests.support import records
from tests.support.records import NOW, REACH, WORKSPACE

WEB = Reach(WORKSPACE, ("web",))


@pytest.fixture
def tx() -> Iterator[Tx]:
    with apsw.Connection(":memory:") as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        migrate.to_latest(Tx(connection))
        yield Tx(connection)


def made(tx: Tx, *tags: str) -> Schedule:
    machine = records.machine(tags=[*tags])
    machines.insert(tx, machine, "enr")
    schedule = records.schedule(machine.id)
    schedules.insert(tx, schedule)
    return schedule


def entered(tx: Tx, schedule: Schedule, number: int, **fields) -> list[Run]:
    """So many skipped firings, a second after each other."""
    made = [
        records.run(schedule, None, **{"created_ms": NOW + 1000 * each, **fields})
        for each in range(number)
    ]
    runs.insert(tx, made)
    return made


def held(tx: Tx, schedule: Schedule, reach: Reach = REACH, **filters) -> list[str]:
    page = runs.page(tx, reach, schedule.id, Paging(100), **filters)
    assert page.total == len(page.items)
    return [past.run.id for past in page.items]


def forgotten(tx: Tx, now_ms: int) -> list[str]:
    """Forget all that can be; the ids that are left, the oldest first."""
    before = None
    while before != (now := tx.value("SELECT count(*) FROM run")):
        before = now
        runs.forget(tx, now_ms)
    return [run.id for run in tx.all(Run, "SELECT * FROM run ORDER BY id")]


def test_a_history_comes_newest_first_page_by_page(tx):
    schedule, other = made(tx), made(tx)
    mine = entered(tx, schedule, 7) + entered(tx, schedule, 2, created_ms=NOW + 3000)
    entered(tx, other, 3)
    expected = sorted(mine, key=lambda run: (run.created_ms, run.id), reverse=True)
    found = []
    for offset in (0, 4, 8, 12):
        page = runs.page(tx, REACH, schedule.id, Paging(4, offset))
        assert page.total == 9
        found += [past.run for past in page.items]
    assert found == expected
    later = [run.id for run in expected if run.created_ms >= NOW + 3000]
    assert held(tx, schedule, since_ms=NOW + 3000) == later


def test_a_line_has_its_command_as_it_stands(tx):
    schedule = made(tx)
    command = records.command(schedule.machine_id, "sess")
    commands.insert(tx, command)
    runs.insert(tx, [records.run(schedule, command.id), records.run(schedule, None)])
    skipped, started = runs.page(tx, REACH, schedule.id, Paging()).items
    assert skipped.command is None
    assert started.command is not None
    assert started.command.status == "pending"
    commands.finish(tx, records.ended(command))
    _, started = runs.page(tx, REACH, schedule.id, Paging()).items
    assert started.command.status == "completed"


def test_the_commands_of_a_page_are_looked_up_all_at_once(tx):
    schedule = made(tx)
    for _ in range(3):
        command = records.command(schedule.machine_id, "sess")
        commands.insert(tx, command)
        runs.insert(tx, [records.run(schedule, command.id)])
    seen: list[str] = []
    tx._connection.exec_trace = lambda _cursor, sql, _parameters: seen.append(sql) or True
    page = runs.page(tx, REACH, schedule.id, Paging())
    assert len({past.command.id for past in page.items if past.command}) == 3
    assert len(seen) == 3  # how many, the runs, their commands


def test_a_restricted_key_hears_nothing_of_machines_that_the_schedule_had_before(tx):
    schedule, elsewhere = made(tx, "web"), made(tx, "db")
    mine, nobodys = entered(tx, schedule, 2)[0], entered(tx, schedule, 1, machine_id=None)[0]
    theirs = entered(tx, schedule, 3, machine_id=elsewhere.machine_id)
    assert {run.id for run in theirs} < set(held(tx, schedule))
    assert len(held(tx, schedule)) == 6
    assert {mine.id, nobodys.id} < set(held(tx, schedule, WEB))
    assert len(held(tx, schedule, WEB)) == 3
    since = held(tx, schedule, WEB, since_ms=NOW + 1000)
    assert len(since) == 1


def test_what_is_older_than_is_promised_is_forgotten_but_the_last_run_of_a_schedule(tx):
    schedule, other = made(tx), made(tx)
    old = entered(tx, schedule, 3)
    kept = entered(tx, schedule, 1, created_ms=NOW + 10_000)
    command = records.command(schedule.machine_id, "sess")
    commands.insert(tx, command)
    last = records.run(schedule, command.id)
    runs.insert(tx, [last])
    schedules.set_last(tx, schedule.id, last.id, NOW)
    schedules.set_last(tx, other.id, old[0].id, NOW)  # of another schedule: it keeps nothing
    assert len(forgotten(tx, NOW + runs.KEPT_MS)) == 5
    assert forgotten(tx, NOW + 10_000 + runs.KEPT_MS) == [kept[0].id, last.id]
    assert forgotten(tx, NOW + 10_001 + runs.KEPT_MS) == [last.id]


def test_what_a_deleted_schedule_left_is_forgotten_in_small_bites(tx, monkeypatch):
    monkeypatch.setattr(runs, "_FORGOTTEN", 2)
    gone, also_gone, there = made(tx), made(tx), made(tx)
    for schedule in (gone, also_gone, there):
        entered(tx, schedule, 4)
    schedules.set_last(tx, gone.id, held(tx, gone)[0], NOW)
    for schedule in (gone, also_gone):
        schedules.delete(tx, schedule.id)
    before = tx.value("SELECT count(*) FROM run")
    runs.forget(tx, NOW)
    assert tx.value("SELECT count(*) FROM run") == before - 2
    while tx.value("SELECT count(*) FROM schedule_gone"):
        runs.forget(tx, NOW)
    assert tx.value("SELECT count(*) FROM run") == 4
    assert len(held(tx, there)) == 4
