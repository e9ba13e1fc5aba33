"""A file is put in place whole, as the one before it was, or nothing has happened."""

import errno
import os
import struct
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from cmdop_appliance.agent.files.digests import Digests
from cmdop_appliance.agent.files.failures import FileFailure
from cmdop_appliance.agent.files.replacing import Terms, replacing
from cmdop_appliance.agent.files.roots import Roots
from cmdop_appliance.agent.files.uploads import Uploads
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.protocol.files import Copy, Placed, Stat, Write
from tests.support.agent_files import (
    agent_files,
    as_root,
    fails,
    get,
    keep,
    mounted,
    parts_in,
    put,
    sha256,
)
from tests.support.descriptors import open_descriptors

LARGE = Random(2).randbytes(1_000_000)


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    return tmp_path_factory.mktemp("agent")


@pytest.fixture(scope="module")
def files(state):
    return agent_files(state)


@pytest.fixture
def path(tmp_path):
    """A file that stands there."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path, state):
    before = open_descriptors()
    yield
    assert list(tmp_path.rglob(".cmdop-*")) == []
    assert list((state / "files").glob("*")) == []
    assert open_descriptors() == before


def placed(files, path, **call):
    return files.place(Write(path=os.fsencode(path), **call), lambda: False)


def mode_of(path):
    return path.stat().st_mode & 0o7777


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


# ── on what terms ────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_is_to_stay_stays(files, path):
    with fails("file_exists"):
        placed(files, path, overwrite=False)
    assert path.read_bytes() == b"old"


def test_a_file_that_came_meanwhile_stays(files, path):
    path.unlink()
    with closing(placed(files, path, overwrite=False)) as writing:
        path.write_bytes(b"another")
        with fails("file_exists"):
            writing.finish(0, sha256(b""))
    assert path.read_bytes() == b"another"


def test_a_new_file_that_must_be_new(files, tmp_path):
    assert put(files, tmp_path / "new", b"x", overwrite=False).created


def test_a_file_is_replaced_if_it_is_the_one_that_was_meant(files, path):
    put(files, path, b"new", if_match=sha256(b"old"))
    with fails("changed"):
        placed(files, path, if_match=sha256(b"old"))
    path.unlink()
    with fails("changed"):
        placed(files, path, if_match=sha256(b"new"))


def test_a_file_that_changed_meanwhile_is_not_replaced(files, path):
    with closing(placed(files, path, if_match=sha256(b"old"))) as writing:
        path.write_bytes(b"odd")
        with fails("changed"):
            writing.finish(0, sha256(b""))
    assert path.read_bytes() == b"odd"


def test_of_two_who_mean_the_same_file_one_wins(files, path):
    for _ in range(20):
        path.write_bytes(b"old")
        started = threading.Barrier(2)
        outcomes = []

        def write(data, started=started, outcomes=outcomes):
            with closing(placed(files, path, if_match=sha256(b"old"))) as writing:
                writing.write(data)
                started.wait()
                try:
                    writing.finish(len(data), sha256(data))
                except FileFailure as exc:
                    outcomes.append(exc.code)
                else:
                    outcomes.append(data)

        writers = [threading.Thread(target=write, args=(data,)) for data in (b"1", b"2")]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert "changed" in outcomes
        assert path.read_bytes() in outcomes


class Asked:
    """Says no so many times, and from then on that nobody waits any more."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self) -> bool:
        self.times -= 1
        return self.times < 0


def test_who_has_gone_does_not_wait_for_the_checksum_of_a_large_file(files, tmp_path):
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, 2**28)
    call = Write(path=bytes(large), if_match=bytes(32))
    with fails("unavailable"):
        files.place(call, Asked(3))


def test_who_goes_while_the_file_is_put_in_place_leaves_the_old_one(files, path):
    path.write_bytes(LARGE)
    is_gone = Asked(100)
    call = Write(path=bytes(path), if_match=sha256(LARGE))
    with closing(files.place(call, is_gone)) as writing:
        os.utime(path, (1, 1))  # so that it is read once more
        is_gone.times = 0
        with fails("unavailable"):
            writing.finish(0, sha256(b""))
    assert path.read_bytes() == LARGE


def test_who_goes_while_an_upload_is_taken_up_again_loses_nothing_of_it(tmp_path, path):
    keep(agent_files(tmp_path / "state"), path, "u", LARGE)
    anew = agent_files(tmp_path / "state")
    call = Write(path=bytes(path), upload="u", offset=len(LARGE))
    with fails("unavailable"):
        anew.place(call, Asked(0))
    put(anew, path, b"", upload="u", offset=len(LARGE), whole=LARGE)
    assert path.read_bytes() == LARGE


def test_a_copy_that_fails_while_it_is_filled_leaves_the_old_file(tmp_path, state, path):
    roots = Roots(FilesPolicy(), (), b"/")
    uploads = Uploads(state / "files", roots)
    with (
        roots.place(os.fsencode(path), follow=True) as place,
        fails("no_space"),
        replacing(place, Terms(), uploads, Digests()) as fd,
    ):
        os.write(fd, b"new")
        raise OSError(errno.ENOSPC, "no space")
    assert path.read_bytes() == b"old"


# ── as whose ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_new_file_has_the_mode_that_the_umask_leaves(files, tmp_path, umask):
    put(files, tmp_path / "new", b"x")
    assert mode_of(tmp_path / "new") == 0o666 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755, 0o400, 0o4711, 0])
def test_a_file_keeps_its_mode(files, path, mode):
    path.chmod(mode)
    put(files, path, b"new")
    assert mode_of(path) == mode


@pytest.mark.parametrize("is_new", [False, True])
def test_a_mode_that_is_asked_for_wins(files, path, is_new):
    if is_new:
        path.unlink()
    put(files, path, b"new", mode=0o751)
    assert mode_of(path) == 0o751


@as_root
def test_a_file_keeps_its_owner_and_group(files, path):
    os.chown(path, 1234, 2345)
    path.chmod(0o4750)
    put(files, path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid, mode_of(path)) == (1234, 2345, 0o4750)


@as_root
@pytest.mark.parametrize("is_new", [False, True])
def test_an_owner_and_a_group_that_are_asked_for_win(files, path, is_new):
    if is_new:
        path.unlink()
    put(files, path, b"new", owner="1234", group="daemon")
    assert path.stat().st_uid == 1234
    assert path.group() == "daemon"
    put(files, path, b"new", owner="daemon")
    assert path.owner() == "daemon"
    assert path.group() == "daemon"


@pytest.mark.parametrize("name", ["nobody of this name", "-1", "4294967295", "٣", "\ud800", "a\0b"])
def test_an_owner_or_group_that_does_not_exist_is_refused(files, path, name):
    for field in ("owner", "group"):
        with fails("invalid_request"):
            placed(files, path, **{field: name})
    assert path.read_bytes() == b"old"


@as_root
def test_who_may_not_keep_the_owner_replaces_nothing():
    """As an agent that is not root has it, in a directory that is open to all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "file").write_bytes(b"old")
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setresgid(1234, 1234, 1234)
                os.setresuid(1234, 1234, 1234)
                with fails("file_permission_denied") as failure:
                    put(agent_files(folder / "state"), folder / "file", b"new")
                assert "user 0" in failure.value.message
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0) == (child, 0)
        assert (folder / "file").read_bytes() == b"old"
        assert (folder / "file").stat().st_uid == 0
        assert parts_in(folder) == []


ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
# Tags of an entry: linux/posix_acl.h. What it allows: r, w and x, as in a mode.
OWNER, USER, OWN_GROUP, GROUP, MASK, OTHERS = 1, 2, 4, 8, 16, 32


def access_list(*entries):
    """As the kernel has it: (tag, permissions) or (tag, permissions, id), in the order of tags."""
    packed = (struct.pack("<HHI", *(*entry, 0xFFFFFFFF)[:3]) for entry in entries)
    return struct.pack("<I", 2) + b"".join(packed)


def access_of(path):
    """Its mode, and its access list if it has one."""
    has_list = ACCESS in os.listxattr(path)
    return mode_of(path), os.getxattr(path, ACCESS) if has_list else None


def test_a_file_keeps_its_attributes(files, path):
    os.setxattr(path, "user.note", b"kept")
    put(files, path, b"new")
    assert os.getxattr(path, "user.note") == b"kept"


@as_root
def test_what_vouches_for_the_old_content_goes_with_it(files, path):
    may_chown = struct.pack("<5I", 0x02000001, 1, 0, 0, 0)  # capabilities(7), revision 2
    os.setxattr(path, "security.capability", may_chown)
    put(files, path, b"new")
    assert "security.capability" not in os.listxattr(path)


NAMED = access_list(
    (OWNER, 6), (USER, 6, 1234), (OWN_GROUP, 4), (GROUP, 4, 2345), (MASK, 4), (OTHERS, 0)
)


def test_a_file_keeps_its_access_list(files, path):
    os.setxattr(path, ACCESS, NAMED)
    before = access_of(path)
    assert before[1] == NAMED
    put(files, path, b"new")
    assert access_of(path) == before


def test_a_file_without_an_access_list_gets_none_of_its_directory(files, path):
    path.chmod(0o664)
    os.setxattr(path.parent, DEFAULT, NAMED)
    put(files, path, b"new")
    assert access_of(path) == (0o664, None)


@pytest.mark.parametrize(
    "default",
    [
        access_list((OWNER, 7), (OWN_GROUP, 7), (OTHERS, 0)),
        access_list((OWNER, 4), (OWN_GROUP, 0), (OTHERS, 4)),
        NAMED,
    ],
    ids=["group", "others", "named"],
)
def test_a_new_file_is_as_open_as_one_that_is_made_in_its_directory(files, tmp_path, default):
    os.setxattr(tmp_path, DEFAULT, default)
    (tmp_path / "made").touch()
    put(files, tmp_path / "new", b"x")
    assert access_of(tmp_path / "new") == access_of(tmp_path / "made")
    assert mode_of(tmp_path / "new") != 0o666 & ~0o022


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
