"""Output: always a prefix of what the machine wrote; of a long stream, its head and its tail."""

import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cmdop_appliance.hub.live_stream import HEAD_BYTES, UNSAFE_BYTES, OutputGap
from cmdop_appliance.hub.output import Outputs
from cmdop_appliance.ids import new_id
from cmdop_appliance.store import output as rows
from cmdop_appliance.store.engine import open_store
from tests.hub.outputs import MAX_BYTES, TRUTH, command_in, end, everything, files
from tests.support.records import connected, recorded

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
    for first, last in kept(size):
        read = await outputs.read(command_id, "stdout", first, len(LONG))
        assert read == LONG[first:last]
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
