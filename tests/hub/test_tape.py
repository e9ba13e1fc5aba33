"""The file of a recording: what a crash leaves of it, and how much it takes."""

import os
import stat

import pytest

from cmdop_appliance.hub.tape import Kind, Tape, begun_ms, records
from cmdop_appliance.protocol.terminals import Size

BEGUN = 1_700_000_000_000
MOST = 10_000


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.rec"


def opened(path, *, most=MOST, now_ms=BEGUN) -> Tape:
    return Tape.open(path, now_ms, most)


def on(path) -> list[tuple[str, int, int, bytes]]:
    with path.open("rb") as file:
        assert begun_ms(file) == BEGUN
        return [(each.kind.name, each.ms, each.offset, each.data) for each in records(file)]


def recorded(path) -> None:
    """A recording of some of each."""
    tape = opened(path)
    tape.resize(BEGUN, Size(80, 24))
    tape.write(BEGUN + 5, 0, b"abc")
    tape.skip(BEGUN + 6, 10)
    tape.write(BEGUN + 7, 10, b"defg")
    tape.close()


ALL = [
    ("SIZE", 0, 0, b"\0\x50\0\x18"),
    ("OUTPUT", 5, 0, b"abc"),
    ("GAP", 6, 10, b""),
    ("OUTPUT", 7, 10, b"defg"),
]


def test_a_recording_tells_what_came_when(path):
    recorded(path)
    assert on(path) == ALL


def test_a_recording_is_for_its_hub_alone(path):
    umask = os.umask(0)
    try:
        recorded(path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_wherever_a_crash_tore_it_the_recording_goes_on_behind_what_is_whole(path):
    recorded(path)
    whole = path.read_bytes()
    ends = [None, None, 3, 10, 14]  # of the output, behind each record
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        tape = opened(path)
        kept = len(on(path))
        assert tape.end == ends[kept]
        assert tape.bytes == path.stat().st_size <= max(size, 16)
        tape.write(BEGUN + 50, 20, b"next")
        tape.close()
        assert on(path) == [*ALL[:kept], ("OUTPUT", 50, 20, b"next")]


def test_what_is_not_as_it_was_written_is_cut_off_too(path):
    """A power cut may leave the length of a file, and not what was in it."""
    recorded(path)
    whole = bytearray(path.read_bytes())
    for at in range(16, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        opened(path).close()
        assert on(path) == ALL[: len(on(path))] != ALL


def test_what_is_no_recording_becomes_one(path):
    for found in (b"", b"cmdoprec", b"something else " * 10):
        path.write_bytes(found)
        opened(path).close()
        assert on(path) == []


def test_a_recording_takes_so_much_and_says_so(path):
    tape = opened(path, most=1024)
    for at in range(0, 2000, 100):
        tape.write(BEGUN, at, b"x" * 100)
    tape.close()
    assert tape.is_full
    assert path.stat().st_size <= 1024
    told = on(path)
    assert [kind for kind, _, _, _ in told] == ["OUTPUT"] * 7 + ["FULL"]
    again = opened(path, most=MOST)
    assert again.is_full
    again.write(BEGUN, 700, b"x")
    again.close()
    assert on(path) == told


def test_a_size_is_told_once(path):
    tape = opened(path)
    for size in (Size(80, 24), Size(80, 24), Size(100, 24)):
        tape.resize(BEGUN, size)
    tape.close()
    again = opened(path)
    again.resize(BEGUN, Size(100, 24))
    again.close()
    assert len(on(path)) == 2


def test_time_never_goes_back(path):
    tape = opened(path)
    for now_ms in (BEGUN + 100, BEGUN - 5000, BEGUN + 101):
        tape.write(now_ms, tape.end or 0, b"x")
    tape.close()
    again = opened(path, now_ms=BEGUN - 9000)
    again.write(BEGUN - 9000, 3, b"x")
    again.close()
    assert [ms for _, ms, _, _ in on(path)] == [100, 100, 101, 101]


def test_a_full_disk_leaves_whole_records_only(path, monkeypatch):
    recorded(path)
    tape, write = opened(path), os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
    with pytest.raises(OSError, match="does not fit"):
        tape.write(BEGUN + 9, 14, b"lost")
    monkeypatch.setattr(os, "write", write)
    assert on(path) == ALL
    tape.write(BEGUN + 9, 14, b"kept")
    tape.close()
    assert on(path)[4:] == [("OUTPUT", 9, 14, b"kept")]
    assert Kind.FULL not in {kind for kind, _, _, _ in on(path)}
