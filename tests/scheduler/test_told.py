"""Which ends of its runs a schedule tells of, and which run is its last."""

import pytest

from cmdop_appliance.model import Notify
from tests.support.stage import BEGIN, MINUTE


@pytest.mark.parametrize(
    ("notify", "status", "expected"),
    [
        (Notify(on_success=True), "completed", ["schedule.completed"]),
        (Notify(on_success=True), "failed", []),
        (Notify(on_failure=True), "completed", []),
        (Notify(on_failure=True), "failed", ["schedule.failed"]),
        (Notify(on_failure=True), "timeout", ["schedule.failed"]),
        (Notify(on_failure=True), "lost", ["schedule.failed"]),
        (Notify(), "failed", []),
    ],
)
async def test_an_end_is_told_as_is_wished(stage, notify, status, expected):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, notify=notify)
    await stage.until(BEGIN + MINUTE)
    (command,) = await stage.commands(schedule)
    await stage.end(command, status=status)
    assert [kind for kind, _ in await stage.told(schedule)] == expected
    assert (await stage.find(schedule)).last_run_id == command.run_id


@pytest.mark.parametrize("is_late", [True, False])
async def test_an_end_that_came_late_says_so(stage, is_late):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id)
    await stage.until(BEGIN + MINUTE)
    (command,) = await stage.commands(schedule)
    await stage.end(command, is_late=is_late)
    (event,) = await stage.events(schedule)
    assert event.data["late"] is is_late


async def test_the_end_of_an_older_run_does_not_hide_a_newer_one(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, overlap="allow")
    await stage.until(BEGIN + 2 * MINUTE)
    first, second = await stage.commands(schedule)
    await stage.end(second)
    await stage.end(first)
    assert (await stage.find(schedule)).last_run_id == second.run_id


async def test_an_end_after_the_schedule_was_deleted_is_told_to_nobody(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id)
    await stage.until(BEGIN + MINUTE)
    (command,) = await stage.commands(schedule)
    await stage.hub.store.run(
        lambda tx: [
            tx.execute(f"DELETE FROM {table} WHERE {column} = :id", id=schedule.id)
            for table, column in (("schedule_machine", "schedule_id"), ("schedule", "id"))
        ]
    )
    await stage.end(command)
    assert await stage.told(schedule) == []
