"""What becomes of each firing, when all goes well and when not (semantics.md, Schedules)."""

import pytest

from cmdop_appliance.hub.wakes import CancelRequested, machine_subject
from cmdop_appliance.scheduler import editing, firing
from tests.support import records
from tests.support.stage import BEGIN, CALLER, DAY, HOUR, MINUTE, shown


async def test_a_due_schedule_makes_one_command_and_one_row(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, cron="5 0 * * *")
    assert await stage.at(BEGIN + 4 * MINUTE + 29_000) == pytest.approx(1.0)
    assert await stage.rows(schedule) == []
    await stage.at(BEGIN + 4 * MINUTE + 30_000)
    (run,) = await stage.rows(schedule)
    (command,) = await stage.commands(schedule)
    assert shown([run]) == [("00:05", "started", None)]
    assert (run.command_id, run.machine_id, command.run_id) == (command.id, machine.id, run.id)
    assert (command.status, command.operator, command.spec.operator) == (
        "pending",
        "ci@default",
        "ci@default",
    )
    assert command.session_id is not None
    assert (await stage.find(schedule)).next_ms == BEGIN - 30_000 + DAY + 5 * MINUTE
    await stage.at(stage.now + 1000)
    assert len(await stage.rows(schedule)) == 1


async def test_a_schedule_that_is_disabled_does_not_fire(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, is_enabled=False, next_ms=None)
    await stage.until(BEGIN + HOUR)
    assert await stage.rows(schedule) == []


async def test_it_is_looked_again_just_when_something_comes_due(stage):
    machine = await stage.machine()
    await stage.schedule(machine.id)
    assert await stage.at(BEGIN + 29_700) == pytest.approx(0.3)


# ── what is under way ────────────────────────────────────────────────────────────────────────────


async def test_skip_names_the_command_in_the_way_until_that_has_ended(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id)
    await stage.until(BEGIN + MINUTE)
    (first,) = await stage.commands(schedule)
    await stage.until(BEGIN + 2 * MINUTE)
    skipped = (await stage.rows(schedule))[-1]
    assert (skipped.status, skipped.reason) == ("skipped", "overlap")
    assert first.id in skipped.message
    await stage.end(first)
    await stage.until(BEGIN + 3 * MINUTE)
    assert [status for _, status, _ in shown(await stage.rows(schedule))] == [
        "started",
        "skipped",
        "started",
    ]


async def test_queue_lets_one_wait_behind_and_skips_the_third(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, overlap="queue")
    await stage.until(BEGIN + 3 * MINUTE)
    assert [status for _, status, _ in shown(await stage.rows(schedule))] == [
        "started",
        "started",
        "skipped",
    ]
    keys = {command.spec.serial_key for command in await stage.commands(schedule)}
    assert keys == {f"schedule:{schedule.id}"}  # by which the machine runs one after another


async def test_allow_lets_them_run_side_by_side(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, overlap="allow")
    await stage.until(BEGIN + 3 * MINUTE)
    commands = await stage.commands(schedule)
    assert len(commands) == 3
    assert {command.spec.serial_key for command in commands} == {None}


async def test_cancel_previous_ends_the_one_before_and_tells_its_machine(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, overlap="cancel_previous")
    await stage.until(BEGIN + MINUTE)
    (first,) = await stage.commands(schedule)
    with stage.hub.bus.subscribe(machine_subject(machine.id)) as heard:
        await stage.until(BEGIN + 2 * MINUTE)
        said = [await heard.next() for _ in range(heard.waiting)]
    assert CancelRequested(first.id) in said
    before, after = await stage.commands(schedule)
    assert before.cancel_requested_ms == stage.now
    assert after.session_id is not None


async def test_what_is_under_way_of_one_schedule_is_not_in_the_way_of_another(stage):
    machine, other = await stage.machine(), await stage.machine()
    await stage.schedule(machine.id, name="first")
    group = await stage.schedule(machine.id, other.id, name="group")
    await stage.until(BEGIN + MINUTE)
    (mine,) = [c for c in await stage.commands(group) if c.machine_id == machine.id]
    await stage.end(mine)
    await stage.until(BEGIN + 2 * MINUTE)
    newest = (await stage.rows(group))[-2:]
    assert {run.machine_id: run.status for run in newest} == {
        machine.id: "started",
        other.id: "skipped",
    }


# ── machines ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_machine_that_sleeps_runs_the_newest_firing_when_it_is_back(stage):
    machine = await records.joined(stage.hub.store)
    schedule = await stage.schedule(machine.id, cron="0 3 * * *")
    for day in range(3):
        await stage.at(BEGIN + day * DAY + 4 * HOUR)
    first, second, third = await stage.commands(schedule)
    assert [first.status, second.status, third.status] == ["cancelled", "cancelled", "pending"]
    assert {first.error_code, second.error_code} == {"superseded"}
    assert third.is_queued
    assert third.session_id is None
    assert third.start_until_ms == BEGIN - 30_000 + 3 * HOUR + 3 * DAY  # the window
    assert await stage.told(schedule) == [("schedule.missed", "superseded")] * 2


async def test_what_was_not_sent_yet_to_a_machine_that_is_back_makes_way(stage):
    machine = await records.joined(stage.hub.store)
    schedule = await stage.schedule(machine.id)
    await stage.until(BEGIN + MINUTE)
    await stage.back(machine)
    await stage.until(BEGIN + 2 * MINUTE)
    before, after = await stage.commands(schedule)
    assert (before.error_code, after.status) == ("superseded", "pending")


async def test_what_may_not_run_late_waits_only_for_a_moment(stage):
    machine = await records.joined(stage.hub.store)
    schedule = await stage.schedule(machine.id, misfire="skip")
    await stage.until(BEGIN + MINUTE)
    (command,) = await stage.commands(schedule)
    stage.clock.ms = command.start_until_ms + 1
    await stage.hub.commands.sweep()
    assert [c.status for c in await stage.commands(schedule)] == ["expired"]
    assert await stage.told(schedule) == [("schedule.missed", "expired")]


async def test_what_ran_when_its_machine_went_away_is_in_nobodys_way(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, cron="0 3 * * *")
    await stage.at(BEGIN + 4 * HOUR)
    await stage.away(machine)
    for day in (1, 2):
        await stage.at(BEGIN + day * DAY + 4 * HOUR)
    # The machine runs one after another, by their key.
    assert [command.status for command in await stage.commands(schedule)] == [
        "pending",
        "cancelled",
        "pending",
    ]


@pytest.mark.parametrize(
    "change", [{"is_enabled": False}, {"command": "restore"}, {"tags": ["web"], "machine_id": None}]
)
async def test_what_waits_for_its_machine_ends_when_the_schedule_means_something_else(
    stage, change
):
    machine = await records.joined(stage.hub.store)
    schedule = await stage.schedule(machine.id)
    await stage.until(BEGIN + MINUTE)
    await stage.edit(schedule, name="renamed", overlap="queue")
    assert [command.status for command in await stage.commands(schedule)] == ["pending"]
    await stage.edit(schedule, **change)
    (command,) = await stage.commands(schedule)
    assert (command.status, command.error_code) == ("cancelled", "schedule_changed")


async def test_what_waits_for_its_machine_ends_with_its_schedule(stage):
    machine = await records.joined(stage.hub.store)
    schedule = await stage.schedule(machine.id)
    await stage.until(BEGIN + MINUTE)
    (ended,) = await stage.hub.store.run(editing.delete, CALLER, schedule.id, stage.now)
    assert ended.status == "cancelled"
    assert await stage.commands(schedule) == [ended]


async def test_a_group_is_whoever_carries_all_tags_when_it_fires(stage):
    web = await stage.machine(tags=["web", "prod"])
    await stage.machine(tags=["web"])
    schedule = await stage.schedule(tags=["prod", "web"])
    await stage.until(BEGIN + MINUTE)
    late = await stage.machine(tags=["prod", "web", "new"])
    for command in await stage.commands(schedule):
        await stage.end(command)
    await stage.until(BEGIN + 2 * MINUTE)
    runs = await stage.rows(schedule)
    assert [{run.machine_id for run in runs[:1]}, {run.machine_id for run in runs[1:]}] == [
        {web.id},
        {web.id, late.id},
    ]


async def test_a_group_without_machines_and_a_machine_that_is_gone_have_rows(stage):
    machine = await stage.machine()
    nobody = await stage.schedule(tags=["nobody"])
    alone = await stage.schedule(machine.id)
    await stage.remove(machine)
    await stage.until(BEGIN + MINUTE)
    assert shown(await stage.rows(nobody)) == [("00:01", "skipped", "no_machines")]
    (gone,) = await stage.rows(alone)
    assert (gone.status, gone.reason, gone.machine_id) == (
        "skipped",
        "machine_removed",
        machine.id,
    )


async def test_another_workspace_is_no_part_of_a_group(stage):
    await stage.hub.store.run(
        lambda tx: tx.execute(
            "INSERT INTO workspace (id, namespace, created_ms) VALUES ('ws_2', 'two', 0)"
        )
    )
    await stage.machine(tags=["web"], workspace_id="ws_2")
    schedule = await stage.schedule(tags=["web"])
    await stage.until(BEGIN + MINUTE)
    assert [reason for _, _, reason in shown(await stage.rows(schedule))] == ["no_machines"]


async def test_more_than_fit_one_transaction_all_fire(stage, monkeypatch):
    monkeypatch.setattr(firing, "SCHEDULES_MOST", 2)
    machine = await stage.machine()
    made = [await stage.schedule(machine.id, name=f"{number}") for number in range(5)]
    await stage.at(BEGIN + MINUTE)
    for schedule in made:
        assert len(await stage.commands(schedule)) == 1


async def test_a_command_runs_in_the_name_of_who_said_last_what_it_is(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, operator="somebody@default")
    renamed = await stage.edit(schedule, name="renamed")
    assert renamed.operator == "somebody@default"
    changed = await stage.edit(renamed, command="restore")
    assert await stage.find(schedule) == changed
    await stage.until(BEGIN + MINUTE)
    (command,) = await stage.commands(schedule)
    assert {changed.operator, command.operator, command.spec.operator} == {"ci@default"}
