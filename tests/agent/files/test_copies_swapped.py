"""In somebody else's directory names are swapped: nothing of theirs is filled, emptied or given."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cmdop_appliance.agent.files import copies
from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.protocol.files import Copy, Delete, Move
from tests.support.agent_files import is_root
from tests.support.file_calls import b, do, picture, refusal


@pytest.fixture
def theirs(root):
    """What somebody else, who owns `root`, may give another name, and nothing more."""
    theirs = root / "theirs"
    theirs.mkdir(mode=0o700)
    (theirs / "precious").write_text("theirs alone")
    return theirs


@pytest.fixture
def roots_files(root, tmp_path):
    """As `files`, but somebody leaves his own where a temporary was."""
    return Files(tmp_path / "state", FilesPolicy(roots=(str(root),)))


def swap(one: Path, other: Path) -> None:
    aside = one.parent / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def after(monkeypatch, name, act):
    """Have something done right after the next call of that name for an open directory."""
    call = getattr(os, name)

    def called(*args, dir_fd=None, **kwargs):
        call(*args, dir_fd=dir_fd, **kwargs)
        if dir_fd is not None:
            monkeypatch.setattr(os, name, call)
            act()

    monkeypatch.setattr(os, name, called)


def before_opening(monkeypatch, opened, act):
    """Have something done right before the next opening of a name in a directory."""
    call = os.open

    def called(name, *args, **kwargs):
        if name == opened:
            monkeypatch.setattr(os, "open", call)
            act()
        return call(name, *args, **kwargs)

    monkeypatch.setattr(os, "open", called)


@contextmanager
def held(path: Path) -> Iterator[int]:
    """A descriptor of what has a name now."""
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        yield handle
    finally:
        os.close(handle)


def temporary_in(root: Path) -> Path:
    (temporary,) = root.glob(".cmdop-*")
    return temporary


@pytest.mark.parametrize("how", ["full", "open to others", "another's"])
def test_what_is_swapped_for_a_new_copy_is_neither_filled_nor_emptied_nor_given_away(
    roots_files, root, theirs, monkeypatch, how
):
    if how == "another's" and not is_root:
        pytest.skip("only root can give a directory away")
    if how != "full":
        (theirs / "precious").unlink()
    if how == "open to others":
        theirs.chmod(0o755)
    if how == "another's":
        os.chown(theirs, 12345, -1)
    with held(theirs) as handle:
        before = os.fstat(handle)
        after(monkeypatch, "mkdir", lambda: swap(temporary_in(root), theirs))
        call = Copy(source=b(root / "tree"), destination=b(root / "copy"))
        assert "not the agent's own" in refusal(roots_files, call, "file_permission_denied")
        now = os.fstat(handle)
    assert (now.st_uid, now.st_mode) == (before.st_uid, before.st_mode)
    if how == "full":
        assert (temporary_in(root) / "precious").exists()
    assert not (root / "copy").exists()


def test_what_is_swapped_for_a_copy_later_is_neither_put_in_place_nor_emptied(
    roots_files, root, theirs, monkeypatch
):
    before, inode, temporary = picture(theirs), theirs.stat().st_ino, None

    def look(handle):
        nonlocal temporary
        temporary = temporary_in(root)
        swap(temporary, theirs)

    monkeypatch.setattr(copies, "sync_file_system", look)
    call = Copy(source=b(root / "tree"), destination=b(root / "copy"))
    assert "another thing" in refusal(roots_files, call, "changed_during_read")
    assert not (root / "copy").exists()
    assert (temporary.stat().st_ino, picture(temporary)) == (inode, before)


def test_nobody_else_gets_into_a_copy_before_all_of_it_is_on_the_disk(files, root, monkeypatch):
    modes = []

    def looking(sync):
        def look(handle):
            modes.append(stat.S_IMODE(temporary_in(root).stat().st_mode))
            sync(handle)

        return look

    (root / "tree").chmod(0o777)
    for name in ("sync_file_system", "sync_directory"):
        monkeypatch.setattr(copies, name, looking(getattr(copies, name)))
    do(files, Copy(source=b(root / "tree"), destination=b(root / "copy")))
    assert modes == [0o700, 0o777]


@pytest.mark.skipif(not is_root, reason="only root can give a directory away")
def test_a_copy_that_was_given_away_and_has_no_place_then_is_gone(files, root, monkeypatch):
    found = []
    os.chown(root / "tree", 12345, 23456)
    (root / "tree").chmod(0o777)
    monkeypatch.setattr(copies, "sync_file_system", lambda _: (root / "copy").mkdir())
    after(monkeypatch, "unlink", lambda: found.append(temporary_in(root).stat()))
    call = Copy(source=b(root / "tree"), destination=b(root / "copy"))
    refusal(files, call, "file_exists")
    assert list((root / "copy").iterdir()) == []
    assert [(status.st_uid, stat.S_IMODE(status.st_mode)) for status in found] == [(0, 0o700)]


def test_a_copy_that_fails_and_does_not_go_is_left_to_the_sweep(files, root, monkeypatch):
    def unable(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    os.mkfifo(root / "tree/pipe")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", unable)
        call = Copy(source=b(root / "tree"), destination=b(root / "copy"))
        assert "tree/pipe" in refusal(files, call, "not_a_regular_file")
    assert temporary_in(root).is_dir()
    files.sweep()


def test_a_file_that_is_swapped_for_another_is_copied_with_what_that_has(files, root, monkeypatch):
    ours, secret = root / "tree/a", root / "tree/secret"
    ours.write_text("ours")
    secret.write_text("secret")
    secret.chmod(0o600)
    os.setxattr(ours, "user.whose", b"ours")
    os.setxattr(secret, "user.whose", b"theirs")
    if is_root:
        os.chown(ours, 12345, 12345)
    before_opening(monkeypatch, b"a", lambda: swap(ours, secret))
    do(files, Copy(source=b(root / "tree"), destination=b(root / "copy")))
    copy = root / "copy/a"
    assert copy.read_text() == "secret"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert copy.stat().st_uid == os.geteuid()
    assert os.getxattr(copy, "user.whose") == b"theirs"


@pytest.mark.parametrize("kind", [Copy, Delete])
def test_a_directory_that_is_swapped_for_another_is_not_entered(
    files, root, theirs, monkeypatch, kind
):
    tree = root / "tree"
    call = Copy(source=b(tree), destination=b(root / "copy"))
    if kind is Delete:
        call = Delete(path=b(tree), recursive=True)
    before_opening(monkeypatch, b"inner", lambda: swap(tree / "inner", theirs))
    assert "another thing" in refusal(files, call, "changed_during_read")
    assert (tree / "inner/precious").read_text() == "theirs alone"
    assert not (root / "copy").exists()


@pytest.mark.skipif(not is_root, reason="only root can give a file away")
@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_swapped_for_a_link_stays_whose_it_is(elsewhere, root, monkeypatch, kind):
    other, files = elsewhere
    link, theirs = root / "tree/link", other / "inner/theirs"
    os.chown(link, 12345, 12345, follow_symlinks=False)
    theirs.parent.mkdir()
    if kind == "file":
        theirs.write_text("theirs alone")
    else:
        theirs.symlink_to("anywhere")
        os.chown(theirs, 23456, 23456, follow_symlinks=False)
    with held(theirs) as handle:
        before = os.fstat(handle)
        after(monkeypatch, "symlink", lambda: swap(temporary_in(other), theirs))
        call = Move(source=b(link), destination=b(other / "new"))
        assert "not the agent's own" in refusal(files, call, "file_permission_denied")
        now = os.fstat(handle)
    assert (now.st_uid, now.st_mtime_ns) == (before.st_uid, before.st_mtime_ns)
    assert link.is_symlink()
    assert not os.path.lexists(other / "new")


@pytest.mark.skipif(not is_root, reason="only root can give a directory away")
def test_what_a_dead_agent_was_copying_is_emptied_only_if_it_still_is_its_own(root, tmp_path):
    child = os.fork()
    if not child:
        files = Files(tmp_path / "state", FilesPolicy(roots=(str(root),)))
        call = Copy(source=b(root / "tree"), destination=b(root / "copy"))
        do(files, call, lambda: os._exit(0) if list(root.glob(".cmdop-*/*")) else False)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    temporary = temporary_in(root)
    before = picture(temporary)
    os.chown(temporary, 12345, -1)
    Files(tmp_path / "state", FilesPolicy(roots=(str(root),))).sweep()
    assert picture(temporary) == before
    assert not list((tmp_path / "state").rglob("*.jsonl"))
