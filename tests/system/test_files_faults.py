"""Transfers while hub, agent, link and disk fail: the old file or the new one, and no litter."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.support.appliance import PROGRAM, stopped_agent, wait_for
from tests.support.fault_proxy import FaultProxy
from tests.support.machine_files import MachineFiles, arrived, names_in
from tests.torture.site import Site, running_site_behind_proxy

OLD = b"what stood there before\n" * 50_000
NEW = Random(6).randbytes(12_000_000)
SENT = len(NEW) // 2  # when the fault strikes
SHA256 = hashlib.sha256(NEW).hexdigest()

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="NOT TESTED: only root can mount a disk and give files away"
)


@pytest.fixture(scope="module")
def behind_proxy(tmp_path_factory):
    """(site, the proxy between its hub and its agent)"""
    place = tmp_path_factory.mktemp("site")
    with running_site_behind_proxy(place, "files") as (site, proxy):
        yield site, proxy


@pytest.fixture
def site(behind_proxy):
    return behind_proxy[0]


@pytest.fixture
def files(site):
    return MachineFiles(site.hub.api, site.agent.machine_id)


@pytest.fixture
def path(tmp_path):
    """A file with content, alone in its directory."""
    path = tmp_path / "target" / "x"
    path.parent.mkdir()
    path.write_bytes(OLD)
    return path


class Fall:
    """What happens in the middle of a transfer, and how all are there again."""

    def __init__(self, who: str, site: Site, proxy: FaultProxy) -> None:
        self.who = who
        self._site = site
        self._proxy = proxy
        self._connections = 0  # of the agent, before

    def strike(self) -> None:
        self._connections = self._site.agent.connections
        match self.who:
            case "hub":
                self._site.hub.kill()
            case "agent":
                self._site.agent.kill()
            case "link":
                self._proxy.cut("reset")

    def recover(self) -> None:
        if not self._site.hub.is_running:
            self._site.start_hub()
        if not self._site.agent.is_running:
            self._site.start_agent()
        self._site.wait_reconnected(self._connections)


@pytest.fixture(params=["hub", "agent", "link"])
def fall(request, behind_proxy):
    return Fall(request.param, *behind_proxy)


def judge_replaced(path: Path) -> None:
    """The new content is there, and nothing else."""
    assert path.read_bytes() == NEW
    assert names_in(path.parent) == [b"x"]


def test_a_fall_in_mid_upload_leaves_the_old_file_and_nothing_else(files, path, fall):
    with files.sending(path, len(NEW), sha256=SHA256) as sending:
        sending.send(NEW[:SENT])
        wait_for(lambda: arrived(path) > 0, "the upload is under way")
        fall.strike()
        assert path.read_bytes() == OLD
        assert arrived(path) < len(NEW)  # one temporary at the most, and not all of it
        if fall.who != "hub":
            answer = sending.answer()
            assert (answer.status, answer.error["code"]) == (503, "unavailable"), answer
    fall.recover()
    wait_for(lambda: names_in(path.parent) == [b"x"], "the temporary is swept")
    assert path.read_bytes() == OLD
    assert files.upload(path, NEW, sha256=SHA256).status == 200
    judge_replaced(path)


def test_an_upload_with_an_id_goes_on_after_a_fall(files, path, fall):
    with files.sending(path, len(NEW), upload_id="u", offset=0, sha256=SHA256) as sending:
        sending.send(NEW[:SENT])
        wait_for(lambda: arrived(path) > 0, "the upload is under way")
        fall.strike()
        assert path.read_bytes() == OLD
    fall.recover()
    wait_for(lambda: files.offset(path, "u") == arrived(path), "the first attempt is over")
    offset = files.offset(path, "u")
    assert 0 < offset <= SENT
    assert path.read_bytes() == OLD
    answer = files.upload(path, NEW[offset:], upload_id="u", offset=offset, sha256=SHA256)
    assert (answer.status, answer.data["sha256"]) == (200, SHA256), answer
    judge_replaced(path)


def test_a_download_that_was_cut_off_goes_on_where_it_was(files, path, fall):
    path.write_bytes(NEW)
    with files.reading(path) as reading:
        tag = reading.headers["etag"]
        begun = reading.read(100_000)
        fall.strike()
        got = begun + reading.read_rest()
    assert len(got) < len(NEW)
    fall.recover()
    rest = files.download(path, Range=f"bytes={len(got)}-", If_Range=tag)
    assert rest.status == 206
    assert got + rest.body == NEW


@pytest.mark.parametrize("fall", ["link"], indirect=True)
def test_a_download_goes_on_only_with_the_same_file(files, path, fall):
    path.write_bytes(NEW)
    with files.reading(path) as reading:
        got = reading.read(100_000)
        fall.strike()
    fall.recover()
    path.write_bytes(NEW[::-1])
    tag = reading.headers["etag"]
    answer = files.download(path, Range=f"bytes={len(got)}-", If_Range=tag)
    assert (answer.status, answer.body) == (200, NEW[::-1])


# ── the disk ─────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A disk of this size in memory."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def remount(place: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", place], check=True)


@needs_root
def test_a_full_disk_costs_the_upload_and_nothing_else(files, tmp_path):
    disk, path = tmp_path / "disk", tmp_path / "disk" / "x"
    with small_disk(disk, "8m"):
        path.write_bytes(OLD)
        answer = files.upload(path, NEW, sha256=SHA256)
        assert (answer.status, answer.error["code"]) == (507, "no_space"), answer
        assert str(path) in answer.error["message"]
        assert path.read_bytes() == OLD
        wait_for(lambda: names_in(disk) == [b"x"], "its temporary is gone")


@needs_root
def test_an_upload_goes_on_when_there_is_room_again(files, tmp_path):
    disk, path = tmp_path / "disk", tmp_path / "disk" / "x"
    with small_disk(disk, "8m"):
        path.write_bytes(OLD)
        answer = files.upload(path, NEW, upload_id="u", offset=0, sha256=SHA256)
        assert (answer.status, answer.error["code"]) == (507, "no_space"), answer
        offset = files.offset(path, "u")
        assert 0 < offset < len(NEW)
        assert arrived(path) == offset
        assert path.read_bytes() == OLD
        remount(disk, "size=32m")
        answer = files.upload(path, NEW[offset:], upload_id="u", offset=offset, sha256=SHA256)
        assert answer.status == 200, answer
        judge_replaced(path)


@needs_root
def test_a_disk_that_may_only_be_read_is_not_written(files, tmp_path):
    disk, path = tmp_path / "disk", tmp_path / "disk" / "x"
    with small_disk(disk, "8m"):
        path.write_bytes(OLD)
        remount(disk, "ro")
        answers = (
            files.upload(path, NEW),
            files.call("DELETE", "", path),
            files.call("POST", "/mkdir", body={"path": str(disk / "folder")}),
            files.call("POST", "/move", body={"source": str(path), "destination": f"{disk}/y"}),
        )
        for answer in answers:
            assert (answer.status, answer.error["code"]) == (403, "file_permission_denied")
        assert files.download(path).body == OLD


@needs_root
def test_what_the_system_denies_the_agent_is_denied_to_all(site, tmp_path):
    """Root without its privileges is a user like others, and can still run our interpreter."""
    theirs, path = tmp_path / "theirs", tmp_path / "theirs" / "x"
    hidden = theirs / "hidden"
    theirs.mkdir()
    path.write_bytes(OLD)
    path.chmod(0o600)
    hidden.mkdir(mode=0o700)
    for one in (theirs, path, hidden):
        os.chown(one, 65534, 65534)
    with stopped_agent(tmp_path, "weak") as weak:
        weak.program = ("setpriv", "--bounding-set=-all", *PROGRAM)
        weak.join(site.hub)
        files = MachineFiles(site.hub.api, weak.machine_id)
        answers = (
            files.upload(path, NEW),
            files.upload(theirs / "y", NEW),
            files.upload(path, NEW, upload_id="u", offset=0),
            files.download(path),
            files.call("GET", "/content", path),
            files.call("GET", "", hidden),
            files.call("DELETE", "", path),
            files.call("POST", "/mkdir", body={"path": str(theirs / "folder")}),
            files.call("POST", "/move", body={"source": str(path), "destination": f"{theirs}/y"}),
            files.call("POST", "/copy", body={"source": str(path), "destination": f"{tmp_path}/y"}),
        )
    for answer in answers:
        assert (answer.status, answer.error["code"]) == (403, "file_permission_denied"), answer
    assert (path.read_bytes(), names_in(theirs)) == (OLD, [b"hidden", b"x"])
