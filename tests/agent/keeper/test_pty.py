"""What is typed: once, in order, in bounds. What is read: whole, whatever the disk does."""

import os
import tty

import pytest

from cmdop_appliance.agent.keeper.pty import (
    PENDING_BYTES,
    PENDING_PARTS,
    WRITERS,
    CommandFile,
    Pty,
    end_of_file,
    open_pty,
)
from tests.agent.keeper.test_segments import files_of_at_most

PASS = 16 * 1024


@pytest.fixture
def ends(tmp_path):
    """A terminal in raw mode that writes to a file, and its slave."""
    master, slave, _ = open_pty(80, 24, echoes=True)
    tty.setraw(slave)
    output = os.open(tmp_path / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    pty = Pty("term_1", master, CommandFile(output))
    yield pty, slave
    os.close(slave)
    pty.close()


def received(slave: int, size: int) -> bytes:
    """So many bytes, as they come: the kernel carries them over in its own time."""
    data = b""
    while len(data) < size:
        data += os.read(slave, size - len(data))
    return data


def fill(pty: Pty) -> None:
    """Type until the terminal takes no more, and as much as may wait behind it."""
    told = True
    while told:
        pty.type("filler", 0, bytes(1_000_000))
        told = list(pty.flush())
        assert pty.pending_bytes <= PENDING_BYTES


def test_what_is_new_is_typed_and_the_true_offset_told(ends):
    pty, slave = ends
    pty.type("a", 0, b"abc")
    assert list(pty.flush()) == [("a", 3)]
    pty.type("a", 1, b"bcd")
    assert list(pty.flush()) == [("a", 4)]
    pty.type("a", 0, b"ab")
    assert list(pty.flush()) == [("a", 4)]
    pty.type("a", 5, b"f")
    assert list(pty.flush()) == [("a", 4)]
    pty.type("b", 1, b"?")
    assert list(pty.flush()) == [("b", 0)]
    assert received(slave, 4) == b"abcd"


def test_what_waits_is_bounded_and_who_was_refused_is_told_once_there_is_room(ends):
    pty, slave = ends
    fill(pty)
    for number in range(1000):
        pty.type(f"late{number}", 0, b"!" * 1000)
        assert pty.pending_bytes <= PENDING_BYTES
    told = []
    while pty.pending_bytes:
        os.read(slave, 4096)
        told += pty.flush()
    assert max(offset for writer, offset in told if writer == "filler") > PENDING_BYTES
    late = dict(entry for entry in told if entry[0] != "filler")
    assert list(late) == [f"late{number}" for number in range(1000 - WRITERS, 1000)]
    assert sum(late.values()) < 64 * 1000


def test_keys_of_two_in_turn_take_a_bounded_number_of_places(ends):
    pty, slave = ends
    fill(pty)
    while pty.pending_bytes > PENDING_BYTES // 2:
        os.read(slave, 4096)
        list(pty.flush())
    for number in range(PENDING_PARTS):
        pty.type("a", number, b"a")
        pty.type("b", number, b"b")
    told = {}
    while pty.pending_bytes:
        os.read(slave, 4096)
        told |= dict(pty.flush())
    # One place is the filler's; in the last one there is room for more of the same.
    assert (told["a"], told["b"]) == (PENDING_PARTS, PENDING_PARTS // 2 - 1)


def test_the_place_of_who_typed_least_lately_is_forgotten_first(ends):
    pty, _ = ends
    pty.type("first", 0, b"1")
    pty.type("second", 0, b"2")
    for number in range(WRITERS - 2):
        pty.type(f"w{number}", 0, b"x")
    pty.type("first", 1, b"1")
    pty.type("new", 0, b"n")
    list(pty.flush())
    pty.type("first", 2, b"1")
    pty.type("second", 1, b"2")
    assert set(pty.flush()) == {("first", 3), ("second", 0)}


def test_what_the_disk_does_not_take_waits_for_it_and_its_program_too(ends, tmp_path):
    pty, slave = ends
    buffer = memoryview(bytearray(PASS))
    os.set_blocking(slave, False)
    data = bytes(range(256)) * 8
    os.write(slave, data)
    with files_of_at_most(1000):
        assert pty.read(buffer) == len(data)
        assert pty.is_stuck
        os.write(slave, data)
        assert pty.read(buffer) == 0
    assert pty.read(buffer) == len(data)
    assert not pty.is_stuck
    assert (tmp_path / "output").read_bytes() == data + data
    assert pty.output.end == 2 * len(data)


@pytest.mark.parametrize(
    ("stdin", "typed"), [(b"", b"\x04"), (b"x", b"\x04\x04"), (b"x\n", b"\x04")]
)
def test_the_end_of_a_file_in_the_middle_of_a_line_is_typed_twice(stdin, typed):
    assert end_of_file(stdin) == typed
