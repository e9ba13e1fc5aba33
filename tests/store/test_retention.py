"""What has ended is forgotten in its order, a piece at a time, and nothing that is under way."""

import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import CommandNotFound
from cmdop_appliance.store import batches, commands, machines, output, retention, sessions, tallies
from cmdop_appliance.store.output import Leftover
from cmdop_appliance.store.retention import PIECE_COMMANDS
from cmdop_appliance.store.tallies import Asked
from tests.support import records
from tests.support.records import NOW, REACH, connected, recorded

DAY_MS = 86_400_000


async def ended(store, machine_id: str, session_id: str, finished_ms: int, **fields) -> str:
    """The id of a command that ended then, and wrote a line."""
    command = await recorded(store, machine_id, session_id, **fields)
    await store.run(output.save, command.id, "stdout", 4, b"line", max_bytes=1 << 20)
    end = records.ended(command, finished_ms=finished_ms)
    await store.run(commands.finish, end)
    return command.id


async def kept(store, command_id: str) -> bytes | None:
    return (await store.run(output.of_command, command_id))["stdout"].content


async def is_there(store, command_id: str) -> bool:
    try:
        await store.run(commands.get, REACH, command_id)
    except CommandNotFound:
        return False
    return True


@pytest.fixture
async def place(store):
    machine, session_id, _ = await connected(store)
    return machine.id, session_id


async def test_output_goes_after_its_time_and_its_length_stays(store, place):
    old = await ended(store, *place, NOW - 10)
    young = await ended(store, *place, NOW)
    open_one = (await recorded(store, *place)).id
    await store.run(output.save, open_one, "stdout", 4, b"runs", max_bytes=1 << 20)
    assert not await store.run(retention.forget_output, NOW)
    row = (await store.run(output.of_command, old))["stdout"]
    assert (row.content, row.is_forgotten, row.stored_bytes) == (None, True, 4)
    assert (await kept(store, young), await kept(store, open_one)) == (b"line", b"runs")
    assert await is_there(store, old)


async def test_output_goes_in_pieces_and_each_is_looked_at_once(store, place):
    old = [await ended(store, *place, NOW - 1000 + n) for n in range(PIECE_COMMANDS + 1)]
    last = await ended(store, *place, NOW - 1)
    assert await store.run(retention.forget_output, NOW - 1)
    assert await kept(store, old[-1]) == b"line"
    assert not await store.run(retention.forget_output, NOW - 1)
    assert await kept(store, old[-1]) is None
    assert await kept(store, last) == b"line"
    # What came back to life in what was passed is not looked for again.
    await store.run(lambda tx: tx.execute("UPDATE output SET is_forgotten = 0, content = x'00'"))
    assert not await store.run(retention.forget_output, NOW)
    assert (await kept(store, old[0]), await kept(store, last)) == (b"\0", None)


async def test_many_that_ended_at_once_go_together(store, place):
    old = [await ended(store, *place, NOW - 5) for _ in range(PIECE_COMMANDS + 3)]
    assert await store.run(retention.forget_output, NOW)
    assert {await kept(store, command_id) for command_id in old} == {None}


async def test_what_was_only_silent_keeps_its_output(store, place):
    silent = await recorded(store, *place)
    await store.run(output.save, silent.id, "stdout", 4, b"line", max_bytes=1 << 20)
    end = records.ended(silent, status="lost", error_code="silent", finished_ms=NOW - 10)
    await store.run(commands.finish, end)
    await store.run(retention.forget_output, NOW)
    assert await kept(store, silent.id) == b"line"


async def test_many_that_were_only_silent_do_not_keep_those_behind_them(store, place):
    for _ in range(PIECE_COMMANDS):  # of one machine, which is given up in one moment
        await ended(store, *place, NOW - 5)
    await store.run(lambda tx: tx.execute("UPDATE command SET error_code = 'silent'"))
    behind = await ended(store, *place, NOW - 1)
    assert await store.run(retention.forget_output, NOW)
    assert not await store.run(retention.forget_output, NOW)
    assert await kept(store, behind) is None


async def test_a_file_is_left_over_until_it_is_deleted_and_only_then_its_command_goes(store, place):
    large = await recorded(store, *place)
    await store.run(output.save, large.id, "stdout", 9000, None, max_bytes=1 << 20)
    await store.run(output.save, large.id, "stderr", 1, b"e", max_bytes=1 << 20)
    await store.run(commands.finish, records.ended(large, finished_ms=NOW - 10))
    await store.run(retention.forget_commands, NOW)
    left = [Leftover(command_id=large.id, stream="stdout")]
    assert await store.run(output.leftovers, 10) == left
    assert await is_there(store, large.id)
    await store.run(output.deleted, left)
    await store.run(retention.forget_commands, NOW)
    assert not await is_there(store, large.id)
    assert await store.run(output.of_command, large.id) == {}


async def test_commands_go_in_pieces_and_are_counted_no_more(store, place):
    old = [await ended(store, *place, NOW - 1000 + n) for n in range(PIECE_COMMANDS)]
    young = await ended(store, *place, NOW)
    assert await store.run(retention.forget_commands, NOW)
    assert not await store.run(retention.forget_commands, NOW)
    assert not any([await is_there(store, command_id) for command_id in old])
    assert await is_there(store, young)
    assert await store.run(tallies.count, REACH, Asked()) == 1
    assert await store.run(tallies.count, REACH, Asked(machine_id=place[0])) == 1


async def test_every_workspace_is_looked_at(store, place):
    await store.run(lambda tx: tx.execute("INSERT INTO workspace VALUES ('ws_2', 'two', 0, 0, 0)"))
    other = records.machine(workspace_id="ws_2")
    await store.run(machines.insert, other, "enr_x")
    facts = records.FACTS
    session_id, _ = await store.run(sessions.connect, other, facts=facts, ip="::1", now_ms=NOW)
    theirs = await ended(store, other.id, session_id, NOW - 10, workspace_id="ws_2")
    await store.run(retention.forget_output, NOW)
    assert await kept(store, theirs) is None
    await store.run(retention.forget_commands, NOW)
    with pytest.raises(CommandNotFound):
        await store.run(commands.get, Reach("ws_2"), theirs)


async def test_a_batch_goes_with_its_last_command_also_if_it_went_on_where_another_stopped(
    store, place
):
    first, rest = records.batch(), records.batch()
    for batch in (first, rest):
        await store.run(batches.insert, batch)
    assert await store.run(batches.resume, first.id, rest.id)
    await ended(store, *place, NOW - 10, batch_id=rest.id)
    still = (await recorded(store, *place, batch_id=first.id)).id
    await store.run(retention.forget_commands, NOW)
    left = await store.run(lambda tx: tx.value("SELECT group_concat(id) FROM batch"))
    assert left == first.id
    assert await is_there(store, still)
