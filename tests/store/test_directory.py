"""The data directory: ours alone, and one hub at a time."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from cmdop_appliance.errors import StartupError
from cmdop_appliance.private import write_private
from cmdop_appliance.store.directory import LOCK_FILE, claim


@pytest.fixture
def no_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path) -> int:
    return path.stat().st_mode & 0o777


def test_the_directory_is_made_and_is_ours_alone_whatever_the_umask(tmp_path, no_umask):
    path = tmp_path / "a" / "b"
    with claim(path):
        assert mode(path) == 0o700
        assert mode(path / LOCK_FILE) == 0o600


def test_a_directory_that_was_open_to_others_is_closed(tmp_path):
    tmp_path.chmod(0o755)
    with claim(tmp_path):
        assert mode(tmp_path) == 0o700


def test_a_second_claim_is_refused_and_names_the_holder(tmp_path):
    with claim(tmp_path), pytest.raises(StartupError) as caught, claim(tmp_path):
        pytest.fail("claimed twice")
    assert caught.value.message == (
        f"data directory {tmp_path} is in use by the hub with pid {os.getpid()}"
    )
    assert "--data-dir" in caught.value.hint


def test_a_claim_waits_for_a_holder_that_is_about_to_end(tmp_path, monkeypatch):
    holder = ExitStack()
    holder.enter_context(claim(tmp_path))
    monkeypatch.setattr(time, "sleep", lambda _: holder.close())
    with claim(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"


def test_a_claim_ends_with_its_block_and_a_longer_pid_leaves_nothing_behind(tmp_path):
    (tmp_path / LOCK_FILE).write_text("12345678901234567890\n")
    with claim(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"
    with claim(tmp_path):
        pass


def test_the_claim_of_a_killed_process_is_over(tmp_path):
    program = (
        "import os, sys, pathlib; from cmdop_appliance.store.directory import claim\n"
        "with claim(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    arguments = [sys.executable, "-c", program, tmp_path]
    ended = subprocess.run(arguments, cwd=Path(__file__).parents[2], check=False)
    assert ended.returncode == -9
    with claim(tmp_path):
        pass


def test_a_claim_is_not_inherited_by_a_child(tmp_path):
    with claim(tmp_path):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with claim(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(tmp_path):
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(StartupError, match="belongs to uid 12345"), claim(tmp_path):
        pass


def test_a_path_that_cannot_be_a_directory_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(StartupError, match=r"cannot use data directory .*: "),
        claim(tmp_path / "file"),
    ):
        pass


def test_a_private_file_is_replaced_whole_and_is_ours_alone(tmp_path, no_umask):
    path = tmp_path / "admin.key"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new\n")
    assert path.read_text() == "new\n"
    assert mode(path) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["admin.key"]


def test_a_private_file_follows_no_link_that_waits_in_its_place(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "admin.key").symlink_to(victim)
    (tmp_path / ".admin.key.new").symlink_to(victim)
    write_private(tmp_path / "admin.key", "new")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "admin.key").is_symlink()
