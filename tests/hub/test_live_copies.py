"""Output that grows while it is copied: what the copy is said to hold is there, byte by byte."""

import pytest

from cmdop_appliance.hub.live_copies import copy_live, file_bytes
from cmdop_appliance.hub.live_stream import HEAD_BYTES, UNSAFE_BYTES, LiveStream, OpenFiles
from cmdop_appliance.store.backups import Stream
from tests.hub.outputs import MAX_BYTES

PIECE = 100_000


def truth(first: int, size: int) -> bytes:
    """Bytes of an endless stream in which no two places look alike."""
    begin = first // 8
    text = b"".join(b"%07d\n" % number for number in range(begin, (first + size) // 8 + 1))
    return text[first - 8 * begin :][:size]


@pytest.fixture
def stream(tmp_path):
    files = OpenFiles()
    yield LiveStream(files, tmp_path / "stream", MAX_BYTES)
    files.close_all()


def grow(stream: LiveStream, size: int) -> None:
    while stream.size < size:
        stream.append(stream.size, truth(stream.size, min(PIECE, size - stream.size)))
        stream.safe = stream.size


def named(size: int) -> Stream:
    return Stream(command_id="cmd_x", stream="stdout", stored_bytes=size, max_bytes=MAX_BYTES)


def copied(stream: LiveStream, size: int, tmp_path, grow_by: int = 0) -> bool:
    """Copy what was there when it had `size` bytes; `grow_by` comes between two steps."""
    steps = copy_live(named(size), tmp_path / "stream", tmp_path / "copy", lambda: stream.size)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        grow(stream, stream.size + grow_by)


def check(size: int, tmp_path) -> None:
    """A hub that starts with the copy reads what the first one held."""
    files = OpenFiles()
    copy = LiveStream(files, tmp_path / "copy", MAX_BYTES, content=None, size=size)
    assert copy.size == size
    assert copy.held.gap_end == max(copy.held.gap, size - (MAX_BYTES - HEAD_BYTES))
    for first, end in ((0, copy.held.gap), (copy.held.gap_end, size)):
        for at in range(first, end, PIECE):
            assert copy.read(at, min(PIECE, end - at)) == truth(at, min(PIECE, end - at))
    files.close_all()


SIZES = (9_000, HEAD_BYTES, MAX_BYTES - 3, MAX_BYTES, MAX_BYTES + UNSAFE_BYTES + 5, 3 * MAX_BYTES)


@pytest.mark.parametrize("size", SIZES)
def test_a_copy_holds_all_that_is_kept(stream, tmp_path, size):
    grow(stream, size)
    assert copied(stream, size, tmp_path)
    assert (tmp_path / "copy").stat().st_size == file_bytes(named(size))
    check(size, tmp_path)


@pytest.mark.parametrize("size", [MAX_BYTES, 3 * MAX_BYTES])
def test_what_comes_meanwhile_spoils_nothing(stream, tmp_path, size):
    grow(stream, size)
    grow(stream, size + UNSAFE_BYTES // 2)
    assert copied(stream, size, tmp_path, grow_by=PIECE)
    check(size, tmp_path)


def test_a_copy_that_is_overtaken_is_given_up(stream, tmp_path):
    size = 3 * MAX_BYTES
    grow(stream, size)
    assert not copied(stream, size, tmp_path, grow_by=10 * PIECE)


def test_a_file_that_is_shorter_than_it_should_be_is_given_up(stream, tmp_path):
    grow(stream, 9000)
    assert not copied(stream, 9001, tmp_path)
