"""A file is put in place on the terms of who asked, and only while they wait."""

import errno
import os
import threading
from contextlib import closing

import pytest

from cmdop_appliance.agent.files.digests import Digests
from cmdop_appliance.agent.files.failures import FileFailure
from cmdop_appliance.agent.files.replacing import Terms, replacing
from cmdop_appliance.agent.files.roots import Roots
from cmdop_appliance.agent.files.uploads import Uploads
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.protocol.files import Write
from tests.support.agent_files import LARGE, agent_files, fails, keep, placed, put, sha256

pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.fixture
def files(state):
    return agent_files(state)


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
