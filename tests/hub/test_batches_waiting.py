"""Whoever waits for the ends of a batch is answered, with what there is."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cmdop_appliance.hub.commands import Ask
from cmdop_appliance.protocol.messages import Dispatch
from tests.hub.fleet import HOUR_MS, Waiter
from tests.support.records import joined


async def test_who_waits_gets_every_end(fleet, nursery):
    batch = await fleet.start(concurrency=1, max_errors=0)
    waiter = Waiter(fleet, batch)
    async with trio.open_nursery() as waits:
        waits.start_soon(waiter.run)
        await fleet.end(0)
        await wait_all_tasks_blocked()
        assert waiter.answer is None
        await fleet.end(1, exit_code=1)
    assert waiter.answer == ["completed", "failed", "skipped", "skipped"]


async def test_who_waits_for_an_ended_batch_has_it_at_once(fleet):
    batch = await fleet.start()
    for number in range(4):
        await fleet.end(number)
    waiter = Waiter(fleet, batch)
    await waiter.run()
    assert waiter.answer == ["completed"] * 4


async def test_ends_that_nobody_told_of_are_found(fleet, autojump_clock: MockClock, monkeypatch):
    batch = await fleet.start()
    waiter = Waiter(fleet, batch)
    async with trio.open_nursery() as waits:
        waits.start_soon(waiter.run)
        await wait_all_tasks_blocked()
        with monkeypatch.context() as lossy:
            lossy.setattr(fleet.live.hub.bus, "publish", lambda subject, message: None)
            for number in range(4):
                await fleet.end(number)
    assert waiter.answer == ["completed"] * 4


async def test_nobody_waits_for_a_machine_that_is_gone(fleet, autojump_clock: MockClock):
    batch = await fleet.start(concurrency=2)
    before = trio.current_time()
    waiter = Waiter(fleet, batch)
    async with trio.open_nursery() as waits:
        waits.start_soon(waiter.run)
        for number in (0, 1):
            await fleet.links[number].expect(Dispatch)
            await fleet.leave(number)
    assert waiter.answer == ["pending"] * 4
    assert trio.current_time() - before < 20


async def test_a_hub_that_stops_answers_who_waits(fleet):
    batch = await fleet.start(concurrency=2)
    waiter = Waiter(fleet, batch)
    async with trio.open_nursery() as waits:
        waits.start_soon(waiter.run)
        await wait_all_tasks_blocked()
        fleet.live.hub.bus.stop()
    assert waiter.answer == ["pending"] * 4


async def test_who_waits_for_a_queue_is_answered_after_the_timeout(
    fleet, autojump_clock: MockClock
):
    away = await joined(fleet.live.hub.store)
    fleet.ids.append(away.id)
    batch = await fleet.start(ask=Ask(queue_ms=HOUR_MS))
    waiter = Waiter(fleet, batch)
    before = trio.current_time()
    async with trio.open_nursery() as waits:
        waits.start_soon(waiter.run)
        for number in range(4):
            await fleet.end(number)
    assert waiter.answer == ["completed"] * 4 + ["pending"]
    assert trio.current_time() - before == pytest.approx(30)
