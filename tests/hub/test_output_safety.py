"""Output is safe within a second, much of it at once, and what was safe stays as it was."""

import os
import resource
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.errors import StorageFull
from cmdop_appliance.hub.live_stream import FLUSH_BYTES, SMALL_BYTES, UNSAFE_BYTES
from cmdop_appliance.hub.output import CACHED_BYTES, Outputs, save_all
from cmdop_appliance.store import output as rows
from cmdop_appliance.store.transaction import Tx
from tests.hub.outputs import MAX_BYTES, TRUTH, command_in, end, everything, files, row, until_safe
from tests.support.records import connected, recorded


def limit_pages(tx: Tx, more: int) -> None:
    tx.execute(f"PRAGMA max_page_count = {tx.value('PRAGMA page_count') + more}")


async def test_an_older_flush_never_overwrites_a_newer_end(command):
    store, command_id, outputs = command
    stream = outputs.live(command_id)["stdout"]
    stream.append(0, TRUTH[:100])
    flush_under_way = list(outputs._unsafe([command_id]))
    stream.append(100, TRUTH[100:9000])
    await end(store, outputs, command_id)
    await store.run(save_all, flush_under_way)
    held = await row(store, command_id)
    assert (held.stored_bytes, held.content) == (9000, None)
    assert await everything(Outputs(store, outputs._folder, MAX_BYTES), command_id) == TRUTH[:9000]


async def test_what_a_power_cut_tore_is_gone_from_the_file_too(command, tmp_path):
    store, command_id, outputs = command
    outputs.live(command_id)["stdout"].append(0, TRUTH[:9000])
    await outputs.flush()
    outputs.close()
    (file,) = files(tmp_path)
    with file.open("ab") as torn:
        torn.write(b"torn" * 1000)
    again = Outputs(store, tmp_path / "output", MAX_BYTES)
    await again.resume(command_id)
    assert file.read_bytes() == TRUTH[:9000]
    again.close()


async def test_output_is_safe_within_a_second_without_being_asked(
    command, autojump_clock: MockClock
):
    store, command_id, outputs = command
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outputs.flush_forever)
        outputs.live(command_id)["stdout"].append(0, b"hello")
        await trio.sleep(1.01)
        assert (await row(store, command_id)).content == b"hello"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("max_bytes", "held", "most"),
    [
        (4 * FLUSH_BYTES, 0, FLUSH_BYTES),
        (4 * FLUSH_BYTES, 2 * FLUSH_BYTES, FLUSH_BYTES),
        (MAX_BYTES, MAX_BYTES, UNSAFE_BYTES // 2),  # beyond its cap it soon may take no more
    ],
)
async def test_much_output_is_made_safe_at_once(
    tmp_path, mock_clock: MockClock, max_bytes, held, most
):
    """The clock stands still: the second never comes in which everything is made safe."""
    async with command_in(tmp_path) as (store, command_id, _):
        outputs = Outputs(store, tmp_path / "output", max_bytes)
        outputs.begin(command_id)
        stream = outputs.live(command_id)["stdout"]
        outputs.append(command_id, "stdout", 0, bytes(held))
        await outputs.flush()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outputs.flush_forever)
            for size in (held + most - 1, held + most, held + 2 * most):
                outputs.append(command_id, "stdout", stream.size, bytes(size - stream.size))
                assert stream.is_due == (size > held + most - 1)
                if stream.is_due:
                    await until_safe(stream, size)
                    assert (await row(store, command_id)).stored_bytes == size
            nursery.cancel_scope.cancel()
        outputs.close()


async def test_only_what_is_much_is_made_safe_before_its_time(tmp_path, mock_clock: MockClock):
    async with command_in(tmp_path) as (store, command_id, outputs):
        stderr = outputs.live(command_id)["stderr"]
        machine, session_id, _ = await connected(store)
        other = (await recorded(store, machine.id, session_id)).id
        outputs.begin(other)
        outputs.append(other, "stdout", 0, b"little")
        outputs.append(command_id, "stderr", 0, bytes(UNSAFE_BYTES))
        outputs.append(command_id, "stderr", UNSAFE_BYTES, bytes(MAX_BYTES))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outputs.flush_forever)
            await until_safe(stderr, UNSAFE_BYTES + MAX_BYTES)
            nursery.cancel_scope.cancel()
        assert outputs.live(other)["stdout"].safe == 0


async def test_of_a_long_stream_that_is_safe_only_the_end_stays_in_the_page_cache(tmp_path):
    async with command_in(tmp_path) as (store, command_id, _):
        outputs = Outputs(store, tmp_path / "output", 2 * CACHED_BYTES)
        outputs.begin(command_id)
        for offset in range(0, CACHED_BYTES, UNSAFE_BYTES):
            outputs.append(command_id, "stdout", offset, bytes(UNSAFE_BYTES))
        await outputs.flush()
        (file,) = files(tmp_path)
        assert is_cached(file, 0)
        outputs.append(command_id, "stdout", CACHED_BYTES, bytes(UNSAFE_BYTES))
        await outputs.flush()
        assert is_cached(file, UNSAFE_BYTES)
        if not forgets(tmp_path / "probe"):
            pytest.skip("no file here ever leaves the page cache: a tmpfs?")
        assert not is_cached(file, 0)
        outputs.close()


def is_cached(file: Path, offset: int) -> bool:
    fd = os.open(file, os.O_RDONLY)
    try:
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def forgets(probe: Path) -> bool:
    with probe.open("wb") as file:
        file.write(bytes(8192))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 8192, os.POSIX_FADV_DONTNEED)
    return not is_cached(probe, 0)


async def test_a_full_store_delays_safety_and_ends_nothing(command, autojump_clock: MockClock):
    store, command_id, outputs = command
    await store.run(limit_pages, 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outputs.flush_forever)
        outputs.live(command_id)["stdout"].append(0, TRUTH[:SMALL_BYTES])
        await trio.sleep(3)
        assert await store.run(rows.of_command, command_id) == {}
        await store.run(limit_pages, 1000)
        await trio.sleep(1.5)
        assert (await row(store, command_id)).content == TRUTH[:SMALL_BYTES]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("held", [0, 100, 9000])
async def test_a_disk_that_takes_only_a_part_holds_what_was_held_before(command, held):
    _, command_id, outputs = command
    stream = outputs.live(command_id)["stdout"]
    stream.append(0, TRUTH[:held])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(held + 10, 50), hard))  # bytes in a file
    try:
        for _ in range(2):
            with pytest.raises(StorageFull):
                stream.append(held, TRUTH[held : held + 10_000])
            assert stream.size == held
            assert await everything(outputs, command_id) == TRUTH[:held]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    stream.append(held, TRUTH[held : held + 10_000])
    assert await everything(outputs, command_id) == TRUTH[: held + 10_000]
