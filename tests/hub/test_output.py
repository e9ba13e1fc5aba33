"""Output: always a prefix of what the machine wrote, and never less than was safe."""

import resource
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from cmdop_appliance.errors import StorageFull
from cmdop_appliance.hub.output import SMALL_BYTES, OutputGap, Outputs, save_all
from cmdop_appliance.ids import new_id
from cmdop_appliance.store import output as rows
from cmdop_appliance.store.engine import Store, open_store
from cmdop_appliance.store.transaction import Tx
from tests.support.records import connected, recorded

# No two places in it look alike, so that a byte at the wrong offset is seen.
TRUTH = b"".join(b"%07d\n" % number for number in range(8000))


@asynccontextmanager
async def command_in(path: Path):
    """A store with one command; its id, and its outputs."""
    async with open_store(path, inline=True) as store:
        machine, session_id, _ = await connected(store)
        command_id = (await recorded(store, machine.id, session_id)).id
        outputs = Outputs(store, path / "output")
        outputs.begin(command_id)
        try:
            yield store, command_id, outputs
        finally:
            outputs.close()


@pytest.fixture
async def command(tmp_path):
    async with command_in(tmp_path) as command:
        yield command


async def everything(outputs: Outputs, command_id: str, stream: str = "stdout") -> bytes:
    """What a reader gets who reads piece by piece to the end."""
    read = b""
    while piece := await outputs.read(command_id, stream, len(read), 3001):
        read += piece
    return read


async def end(store: Store, outputs: Outputs, command_id: str) -> None:
    """As an end is recorded, without the command's own row."""
    await store.run(save_all, await outputs.sync(command_id))
    outputs.end(command_id)


async def row(store: Store, command_id: str, stream: str = "stdout") -> rows.StoredStream:
    return (await store.run(rows.of_command, command_id))[stream]


def files(path: Path) -> list[Path]:
    return [file for file in (path / "output").rglob("*") if file.is_file()]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def limit_pages(tx: Tx, more: int) -> None:
    tx.execute(f"PRAGMA max_page_count = {tx.value('PRAGMA page_count') + more}")


# ── the property ─────────────────────────────────────────────────────────────────────────────────

STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 9000), st.integers(0, 9000)),
    st.tuples(st.just("gap"), st.integers(1, 9000), st.integers(0, 100)),
    st.tuples(st.just("read"), st.integers(0, 50_000), st.integers(0, 20_000)),
    st.tuples(st.just("flush"), st.none(), st.none()),
    st.tuples(st.just("power cut"), st.binary(max_size=50), st.none()),
)


@settings(max_examples=60)
@given(st.lists(STEP, max_size=25))
async def test_what_is_held_is_a_prefix_of_the_truth_whatever_happens(steps):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        async with command_in(path) as (store, command_id, outputs):
            size = safe = 0
            for kind, one, two in steps:
                stream = (await outputs.resume(command_id))["stdout"]
                if kind == "append":  # anything from an overlap to a continuation
                    offset = max(0, size - one)
                    stream.append(offset, TRUTH[offset : offset + two])
                    size = max(size, min(offset + two, len(TRUTH)))
                elif kind == "gap":
                    with pytest.raises(OutputGap):
                        stream.append(size + one, b"x" * two)
                elif kind == "read":
                    read = await outputs.read(command_id, "stdout", one, two)
                    assert read == TRUTH[one : min(one + two, size)]
                elif kind == "flush":
                    await outputs.flush()
                    safe = size
                else:
                    outputs.close()
                    for file in files(path):  # what was not safe may be anything now
                        with file.open("r+b") as torn:
                            torn.seek(safe)
                            torn.write(one)
                    outputs = Outputs(store, path / "output")
                    size = safe
                assert (await outputs.sizes(command_id))["stdout"] == size
            await outputs.resume(command_id)
            assert await everything(outputs, command_id) == TRUTH[:size]
            await end(store, outputs, command_id)
            later = Outputs(store, path / "output")
            assert await everything(later, command_id) == TRUTH[:size]
            assert (await later.sizes(command_id))["stdout"] == size


# ── rows and files ───────────────────────────────────────────────────────────────────────────────


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
    assert await Outputs(store, tmp_path).sizes(new_id("cmd")) == {"stdout": 0, "stderr": 0}


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
        await outputs.sync(command_id)
    assert open_files() == before


# ── safety ───────────────────────────────────────────────────────────────────────────────────────


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
    assert await everything(Outputs(store, outputs._folder), command_id) == TRUTH[:9000]


async def test_what_a_power_cut_tore_is_gone_from_the_file_too(command, tmp_path):
    store, command_id, outputs = command
    outputs.live(command_id)["stdout"].append(0, TRUTH[:9000])
    await outputs.flush()
    outputs.close()
    (file,) = files(tmp_path)
    with file.open("ab") as torn:
        torn.write(b"torn" * 1000)
    again = Outputs(store, tmp_path / "output")
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


# ── at hand ──────────────────────────────────────────────────────────────────────────────────────


async def test_many_ended_commands_do_not_fill_the_memory(tmp_path):
    async with command_in(tmp_path) as (store, command_id, _):
        outputs = Outputs(store, tmp_path / "output")
        for _ in range(300):
            made = new_id("cmd")
            outputs.begin(made)
            outputs.live(made)["stdout"].append(0, b"x")
            outputs.end(made)
        outputs.begin(command_id)
        assert len(outputs._ended) == 256
        assert list(outputs._live) == [command_id]
        outputs.close()


async def test_two_who_resume_at_once_get_the_same_streams(tmp_path):
    async with open_store(tmp_path) as store:
        machine, session_id, _ = await connected(store)
        command_id = (await recorded(store, machine.id, session_id)).id
        await store.run(rows.save, command_id, "stdout", 3, b"one")
        outputs = Outputs(store, tmp_path / "output")
        found = []

        async def resume() -> None:
            streams = await outputs.resume(command_id)
            streams["stdout"].append(streams["stdout"].size, b"+")
            found.append(streams)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(resume)
        assert all(streams is found[0] for streams in found)
        assert await outputs.read(command_id, "stdout", 0, 99) == b"one++++"
        outputs.close()
