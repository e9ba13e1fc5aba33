"""An upload outlives its connections and the agent, and its answer may be asked for again."""

import errno
import os
import threading
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmdop_appliance.agent.files.failures import FileFailure
from cmdop_appliance.protocol.files import Kept
from tests.support.agent_files import (
    WHOLE,
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
