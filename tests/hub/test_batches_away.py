"""A batch goes on where machines are away, and where the hub was."""

import trio
from trio.testing import MockClock

from cmdop_appliance.hub.commands import Ask
from cmdop_appliance.hub.sweep import sweep_forever
from cmdop_appliance.protocol.messages import Acknowledge, Dispatch, Known, Resume
from cmdop_appliance.store import sessions
from tests.hub.fleet import HOUR_MS, Fleet, Waiter
from tests.support.live_hub import ScriptedAgent, finished, live_hub


async def test_a_machine_that_goes_away_before_its_turn_is_expired_and_the_next_one_goes(fleet):
    batch = await fleet.start(concurrency=1)
    await fleet.leave(1)
    await fleet.end(0)
    await fleet.end(2)
    gone = (await fleet.commands(batch))[1]
    assert (gone.status, gone.error_code) == ("expired", "session_not_active")
    assert (gone.session_id, gone.exit_code) == (None, None)
    again = await fleet.agents[1].connect()
    await again.heartbeat()  # it is not sent later, either


async def test_a_machine_that_is_away_for_a_moment_when_its_turn_comes_is_waited_for(fleet):
    batch = await fleet.start(concurrency=1, max_errors=0)
    await fleet.links[1].cut()
    await fleet.end(0)
    await fleet.idle(2, 3)
    fleet.links[1] = await fleet.agents[1].connect()
    await fleet.end(1)
    await fleet.end(2)
    await fleet.end(3)
    assert await fleet.statuses(batch) == ["completed"] * 4


async def test_a_machine_that_does_not_come_back_from_that_moment_is_expired(
    tmp_path, autojump_clock: MockClock
):
    async with live_hub(tmp_path) as live, trio.open_nursery() as nursery:
        nursery.start_soon(sweep_forever, live.hub)
        fleet = await Fleet(live).grow(3)
        batch = await fleet.start(concurrency=1)
        waiter = Waiter(fleet, batch)
        async with trio.open_nursery() as waits:
            waits.start_soon(waiter.run)
            await fleet.links[1].cut()
            await trio.sleep(20)
            await fleet.end(0)
            await fleet.end(2)
        assert waiter.answer == ["completed", "expired", "completed"]
        gone = (await fleet.commands(batch))[1]
        assert (gone.error_code, gone.session_id) == ("session_not_active", None)
        nursery.cancel_scope.cancel()


async def test_a_canary_that_went_away_has_failed(fleet):
    batch = await fleet.start(canary=2, concurrency=1)
    await fleet.leave(1)
    await fleet.end(0)
    await fleet.idle(2, 3)
    assert await fleet.statuses(batch) == ["completed", "expired", "skipped", "skipped"]


async def test_with_a_queue_a_batch_waits_for_a_machine_that_is_away(fleet):
    await fleet.links[1].cut()
    batch = await fleet.start(concurrency=1, ask=Ask(queue_ms=HOUR_MS))
    await fleet.end(0)
    await fleet.idle(2, 3)
    fleet.links[1] = await fleet.agents[1].connect()
    await fleet.end(1)
    await fleet.end(2)
    await fleet.end(3)
    assert await fleet.statuses(batch) == ["completed"] * 4


async def test_the_queue_time_counts_from_the_turn(tmp_path, autojump_clock: MockClock):
    async with live_hub(tmp_path) as live:
        fleet = await Fleet(live).grow(3)
        await fleet.links[1].cut()
        batch = await fleet.start(concurrency=1, ask=Ask(queue_ms=10_000))
        await trio.sleep(60)
        await live.hub.commands.sweep()
        assert (await fleet.statuses(batch))[1] == "pending"
        await fleet.end(0)
        await trio.sleep(9)
        await live.hub.commands.sweep()
        assert (await fleet.statuses(batch))[1:] == ["pending", "pending"]
        await trio.sleep(2)
        await live.hub.commands.sweep()
        await fleet.end(2)  # the sweep let it go
        assert await fleet.statuses(batch) == ["completed", "expired", "completed"]


async def test_a_hub_that_ends_in_mid_batch_goes_on_where_it_was(tmp_path):
    async with live_hub(tmp_path) as live:
        fleet = await Fleet(live).grow(3)
        batch = await fleet.start(concurrency=1)
        command_id = (await fleet.links[0].expect(Dispatch)).id
    async with live_hub(tmp_path) as live:
        now_ms = live.hub.clock.now_ms()
        await live.hub.store.run(sessions.recover, now_ms=now_ms, grace_until_ms=now_ms + 30_000)
        again = Fleet(live)
        again.ids = fleet.ids
        again.agents = [ScriptedAgent(live, each.identity) for each in fleet.agents]
        known = [Known(id=command_id, phase="ended")]
        again.links.append(await again.agents[0].connect(inventory=known))
        await again.links[0].expect(Resume)
        await again.links[0].say(finished(command_id))
        await again.links[0].expect(Acknowledge)
        for agent in again.agents[1:]:  # their machines come back later than it ends
            again.links.append(await agent.connect())
        await again.end(1)
        await again.end(2)
        assert await again.statuses(batch) == ["completed"] * 3


async def test_an_end_and_the_next_start_are_one_transaction(tmp_path):
    """A crash between them would leave a batch that nobody moves on."""
    async with live_hub(tmp_path) as live:
        fleet = await Fleet(live).grow(2)
        batch = await fleet.start(concurrency=1)
        command_id = (await fleet.links[0].expect(Dispatch)).id
        told = []
        live.hub.bus.publish = lambda subject, message: told.append(message)  # type: ignore[method-assign]
        await fleet.links[0].say(finished(command_id))
        await fleet.links[0].expect(Acknowledge)
        second = (await fleet.commands(batch))[1]
        assert (second.is_held, second.session_id) == (False, fleet.links[1].session_id)
        del live.hub.bus.publish
        await live.hub.commands.look()
        await fleet.links[1].expect(Dispatch)  # which the sweep has found
