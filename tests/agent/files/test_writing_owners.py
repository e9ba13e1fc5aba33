"""A file stays whose it was, and as open; a new one is as any that is made in its directory."""

import os
import struct
import tempfile
from pathlib import Path

import pytest

from tests.support.agent_files import agent_files, as_root, fails, mode_of, parts_in, placed, put

pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.fixture
def files(state):
    return agent_files(state)


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
