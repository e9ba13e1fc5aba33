"""Directories, a page at a time: all that is there, once, in the order of the bytes of its name."""

import grp
import os
import pwd
import socket
from pathlib import Path

import pytest

from cmdop_appliance.agent.files.entries import Describer, Listings
from cmdop_appliance.agent.files.failures import FileFailure
from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.protocol.files import Entries, Entry, List
from cmdop_appliance.protocol.limits import ENTRIES_ITEMS

NOBODY = 4_000_000_000  # a number that no user and no group has


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def files(root, tmp_path):
    (tmp_path / "state").mkdir()
    return Files(tmp_path / "state", FilesPolicy(roots=(str(root),)))


def page(files: Files, path: object, *, limit: int = ENTRIES_ITEMS, **options) -> Entries:
    call = List(path=os.fsencode(str(path)), limit=limit, **options)
    answer = files.carry_out(call, lambda: False)
    assert isinstance(answer, Entries)
    return answer


def names(entries: Entries) -> list[bytes]:
    return [entry.name for entry in entries.entries]


def entry(files: Files, path: Path) -> Entry:
    found = page(files, path.parent, hidden=True).entries
    return next(e for e in found if e.name == os.fsencode(path.name))


def test_pages_hold_every_name_once_in_the_order_of_bytes(files, root):
    every = [b"%03d" % n for n in range(250)] + [b"\xff", b"A", b"a", b"\xc3\xa4", b"a\nb"]
    for name in every:
        (root / os.fsdecode(name)).touch()
    found, offset = [], 0
    while part := page(files, root, limit=30, offset=offset):
        assert part.total == len(every)
        if not part.entries:
            break
        found += names(part)
        offset += 30
    assert found == sorted(every)


def test_a_page_of_nothing_still_tells_how_many_there_are(files, root):
    (root / "a").touch()
    assert page(files, root, limit=0) == Entries(path=os.fsencode(root), entries=[], total=1)


def test_hidden_names_are_shown_to_those_who_ask(files, root):
    for name in (".hidden", "shown"):
        (root / name).touch()
    assert names(page(files, root)) == [b"shown"]
    assert page(files, root).total == 1
    assert names(page(files, root, hidden=True)) == [b".hidden", b"shown"]


def test_the_first_page_always_tells_what_is_there_now(tmp_path):
    """Also of a directory that does not say that it has changed."""
    files = Files(tmp_path, FilesPolicy())
    before = page(files, "/proc/self/fd").total
    with (tmp_path / "file").open("wb"):
        assert page(files, "/proc/self/fd").total == before + 1


def test_a_page_goes_on_in_what_the_first_has_found(root):
    """A directory of 100,000 names is read once, and not for each of 1,000 pages."""
    for number in range(ENTRIES_ITEMS + 1):
        (root / str(number)).touch()
    listings, directory = Listings(), os.open(root, os.O_RDONLY)
    try:
        first = listings.names(directory, hidden=True, anew=True)
        assert listings.names(directory, hidden=True, anew=False) is first
        assert listings.names(directory, hidden=False, anew=False) is not first
        (root / "new").touch()
        os.utime(root, (0, 0))  # else the change may lie in the same tick as the one before
        assert b"new" in listings.names(directory, hidden=True, anew=False)
    finally:
        os.close(directory)


def test_what_is_kept_of_many_directories_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("cmdop_appliance.agent.files.entries._KEPT_NAMES", 10)
    monkeypatch.setattr("cmdop_appliance.agent.files.entries.ENTRIES_ITEMS", 3)
    listings, handles, kept = Listings(), [], []
    try:
        for number in range(3):
            (tmp_path / str(number)).mkdir()
            for name in range(4):
                (tmp_path / str(number) / str(name)).touch()
            handles.append(os.open(tmp_path / str(number), os.O_RDONLY))
            kept.append(listings.names(handles[-1], hidden=True, anew=True))
        again = [listings.names(handle, hidden=True, anew=False) for handle in reversed(handles)]
        assert [one is other for one, other in zip(again, reversed(kept), strict=True)] == [
            True,
            True,
            False,
        ]
    finally:
        for handle in handles:
            os.close(handle)


@pytest.mark.parametrize("count", [0, ENTRIES_ITEMS])
def test_nothing_is_kept_of_a_directory_that_fits_on_a_page(root, count):
    """Else a walk through a million empty ones would fill the agent's memory."""
    for number in range(count):
        (root / str(number)).touch()
    listings, directory = Listings(), os.open(root, os.O_RDONLY)
    try:
        first = listings.names(directory, hidden=True, anew=True)
        again = listings.names(directory, hidden=True, anew=False)
    finally:
        os.close(directory)
    assert len(first) == count
    assert again == first
    assert again is not first


def test_a_name_that_has_vanished_is_left_out(root):
    for name in "ac":
        (root / name).touch()
    directory = os.open(root, os.O_RDONLY)
    try:
        found = Describer().page(directory, [b"a", b"b", b"c"])
    finally:
        os.close(directory)
    assert [entry.name for entry in found] == [b"a", b"c"]


def test_an_entry_tells_what_it_is(files, root):
    (root / "file").write_bytes(b"12345")
    (root / "file").chmod(0o4751)
    os.utime(root / "file", ns=(0, -1_500_000))
    (root / "directory").mkdir(mode=0o700)
    (root / "link").symlink_to("some\nwhere")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    file = entry(files, root / "file")
    assert file == Entry(
        name=b"file",
        type="file",
        size=5,
        mode=0o4751,
        owner=pwd.getpwuid(os.geteuid()).pw_name,
        group=grp.getgrgid((root / "file").stat().st_gid).gr_name,
        modified_ms=-2,
    )
    assert entry(files, root / "directory").type == "directory"
    assert entry(files, root / "directory").mode == 0o700
    assert entry(files, root / "link").type == "symlink"
    assert entry(files, root / "link").target == b"some\nwhere"
    assert entry(files, root / "pipe").type == entry(files, root / "socket").type == "other"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_an_owner_without_a_name_is_told_by_number(files, root):
    (root / "file").touch()
    os.chown(root / "file", NOBODY, NOBODY)
    found = entry(files, root / "file")
    assert (found.owner, found.group) == (str(NOBODY), str(NOBODY))


def test_a_link_to_a_directory_is_listed_as_that(files, root):
    (root / "d").mkdir()
    (root / "d/x").touch()
    (root / "link").symlink_to("d")
    part = page(files, root / "link")
    assert names(part) == [b"x"]
    assert part.path == os.fsencode(root / "link")


def test_only_a_directory_can_be_listed(files, root):
    (root / "file").touch()
    (root / "gone").symlink_to("nowhere")
    for name, code in (
        ("file", "not_a_directory"),
        ("none", "file_not_found"),
        ("gone", "file_not_found"),
    ):
        with pytest.raises(FileFailure) as caught:
            page(files, root / name)
        assert caught.value.code == code
