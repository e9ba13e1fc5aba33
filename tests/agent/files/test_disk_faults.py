"""Whatever fails, wherever the agent dies: the old file or the new one, and nothing beside it."""

import os
import signal
import subprocess
from contextlib import suppress

import pytest

from tests.support.agent_files import (
    agent_files,
    arrived,
    as_root,
    fails,
    mounted,
    parts_in,
    put,
)
from tests.support.file_faults import needs_strace, running_writer

OLD, NEW = b"old " * 1000, b"new " * 2000

# By whatever number this machine has them.
RENAME, UNLINK = "?renameat,renameat2", "?unlink,unlinkat"
# The system calls of a write, each with what a disk or a system says of it.
FAULTS = {
    "openat": "EACCES",
    "write": "ENOSPC",
    "pwrite64": "EIO",
    "fsync": "EIO",
    "fchown": "EPERM",
    "fchmod": "EPERM",
    "ftruncate": "EIO",
    RENAME: "EACCES",
    UNLINK: "EIO",
}
CODES = {
    "EACCES": "file_permission_denied",
    "EPERM": "file_permission_denied",
    "ENOSPC": "no_space",
    "EIO": "file_io_error",
}
MOST = 60  # calls of one number in one write; more and the test does not end

pytestmark = needs_strace


@pytest.fixture(scope="module")
def writer():
    with running_writer() as writer:
        yield writer


@pytest.fixture
def path(tmp_path):
    """A file that stands in a directory of its own, and whose owner has to be kept."""
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    return path


@pytest.fixture(params=["over another", "new", "new alone", "upload"])
def write(request, writer, tmp_path, path):
    """A write under a fault; what the file was before, or None."""
    call = {"upload": {"upload": "u"}, "new alone": {"overwrite": False}}.get(request.param, {})
    is_new = request.param.startswith("new")

    def write(fault):
        path.unlink(missing_ok=True)
        if not is_new:
            path.write_bytes(OLD)
            if os.geteuid() == 0:
                os.chown(path, 1234, 2345)
        return writer.write(fault, tmp_path / "agent", path, NEW, **call)

    write.before, write.is_upload = None if is_new else OLD, request.param == "upload"
    # An owner is kept where there was a file; the record of an upload is, for its answer.
    write.makes_no = set()
    if is_new or os.geteuid():
        write.makes_no |= {"fchown"}
    if write.is_upload:
        write.makes_no |= {UNLINK}
    return write


def content(path):
    return path.read_bytes() if path.exists() else None


@pytest.mark.parametrize("call", FAULTS, ids=lambda call: call.strip("?"))
def test_a_call_of_the_system_that_fails_leaves_the_old_file_and_a_clear_word(
    write, tmp_path, path, call
):
    for number in range(1, MOST):
        outcome = write(f"{call}:error={FAULTS[call]}:when={number}")
        if not outcome.is_struck:
            assert (number == 1) == (call in write.makes_no)
            return
        where = f"{call} {number}: {outcome}"
        if outcome.code is None:
            assert content(path) == NEW, where
        else:
            assert outcome.code == CODES[FAULTS[call]], where
            assert str(path) in outcome.message or str(tmp_path / "agent") in outcome.message, where
            # What is in place is that, though it may be that the disk does not hold it (fsync).
            assert content(path) == write.before or call in ("fsync", "openat"), where
        assert content(path) in (write.before, NEW), where
        assert parts_in(path.parent) == [] or write.is_upload, where
        assert_nothing_is_left(tmp_path, path, where)
    pytest.fail(f"more than {MOST} times {call}")


@pytest.mark.parametrize("call", FAULTS, ids=lambda call: call.strip("?"))
def test_a_death_at_any_call_leaves_a_whole_file_and_one_temporary_that_goes(
    write, tmp_path, path, call
):
    for number in range(1, MOST):
        outcome = write(f"{call}:signal=KILL:when={number}")
        if not outcome.is_struck:
            assert content(path) == NEW
            assert (number == 1) == (call in write.makes_no)
            return
        where = f"{call} {number}: {outcome}"
        assert outcome.signal == signal.SIGKILL, where
        assert content(path) in (write.before, NEW), where
        assert len(parts_in(path.parent)) <= 1, where
        assert_nothing_is_left(tmp_path, path, where)
    pytest.fail(f"more than {MOST} times {call}")


def assert_nothing_is_left(tmp_path, path, where):
    """Once the next agent has swept; an upload is gone on with first, and put in place."""
    files = agent_files(tmp_path / "agent")
    files.sweep()
    if parts_in(path.parent):
        at = arrived(files, path, "u")
        put(files, path, NEW[at:], upload="u", offset=at, whole=NEW)
        assert content(path) == NEW, where
    assert parts_in(path.parent) == [], where
    path.unlink(missing_ok=True)  # with it the answer to the upload goes
    files.sweep()
    for record in (tmp_path / "agent" / "files").glob("*"):
        assert b'"upload":"u"' in record.read_bytes(), where
        record.unlink()


def test_the_disk_holds_the_record_then_the_file_then_its_name(writer, tmp_path, path):
    calls = f"fsync,{RENAME}"
    outcome = writer.write(f"{calls}:error=EIO:when={MOST}", tmp_path / "agent", path, NEW)
    assert (outcome.is_struck, outcome.code) == (False, None)
    calls = [call.rstrip("2") for call in outcome.calls]
    # The record, its name; the file, then its name.
    assert calls == ["fsync", "fsync", "fsync", "renameat", "fsync"]


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EFBIG"])
@pytest.mark.parametrize("call", ["pwrite64", "fsync"])
def test_no_room_is_called_that_wherever_the_system_says_so(writer, tmp_path, path, call, error):
    path.write_bytes(OLD)
    number = 3 if call == "fsync" else 1  # the first two are of the record
    outcome = writer.write(f"{call}:error={error}:when={number}", tmp_path / "agent", path, NEW)
    assert (outcome.is_struck, outcome.code) == (True, "no_space")
    assert path.read_bytes() == OLD
    assert parts_in(path.parent) == []


def test_what_a_disk_would_not_hold_is_no_part_of_an_upload_any_more(writer, tmp_path, path):
    """The next fsync(2) would say that all is well, and the bytes be lost."""
    path.write_bytes(OLD)
    outcome = writer.write("fsync:error=EIO:when=3", tmp_path / "agent", path, NEW, upload="u")
    assert (outcome.is_struck, outcome.code) == (True, "file_io_error")
    assert arrived(agent_files(tmp_path / "agent"), path, "u") == 0
    assert parts_in(path.parent) == []
    assert path.read_bytes() == OLD


def test_what_neither_holds_nor_goes_is_no_upload_and_goes_with_the_sweep(writer, tmp_path, path):
    faults = "fsync:error=EIO:when=3 ?unlink,unlinkat:error=EIO"
    outcome = writer.write(faults, tmp_path / "agent", path, NEW, upload="u")
    assert (outcome.is_struck, outcome.code) == (True, "file_io_error")
    assert len(parts_in(path.parent)) == 1
    files = agent_files(tmp_path / "agent")
    assert arrived(files, path, "u") == 0
    files.sweep()
    assert parts_in(path.parent) == []


def fill(ballast):
    """Take all the blocks of its disk, 64 KiB at a time as long as that goes."""
    with ballast.open("wb") as file:
        for step in (65_536, 1024):
            with suppress(OSError):
                for _ in range(8 * 1024 * 1024 // step):
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, step)


@as_root
@pytest.mark.parametrize("upload", [None, "u"])
def test_an_ext4_that_is_full_at_any_point_keeps_the_old_file(tmp_path, upload):
    """Blocks are given when they are written back: what write(2) took, fsync(2) may refuse."""
    image = tmp_path / "image"
    image.write_bytes(b"")
    os.truncate(image, 4 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image], check=True)
    files = agent_files(tmp_path / "agent")
    with mounted(tmp_path / "disk", "-o", "loop", str(image)) as disk:
        path, ballast = disk / "file", disk / "ballast"
        path.write_bytes(OLD)
        for left in (0, 1, 4096, 40_000, 100_000):
            fill(ballast)
            os.truncate(ballast, ballast.stat().st_size - left)
            whole = bytes([left % 251]) * 200_000
            with fails("no_space"):
                put(files, path, whole, upload=upload)
            assert path.read_bytes() == OLD
            assert len(parts_in(disk)) <= (upload is not None)
            ballast.unlink()
            if upload is not None:
                at = arrived(files, path, upload)
                put(files, path, whole[at:], upload=upload, offset=at, whole=whole)
                assert path.read_bytes() == whole
                put(files, path, OLD)
        assert parts_in(disk) == []
