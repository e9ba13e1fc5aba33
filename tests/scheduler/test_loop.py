"""The scheduler as a service: it wakes in time, outlives a full disk, and any walk of the clock."""

import logging
from random import Random

import pytest
import trio

from cmdop_appliance.errors import StorageFull
from cmdop_appliance.model import Run
from cmdop_appliance.scheduler.loop import TICK_S, Scheduler
from tests.support.clocks import LoopClock
from tests.support.stage import BEGIN, HOUR, MINUTE, Stage


async def test_it_fires_at_the_instant_and_not_a_tick_later(stage, autojump_clock):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id)
    hub = stage.hub
    scheduler = Scheduler(hub.store, hub.commands, LoopClock(BEGIN))
    with trio.move_on_after(160):
        await scheduler.run()
    late = [run.created_ms - run.scheduled_ms for run in await stage.rows(schedule)]
    assert len(late) == 3
    assert max(late) <= 1


async def test_a_new_schedule_is_found_within_a_tick(stage, autojump_clock):
    hub = stage.hub
    machine = await stage.machine()
    scheduler = Scheduler(hub.store, hub.commands, LoopClock(BEGIN))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scheduler.run)
        await trio.sleep(29.5)
        schedule = await stage.schedule(machine.id)
        await trio.sleep(0.5 + TICK_S)
        assert len(await stage.rows(schedule)) == 1
        nursery.cancel_scope.cancel()


async def test_while_there_is_no_room_nothing_fires_and_what_was_due_fires_then(
    stage, autojump_clock
):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id)
    hub = stage.hub
    scheduler = Scheduler(
        hub.store, hub.commands, LoopClock(BEGIN), lambda: trio.current_time() >= 45
    )
    with trio.move_on_after(50):
        await scheduler.run()
    (run,) = await stage.rows(schedule)
    assert run.created_ms - run.scheduled_ms > 10_000


async def test_a_full_disk_passes_and_what_was_due_fires_then(
    stage, autojump_clock, monkeypatch, caplog
):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id)
    hub = stage.hub
    scheduler = Scheduler(hub.store, hub.commands, LoopClock(BEGIN))
    whole = scheduler.step

    async def step() -> float:
        if trio.current_time() < 40:
            raise StorageFull("the hub's disk is full")
        return await whole()

    monkeypatch.setattr(scheduler, "step", step)
    with caplog.at_level(logging.ERROR), trio.move_on_after(45):
        await scheduler.run()
    assert [run.status for run in await stage.rows(schedule)] == ["started"]
    assert "nothing can be fired" in caplog.text


def covered(runs: list[Run]) -> set[int]:
    """The minutes that have a row, or stand in one."""
    minutes: set[int] = set()
    for run in runs:
        assert run.scheduled_ms is not None
        first_ms = run.first_ms or run.scheduled_ms
        minutes |= set(range(first_ms, run.scheduled_ms + 1, MINUTE))
    return minutes


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_the_clock_does_no_instant_runs_twice_and_none_is_silent(
    stage: Stage, seed: int
):
    dice = Random(seed)
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, overlap=dice.choice(["allow", "skip"]))
    furthest = BEGIN
    for _ in range(60):
        step = dice.choice([1000, MINUTE, MINUTE, 7 * MINUTE, 2 * HOUR, 5 * HOUR])
        way = dice.choice([1, 1, 1, -1])
        now = max(BEGIN, stage.now + way * step)
        await stage.at(now)
        furthest = max(furthest, now)
    runs = await stage.rows(schedule)
    started = [run.scheduled_ms for run in runs if run.command_id is not None]
    assert len(started) == len(set(started))
    assert len(await stage.commands(schedule)) == len(started)
    assert covered(runs) == set(range(BEGIN + 30_000, furthest + 1, MINUTE))
