"""What is held for certain of an output."""

import pytest

from cmdop_appliance.store import output
from tests.support.records import connected, recorded


@pytest.fixture
async def command_id(store):
    machine, session_id, _ = await connected(store)
    return (await recorded(store, machine.id, session_id)).id


async def held(store, command_id: str) -> tuple[int, bytes | None]:
    row = (await store.run(output.of_command, command_id))["stdout"]
    return row.stored_bytes, row.content


async def test_streams_are_kept_apart_and_an_empty_one_is_no_row(store, command_id):
    assert await store.run(output.of_command, command_id) == {}
    await store.run(output.save, command_id, "stderr", 2, b"\xff\0", max_bytes=1 << 20)
    found = await store.run(output.of_command, command_id)
    assert list(found) == ["stderr"]
    assert found["stderr"].content == b"\xff\0"


async def test_a_stream_only_grows(store, command_id):
    await store.run(output.save, command_id, "stdout", 3, b"one", max_bytes=1 << 20)
    await store.run(output.save, command_id, "stdout", 1, b"o", max_bytes=1 << 20)
    assert await held(store, command_id) == (3, b"one")
    await store.run(output.save, command_id, "stdout", 9000, None, max_bytes=1 << 20)
    assert await held(store, command_id) == (9000, None)
    await store.run(output.save, command_id, "stdout", 3, b"one", max_bytes=1 << 20)
    assert await held(store, command_id) == (9000, None)
