"""A file is put in place whole, and where it is to be, or nothing has happened."""

import os
import threading
from contextlib import closing

import pytest

from cmdop_appliance.agent.files.digests import Digests
from cmdop_appliance.protocol.files import Copy, Placed, Stat
from tests.support.agent_files import (
    LARGE,
    agent_files,
    as_root,
    fails,
    get,
    mode_of,
    mounted,
    parts_in,
    placed,
    put,
    sha256,
)

pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.fixture
def files(state):
    return agent_files(state)


@pytest.fixture
def folder(tmp_path):
    """Where `path` is, beside what a test puts there."""
    return tmp_path


def test_a_file_is_written_and_then_replaced(files, tmp_path):
    path = tmp_path / "file"
    first = put(files, path, b"one")
    assert (first.path, first.size, first.sha256) == (os.fsencode(path), 3, sha256(b"one"))
    assert first.created
    assert path.read_bytes() == b"one"
    second = put(files, path, b"")
    assert (second.size, second.created) == (0, False)
    assert path.read_bytes() == b""


def test_a_file_comes_in_many_pieces(files, path):
    with closing(placed(files, path)) as writing:
        assert writing.placed == Placed(path=os.fsencode(path), offset=0)
        for start in range(0, len(LARGE), 12_345):
            writing.write(bytearray(LARGE[start : start + 12_345]))
            assert path.read_bytes() == b"old"
        writing.finish(len(LARGE), sha256(LARGE))
    assert path.read_bytes() == LARGE


def test_who_has_the_old_file_open_reads_on_in_it(files, path):
    with path.open("rb") as before:
        put(files, path, b"new")
        assert before.read() == b"old"


def test_what_is_under_way_is_open_to_the_agent_alone(files, path):
    path.chmod(0o666)
    with closing(placed(files, path)) as writing:
        writing.write(b"new")
        (part,) = parts_in(path.parent)
        assert mode_of(part) == 0o600
        assert part.name.startswith(".cmdop-")


def test_without_its_end_nothing_has_happened(files, path):
    with closing(placed(files, path)) as writing:
        writing.write(b"new")
    assert path.read_bytes() == b"old"


def test_the_wrong_checksum_leaves_the_old_file(files, path):
    with closing(placed(files, path)) as writing:
        writing.write(b"new")
        with fails("checksum_mismatch"):
            writing.finish(3, sha256(b"now"))
        assert parts_in(path.parent) == []
    assert path.read_bytes() == b"old"


def test_without_a_checksum_nothing_is_put_in_place(files, path):
    with closing(placed(files, path)) as writing:
        writing.write(b"new")
        with fails("invalid_request"):
            writing.finish(3, None)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("end", [2, 4])
def test_the_wrong_end_leaves_the_old_file(files, path, end):
    with closing(placed(files, path)) as writing:
        writing.write(b"new")
        with fails("offset_mismatch"):
            writing.finish(end, sha256(b"new"))
    assert path.read_bytes() == b"old"


def test_a_file_in_one_go_begins_at_its_beginning(files, path):
    with fails("offset_mismatch") as failure:
        placed(files, path, offset=1)
    assert failure.value.offset == 0


# ── where ────────────────────────────────────────────────────────────────────────────────────────


def test_a_link_at_the_end_is_written_through(files, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    assert put(files, tmp_path / "link", b"new").created
    assert not put(files, tmp_path / "link", b"newer").created
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_bytes() == b"newer"


def test_missing_directories_are_made_if_that_is_asked_for(files, tmp_path):
    path = tmp_path / "a" / "b" / "file"
    with fails("file_not_found") as failure:
        put(files, path, b"x")
    assert f"{tmp_path}/a, on the way" in failure.value.message
    assert "create_parents" in failure.value.message
    assert not (tmp_path / "a").exists()
    put(files, path, b"x", create_parents=True)
    assert path.read_bytes() == b"x"


def test_only_a_regular_file_is_replaced(files, tmp_path):
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, code in {
        "directory": "is_a_directory",
        "pipe": "not_a_regular_file",
        "/dev/null": "not_a_regular_file",
        "/": "is_a_directory",
    }.items():
        with fails(code):
            put(files, tmp_path / name, b"x")


def test_a_path_that_ends_in_a_slash_is_never_one_of_a_file(files, path, tmp_path):
    (tmp_path / "link").symlink_to("new/")
    for name, code in {
        "new/": "is_a_directory",
        "new/.": "is_a_directory",
        "link": "is_a_directory",
        "./": "is_a_directory",
        "file/": "not_a_directory",
    }.items():
        with fails(code):
            put(files, f"{tmp_path}/{name}", b"x")
    assert path.read_bytes() == b"old"
    assert not (tmp_path / "new").exists()


@as_root
def test_a_file_that_anybody_may_have_planted_is_not_written_to(files, tmp_path):
    """It would have the new content under its owner and mode."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    planted = shared / "planted"
    planted.write_bytes(b"old")
    os.chown(planted, 1234, 1234)
    with fails("file_permission_denied") as failure:
        put(files, planted, b"secret")
    assert "user 1234" in failure.value.message
    assert "delete it first" in failure.value.message
    copy = Copy(source=os.fsencode(tmp_path / "file"), destination=bytes(planted), overwrite=True)
    (tmp_path / "file").write_bytes(b"secret")
    with fails("file_permission_denied"):
        files.carry_out(copy, lambda: False)
    assert (planted.read_bytes(), planted.stat().st_uid) == (b"old", 1234)
    os.chown(shared, 1234, 1234)
    put(files, planted, b"new")
    os.chown(shared, 0, 0)
    put(files, shared / "ours", b"new")
    put(files, shared / "ours", b"newer")


@as_root
def test_a_file_that_is_planted_meanwhile_is_not_written_to(files, tmp_path):
    tmp_path.chmod(0o1777)
    planted = tmp_path / "planted"
    with closing(placed(files, planted)) as writing:
        writing.write(b"secret")
        planted.write_bytes(b"old")
        os.chown(planted, 1234, 1234)
        with fails("file_permission_denied"):
            writing.finish(6, sha256(b"secret"))
    assert planted.read_bytes() == b"old"


def test_what_became_a_directory_meanwhile_stays(files, path):
    with closing(placed(files, path)) as writing:
        path.unlink()
        path.mkdir()
        with fails("is_a_directory"):
            writing.finish(0, sha256(b""))


def test_the_longest_name_can_be_written(files, tmp_path):
    path = tmp_path / ("n" * 255)
    put(files, path, b"x")
    assert path.read_bytes() == b"x"


# ── where there is no room ───────────────────────────────────────────────────────────────────────


@as_root
def test_a_full_disk_leaves_the_old_file_and_gets_its_space_back(files, tmp_path):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=2m", "tmpfs") as disk:
        path = disk / "file"
        path.write_bytes(b"old")
        free = os.statvfs(disk).f_bavail
        with closing(placed(files, path)) as writing:
            with fails("no_space"):
                for _ in range(3):
                    writing.write(LARGE)
            assert os.statvfs(disk).f_bavail == free
        assert path.read_bytes() == b"old"
        put(files, path, LARGE)
        assert path.read_bytes() == LARGE


@as_root
def test_a_disk_that_is_mounted_read_only_says_so(files, tmp_path):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "ro", "tmpfs") as disk:
        with fails("file_permission_denied") as failure:
            put(files, disk / "file", b"x")
        assert "read-only" in failure.value.message


def test_a_checksum_of_what_was_written_is_known_once_its_time_has_passed(files, tmp_path):
    path = tmp_path / "file"
    with closing(placed(files, path)) as writing:
        writing.write(LARGE)
        threading.Event().wait(0.03)  # a tick of the kernel, which files are stamped with
        writing.finish(len(LARGE), sha256(LARGE))
    answer = files.carry_out(Stat(path=os.fsencode(path)), lambda: False)
    assert answer.sha256 == sha256(LARGE)


def test_what_was_written_is_read(files, path):
    put(files, path, LARGE)
    assert get(files, path) == LARGE


def test_what_another_wrote_since_is_not_taken_for_what_was_put_in_place(tmp_path):
    file, moved = tmp_path / "f", tmp_path / "g"
    digests = Digests()
    for content, is_known in ((b"ours!", True), (b"their", False)):
        file.write_bytes(b"ours!")
        os.utime(file, (1, 1))
        ready = file.stat()
        file.rename(moved)
        if content != b"ours!":
            moved.write_bytes(content)
            os.utime(moved, (2, 2))
        digests.put_moved(ready, moved.stat(), b"s" * 32)
        assert (digests.get(moved.stat()) is not None) is is_known
    digests = Digests()
    digests.put_moved(None, moved.stat(), b"s" * 32)
    assert digests.get(moved.stat()) is None
