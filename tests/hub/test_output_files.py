"""A small stream is a row, a large one a file; of many files few are open, and all are held."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.errors import Unavailable
from cmdop_appliance.hub import live_stream as module
from cmdop_appliance.hub.live_stream import SMALL_BYTES
from cmdop_appliance.hub.output import Outputs
from cmdop_appliance.ids import new_id
from cmdop_appliance.store import output as rows
from tests.hub.outputs import MAX_BYTES, TRUTH, end, everything, files, row, until_safe
from tests.support.descriptors import no_free_descriptor
from tests.support.records import connected, recorded


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_small_stream_is_a_row_and_no_file(command, tmp_path):
    store, command_id, outputs = command
    outputs.live(command_id)["stdout"].append(0, TRUTH[:SMALL_BYTES])
    await end(store, outputs, command_id)
    assert (await row(store, command_id)).content == TRUTH[:SMALL_BYTES]
    assert files(tmp_path) == []
    assert list(await store.run(rows.of_command, command_id)) == ["stdout"]


async def test_a_large_stream_is_one_file_of_its_own_and_no_content_in_the_store(command, tmp_path):
    store, command_id, outputs = command
    streams = outputs.live(command_id)
    for offset in range(0, len(TRUTH), 32_000):
        streams["stdout"].append(offset, TRUTH[offset : offset + 32_000])
    streams["stderr"].append(0, b"small")
    await end(store, outputs, command_id)
    assert (await row(store, command_id)).content is None
    (file,) = files(tmp_path)
    assert file.read_bytes() == TRUTH
    assert file.stat().st_mode & 0o777 == 0o600
    assert await everything(outputs, command_id, "stderr") == b"small"


async def test_a_command_without_output_is_neither_row_nor_file(command, tmp_path):
    store, command_id, outputs = command
    await outputs.flush()
    await end(store, outputs, command_id)
    assert await store.run(rows.of_command, command_id) == {}
    assert files(tmp_path) == []
    assert await outputs.read(command_id, "stdout", 0, 10) == b""
    assert await Outputs(store, tmp_path, MAX_BYTES).sizes(new_id("cmd")) == {
        "stdout": 0,
        "stderr": 0,
    }


async def test_an_ended_command_leaves_no_open_file(command):
    store, command_id, outputs = command
    outputs.live(command_id)["stdout"].append(0, TRUTH[:9000])
    before = open_files()
    await end(store, outputs, command_id)
    assert open_files() == before - 1
    assert outputs.live(command_id) is None


async def test_flushing_leaves_no_open_file_even_when_it_is_cancelled(command):
    _, command_id, outputs = command
    outputs.live(command_id)["stdout"].append(0, TRUTH[:9000])
    before = open_files()
    await outputs.flush()
    outputs.live(command_id)["stdout"].append(9000, TRUTH[9000:9500])
    with trio.CancelScope() as scope:
        scope.cancel()
        await outputs.flush()
    with trio.CancelScope() as scope:
        scope.cancel()
        await outputs.sync([command_id])
    assert open_files() == before


async def test_of_many_streams_few_are_open_and_all_are_held(command, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "OPEN_FILES", 3)
    store, _, outputs = command
    machine, session_id, _ = await connected(store)
    made = [(await recorded(store, machine.id, session_id)).id for _ in range(8)]
    before, size = open_files(), 9000
    for number, command_id in enumerate(made):
        outputs.begin(command_id)
        outputs.append(command_id, "stdout", 0, TRUTH[number : number + size])
    for grown in (size + 500, size + 1000):  # unsafe bytes are there still when it is open again
        for number, command_id in enumerate(made):
            data = TRUTH[number + grown - 500 : number + grown]
            outputs.append(command_id, "stdout", grown - 500, data)
        assert open_files() == before + 3
    await outputs.flush()
    assert open_files() == before + 3
    for number, command_id in enumerate(made):
        assert await everything(outputs, command_id) == TRUTH[number : number + size + 1000]
        assert outputs.live(command_id)["stdout"].safe == size + 1000
    for command_id in made:
        await end(store, outputs, command_id)
    assert open_files() == before


async def test_too_many_open_files_are_no_failed_disk(command, autojump_clock: MockClock, caplog):
    store, command_id, outputs = command
    outputs.append(command_id, "stdout", 0, TRUTH[:9000])
    async with trio.open_nursery() as nursery:
        with no_free_descriptor():
            with pytest.raises(Unavailable, match="too many files open"):
                outputs.append(command_id, "stderr", 0, TRUTH[:9000])
            with pytest.raises(Unavailable, match="too many files open"):
                await outputs.sync([command_id])
            nursery.start_soon(outputs.flush_forever)
            while "output is not safe yet" not in caplog.messages:  # noqa: ASYNC110
                await trio.sleep(0.5)
        await until_safe(outputs.live(command_id)["stdout"], 9000)
        nursery.cancel_scope.cancel()
    assert not store.is_broken
    outputs.append(command_id, "stderr", 0, TRUTH[:9000])
    assert await everything(outputs, command_id, "stderr") == TRUTH[:9000]


async def test_a_stream_that_could_not_be_opened_is_resumed_whole_later(command, tmp_path):
    store, command_id, outputs = command
    outputs.append(command_id, "stdout", 0, TRUTH[:9000])
    await outputs.flush()
    outputs.close()
    again = Outputs(store, tmp_path / "output", MAX_BYTES)
    with no_free_descriptor(), pytest.raises(Unavailable):
        await again.resume(command_id)
    assert again.live(command_id) is None
    assert not store.is_broken
    assert (await again.resume(command_id))["stdout"].size == 9000
    again.close()
