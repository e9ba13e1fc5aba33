"""A caller whose key is restricted to tags: other machines neither take nor tell it anything."""

from dataclasses import replace

import pytest
import trio
import trio.testing

from cmdop_appliance.errors import CommandNotFound, Conflict, MachineNotFound
from cmdop_appliance.hub.commands import Ask
from cmdop_appliance.protocol.messages import Spec
from tests.support.live_hub import BOUND, CALLER, ScriptedAgent, finished
from tests.support.records import connected, once, recorded

SPEC = Spec(argv=["true"], operator=CALLER.email)
FEW = replace(CALLER, tags=("prod",))
WAVES = {"concurrency": 1, "canary": 1, "max_errors": None}


async def test_nothing_is_started_cancelled_or_removed_on_a_machine_out_of_reach(live):
    hub = live.hub
    far, session_id, _ = await connected(hub.store, tags=["production"])
    command = await recorded(hub.store, far.id, session_id)
    with pytest.raises(MachineNotFound):
        await hub.commands.start(FEW, far.id, "true", SPEC)
    with pytest.raises(MachineNotFound):
        await hub.commands.run(FEW, far.id, "true", SPEC, Ask(queue_ms=1000))
    with pytest.raises(MachineNotFound):
        await hub.commands.remove_machine(FEW, far.id)
    with pytest.raises(CommandNotFound):
        await hub.commands.cancel(FEW, command.id)
    assert await live.command(command.id) == command


async def test_a_batch_starts_on_the_machines_in_reach_and_finds_no_others(live):
    near, _, _ = await connected(live.hub.store, tags=["prod"])
    far, _, _ = await connected(live.hub.store, tags=[])
    ask = Ask(once=once())
    start = (FEW, [far.id, near.id], "true", SPEC, ask)
    batch, commands = await live.hub.batches.start(*start, **WAVES)
    assert [each.machine_id for each in commands] == [near.id]
    assert {each: refusal.code for each, refusal in batch.refused.items()} == {
        far.id: "machine_not_found"
    }
    again = await live.hub.batches.start(*start, **WAVES)
    assert (again[0], [each.id for each in again[1]]) == (batch, [commands[0].id])


async def test_who_waits_for_a_batch_learns_of_the_machines_in_reach_alone(live):
    near, _, near_epoch = await connected(live.hub.store, tags=["prod"])
    far, _, far_epoch = await connected(live.hub.store, tags=[])
    batch, commands = await live.hub.batches.start(
        CALLER, [near.id, far.id], "true", SPEC, Ask(), concurrency=2, canary=0, max_errors=None
    )
    mine, others = sorted(commands, key=lambda each: each.machine_id != near.id)
    found = []

    async def wait() -> None:
        found.extend(await live.hub.batches.wait_ends(FEW, batch))

    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await live.hub.commands.finished(far.id, far_epoch, [finished(others.id)])
            await trio.testing.wait_all_tasks_blocked()
            await live.hub.commands.finished(near.id, near_epoch, [finished(mine.id)])
    assert [each.id for each in found] == [mine.id]


async def test_a_batch_is_resumed_only_by_who_reaches_all_of_it(live):
    agent = ScriptedAgent(live)
    link = await agent.join()
    first = (await agent.machine()).id
    near, _, _ = await connected(live.hub.store, tags=["prod"])
    far, _, _ = await connected(live.hub.store, tags=[])
    batches = []
    for ids in ([first, near.id], [first, far.id]):
        batch, (canary, *_) = await live.hub.batches.start(
            CALLER, ids, "true", SPEC, Ask(), **WAVES
        )
        batches.append(batch)
        end = finished(canary.id, exit_code=1)
        await live.hub.commands.finished(first, link.epoch, [end])
    mine, others = batches
    with pytest.raises(Conflict):
        await live.hub.batches.resume(FEW, others.id, None)
    _, commands = await live.hub.batches.resume(FEW, mine.id, None)
    assert [each.machine_id for each in commands] == [near.id]
    _, commands = await live.hub.batches.resume(CALLER, others.id, None)
    assert [each.machine_id for each in commands] == [far.id]
