"""What becomes of a schedule that somebody runs by hand."""

import pytest

from cmdop_appliance.auth import Caller
from cmdop_appliance.errors import (
    Forbidden,
    MachineNotFound,
    ScheduleNotFound,
    SessionNotActive,
)
from cmdop_appliance.model import Schedule
from cmdop_appliance.scheduler import firing
from cmdop_appliance.store import clients
from tests.support import records
from tests.support.records import WORKSPACE
from tests.support.stage import CALLER, Stage


async def run_now(stage: Stage, schedule: Schedule, **fields):
    once = fields.get("once")
    return await stage.hub.store.run(
        firing.run_now, stage.hub.audit, fields.get("caller", CALLER), schedule.id, once, stage.now
    )


async def test_by_hand_it_runs_also_when_disabled_and_nothing_else_changes(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, is_enabled=False, next_ms=None)
    (run,), (command,) = await run_now(stage, schedule)
    assert (run.scheduled_ms, run.command_id, run.status) == (None, command.id, "started")
    assert (command.operator, command.is_queued) == ("ci@default", False)
    assert (await stage.find(schedule)).next_ms is None


async def test_by_hand_a_machine_that_is_away_is_refused_and_nothing_recorded(stage):
    machine = await records.joined(stage.hub.store)
    schedule = await stage.schedule(machine.id)
    with pytest.raises(SessionNotActive) as refused:
        await run_now(stage, schedule)
    assert refused.value.details == {
        "current_status": "DISCONNECTED",
        "machine_id": machine.id,
    }
    assert await stage.rows(schedule) == []


async def test_by_hand_a_group_runs_where_somebody_is(stage):
    there, away = await stage.machine(), await records.joined(stage.hub.store)
    schedule = await stage.schedule(there.id, away.id)
    runs, commands = await run_now(stage, schedule)
    assert {run.machine_id: (run.status, run.reason) for run in runs} == {
        there.id: ("started", None),
        away.id: ("skipped", "machine_offline"),
    }
    assert [command.machine_id for command in commands] == [there.id]
    assert await stage.told(schedule) == [("schedule.skipped", "machine_offline")]


async def test_by_hand_the_same_request_runs_once(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id)
    once = records.once(now_ms=stage.now)
    first, _ = await run_now(stage, schedule, once=once)
    await run_now(stage, schedule)  # another request, in the same ms
    again, changed = await run_now(stage, schedule, once=once)
    assert again == first
    assert changed == []
    assert len(await stage.commands(schedule)) == 2


async def test_by_hand_an_observer_of_the_machine_is_refused(stage):
    machine, session_id, _ = await records.connected(stage.hub.store, stage.now)
    schedule = await stage.schedule(machine.id)
    observer = records.client(session_id, CALLER.key_id, mode="observer")
    await stage.hub.store.run(clients.attach, observer)
    with pytest.raises(Forbidden):
        await run_now(stage, schedule)


async def test_by_hand_out_of_reach_does_not_exist_and_no_machine_is_said(stage):
    machine = await stage.machine(tags=["web"])
    schedule = await stage.schedule(machine.id)
    stranger = Caller("key_2", "x", WORKSPACE, "default", frozenset(), tags=("db",))
    with pytest.raises(ScheduleNotFound):
        await run_now(stage, schedule, caller=stranger)
    await stage.remove(machine)
    with pytest.raises(MachineNotFound):
        await run_now(stage, schedule)
