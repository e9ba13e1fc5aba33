"""Uploads are bounded: the longest idle gives way, and a full disk costs nothing that is there."""

import errno
import os
from contextlib import closing, suppress

import pytest

from cmdop_appliance.agent.files import uploads
from tests.support.agent_files import (
    WHOLE,
    agent_files,
    arrived,
    as_root,
    fails,
    keep,
    mounted,
    parts_in,
    placed,
    put,
    records_in,
)


@pytest.fixture
def files(state):
    return agent_files(state)


@pytest.fixture
def room_for_three(monkeypatch):
    monkeypatch.setattr(uploads, "UPLOADS_ITEMS", 3)


def open_in(files, folder):
    """The uploads that something has arrived of, all of which are to one file."""
    return {name for name in "abcdefg" if arrived(files, folder / "file", name)}


def test_for_one_upload_too_many_the_longest_idle_gives_way(
    files, later, folder, state, room_for_three
):
    for name in "abc":
        keep(files, folder / "file", name, b"x")
    for at, name in enumerate("acb"):
        (record,) = (record for record in records_in(state) if f'"{name}"' in record.read_text())
        os.utime(record, (0, 0))
        keep(files, folder / "file", name, b"y", 1)
        assert record.stat().st_mtime > 0  # for the next agent
        os.utime(record, (at, at))  # one after the other, whatever the kernel's clock
    again = later()
    keep(again, folder / "file", "d", b"x")
    assert open_in(again, folder) == set("bcd")
    keep(again, folder / "file", "e", b"x")
    assert open_in(again, folder) == set("bde")
    assert len(parts_in(folder)) == len(records_in(state)) == 3
    with fails("offset_mismatch") as failure:
        placed(again, folder / "file", upload="a", offset=2)
    assert failure.value.offset == 0


def test_an_answer_gives_way_before_what_has_arrived_of_any_upload(files, folder, room_for_three):
    for name in "abc":
        keep(files, folder / "file", name, b"x")
    put(files, folder / "file", b"", upload="b", offset=1, whole=b"x")
    keep(files, folder / "file", "d", b"x")
    assert open_in(files, folder) == set("acd")


def test_an_upload_that_somebody_sends_to_does_not_give_way(files, folder, room_for_three):
    held = [placed(files, folder / "file", upload=name) for name in "abc"]
    put(files, folder / "other", b"in one go")
    with fails("no_space") as failure:
        placed(files, folder / "file", upload="d")
    assert "wait" in failure.value.message
    for writing in held:
        writing.write(b"x")
    held[1].close()
    keep(files, folder / "file", "d", b"x")
    assert open_in(files, folder) == set("acd")
    for writing in held:
        writing.close()


def test_an_upload_that_somebody_is_busy_with_is_not_waited_for(files, folder, room_for_three):
    for name in "abc":
        keep(files, folder / "file", name, b"x")
    with closing(placed(files, folder / "file", upload="a", offset=1)) as writing:
        busy = writing._temporary
    with busy.lock:
        busy.used_at_s = 0.0
        keep(files, folder / "file", "d", b"x")
    assert open_in(files, folder) == set("acd")


def test_an_upload_whose_directory_is_gone_gives_way(files, state, folder, room_for_three):
    (folder / "inner").mkdir()
    keep(files, folder / "inner/file", "u", b"x")
    (folder / "inner").rename(folder / "moved")
    for name in "abc":
        keep(files, folder / "file", name, b"x")
    assert open_in(files, folder) == set("abc")
    files.sweep()
    assert len(records_in(state)) == 3


def test_what_gives_way_and_cannot_be_taken_away_is_left_to_the_sweep(
    files, state, folder, room_for_three, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unable)
        for name in "abcd":
            keep(files, folder / "file", name, b"x")
        assert open_in(files, folder) == set("bcd")
        assert len(parts_in(folder)) == 4
    files.sweep()
    assert len(parts_in(folder)) == len(records_in(state)) == 3
    assert open_in(files, folder) == set("bcd")


def unable(*_, **__):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@as_root
def test_a_full_disk_keeps_what_has_arrived_and_it_goes_on_when_there_is_room(files, tmp_path):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=256k", "tmpfs") as disk:
        path, ballast = disk / "file", disk / "ballast"
        ballast.write_bytes(bytes(200_000))
        with closing(placed(files, path, upload="u")) as writing, fails("no_space"):
            writing.write(WHOLE[:200_000])
        at = arrived(files, path, "u")
        assert 0 < at < 200_000
        ballast.unlink()
        whole = WHOLE[:200_000]
        put(files, path, whole[at:], upload="u", offset=at, whole=whole)
        assert path.read_bytes() == whole


@as_root
def test_a_state_directory_that_is_full_refuses_at_the_start(tmp_path, path):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=16k", "tmpfs") as disk:
        files = agent_files(disk / "agent")
        with suppress(OSError):  # until nothing more fits
            (disk / "ballast").write_bytes(bytes(1_000_000))
        for upload in (None, "u"):
            with fails("no_space") as failure:
                placed(files, path, upload=upload)
            assert str(disk) in failure.value.message
        assert parts_in(path.parent) == []
        assert path.read_bytes() == b"old"
        (disk / "ballast").unlink()
        put(files, path, b"new", upload="u")
