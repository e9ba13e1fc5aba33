"""Batches: what is held, under way, ended; whose turn is next."""

import msgspec
import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import BatchNotFound
from cmdop_appliance.model import COMMAND_STATUSES, OPEN_STATUSES, Refusal
from cmdop_appliance.store import batches, commands, sessions
from cmdop_appliance.store.batches import Progress
from tests.support.records import NOW, REACH, batch, connected, ended, joined, recorded


async def made(store, **fields):
    """A batch of the store."""
    one = batch(**fields)
    await store.run(batches.insert, one)
    return one


async def test_a_batch_is_read_as_it_was_recorded(store):
    refused = {"mach_x": Refusal("machine_not_found", "Machine not found", {"a": [1]})}
    one = await made(store, concurrency=7, canary=3, max_errors=2, refused=refused)
    assert await store.run(batches.get, REACH, one.id) == one
    endless = await made(store, max_errors=None)
    assert (await store.run(batches.get, REACH, endless.id)).max_errors is None


async def test_a_batch_of_another_workspace_is_not_found(store):
    one = await made(store)
    for reach, batch_id in ((Reach("ws_other"), one.id), (REACH, "batch_x")):
        with pytest.raises(BatchNotFound) as caught:
            await store.run(batches.get, reach, batch_id)
        assert caught.value.details == {"batch_id": batch_id}


async def test_the_next_ones_are_those_held_in_the_order_of_their_making(store):
    machine, session_id, _ = await connected(store)
    one, other = await made(store), await made(store)
    held = [
        await recorded(store, machine.id, None, batch_id=one.id, is_held=True) for _ in range(3)
    ]
    going = await recorded(store, machine.id, session_id, batch_id=one.id)
    await recorded(store, machine.id, None, batch_id=other.id, is_held=True)
    await recorded(store, machine.id, None)
    found = await store.run(batches.held, one.id, 2)
    assert [each.id for each in found] == [each.id for each in held[:2]]
    everything = await store.run(batches.commands_of, REACH, one.id)
    assert [each.id for each in everything] == [each.id for each in [*held, going]]
    await store.run(commands.place, msgspec.structs.replace(held[0], session_id=session_id))
    found = await store.run(batches.held, one.id, 9)
    assert [each.id for each in found] == [each.id for each in held[1:]]


async def test_what_is_held_is_not_sent_when_its_machine_comes_and_does_not_expire(store):
    machine, session_id, _ = await connected(store)
    one = await made(store)
    held = await recorded(store, machine.id, None, batch_id=one.id, is_held=True)
    await store.run(commands.send_queued, machine.id, session_id, NOW)
    assert (await store.run(commands.get, REACH, held.id)).session_id is None
    assert await store.run(commands.unsent_since, held.start_until_ms + 1) == []


@pytest.mark.parametrize("status", COMMAND_STATUSES)
async def test_every_status_is_counted_where_it_belongs(store, status):
    machine, session_id, _ = await connected(store)
    one, other = await made(store), await made(store)
    assert await store.run(batches.progress, one.id) == Progress(
        held=0, under_way=0, completed=0, failed=0
    )
    command = await recorded(store, machine.id, session_id, batch_id=one.id)
    await recorded(store, machine.id, None, batch_id=one.id, is_held=True)
    await recorded(store, machine.id, session_id, batch_id=other.id)
    if status == "running":
        await store.run(commands.started, command.id, machine.id, NOW)
    elif status not in OPEN_STATUSES:
        await store.run(commands.finish, ended(command, status=status))
    progress = await store.run(batches.progress, one.id)
    assert progress == Progress(
        held=1,
        under_way=int(status in OPEN_STATUSES),
        completed=int(status == "completed"),
        failed=int(status not in (*OPEN_STATUSES, "completed", "skipped")),
    )


async def test_what_ends_is_held_no_more(store):
    machine, _, _ = await connected(store)
    one = await made(store)
    held = await recorded(store, machine.id, None, batch_id=one.id, is_held=True)
    await store.run(commands.finish, ended(held, status="skipped"))
    assert not (await store.run(commands.get, REACH, held.id)).is_held
    assert await store.run(batches.held, one.id, 9) == []


async def test_a_batch_tells_since_when_a_machine_is_away(store):
    machine, session_id, epoch = await connected(store)
    one = await made(store)
    await recorded(store, machine.id, session_id, batch_id=one.id)
    await store.run(sessions.lose, session_id, epoch, now_ms=NOW + 5, grace_until_ms=NOW + 9)
    (command,) = await store.run(batches.commands_of, REACH, one.id)
    assert command.stale_ms == NOW


async def test_a_batch_must_let_something_go(store):
    with pytest.raises(Exception, match="CHECK constraint"):
        await made(store, concurrency=0)


async def test_a_machine_that_never_connected_can_be_waited_for(store):
    machine = await joined(store)
    one = await made(store)
    waiting = await recorded(store, machine.id, None, batch_id=one.id, is_queued=True)
    (found,) = await store.run(batches.commands_of, REACH, one.id)
    assert found == waiting
