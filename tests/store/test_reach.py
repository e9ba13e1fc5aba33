"""What a key restricted to tags may know of: what belongs to other machines is not there."""

import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import (
    BatchNotFound,
    CommandNotFound,
    MachineNotFound,
    SessionNotFound,
)
from cmdop_appliance.model import Refusal
from cmdop_appliance.store import batches, commands, machines, sessions
from cmdop_appliance.store.listing import Paging
from tests.support import records
from tests.support.records import NOW, REACH, TELEMETRY, WORKSPACE, connected, recorded

WEB = Reach(WORKSPACE, ("prod", "web"))
NO_FILTER = {"status": None, "machine_id": None, "machine_hostname": None}


@pytest.mark.parametrize("tags", [[], ["prod"], ["web"], ["production", "web"], ["prod,web"]])
async def test_a_machine_without_all_the_tags_is_not_there_with_all_that_is_its(store, tags):
    machine, session_id, epoch = await connected(store, tags=tags)
    await store.run(sessions.sampled, machine.id, epoch, TELEMETRY, NOW, NOW)
    command = await recorded(store, machine.id, session_id)
    with pytest.raises(MachineNotFound):
        await store.run(machines.get, WEB, machine.id)
    with pytest.raises(MachineNotFound):
        await store.run(machines.remove, WEB, machine.id, NOW)
    with pytest.raises(MachineNotFound):
        await store.run(commands.live_session, WEB, machine.id)
    with pytest.raises(SessionNotFound):
        await store.run(sessions.get, WEB, session_id)
    assert await store.run(sessions.live_of, WEB, machine.id) is None
    assert await store.run(sessions.live_on, WEB, [machine.id]) == []
    assert await store.run(sessions.sampled_machines, WEB) == []
    for look in (commands.get, lambda tx, *key: commands.request_cancel(tx, *key, NOW)):
        with pytest.raises(CommandNotFound):
            await store.run(look, WEB, command.id)
    for page, filters in (
        (machines.page, {}),
        (machines.page, {"search": "web", "tags": tags[:1]}),
        (sessions.page, NO_FILTER),
        (sessions.page, {**NO_FILTER, "machine_id": machine.id}),
        (commands.page, {}),
        (commands.page, {"machine_id": machine.id}),
        (commands.page, {"session_id": session_id}),
        (commands.page, {"statuses": ("pending",), "since_ms": NOW}),
    ):
        found = await store.run(page, WEB, Paging(), **filters)
        assert (found.items, found.total) == ([], 0)


async def test_a_machine_with_all_the_tags_and_more_is_there_with_all_that_is_its(store):
    machine, session_id, epoch = await connected(store, tags=["web", "blue", "prod"])
    await store.run(sessions.sampled, machine.id, epoch, TELEMETRY, NOW, NOW)
    command = await recorded(store, machine.id, session_id)
    await connected(store, tags=["web"])
    assert (await store.run(machines.get, WEB, machine.id)).tags == ["web", "blue", "prod"]
    assert await store.run(commands.live_session, WEB, machine.id) == session_id
    assert (await store.run(sessions.get, WEB, session_id)).id == session_id
    assert (await store.run(sessions.live_of, WEB, machine.id)).id == session_id
    (live,) = await store.run(sessions.live_on, WEB, [machine.id])
    assert live.id == session_id
    assert await store.run(sessions.sampled_machines, WEB) == [machine.id]
    assert (await store.run(commands.request_cancel, WEB, command.id, NOW)).id == command.id
    for page, filters, made in (
        (machines.page, {"tags": ["blue"]}, machine.id),
        (sessions.page, NO_FILTER, session_id),
        (commands.page, {}, command.id),
    ):
        found = await store.run(page, WEB, Paging(), **filters)
        assert ([each.id for each in found.items], found.total) == ([made], 1)


async def test_what_ran_on_a_removed_machine_is_seen_by_those_who_reached_it(store):
    machine, session_id, _ = await connected(store, tags=["prod", "web"])
    command = await recorded(store, machine.id, session_id)
    await store.run(machines.remove, WEB, machine.id, NOW)
    assert (await store.run(commands.get, WEB, command.id)).id == command.id


async def test_of_a_batch_only_the_parts_in_reach_are_there(store):
    (near, near_session, _), (far, far_session, _) = [
        await connected(store, tags=tags) for tags in (["prod", "web"], ["prod"])
    ]
    (away, _, _), (hidden, _, _) = [
        await connected(store, tags=tags) for tags in (["prod", "web"], [])
    ]
    refused = {
        away.id: Refusal("session_not_active", "…", {}),
        hidden.id: Refusal("session_not_active", "…", {}),
        "mach_x": Refusal("machine_not_found", "…", {}),
    }
    both, other = records.batch(refused=refused), records.batch()
    for batch in (both, other):
        await store.run(batches.insert, batch)
        await recorded(store, far.id, far_session, batch_id=batch.id)
    mine = await recorded(store, near.id, near_session, batch_id=both.id)
    assert set((await store.run(batches.get, WEB, both.id)).refused) == {away.id, "mach_x"}
    assert [each.id for each in await store.run(batches.commands_of, WEB, both.id)] == [mine.id]
    assert len(await store.run(batches.commands_of, REACH, both.id)) == 2
    assert await store.run(batches.get, REACH, both.id) == both
    with pytest.raises(BatchNotFound):
        await store.run(batches.get, WEB, other.id)
