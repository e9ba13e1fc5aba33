"""An upload outlives its connections and the agent, and what nobody goes on with goes."""

import errno
import os
import threading
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmdop_appliance.agent.files import uploads
from cmdop_appliance.agent.files.failures import FileFailure
from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.files.roots import Roots
from cmdop_appliance.agent.files.uploads import DONE_S, UPLOAD_S, Uploads
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.protocol.files import Kept, Write
from tests.support.agent_files import (
    agent_files,
    arrived,
    as_root,
    fails,
    keep,
    mounted,
    parts_in,
    put,
    sha256,
)

WHOLE = Random(3).randbytes(300_000)


@pytest.fixture
def state(tmp_path):
    return tmp_path / "agent"


@pytest.fixture
def files(state):
    return agent_files(state)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


@pytest.fixture
def path(folder):
    """A file that stands there."""
    path = folder / "file"
    path.write_bytes(b"old")
    return path


def placed(files, path, **call):
    return files.place(Write(path=os.fsencode(path), **call), lambda: False)


def records_in(state):
    return sorted((state / "files").glob("*"))


def grow_old(file, seconds):
    """As if so much time had passed since the last byte."""
    at = time.time() - seconds
    os.utime(file, (at, at))


def test_an_upload_comes_in_parts_and_is_put_in_place_by_the_last(files, path):
    assert arrived(files, path, "u") == 0
    assert keep(files, path, "u", WHOLE[:100]) == 100
    assert keep(files, path, "u", WHOLE[100:1000], 100) == 1000
    assert arrived(files, path, "u") == 1000
    assert path.read_bytes() == b"old"
    written = put(files, path, WHOLE[1000:], upload="u", offset=1000, whole=WHOLE)
    assert (written.size, written.created) == (len(WHOLE), False)
    assert path.read_bytes() == WHOLE
    assert parts_in(path.parent) == []


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_upload_that_is_cut_anywhere_ends_as_the_same_file(state, folder, data):
    """Cut, and gone on with where it stands, or before; by the same agent, or by the next."""
    files, path, upload, at = agent_files(state), folder / "file", "u", 0
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, at))
        end = data.draw(st.integers(at, len(WHOLE)))
        with closing(placed(files, path, upload=upload, offset=at)) as writing:
            writing.write(WHOLE[at:end])
        if data.draw(st.booleans()):
            files = agent_files(state)
        at = arrived(files, path, upload)
        assert at == end
    put(files, path, WHOLE[at:], upload=upload, offset=at, whole=WHOLE)
    assert path.read_bytes() == WHOLE
    assert parts_in(folder) == []


def test_a_part_that_was_kept_goes_on_after_a_break_without_its_end(files, path):
    with closing(placed(files, path, upload="u")) as writing:
        writing.write(b"ab")
    assert arrived(files, path, "u") == 2


def test_what_has_not_arrived_cannot_be_gone_on_from(files, path):
    keep(files, path, "u", b"abc")
    for upload, there in {"u": 3, "other": 0}.items():
        with fails("offset_mismatch") as failure:
            placed(files, path, upload=upload, offset=4)
        assert failure.value.offset == there
    assert len(parts_in(path.parent)) == 1


def test_uploads_of_other_names_and_to_other_files_are_others(files, folder):
    keep(files, folder / "a", "u", b"1")
    keep(files, folder / "a", "v", b"22")
    keep(files, folder / "b", "u", b"333")
    assert [
        arrived(files, folder / name, upload)
        for name, upload in (("a", "u"), ("a", "v"), ("b", "u"))
    ] == [1, 2, 3]


def test_the_wrong_checksum_is_said_also_when_the_disk_keeps_what_has_arrived(
    files, path, state, monkeypatch
):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "read-only")

    keep(files, path, "u", b"abc")
    with (
        closing(placed(files, path, upload="u", offset=3)) as writing,
        monkeypatch.context() as patch,
        fails("checksum_mismatch"),
    ):
        patch.setattr(os, "unlink", refuse)
        writing.finish(3, sha256(b"abd"))
    assert arrived(files, path, "u") == 0
    assert len(parts_in(path.parent)) == 1
    files.sweep()
    assert parts_in(path.parent) == records_in(state) == []


def test_an_upload_is_to_the_file_that_a_link_leads_to(files, folder):
    (folder / "link").symlink_to("file")
    keep(files, folder / "link", "u", b"abc")
    assert arrived(files, folder / "file", "u") == 3


def test_the_wrong_checksum_ends_an_upload(files, path):
    keep(files, path, "u", b"abc")
    with closing(placed(files, path, upload="u", offset=3)) as writing, fails("checksum_mismatch"):
        writing.finish(3, sha256(b"abd"))
    assert arrived(files, path, "u") == 0
    assert parts_in(path.parent) == []
    put(files, path, b"abd", upload="u")


def test_whoever_comes_later_takes_the_upload_over(files, path):
    with closing(placed(files, path, upload="u")) as before:
        before.write(b"ab")
        with closing(placed(files, path, upload="u", offset=2)) as writing:
            with fails("offset_mismatch"):
                before.write(b"X")
            with fails("offset_mismatch"):
                before.finish(2, sha256(b"ab"))
            before.close()
            writing.write(b"c")
            writing.finish(3, sha256(b"abc"))
        with fails("offset_mismatch"):
            before.finish(2, None)
    assert path.read_bytes() == b"abc"


def test_of_many_that_go_on_at_once_one_puts_the_file_in_place(files, path):
    keep(files, path, "u", WHOLE[:1000])
    started, outcomes = threading.Barrier(8), []

    def go_on():
        started.wait()
        try:
            put(files, path, WHOLE[1000:], upload="u", offset=1000, whole=WHOLE)
        except FileFailure as exc:
            outcomes.append(exc.code)
        else:
            outcomes.append("written")

    writers = [threading.Thread(target=go_on) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert "written" in outcomes
    assert set(outcomes) <= {"written", "offset_mismatch"}
    assert path.read_bytes() == WHOLE
    assert parts_in(path.parent) == []


def test_who_waited_for_an_upload_that_is_gone_by_then_begins_it_again(files, state, path):
    class Gate:
        """The lock of a temporary, which tells who comes to it."""

        def __init__(self, lock):
            self.lock, self.is_waited_for = lock, threading.Event()

        def __enter__(self):
            self.is_waited_for.set()
            self.lock.acquire()

        def __exit__(self, *_):
            self.lock.release()

    with closing(placed(files, path, upload="u")) as before:
        before.write(b"abc")
        temporary = before._temporary
        temporary.lock = gate = Gate(temporary.lock)
        with gate.lock:
            later = threading.Thread(target=keep, args=(files, path, "u", b"de"))
            later.start()
            assert gate.is_waited_for.wait(10)
            (part,) = parts_in(path.parent)
            part.unlink()
            files._uploads.forget(temporary)
        later.join()
    assert arrived(files, path, "u") == 2
    assert arrived(agent_files(state), path, "u") == 2


def test_terms_that_are_not_met_in_the_end_cost_no_byte_that_has_arrived(files, path):
    call = {"upload": "u", "if_match": sha256(b"old")}
    with closing(placed(files, path, **call)) as writing:
        writing.write(b"new")
        path.write_bytes(b"odd")
        with fails("changed"):
            writing.finish(3, sha256(b"new"))
    assert arrived(files, path, "u") == 3
    put(files, path, b"", upload="u", offset=3, whole=b"new")
    assert path.read_bytes() == b"new"


# ── once more ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["the same agent", "the next agent"])
def later(request, files, state):
    """Who is asked again."""
    return (lambda: files) if request.param == "the same agent" else (lambda: agent_files(state))


@pytest.mark.parametrize("content", [b"", b"new"])
@pytest.mark.parametrize("is_new", [False, True])
def test_an_answer_that_was_lost_is_given_again(files, later, path, content, is_new):
    call = {"upload": "u", "if_match": None if is_new else sha256(b"old"), "overwrite": not is_new}
    if is_new:
        path.unlink()
    written = put(files, path, content, **call)
    assert written.created == is_new
    again = later()
    assert arrived(again, path, "u") == len(content)
    at_end = {**call, "offset": len(content), "whole": content}
    assert put(again, path, b"", **at_end) == written
    assert put(again, path, b"", **at_end) == written
    assert put(again, path, content, **call) == written  # from its beginning
    assert put(again, path, content, **call) == written
    assert parts_in(path.parent) == []


def test_a_finished_upload_takes_nothing_more(files, path):
    put(files, path, b"new", upload="u")
    for offset in (1, 4):
        with fails("offset_mismatch") as failure:
            placed(files, path, upload="u", offset=offset)
        assert failure.value.offset == 3
    with closing(placed(files, path, upload="u", offset=3)) as writing:
        with fails("offset_mismatch"):
            writing.write(b"x")
        assert writing.finish(3, None) == Kept(offset=3)
        with fails("checksum_mismatch"):
            writing.finish(3, sha256(b"another"))
    assert path.read_bytes() == b"new"


def test_a_finished_upload_can_be_made_anew_with_something_else(files, path):
    put(files, path, b"new", upload="u")
    assert not put(files, path, b"newer", upload="u").created
    assert path.read_bytes() == b"newer"
    with fails("file_exists"):
        put(files, path, b"newest", upload="u", overwrite=False)


@pytest.mark.parametrize("how", ["written to", "replaced", "removed"])
def test_a_finished_upload_is_forgotten_when_its_file_is_another(files, later, path, how):
    put(files, path, b"new", upload="u")
    if how == "written to":
        path.write_bytes(b"odd")
    else:
        path.unlink()
    if how == "replaced":
        path.write_bytes(b"new")
    again = later()
    assert arrived(again, path, "u") == 0
    with fails("offset_mismatch"):
        placed(again, path, upload="u", offset=3)
    put(again, path, b"newest", upload="u")
    assert path.read_bytes() == b"newest"


# ── what nobody goes on with ─────────────────────────────────────────────────────────────────────


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


# ── bounds ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def room_for_three(monkeypatch):
    monkeypatch.setattr(uploads, "UPLOADS_ITEMS", 3)


def open_in(files, folder):
    """The uploads that something has arrived of, all of which are to one file."""
    return {name for name in "abcdefg" if arrived(files, folder / "file", name)}


def test_for_one_upload_too_many_the_longest_idle_gives_way(
    files, later, folder, state, room_for_three
):
    for name in "abc":
        keep(files, folder / "file", name, b"x")
    for at, name in enumerate("acb"):
        (record,) = (record for record in records_in(state) if f'"{name}"' in record.read_text())
        os.utime(record, (0, 0))
        keep(files, folder / "file", name, b"y", 1)
        assert record.stat().st_mtime > 0  # for the next agent
        os.utime(record, (at, at))  # one after the other, whatever the kernel's clock
    again = later()
    keep(again, folder / "file", "d", b"x")
    assert open_in(again, folder) == set("bcd")
    keep(again, folder / "file", "e", b"x")
    assert open_in(again, folder) == set("bde")
    assert len(parts_in(folder)) == len(records_in(state)) == 3
    with fails("offset_mismatch") as failure:
        placed(again, folder / "file", upload="a", offset=2)
    assert failure.value.offset == 0


def test_an_answer_gives_way_before_what_has_arrived_of_any_upload(files, folder, room_for_three):
    for name in "abc":
        keep(files, folder / "file", name, b"x")
    put(files, folder / "file", b"", upload="b", offset=1, whole=b"x")
    keep(files, folder / "file", "d", b"x")
    assert open_in(files, folder) == set("acd")


def test_an_upload_that_somebody_sends_to_does_not_give_way(files, folder, room_for_three):
    held = [placed(files, folder / "file", upload=name) for name in "abc"]
    put(files, folder / "other", b"in one go")
    with fails("no_space") as failure:
        placed(files, folder / "file", upload="d")
    assert "wait" in failure.value.message
    for writing in held:
        writing.write(b"x")
    held[1].close()
    keep(files, folder / "file", "d", b"x")
    assert open_in(files, folder) == set("acd")
    for writing in held:
        writing.close()


def test_an_upload_that_somebody_is_busy_with_is_not_waited_for(files, folder, room_for_three):
    for name in "abc":
        keep(files, folder / "file", name, b"x")
    with closing(placed(files, folder / "file", upload="a", offset=1)) as writing:
        busy = writing._temporary
    with busy.lock:
        busy.used_at_s = 0.0
        keep(files, folder / "file", "d", b"x")
    assert open_in(files, folder) == set("acd")


def test_an_upload_whose_directory_is_gone_gives_way(files, state, folder, room_for_three):
    (folder / "inner").mkdir()
    keep(files, folder / "inner/file", "u", b"x")
    (folder / "inner").rename(folder / "moved")
    for name in "abc":
        keep(files, folder / "file", name, b"x")
    assert open_in(files, folder) == set("abc")
    files.sweep()
    assert len(records_in(state)) == 3


def test_what_gives_way_and_cannot_be_taken_away_is_left_to_the_sweep(
    files, state, folder, room_for_three, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unable)
        for name in "abcd":
            keep(files, folder / "file", name, b"x")
        assert open_in(files, folder) == set("bcd")
        assert len(parts_in(folder)) == 4
    files.sweep()
    assert len(parts_in(folder)) == len(records_in(state)) == 3
    assert open_in(files, folder) == set("bcd")


def unable(*_, **__):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@as_root
def test_a_full_disk_keeps_what_has_arrived_and_it_goes_on_when_there_is_room(files, tmp_path):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=256k", "tmpfs") as disk:
        path, ballast = disk / "file", disk / "ballast"
        ballast.write_bytes(bytes(200_000))
        with closing(placed(files, path, upload="u")) as writing, fails("no_space"):
            writing.write(WHOLE[:200_000])
        at = arrived(files, path, "u")
        assert 0 < at < 200_000
        ballast.unlink()
        whole = WHOLE[:200_000]
        put(files, path, whole[at:], upload="u", offset=at, whole=whole)
        assert path.read_bytes() == whole


@as_root
def test_a_state_directory_that_is_full_refuses_at_the_start(tmp_path, path):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=16k", "tmpfs") as disk:
        files = agent_files(disk / "agent")
        with suppress(OSError):  # until nothing more fits
            (disk / "ballast").write_bytes(bytes(1_000_000))
        for upload in (None, "u"):
            with fails("no_space") as failure:
                placed(files, path, upload=upload)
            assert str(disk) in failure.value.message
        assert parts_in(path.parent) == []
        assert path.read_bytes() == b"old"
        (disk / "ballast").unlink()
        put(files, path, b"new", upload="u")
