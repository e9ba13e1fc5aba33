"""Output: always a prefix of what the machine wrote, and never less than was safe."""

import os
import resource
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from cmdop_appliance.errors import StorageFull, Unavailable
from cmdop_appliance.hub import output as module
from cmdop_appliance.hub.output import (
    CACHED_BYTES,
    FLUSH_BYTES,
    HEAD_BYTES,
    SMALL_BYTES,
    UNSAFE_BYTES,
    LiveStream,
    OutputGap,
    Outputs,
    save_all,
)
from cmdop_appliance.ids import new_id
from cmdop_appliance.store import output as rows
from cmdop_appliance.store.engine import Store, open_store
from cmdop_appliance.store.transaction import Tx
from tests.support.descriptors import no_free_descriptor
from tests.support.records import connected, recorded

MAX_BYTES = 2 * 1024 * 1024
# No two places in it look alike, so that a byte at the wrong offset is seen.
TRUTH = b"".join(b"%07d\n" % number for number in range(8000))


@asynccontextmanager
async def command_in(path: Path):
    """A store with one command; its id, and its outputs."""
    async with open_store(path, inline=True) as store:
        machine, session_id, _ = await connected(store)
        command_id = (await recorded(store, machine.id, session_id)).id
        outputs = Outputs(store, path / "output", MAX_BYTES)
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
                    outputs = Outputs(store, path / "output", MAX_BYTES)
                    size = safe
                assert (await outputs.sizes(command_id))["stdout"] == size
            await outputs.resume(command_id)
            assert await everything(outputs, command_id) == TRUTH[:size]
            await end(store, outputs, command_id)
            later = Outputs(store, path / "output", MAX_BYTES)
            assert await everything(later, command_id) == TRUTH[:size]
            assert (await later.sizes(command_id))["stdout"] == size


# Of a stream that is longer than its cap; no two of its pieces look alike, either.
LONG = b"".join(b"%07d\n" % number for number in range(1_000_000))
CAPPED_STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 200_000), st.integers(0, UNSAFE_BYTES)),
    st.tuples(st.just("append"), st.just(0), st.integers(900_000, UNSAFE_BYTES)),
    st.tuples(st.just("read"), st.integers(0, len(LONG)), st.integers(0, 300_000)),
    st.tuples(st.just("flush"), st.none(), st.none()),
    st.tuples(st.just("power cut"), st.booleans(), st.none()),
)


def kept(size: int) -> list[tuple[int, int]]:
    """The ranges of a stream of this size that its reader must get."""
    if size <= MAX_BYTES:
        return [(0, size)]
    return [(0, HEAD_BYTES), (size - (MAX_BYTES - HEAD_BYTES), size)]


async def assert_kept(outputs: Outputs, command_id: str, size: int) -> None:
    held = (await outputs.held(command_id))["stdout"]
    head, tail = kept(size)[0], kept(size)[-1]
    assert (held.size, held.gap) == (size, head[1])
    assert held.gap_end == (tail[0] if tail != head else size)
    for first, end in kept(size):
        read = await outputs.read(command_id, "stdout", first, len(LONG))
        assert read == LONG[first:end]
    assert await outputs.read(command_id, "stdout", size, 10) == b""


MUCH = ("append", 0, 1_000_000)


@settings(max_examples=40)
@example([MUCH] * 4 + [("flush", None, None)] + [MUCH] * 2 + [("power cut", True, None)])
@example([MUCH] * 3 + [("flush", None, None), MUCH, ("power cut", False, None)])
@given(st.lists(CAPPED_STEP, min_size=8, max_size=20))
async def test_of_a_long_stream_head_and_tail_of_the_truth_are_held_whatever_happens(steps):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        async with command_in(path) as (store, command_id, outputs):
            size = safe = 0
            for kind, one, two in steps:
                stream = (await outputs.resume(command_id))["stdout"]
                if kind == "append":
                    offset = max(0, size - one)
                    data = LONG[offset : offset + two]
                    if not stream.has_room(len(data)):
                        await outputs.flush()
                        safe = size
                        assert stream.has_room(len(data))
                    stream.append(offset, data)
                    size = max(size, offset + len(data))
                elif kind == "read":
                    read = await outputs.read(command_id, "stdout", one, two)
                    here = [(a, b) for a, b in kept(size) if a <= one < b]
                    assert read == b"".join(LONG[one : min(one + two, b)] for _, b in here)
                elif kind == "flush":
                    await outputs.flush()
                    safe = size
                else:
                    outputs.close()
                    for file in files(path):
                        tear(file, safe, size if one else max(safe, MAX_BYTES) + UNSAFE_BYTES)
                    outputs = Outputs(store, path / "output", MAX_BYTES)
                    size = safe
            await outputs.resume(command_id)
            await assert_kept(outputs, command_id, size)
            await end(store, outputs, command_id)
            # The cap is the stream's own: another setting later changes nothing.
            await assert_kept(Outputs(store, path / "output", 2 * MAX_BYTES), command_id, size)
            assert all(f.stat().st_size <= MAX_BYTES + UNSAFE_BYTES for f in files(path))


def tear(file: Path, safe: int, end: int) -> None:
    """Whatever may not have been safe from `safe` up to `end` is garbage now."""
    ring = MAX_BYTES + UNSAFE_BYTES - HEAD_BYTES
    with file.open("r+b") as torn:
        for offset in range(safe, end, 1000):
            place = offset if offset < HEAD_BYTES else HEAD_BYTES + (offset - HEAD_BYTES) % ring
            torn.seek(place)
            torn.write(b"#" * min(1000, end - offset, HEAD_BYTES + ring - place))


@pytest.mark.parametrize("missing", [1, 1_500_000, 2_500_000])
async def test_a_capped_file_that_lacks_bytes_is_sure_of_its_head_alone(command, tmp_path, missing):
    store, command_id, outputs = command
    for offset in range(0, 5_000_000, 500_000):
        outputs.live(command_id)["stdout"].append(offset, LONG[offset : offset + 500_000])
        await outputs.flush()
    outputs.close()
    (file,) = files(tmp_path)
    with file.open("r+b") as short:
        short.truncate(MAX_BYTES + UNSAFE_BYTES - missing)
    again = Outputs(store, tmp_path / "output", MAX_BYTES)
    sure = (await again.resume(command_id))["stdout"].size
    assert sure == min(HEAD_BYTES, MAX_BYTES + UNSAFE_BYTES - missing)
    assert await everything(again, command_id) == LONG[:sure]
    again.close()


async def test_a_stream_from_before_there_was_a_cap_is_held_whole(command, tmp_path):
    store, command_id, outputs = command
    outputs.live(command_id)["stdout"].append(0, LONG[:3_000_000])
    await outputs.flush()
    outputs.close()
    await store.run(lambda tx: tx.execute("UPDATE output SET max_bytes = 1 << 62"))
    again = Outputs(store, tmp_path / "output", MAX_BYTES)
    (await again.resume(command_id))["stdout"].append(3_000_000, LONG[3_000_000:])
    assert await everything(again, command_id) == LONG
    again.close()


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
        await outputs.sync(command_id)
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
                await outputs.sync(command_id)
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


async def until_safe(stream: LiveStream, size: int) -> None:
    for _ in range(1000):
        if stream.safe == size:
            return
        await trio.to_thread.run_sync(time.sleep, 0.01)
    raise AssertionError(f"safe up to {stream.safe}, not {size}")


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


# ── at hand ──────────────────────────────────────────────────────────────────────────────────────


async def test_many_ended_commands_do_not_fill_the_memory(tmp_path):
    async with command_in(tmp_path) as (store, command_id, _):
        outputs = Outputs(store, tmp_path / "output", MAX_BYTES)
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
        await store.run(rows.save, command_id, "stdout", 3, b"one", max_bytes=MAX_BYTES)
        outputs = Outputs(store, tmp_path / "output", MAX_BYTES)
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
