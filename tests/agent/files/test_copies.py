"""What gets another path, or another copy: whole or not at all, and nothing else is touched."""

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest

from cmdop_appliance.agent.files import copies
from cmdop_appliance.agent.files.failures import FileFailure, Stopped
from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.files.linux import _rename_over_claim, rename_exclusively
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.protocol.files import (
    Copy,
    Delete,
    Found,
    Mkdir,
    Move,
)
from tests.support.file_calls import b, do, picture, refusal
from tests.support.file_faults import needs_strace

MEMORY = Path("/dev/shm")  # another file system, as a rule
is_root = os.geteuid() == 0


@pytest.fixture
def elsewhere(root, tmp_path):
    """A directory on another file system, and what answers for both."""
    if not MEMORY.is_dir() or MEMORY.stat().st_dev == root.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=MEMORY) as other:
        roots = (str(root), other)
        yield Path(other), Files(tmp_path / "state", FilesPolicy(roots=roots))


# ── move ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["file", "tree", "tree/link", "tree/out"])
def test_a_move_gives_a_file_a_directory_or_a_link_another_path(files, root, name):
    before = picture(root / name) if name == "tree" else (root / name).lstat().st_ino
    found = do(files, Move(source=b(root / name), destination=b(root / "new")))
    assert isinstance(found, Found)
    assert (found.path, found.entry.name) == (b(root / "new"), b"new")
    assert not os.path.lexists(root / name)
    after = picture(root / "new") if name == "tree" else (root / "new").lstat().st_ino
    assert after == before


def test_a_move_replaces_only_if_that_was_asked_for(files, root):
    call = Move(source=b(root / "file"), destination=b(root / "tree/file"))
    assert "tree/file" in refusal(files, call, "file_exists")
    assert (root / "tree/file").read_text() == "a file"
    do(files, Move(source=call.source, destination=call.destination, overwrite=True))
    assert (root / "tree/file").read_text() == "content"
    assert not (root / "file").exists()


def test_a_move_replaces_a_link_and_not_what_it_leads_to(files, root):
    call = Move(source=b(root / "file"), destination=b(root / "tree/link"), overwrite=True)
    do(files, call)
    assert not (root / "tree/link").is_symlink()
    assert (root / "tree/inner/file").read_text() == "deeper"


@pytest.mark.parametrize(
    ("source", "destination", "code"),
    [
        ("none", "new", "file_not_found"),
        ("file", "none/new", "file_not_found"),
        ("file", "file/new", "not_a_directory"),
        ("file", "tree", "is_a_directory"),
        ("tree", "file", "not_a_directory"),
        ("tree/inner", "tree", "directory_not_empty"),
        ("other", "tree", "directory_not_empty"),
        ("tree", "tree/inner/new", "invalid_path"),
        ("tree", "tree/inner", "invalid_path"),
        ("file", "file", "invalid_path"),
        ("tree", "tree", "invalid_path"),
        ("file", "hard", "invalid_path"),
        ("file", "../outside/new", "path_not_allowed"),
        ("tree/out/kept", "new", "path_not_allowed"),
    ],
)
@pytest.mark.parametrize("kind", [Move, Copy])
def test_what_cannot_be_moved_or_copied_there_stays(files, root, kind, source, destination, code):
    (root / "other").mkdir()
    (root / "hard").hardlink_to(root / "file")
    before = picture(root)
    call = kind(source=b(root / source), destination=b(root / destination), overwrite=True)
    refusal(files, call, code)
    assert picture(root) == before


def test_a_directory_takes_the_place_of_an_empty_one(files, root):
    (root / "empty").mkdir()
    before = picture(root / "tree")
    do(files, Copy(source=b(root / "tree"), destination=b(root / "empty"), overwrite=True))
    assert picture(root / "empty") == before
    (root / "other").mkdir()
    do(files, Move(source=b(root / "tree"), destination=b(root / "other"), overwrite=True))
    assert picture(root / "other") == before


@pytest.mark.parametrize("name", ["file", "tree", "tree/link"])
def test_a_move_onto_another_file_system_is_the_same_move(elsewhere, root, name):
    other, files = elsewhere
    (root / "tree/inner").chmod(0o2751)
    os.utime(root / name, (1, 1), follow_symlinks=False)
    before, modified = picture(root / name), (root / name).lstat().st_mtime
    do(files, Move(source=b(root / name), destination=b(other / "new")))
    assert not os.path.lexists(root / name)
    assert picture(other / "new") == before
    assert (other / "new").lstat().st_mtime == modified == 1
    refusal(files, Move(source=b(other / "new"), destination=b(root / "none/x")), "file_not_found")
    (root / "taken").touch()
    call = Move(source=b(other / "new"), destination=b(root / "taken"))
    refusal(files, call, "file_exists")
    assert picture(other / "new") == before


def test_a_move_that_cannot_be_copied_changes_nothing(elsewhere, root):
    other, files = elsewhere
    os.mkfifo(root / "tree/pipe")
    before = picture(root)
    call = Move(source=b(root / "tree"), destination=b(other / "new"))
    assert "tree/pipe" in refusal(files, call, "not_a_regular_file")
    assert picture(root) == before
    assert list(other.iterdir()) == []


@pytest.mark.parametrize("rename", [rename_exclusively, _rename_over_claim])
def test_an_exclusive_rename_never_replaces(root, rename):
    """Also where the file system cannot do it by itself."""
    directory = os.open(root, os.O_RDONLY)
    try:
        for source, taken in ((b"file", b"tree"), (b"tree", b"file"), (b"file", b"link")):
            (root / "link").unlink(missing_ok=True)
            (root / "link").symlink_to("nowhere")
            before = picture(root)
            with pytest.raises(FileExistsError):
                rename(source, directory, taken, directory)
            assert picture(root) == before
        for source in (b"file", b"tree", b"link"):
            rename(source, directory, source + b"2", directory)
        assert {path.name for path in root.iterdir()} == {"file2", "tree2", "link2"}
        with pytest.raises(FileNotFoundError):
            rename(b"none", directory, b"new", directory)
        with pytest.raises(OSError, match="Invalid argument"):
            rename(b"tree2", directory, b"tree2/inner/new", directory)
        assert not (root / "new").exists()
        assert not (root / "tree2/inner/new").exists()
    finally:
        os.close(directory)


# ── copy ─────────────────────────────────────────────────────────────────────────────────────


def test_a_copy_is_the_same_in_all_but_its_name(files, root):
    (root / "tree/file").chmod(0o640)
    (root / "tree/inner").chmod(0o1750)
    (root / "tree/none").write_text("")
    (root / "tree/large").write_bytes(os.urandom(9_000_000))
    os.utime(root / "tree/file", (1, 2))
    before = picture(root / "tree")
    found = do(files, Copy(source=b(root / "tree"), destination=b(root / "copy")))
    assert (found.path, found.entry.type) == (b(root / "copy"), "directory")
    assert picture(root / "copy") == picture(root / "tree") == before
    assert (root / "copy/file").stat().st_mtime == 2
    assert (root / "copy/inner").stat().st_mtime_ns == (root / "tree/inner").stat().st_mtime_ns
    assert (root / "copy/file").stat().st_ino != (root / "tree/file").stat().st_ino


def test_a_file_is_copied_through_links_at_either_end(files, root):
    (root / "target").write_text("old")
    (root / "into").symlink_to("target")
    call = Copy(source=b(root / "tree/link"), destination=b(root / "into"), overwrite=True)
    found = do(files, call)
    assert (root / "into").is_symlink()
    assert (root / "target").read_text() == "deeper"
    assert (found.path, found.entry.type) == (b(root / "into"), "file")


def test_a_copy_over_a_file_keeps_what_that_one_had(files, root):
    (root / "file").chmod(0o755)
    (root / "tree/file").chmod(0o600)
    call = Copy(source=b(root / "file"), destination=b(root / "tree/file"))
    refusal(files, call, "file_exists")
    do(files, Copy(source=call.source, destination=call.destination, overwrite=True))
    assert (root / "tree/file").read_text() == "content"
    assert stat.S_IMODE((root / "tree/file").stat().st_mode) == 0o600


@pytest.mark.skipif(not is_root, reason="only root can give a file away")
def test_a_copy_by_root_has_the_same_owner_but_never_takes_its_place(files, root):
    for name, mode in (("tree/file", 0o4755), ("tree/inner", 0o2775)):
        os.chown(root / name, 12345, 23456)
        (root / name).chmod(mode)
    os.chown(root / "tree/link", 12345, 23456, follow_symlinks=False)
    do(files, Copy(source=b(root / "tree"), destination=b(root / "copy")))
    do(files, Copy(source=b(root / "tree/file"), destination=b(root / "one")))
    for name, mode in (("copy/file", 0o755), ("copy/inner", 0o2775), ("one", 0o755)):
        status = (root / name).stat()
        assert (status.st_uid, status.st_gid) == (12345, 23456)
        assert stat.S_IMODE(status.st_mode) == mode
    assert (root / "copy/link").lstat().st_uid == 12345


def test_a_copy_of_what_the_kernel_makes_up_has_its_content(tmp_path, root):
    files = Files(tmp_path / "state", FilesPolicy())
    do(files, Copy(source=b"/proc/sys/kernel/ostype", destination=b(root / "copy")))
    assert (root / "copy").read_text() == "Linux\n"


@pytest.mark.parametrize("source", ["tree", "large"])
def test_a_stopped_copy_leaves_nothing(files, root, source):
    (root / "large").write_bytes(bytes(20_000_000))
    (root / "tree/large").write_bytes(bytes(20_000_000))
    before, asked = picture(root), iter(range(100))
    call = Copy(source=b(root / source), destination=b(root / "copy"))
    with pytest.raises(Stopped):
        do(files, call, lambda: next(asked) >= 1)
    assert picture(root) == before


def test_that_a_directory_cannot_be_replaced_is_said_before_all_is_copied(files, root):
    (root / "other").mkdir()
    call = Copy(source=b(root / "other"), destination=b(root / "tree"), overwrite=True)
    with pytest.raises(FileFailure, match="something in it"):
        do(files, call, partial(pytest.fail, "it has begun"))


def test_a_file_that_changes_while_it_is_copied_is_no_copy(files, root):
    (root / "large").write_bytes(bytes(20_000_000))

    def change() -> bool:
        with (root / "large").open("r+b") as file:
            file.write(b"x")
        return False

    call = Copy(source=b(root / "large"), destination=b(root / "copy"))
    with pytest.raises(FileFailure) as caught:
        do(files, call, change)
    assert caught.value.code == "changed_during_read"
    assert not (root / "copy").exists()


def test_what_is_left_of_a_copy_whose_agent_was_killed_is_swept(root, tmp_path):
    """The child is killed when it has begun; its temporary and its record are there."""
    (root / "large").write_bytes(bytes(20_000_000))
    shutil.copy(root / "large", root / "tree/large")
    for source in ("tree", "large"):
        child = os.fork()
        if not child:
            files = Files(tmp_path / "state", FilesPolicy(roots=(str(root),)))
            call = Copy(source=b(root / source), destination=b(root / "copy"))
            do(files, call, lambda: os._exit(0) if list(root.glob(".cmdop-*")) else False)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert len(list(root.glob(".cmdop-*"))) == 1
        Files(tmp_path / "state", FilesPolicy(roots=(str(root),))).sweep()
        assert not list(root.glob(".cmdop-*"))
        assert not (root / "copy").exists()


# ── somebody else's directory ────────────────────────────────────────────────────────────────


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


# ── the disk ─────────────────────────────────────────────────────────────────────────────────

_CALLS = "unlinkat,mkdirat,symlinkat,renameat,renameat2,fsync,syncfs"
_CARRY_OUT = """
import os, sys
from pathlib import Path
import msgspec
from cmdop_appliance.agent.files.failures import FileFailure
from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.protocol.files import AnyCall
state, root, call = sys.argv[1:]
os.environ["HOME"] = root
files = Files(Path(state), FilesPolicy(roots=(root,)))
try:
    files.carry_out(msgspec.json.decode(call, type=AnyCall), lambda: False)
except FileFailure as failure:
    sys.exit(f"{failure.code}: {failure.message}")
"""


@needs_strace
@pytest.mark.parametrize(
    ("call", "synced"),
    [
        (Delete(path=b"file"), [""]),
        (Delete(path=b"tree", recursive=True), [""]),
        (Move(source=b"file", destination=b"tree/new"), ["tree", ""]),
        (Copy(source=b"file", destination=b"tree/new"), ["tree"]),
        (Copy(source=b"tree", destination=b"new"), [""]),
        (Mkdir(path=b"tree/new"), ["tree"]),
        (Mkdir(path=b"new", mode=0o700), ["new", ""]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_what_is_answered_is_on_the_disk(root, tmp_path, call, synced):
    """After the last change of a name each directory is synced that had one."""
    trace = tmp_path / "trace"
    done = _carry_out_under_strace(root, call, f"--output={trace}", "-y", f"--trace={_CALLS}")
    assert done.returncode == 0, done.stderr
    lines = [line for line in trace.read_text().splitlines() if str(root) in line]
    last = max(n for n, line in enumerate(lines) if not line.startswith(("fsync", "syncfs")))
    found = [re.sub(r".*<(.*)>.*", r"\1", line) for line in lines[last + 1 :]]
    assert found == [str(root / name) for name in synced]


@needs_strace
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("mkdirat:error=ENOSPC:when=2", "no_space"),
        ("symlinkat:error=EDQUOT", "no_space"),
        ("copy_file_range:error=EIO:when=2", "file_io_error"),
        ("fchmod:error=EPERM", "file_permission_denied"),
        ("syncfs:error=EIO", "file_io_error"),
        ("renameat2:error=EACCES", "file_permission_denied"),
    ],
)
def test_a_copy_that_fails_leaves_nothing_and_says_why(root, fault, code):
    before = picture(root)
    call = Copy(source=b"tree", destination=b"copy")
    done = _carry_out_under_strace(root, call, "--output=/dev/null", f"--inject={fault}")
    assert done.stderr.startswith(f"{code}: {root}/copy"), done.stderr
    assert picture(root) == before


def _carry_out_under_strace(root: Path, call, *options: str) -> subprocess.CompletedProcess[str]:
    arguments = [str(root.parent / "state"), str(root), msgspec.json.encode(call)]
    return subprocess.run(
        ["strace", "-qq", *options, sys.executable, "-c", _CARRY_OUT, *arguments],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
