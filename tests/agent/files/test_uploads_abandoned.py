"""What nobody goes on with goes, and what is not the agent's is left alone."""

import errno
import os
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cmdop_appliance.agent.files.failures import FileFailure
from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.files.roots import Roots
from cmdop_appliance.agent.files.uploads import DONE_S, UPLOAD_S, Uploads
from cmdop_appliance.agent.policy import FilesPolicy
from tests.support.agent_files import (
    agent_files,
    arrived,
    fails,
    keep,
    parts_in,
    placed,
    put,
    records_in,
    sha256,
)


@pytest.fixture
def files(state):
    return agent_files(state)


def grow_old(file, seconds):
    """As if so much time had passed since the last byte."""
    at = time.time() - seconds
    os.utime(file, (at, at))


def abandon(files, path, **call):
    """Write as an agent that dies of it."""
    writing = placed(files, path, **call)
    writing.write(b"abc")
    return writing


def test_what_a_dead_agent_wrote_in_one_go_is_taken_away_by_the_next(files, state, path):
    with closing(abandon(files, path)):
        assert len(parts_in(path.parent)) == len(records_in(state)) == 1
        after = agent_files(state)
        after.sweep()
        assert parts_in(path.parent) == []
        assert records_in(state) == []
        assert path.read_bytes() == b"old"


def test_what_somebody_writes_is_not_taken_away(files, path):
    with closing(abandon(files, path)) as writing:
        files.sweep()
        writing.finish(3, sha256(b"abc"))
    assert path.read_bytes() == b"abc"


def test_what_is_written_to_at_this_moment_is_not_taken_away(files, path):
    with closing(abandon(files, path, upload="u")) as writing:
        (part,) = parts_in(path.parent)
        grow_old(part, UPLOAD_S + 100)
        files.sweep()
        writing.finish(3, sha256(b"abc"))
    assert path.read_bytes() == b"abc"


def test_an_upload_is_kept_for_a_day_and_no_longer(files, state, path):
    keep(files, path, "u", b"abc")
    (part,) = parts_in(path.parent)
    for after in (files, agent_files(state)):
        grow_old(part, UPLOAD_S - 100)
        after.sweep()
        assert arrived(after, path, "u") == 3
    grow_old(part, UPLOAD_S + 1)
    files.sweep()
    assert parts_in(path.parent) == []
    assert records_in(state) == []
    assert arrived(files, path, "u") == 0


def test_an_answer_is_kept_for_an_hour_and_no_longer(files, state, path, monkeypatch):
    put(files, path, b"new", upload="u")
    now = time.time()
    for after in (files, agent_files(state)):
        monkeypatch.setattr(time, "time", lambda: now + DONE_S - 10)
        after.sweep()
        assert arrived(after, path, "u") == 3
    monkeypatch.setattr(time, "time", lambda: now + DONE_S + 10)
    files.sweep()
    assert arrived(files, path, "u") == 0
    assert records_in(state) == []
    assert path.read_bytes() == b"new"


def test_what_is_not_the_agents_is_not_taken_away(files, state, path):
    with closing(abandon(files, path)):
        (part,) = parts_in(path.parent)
        part.rename(path.parent / "kept")
        part.write_bytes(b"somebody else's")
        agent_files(state).sweep()
        assert part.read_bytes() == b"somebody else's"
        assert records_in(state) == []
        part.unlink()


def test_a_link_in_the_place_of_a_temporary_leads_nowhere(files, state, path, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    keep(files, path, "u", b"abc")
    (part,) = parts_in(path.parent)
    part.unlink()
    part.symlink_to(outside)
    put(files, path, b"abc", upload="u")
    assert outside.read_bytes() == b"secret"
    assert path.read_bytes() == b"abc"
    assert not path.is_symlink()


def test_another_file_in_the_place_of_a_temporary_is_not_written_to(files, path, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    keep(files, path, "u", b"abc")
    (part,) = parts_in(path.parent)
    part.unlink()
    os.link(outside, part)
    assert arrived(files, path, "u") == 0
    put(files, path, b"abc", upload="u")
    assert outside.read_bytes() == b"secret"


def test_another_file_that_comes_there_at_the_last_moment_is_not_written_to(
    files, path, tmp_path, monkeypatch
):
    outside, open_now = tmp_path / "outside", os.open
    outside.write_bytes(b"secret")
    keep(files, path, "u", b"abc")
    (part,) = parts_in(path.parent)

    def open_late(name, *args, **kwargs):
        if name == os.fsencode(part.name):
            part.unlink()
            os.link(outside, part)
        return open_now(name, *args, **kwargs)

    with monkeypatch.context() as patch, fails("changed_during_read"):
        patch.setattr(os, "open", open_late)
        placed(files, path, upload="u")
    assert outside.read_bytes() == b"secret"
    put(files, path, b"abc", upload="u")
    assert outside.read_bytes() == b"secret"


@pytest.mark.parametrize("how", ["another's", "open to others", "of two names"])
def test_a_file_with_the_inode_of_a_temporary_is_not_gone_on_with(files, later, path, how):
    """A freed inode is the next file's, and whoever made that may still write to it."""
    if how == "another's" and os.geteuid():
        pytest.skip("only root can give a file away")
    keep(files, path, "u", b"abc")
    (part,) = parts_in(path.parent)
    with part.open("r+b") as others:
        if how == "another's":
            os.chown(part, 12345, -1)
        elif how == "open to others":
            part.chmod(0o666)
        else:
            os.link(part, path.parent / "link")
        again = later()
        assert arrived(again, path, "u") == 0
        with fails("offset_mismatch") as failure:
            placed(again, path, upload="u", offset=3)
        assert failure.value.offset == 0
        put(again, path, b"secret", upload="u")
        others.write(b"evil")
    assert path.read_bytes() == b"secret"
    assert parts_in(path.parent) == []


def test_what_has_arrived_is_on_the_disk_before_it_is_anybody_elses(files, path, monkeypatch):
    """A death in the long wait for the disk costs an upload nothing."""
    fsync, seen = os.fsync, []

    def look(handle):
        seen.append(arrived(files, path, "u"))
        fsync(handle)

    with closing(placed(files, path, upload="u")) as writing:
        writing.write(b"abc")
        monkeypatch.setattr(os, "fsync", look)
        writing.finish(3, sha256(b"abc"))
    assert seen[0] == 3


@pytest.mark.parametrize("is_full", [False, True])
def test_a_directory_in_the_place_of_what_a_dead_agent_made_is_not_emptied(
    files, state, path, is_full
):
    with closing(abandon(files, path)):
        (record,) = records_in(state)
        (part,) = parts_in(path.parent)
        # As if it had died before it could note what it made.
        record.write_bytes(record.read_bytes().splitlines()[1])
        part.unlink()
        part.mkdir()
        if is_full:
            (part / "kept").touch()
        agent_files(state).sweep()
        assert records_in(state) == []
        assert part.is_dir() == is_full
        if is_full:
            (part / "kept").unlink()
            part.rmdir()


def test_an_upload_whose_temporary_somebody_took_away_begins_again(files, state, path):
    keep(files, path, "u", b"abc")
    (part,) = parts_in(path.parent)
    part.unlink()
    assert arrived(files, path, "u") == 0
    put(files, path, b"new", upload="u")
    assert path.read_bytes() == b"new"


def test_a_record_without_a_temporary_goes(files, state, path):
    keep(files, path, "u", b"abc")
    (part,) = parts_in(path.parent)
    part.unlink()
    agent_files(state).sweep()
    assert records_in(state) == []


def test_a_record_of_a_directory_that_is_gone_goes(files, state, folder):
    inner = folder / "inner"
    inner.mkdir()
    keep(files, inner / "file", "u", b"abc")
    inner.rename(folder / "moved")
    agent_files(state).sweep()
    assert records_in(state) == []


def test_what_a_disk_does_not_show_at_the_moment_is_looked_for_again(files, state, path):
    class Unreachable(Roots):
        @contextmanager
        def place(self, path, **_):
            raise FileFailure("file_io_error", "the disk is away")
            yield

    with closing(abandon(files, path)):
        Uploads(state / "files", Unreachable(FilesPolicy(), (), b"/")).sweep()
        assert len(records_in(state)) == 1
        Uploads(state / "files", Roots(FilesPolicy(), (), b"/")).sweep()
        assert parts_in(path.parent) == records_in(state) == []


def test_a_damaged_record_goes(files, state, path):
    keep(files, path, "u", b"abc")
    (record,) = records_in(state)
    for content in (b"", b"\n", b"{", b'\n{"directory":1}', b"\xff" * 100, b"[" * 10_000):
        (state / "files" / "bad.jsonl").write_bytes(content)
        after = agent_files(state)
        assert records_in(state) == [record]
        assert arrived(after, path, "u") == 3


def test_a_damaged_record_that_cannot_be_taken_away_holds_up_no_agent(
    files, state, path, monkeypatch
):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "read-only")

    keep(files, path, "u", b"abc")
    (state / "files" / "bad.jsonl").write_bytes(b"{")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        assert arrived(agent_files(state), path, "u") == 3


def test_a_record_that_cannot_be_read_holds_up_no_agent(files, state, path):
    keep(files, path, "u", b"abc")
    (state / "files" / "odd.jsonl").mkdir()
    assert arrived(agent_files(state), path, "u") == 3


@pytest.mark.parametrize("torn", [b"\n", b'\n{"directory":"', b"\0" * 50])
def test_the_last_whole_line_of_a_record_counts(files, state, path, torn):
    keep(files, path, "u", b"abc")
    (record,) = records_in(state)
    with record.open("ab") as file:
        file.write(torn)
    after = agent_files(state)
    assert arrived(after, path, "u") == 3
    put(after, path, b"", upload="u", offset=3, whole=b"abc")
    assert arrived(agent_files(state), path, "u") == 3


def test_records_are_open_to_the_agent_alone(files, state, path):
    keep(files, path, "u", b"abc")
    assert (state / "files").stat().st_mode & 0o777 == 0o700


def test_a_temporary_where_the_policy_leads_no_more_is_left_alone(
    state, files, path, tmp_path, caplog
):
    keep(files, path, "u", b"abc")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    after = Files(state, FilesPolicy(roots=(str(elsewhere),)))
    after.sweep()
    assert len(parts_in(path.parent)) == 1
    assert records_in(state) == []
