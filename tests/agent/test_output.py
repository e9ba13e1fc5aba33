"""Output on its way: hashed once, sent from where the hub says, never beyond the window."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.agent.output import HASH_BYTES, Outflow
from cmdop_appliance.protocol.limits import CHUNK_BYTES, OUTPUT_BYTES, WINDOW_BYTES


@pytest.fixture
def paths(tmp_path):
    return tmp_path / "1.out", tmp_path / "1.err"


def flowing(paths, stdout: bytes, stderr: bytes = b"") -> Outflow:
    """The output of a command that has written this, and runs on."""
    paths[0].write_bytes(stdout)
    paths[1].write_bytes(stderr)
    flow = Outflow("cmd_1")
    flow.open(*paths)
    flow.resume(0, 0)
    return flow


def drain(flow: Outflow) -> dict[str, bytes]:
    """All that is sent when the hub stores everything at once; without gaps."""
    while flow.catch_up():
        pass
    sent = {"stdout": b"", "stderr": b""}
    ends = {}
    while (piece := flow.next()) is not None:
        assert piece.offset == ends.get(piece.stream, piece.offset)
        ends[piece.stream] = piece.offset + len(piece.data)
        sent[piece.stream] += piece.data
        flow.stored(ends.get("stdout", 0), ends.get("stderr", 0))
    return sent


def digest(data: bytes) -> tuple[int, bytes]:
    return len(data), hashlib.sha256(data).digest()


def totals(flow: Outflow):
    streams = flow.totals()
    return streams and tuple((stream.bytes, stream.sha256) for stream in streams)


@pytest.mark.parametrize("size", [1, 1000, CHUNK_BYTES + 1, WINDOW_BYTES + 1])
def test_the_window_is_never_exceeded_by_both_streams_together(paths, size):
    flow = flowing(paths, b"o" * size, b"e" * 2 * WINDOW_BYTES)
    sent = 0
    while (piece := flow.next()) is not None:
        assert len(piece.data) <= OUTPUT_BYTES
        sent += len(piece.data)
    assert sent == WINDOW_BYTES


def test_a_hub_cannot_open_the_window_by_storing_what_was_not_sent(paths):
    flow = flowing(paths, b"o" * 3 * WINDOW_BYTES)
    flow.stored(2 * WINDOW_BYTES, 0)
    flow.stored(0, 0)
    while flow.next():
        pass
    flow.stored(10, 0)
    flow.stored(5, 0)  # and it does not take back
    assert len(flow.next().data) == 10
    assert flow.next() is None


def test_neither_stream_starves_the_other(paths):
    flow = flowing(paths, b"o" * WINDOW_BYTES, b"e" * WINDOW_BYTES)
    assert {flow.next().stream, flow.next().stream} == {"stdout", "stderr"}
    assert flow.next() is None


def test_it_ends_at_the_sizes_of_the_exit_though_the_files_grow_on(paths):
    flow = flowing(paths, b"mine and its child's", b"err")
    flow.end(4, 3)
    assert drain(flow) == {"stdout": b"mine", "stderr": b"err"}
    assert totals(flow) == (digest(b"mine"), digest(b"err"))


def test_there_are_no_totals_before_the_end_or_before_all_was_sent(paths):
    flow = flowing(paths, b"out")
    assert drain(flow)["stdout"] == b"out"
    assert flow.totals() is None
    flow.end(3, 0)
    assert totals(flow) == (digest(b"out"), digest(b""))
    flow.resume(1, 0)
    assert flow.totals() is None
    assert drain(flow)["stdout"] == b"ut"
    assert totals(flow) == (digest(b"out"), digest(b""))


@given(
    size=st.integers(0, 3 * CHUNK_BYTES),
    resumes=st.lists(st.integers(0, 3 * CHUNK_BYTES), max_size=4),
    steps=st.integers(0, 3),
)
def test_any_resumes_give_the_right_bytes_and_hash(tmp_path_factory, size, resumes, steps):
    folder = tmp_path_factory.mktemp("output")
    data = bytes(index % 251 for index in range(size))
    flow = flowing((folder / "1.out", folder / "1.err"), data)
    flow.end(size, 0)
    for offset in resumes:
        flow.resume(min(offset, size), 0)
        while flow.catch_up():
            pass
        for _ in range(steps):
            flow.next()
    start = min(resumes[-1], size) if resumes else 0
    flow.resume(start, 0)
    assert drain(flow)["stdout"] == data[start:]
    assert totals(flow) == (digest(data), digest(b""))


def test_what_an_earlier_agent_sent_is_hashed_in_small_steps_and_not_sent(paths):
    data = b"x" * (3 * HASH_BYTES) + b"rest"
    flow = flowing(paths, data)
    flow.end(len(data), 0)
    flow.resume(3 * HASH_BYTES, 0)
    steps = 0
    while flow.catch_up():
        steps += 1
    assert steps == 3
    assert drain(flow)["stdout"] == b"rest"
    assert totals(flow) == (digest(data), digest(b""))


@pytest.mark.parametrize("start", [0, 2, 5, 100])
@pytest.mark.parametrize("kept", [b"", b"abc"])
def test_of_a_file_that_lost_its_end_what_is_there_is_sent_and_counted(paths, start, kept):
    flow = flowing(paths, kept)
    flow.end(50, 0)
    flow.resume(start, 0)
    assert drain(flow)["stdout"] == kept[start:]
    assert totals(flow) == (digest(kept), digest(b""))


def test_a_hub_that_holds_more_than_the_file_does_waits_until_it_has_grown(paths):
    flow = flowing(paths, b"abc")
    flow.resume(5, 0)
    assert drain(flow)["stdout"] == b""
    paths[0].write_bytes(b"abcdefgh")
    assert flow.next() is None  # not before the rest is hashed
    flow.end(8, 0)
    assert drain(flow)["stdout"] == b"fgh"
    assert totals(flow) == (digest(b"abcdefgh"), digest(b""))


def test_files_that_are_gone_count_as_empty(paths):
    flow = flowing(paths, b"out")
    paths[0].unlink()
    paths[1].unlink()
    assert flow.bytes_written() == (0, 0)
    flow.end(3, 3)
    assert drain(flow) == {"stdout": b"", "stderr": b""}
    assert totals(flow) == (digest(b""), digest(b""))


def test_a_command_that_never_ran_has_two_empty_streams():
    flow = Outflow("cmd_1")
    flow.end(0, 0)
    flow.resume(0, 0)
    assert flow.next() is None
    assert totals(flow) == (digest(b""), digest(b""))


async def test_a_file_that_cannot_be_read_just_now_ends_nothing(tmp_path):
    """Out of descriptors, a disk that stalls: the bytes are there, and come later."""
    stdout = tmp_path / "out"
    stdout.mkdir()  # opening it works, reading it is an error: EISDIR
    flow = Outflow("cmd_1")
    flow.open(stdout, tmp_path / "none")
    flow.resume(0, 0)
    flow.end(5, 0)
    assert flow.next() is None
    assert flow.totals() is None
    stdout.rmdir()
    stdout.write_bytes(b"whole")
    output = flow.next()
    assert output is not None
    assert output.data == b"whole"
    assert flow.totals() is not None
