"""What gets another path, or another copy: whole or not at all, and nothing else is touched."""

import os
import shutil
import stat
from functools import partial

import pytest

from cmdop_appliance.agent.files.failures import FileFailure, Stopped
from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.files.linux import _rename_over_claim, rename_exclusively
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.protocol.files import Copy, Found, Move
from tests.support.agent_files import is_root
from tests.support.file_calls import b, do, picture, refusal

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
