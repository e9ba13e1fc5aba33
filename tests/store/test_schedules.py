"""Schedules: which are in reach, which include a machine, and how many there can be."""

from collections.abc import Iterator

import apsw
import msgspec
import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import Conflict, ScheduleNotFound
from cmdop_appliance.model import Schedule
from cmdop_appliance.store import commands, firings, machines, migrate, runs, schedules, workspaces
from cmdop_appliance.store.listing import Paging
from cmdop_appliance.store.transaction import Tx
from tests.support import records
from tests.support.records import NOW, REACH, WORKSPACE

WEB = Reach(WORKSPACE, ("web",))
OTHER = Reach("ws_other")


@pytest.fixture
def tx() -> Iterator[Tx]:
    with apsw.Connection(":memory:") as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        migrate.to_latest(Tx(connection))
        yield Tx(connection)


def joined(tx: Tx, *tags: str, **fields) -> str:
    """The id of a machine with these tags."""
    made = records.machine(tags=[*tags], **fields)
    machines.insert(tx, made, "enr")
    return made.id


def made(tx: Tx, machine_id: str | None = None, **fields) -> Schedule:
    schedule = records.schedule(machine_id, **fields)
    schedules.insert(tx, schedule)
    return schedule


def found(tx: Tx, reach: Reach, **filters) -> set[str]:
    """The ids in a list, of which each is there for whoever asks for it, and no other is."""
    page = schedules.page(tx, reach, Paging(100), **filters)
    assert page.total == len(page.items)
    return {schedule.id for schedule in page.items}


def test_a_schedule_is_kept_as_it_was_made(tx):
    one, two = joined(tx), joined(tx)
    for schedule in (
        made(tx, one),
        made(tx, machine_ids=[two, one]),
        made(tx, tags=["b", "a"], is_enabled=False, next_ms=None),
    ):
        assert schedules.get(tx, REACH, schedule.id) == schedule
        assert schedule in schedules.page(tx, REACH, Paging()).items


def test_a_restricted_key_reaches_what_runs_only_on_machines_that_it_reaches(tx):
    web, db = joined(tx, "web", "a"), joined(tx, "db", "a")
    gone = joined(tx, "web")
    machines.remove(tx, REACH, gone, NOW)
    inside = {
        made(tx, web).id,
        made(tx, gone).id,
        made(tx, machine_ids=[web, gone]).id,
        made(tx, tags=["web"]).id,
        made(tx, tags=["a", "web"]).id,
    }
    outside = {
        made(tx, db).id,
        made(tx, machine_ids=[web, db]).id,
        made(tx, tags=["a"]).id,  # a machine with no other tag may come
    }
    assert found(tx, REACH) == inside | outside
    assert found(tx, WEB) == inside
    assert found(tx, Reach(WORKSPACE, ("a", "web"))) < inside
    assert found(tx, OTHER) == set()
    for reach, ids in ((WEB, outside), (OTHER, inside | outside)):
        for schedule_id in ids:
            with pytest.raises(ScheduleNotFound):
                schedules.get(tx, reach, schedule_id)


def test_a_machine_is_included_by_name_or_by_all_of_the_tags_now(tx):
    one, two = joined(tx, "a", "b"), joined(tx, "b")
    single, listed = made(tx, one).id, made(tx, machine_ids=[one, two]).id
    both, only = made(tx, tags=["a", "b"]).id, made(tx, tags=["b"]).id
    assert found(tx, REACH, machine_id=one) == {single, listed, both, only}
    assert found(tx, REACH, machine_id=two) == {listed, only}
    machines.edit(tx, REACH, two, name=None, tags=["a", "b"])
    assert found(tx, REACH, machine_id=two) == {listed, both, only}
    machines.remove(tx, REACH, two, NOW)
    assert found(tx, REACH, machine_id=two) == {listed}
    assert found(tx, REACH, machine_id="mach_x") == set()
    workspaces.insert(tx, records.api_key(workspace_id="ws_other", namespace="other"), "hash")
    foreign = joined(tx, "a", "b", workspace_id=OTHER.workspace_id)
    assert found(tx, REACH, machine_id=foreign) == set()


def test_filters_are_anded(tx):
    one, two = joined(tx), joined(tx)
    on = made(tx, one)
    off = made(tx, one, is_enabled=False, next_ms=None)
    made(tx, two)
    assert found(tx, REACH, machine_id=one, is_enabled=True) == {on.id}
    assert found(tx, REACH, is_enabled=False) == {off.id}


def test_a_changed_schedule_is_for_its_new_machines(tx):
    one, two = joined(tx, "a"), joined(tx)
    before = made(tx, one)
    steps = (
        {"machine_id": None, "machine_ids": [one, two]},
        {"machine_ids": None, "tags": ["a"]},
        {"tags": ["b"]},
        {"tags": None, "machine_id": two},
    )
    for fields, members in zip(steps, ({one, two}, {one}, set(), {two}), strict=True):
        after = msgspec.structs.replace(before, **fields)
        schedules.update(tx, before, after)
        assert schedules.get(tx, REACH, after.id) == after
        assert {each.machine_id for each in firings.members(tx, after.id)} == members
        before = after


def test_the_last_run_tells_of_its_command(tx):
    machine_id = joined(tx)
    schedule = made(tx, machine_id)
    command = records.command(machine_id, "sess", schedule_id=schedule.id)
    commands.insert(tx, command)
    run = records.run(schedule, command.id)
    runs.insert(tx, [run])
    commands.finish(tx, records.ended(command, exit_code=3))
    schedules.set_last(tx, schedule.id, run.id, NOW)
    for shown in (
        schedules.get(tx, REACH, schedule.id),
        *schedules.page(tx, REACH, Paging()).items,
    ):
        assert (shown.last_at_ms, shown.last_exit_code, shown.last_duration_ms) == (NOW + 1, 3, 4)


def test_the_last_run_is_the_newest_unless_that_came_by_a_clock_that_was_ahead(tx):
    schedule = made(tx, joined(tx))
    for id_, created_ms in (("run_a", NOW), ("run_b", NOW + 1), ("run_c", NOW + 3_600_000)):
        runs.insert(tx, [records.run(schedule, None, id=id_, created_ms=created_ms)])

    def last_once(run_id: str) -> str | None:
        """Which counts as the last once this one has ended."""
        schedules.set_last(tx, schedule.id, run_id, NOW + 1)
        return schedules.get(tx, REACH, schedule.id).last_run_id

    assert [last_once(id_) for id_ in ("run_b", "run_a")] == ["run_b", "run_b"]
    assert [last_once(id_) for id_ in ("run_c", "run_a")] == ["run_c", "run_a"]


def test_a_workspace_has_so_many_schedules_and_no_more(tx, monkeypatch):
    monkeypatch.setattr(schedules, "MOST", 2)
    machine_id = joined(tx)
    first = made(tx, machine_id)
    made(tx, machine_id)
    with pytest.raises(Conflict, match="this workspace has 2 schedules") as caught:
        made(tx, machine_id)
    assert "delete some" in caught.value.hint
    workspaces.insert(tx, records.api_key(workspace_id="ws_other", namespace="other"), "hash")
    made(tx, tags=["a"], workspace_id=OTHER.workspace_id)
    schedules.delete(tx, first.id)
    made(tx, machine_id)
