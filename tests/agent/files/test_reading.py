"""A file that is read has one content, or it is an error."""

import hashlib
import os
import socket
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmdop_appliance.agent.files.digests import Digests, is_settled, version_of
from cmdop_appliance.agent.files.failures import FileFailure, failing
from cmdop_appliance.agent.files.reading import MADE_UP_BYTES, SMALL_BYTES, open_regular
from cmdop_appliance.agent.files.roots import Roots
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.protocol.files import Read, Stat
from tests.support.agent_files import agent_files, fails, get, put, sha256
from tests.support.descriptors import open_descriptors

LARGE = Random(1).randbytes(3 * SMALL_BYTES)
PIECE = SMALL_BYTES


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return agent_files(tmp_path_factory.mktemp("agent"))


@pytest.fixture
def path(tmp_path):
    """A file that is not small."""
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    return path


def opened(files, path, **call):
    return files.open(Read(path=os.fsencode(path), **call))


def stat(files, path, *, checksum=False):
    return files.carry_out(Stat(path=os.fsencode(path), checksum=checksum), lambda: False)


@pytest.mark.parametrize("size", [0, 1, SMALL_BYTES, SMALL_BYTES + 1, len(LARGE)])
def test_a_file_is_read_with_its_size_and_its_checksum(files, tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(LARGE[:size])
    with closing(opened(files, path)) as reading:
        told = reading.opened
        assert (told.path, told.size, told.first, told.end) == (os.fsencode(path), size, 0, size)
        assert told.version == version_of(path.stat())
        assert told.modified_ms == path.stat().st_mtime_ns // 1_000_000
        assert b"".join(iter(lambda: reading.read(PIECE), b"")) == LARGE[:size]
        assert reading.read(PIECE) == b""
        assert reading.sha256 == sha256(LARGE[:size])


def test_no_more_is_read_at_a_time_than_is_asked_for(files, path):
    with closing(opened(files, path)) as reading:
        assert reading.read(7) == LARGE[:7]
        assert reading.sha256 is None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.sampled_from([0, 10, SMALL_BYTES + 10]),
    offset=st.integers(-SMALL_BYTES - 20, SMALL_BYTES + 20),
    length=st.none() | st.integers(0, SMALL_BYTES + 20),
)
def test_a_part_is_what_a_slice_of_the_file_is(files, tmp_path, size, offset, length):
    path = tmp_path / f"file of {size}"
    if not path.exists():
        path.write_bytes(LARGE[:size])
    first = min(offset, size) if offset >= 0 else max(0, size + offset)
    end = size if length is None else min(size, first + length)
    with closing(opened(files, path, offset=offset, length=length)) as reading:
        told = reading.opened
        assert (told.size, told.first, told.end) == (size, first, end)
        assert b"".join(iter(lambda: reading.read(PIECE), b"")) == LARGE[first:end]
        assert (reading.sha256 is not None) == ((first, end) == (0, size))


@pytest.mark.parametrize("path", ["/proc/cpuinfo", "/proc/self/status", "/sys/kernel/mm/ksm/run"])
def test_what_the_kernel_makes_up_can_be_read(files, path):
    if not Path(path).exists():
        pytest.skip(f"no {path} here")
    with closing(opened(files, path)) as reading:
        content = reading.read(MADE_UP_BYTES)
        assert reading.opened.size == len(content) > 0
        assert reading.opened.size != Path(path).stat().st_size
        assert reading.read(1) == b""
    assert (
        content.splitlines()[0].split(b":")[0]
        == Path(path).read_bytes().splitlines()[0].split(b":")[0]
    )


def test_a_checksum_of_what_the_kernel_makes_up_is_made_anew_each_time(files):
    path = Path("/proc/sys/kernel/random/uuid")  # another at each read, and its status stays
    get(files, path)
    told = {stat(files, path, checksum=True).sha256 for _ in range(3)}
    assert len(told - {None}) == 3
    assert stat(files, path).sha256 is None


def test_more_than_memory_is_for_of_what_the_kernel_makes_up_is_left_to_commands(files):
    path = Path("/proc/kallsyms")
    if not path.exists():
        pytest.skip(f"no {path} here")
    with fails("not_a_regular_file") as failure:
        get(files, path)
    assert "command" in failure.value.message


def test_only_regular_files_are_read(files, tmp_path):
    (tmp_path / "link").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    for name, code in {
        "nothing": "file_not_found",
        "link": "file_not_found",
        "loop": "invalid_path",
        "": "is_a_directory",
        "pipe": "not_a_regular_file",
        "socket": "not_a_regular_file",
        "/dev/null": "not_a_regular_file",
        "/dev/tty": "not_a_regular_file",
    }.items():
        with fails(code):
            get(files, tmp_path / name)


def test_what_takes_the_place_of_a_file_at_the_last_moment_is_not_read(path, tmp_path):
    (tmp_path / "outside").write_bytes(b"secret")
    with Roots(FilesPolicy(), (), b"/").place(os.fsencode(path), follow=True) as place:
        path.unlink()
        path.symlink_to("outside")
        with pytest.raises(OSError, match="symbolic"):
            open_regular(place)
        with fails("changed_during_read"), failing(place.path):
            open_regular(place)
        path.unlink()
        os.mkfifo(path)
        with fails("not_a_regular_file"):  # and it does not wait for who writes to the pipe
            open_regular(place)


# ── changes ──────────────────────────────────────────────────────────────────────────────────────


def grow(path):
    with path.open("ab") as file:
        file.write(b"more")


def shrink(path):
    os.truncate(path, len(LARGE) - 1)


def cut_to_nothing(path):
    os.truncate(path, 0)


def write_the_same_size(path):
    with path.open("r+b") as file:
        file.seek(len(LARGE) - 1)
        file.write(b"!")


def write_and_set_the_time_back(path):
    before = path.stat()
    write_the_same_size(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path):
    other = path.with_name("other")
    other.write_bytes(LARGE[::-1])
    other.rename(path)


CHANGES = [
    grow, shrink, cut_to_nothing, write_the_same_size, write_and_set_the_time_back, replace,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("pieces", range(4))
def test_a_change_at_any_time_ends_the_read_before_a_byte_of_it_is_handed_on(
    files, path, change, pieces
):
    with closing(opened(files, path)) as reading:
        for number in range(pieces):
            assert reading.read(PIECE) == LARGE[number * PIECE : (number + 1) * PIECE]
        change(path)
        with fails("changed_during_read"):
            reading.read(PIECE)


def test_a_change_shows_also_when_only_a_part_is_read(files, path):
    with closing(opened(files, path, offset=10, length=20)) as reading:
        assert reading.read(PIECE) == LARGE[10:30]
        write_the_same_size(path)
        with fails("changed_during_read"):
            reading.read(PIECE)


def test_a_file_that_was_just_written_is_read_only_when_the_next_write_will_show(files, tmp_path):
    for number in range(10):
        path = tmp_path / str(number)
        path.write_bytes(LARGE)
        with closing(opened(files, path)):
            assert is_settled(path.stat())


def test_a_small_file_that_changes_afterwards_is_read_as_it_was(files, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with closing(opened(files, path)) as reading:
        path.write_bytes(b"after")
        assert reading.read(100) == b"before"
        assert reading.opened.sha256 == reading.sha256 == sha256(b"before")


@pytest.mark.parametrize("size", [100, len(LARGE)])
def test_a_file_that_changes_all_the_time_is_said_to(files, tmp_path, size, monkeypatch):
    path, fstat = tmp_path / "file", os.fstat
    path.write_bytes(LARGE[:size])

    def fstat_late(fd):  # somebody writes before each look, however fast that is
        path.write_bytes(LARGE[:size])
        return fstat(fd)

    with monkeypatch.context() as patch, fails("changed_during_read"):
        patch.setattr(os, "fstat", fstat_late)
        get(files, path)


# ── versions and checksums ───────────────────────────────────────────────────────────────────────


def test_a_part_of_another_version_is_the_whole_file(files, path):
    version = version_of(path.stat())
    assert get(files, path, offset=5, length=6, if_version=version) == LARGE[5:11]
    assert get(files, path, offset=5, length=6, if_version="another") == LARGE
    digest = hashlib.sha256(LARGE).hexdigest()
    assert get(files, path, offset=5, length=6, if_version=digest) == LARGE[5:11]  # known by now
    grow(path)
    assert get(files, path, offset=5, length=6, if_version=version) == LARGE + b"more"
    assert get(files, path, offset=5, length=6, if_version=digest) == LARGE + b"more"


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_makes_another_version(path, change):
    before = version_of(path.stat())
    change(path)
    assert version_of(path.stat()) != before


def test_a_checksum_is_known_once_the_file_was_read_whole_until_it_changes(files, path):
    def known():
        with closing(opened(files, path)) as reading:
            return reading.opened.sha256

    assert known() is None
    get(files, path)
    assert known() == sha256(LARGE)
    assert stat(files, path).sha256 == sha256(LARGE)
    write_the_same_size(path)
    assert known() is None
    assert stat(files, path).sha256 is None
    assert stat(files, path, checksum=True).sha256 == sha256(path.read_bytes())
    assert known() == sha256(path.read_bytes())


@pytest.mark.parametrize("size", [0, SMALL_BYTES, len(LARGE)])
def test_a_file_of_which_the_checksum_is_known_is_not_hashed_again(files, tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(LARGE[:size])
    get(files, path)
    with closing(opened(files, path)) as reading:
        assert reading.sha256 == reading.opened.sha256 == sha256(LARGE[:size])
        assert b"".join(iter(lambda: reading.read(PIECE), b"")) == LARGE[:size]
        assert reading.sha256 == sha256(LARGE[:size])
    with closing(opened(files, path, offset=size + 1, length=1)) as reading:
        assert (reading.sha256 is not None) is (size == 0)  # of which nothing is all


def test_a_checksum_that_nobody_waits_for_is_given_up(files, path):
    with fails("unavailable"):
        files.carry_out(Stat(path=os.fsencode(path), checksum=True), lambda: True)


def test_a_checksum_is_not_kept_while_a_change_could_go_unseen(tmp_path):
    path, digests = tmp_path / "file", Digests()
    path.write_bytes(b"x")
    now_ns = path.stat().st_mtime_ns
    os.utime(path, ns=(now_ns, now_ns + 10**9))  # the clock was set back since
    digests.put(path.stat(), sha256(b"x"))
    assert digests.get(path.stat()) == sha256(b"x")
    while True:
        path.write_bytes(b"x")
        status = path.stat()
        digests.put(status, sha256(b"x"))
        if not is_settled(status):  # nor was it then
            assert digests.get(status) is None
            return


def test_a_part_does_not_pass_for_the_whole(files, path):
    get(files, path, offset=1)
    with closing(opened(files, path)) as reading:
        assert reading.opened.sha256 is None


def test_no_descriptor_stays_open(files, path, tmp_path):
    before = open_descriptors()
    get(files, path)
    for name in ("", "nothing"):
        with pytest.raises(FileFailure):
            get(files, tmp_path / name)
    with closing(opened(files, path)) as reading:
        grow(path)
        with fails("changed_during_read"):
            reading.read(1)
    put(files, path, b"x")
    assert open_descriptors() == before
