"""The output of a terminal on a disk that has room, has none, and has some again."""

import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest

from cmdop_appliance.agent.keeper.segments import (
    MOST_SEGMENTS,
    SEGMENT_BYTES,
    Segments,
    kept,
    read_segments,
)


@pytest.fixture
def folder(tmp_path) -> str:
    return str(tmp_path / "1.pty")


@contextmanager
def files_of_at_most(size: int):
    """No file can grow larger meanwhile, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder: str) -> list[int]:
    return sorted(int(path.name) for path in Path(folder).iterdir())


def append(segments: Segments, data: bytes) -> None:
    assert not segments.append(memoryview(data))


def test_output_begins_a_new_file_after_each_mebibyte_and_two_are_kept(folder):
    segments = Segments(folder)
    data = bytes(range(256)) * 2048  # half of one
    for _ in range(7):
        append(segments, data)
    assert segments.end == segments.stored_end == 7 * len(data)
    assert names(folder) == [2 * SEGMENT_BYTES, 3 * SEGMENT_BYTES]
    assert kept(folder) == (2 * SEGMENT_BYTES, segments.end)
    assert read_segments(folder, 0, 3) == (2 * SEGMENT_BYTES, data[:3])
    assert read_segments(folder, 3 * SEGMENT_BYTES - 2, 9) == (3 * SEGMENT_BYTES - 2, data[-2:])
    assert read_segments(folder, 3 * SEGMENT_BYTES, 2) == (3 * SEGMENT_BYTES, data[:2])
    assert read_segments(folder, segments.end, 9) == (segments.end, b"")


def test_nothing_written_is_nothing_to_read(folder):
    assert read_segments(folder, 5, 9) == (5, b"")
    Segments(folder)
    assert read_segments(folder, 5, 9) == (5, b"")
    assert kept(folder) == (0, 0)


def test_what_the_disk_does_not_take_is_a_gap_and_the_rest_has_its_true_offset(folder):
    segments = Segments(folder)
    append(segments, b"before")
    with files_of_at_most(8):
        append(segments, b"[lost]")
        assert (segments.end, segments.stored_end) == (12, 8)
        append(segments, b"in a file of its own")
        assert (segments.end, segments.stored_end) == (32, 20)
    append(segments, b"after")
    assert (segments.end, segments.stored_end) == (37, 37)
    assert names(folder) == [0, 12, 32]
    assert read_segments(folder, 0, 9) == (0, b"before[l")
    assert read_segments(folder, 8, 9) == (12, b"in a fil")
    assert read_segments(folder, 25, 9) == (32, b"after")
    assert read_segments(folder, 34, 9) == (34, b"ter")


def test_a_disk_that_takes_nothing_is_left_no_empty_files(folder):
    segments = Segments(folder)
    with files_of_at_most(0):
        append(segments, b"lost")
        append(segments, b"lost")
    assert (segments.end, segments.stored_end) == (8, 0)
    assert names(folder) == []


def test_a_disk_that_takes_a_little_at_a_time_is_left_few_files(folder):
    segments = Segments(folder)
    with files_of_at_most(1):
        for _ in range(100):
            append(segments, b"xy")
    assert len(names(folder)) == MOST_SEGMENTS
    assert kept(folder) == (names(folder)[0], 199)


def test_a_file_that_had_to_go_meanwhile_is_a_gap_too(folder, monkeypatch):
    segments = Segments(folder)
    append(segments, b"x" * SEGMENT_BYTES + b"y")
    listdir = os.listdir

    def list_and_lose(path: str) -> list[str]:
        found = listdir(path)
        Path(folder, "0").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(os, "listdir", list_and_lose)
    assert read_segments(folder, 0, 9) == (SEGMENT_BYTES, b"y")
