"""Any bytes that the system takes for a name go through whole; any others are refused."""

import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.agent.files.failures import FileFailure, shown
from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.protocol.files import Copy, Delete, Exist, List, Mkdir, Move, Read, Stat, Write
from tests.support.descriptors import open_descriptors

CODES = {"invalid_path", "file_not_found", "not_a_directory", "is_a_directory", "path_not_allowed"}
CODES |= {"file_exists", "directory_not_empty", "not_a_regular_file", "file_permission_denied"}
CODES |= {"offset_mismatch", "checksum_mismatch"}

# One component as a file system takes it, and what may be asked instead.
NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: name not in (b".", b"..") and not set(name) & set(b"/\0")
)
PATHS = st.lists(
    st.binary(max_size=12)
    | st.sampled_from([b"..", b".", b"", b"\n", b"\0", b"d", b"l", b"\xff", b"e" * 256, b"out"]),
    max_size=6,
).map(b"/".join)


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    """A directory with a root and, beside it, what stays as it is."""
    top = tmp_path_factory.mktemp("names")
    (top / "state").mkdir()
    (top / "outside").mkdir()
    (top / "outside/f").write_text("as it is")
    return top


@pytest.fixture(scope="module")
def files(top):
    return Files(top / "state", FilesPolicy(roots=(str(top / "root"),)))


def plant(top) -> bytes:
    """The root anew; its path."""
    root = top / "root"
    shutil.rmtree(root, ignore_errors=True)
    (root / "d/d").mkdir(parents=True)
    (root / "d/f").write_text("f")
    (root / "l").symlink_to("d")
    (root / "out").symlink_to("../outside")
    return os.fsencode(root)


def names_in(directory: bytes) -> list[bytes]:
    return sorted(entry.name for entry in os.scandir(directory))


def carry_out(files: Files, call: object) -> object:
    return files.carry_out(call, lambda: False)


@given(name=NAMES, other=NAMES)
def test_any_name_is_made_found_listed_copied_moved_and_deleted(files, top, name, other):
    root = plant(top) + b"/d/d/"
    carry_out(files, Mkdir(path=root + b"../e"))
    carry_out(files, Mkdir(path=root + name))
    assert names_in(root) == [name]
    (entry,) = carry_out(files, List(path=root, limit=10, hidden=True)).entries
    assert entry.name == name
    assert carry_out(files, Stat(path=root + name)).entry == entry
    if other != name:
        carry_out(files, Move(source=root + name, destination=root + other))
        assert names_in(root) == [other]
    carry_out(files, Copy(source=root + other, destination=root + b"../e/" + other))
    assert (
        carry_out(files, Exist(paths=[root + other, root + b"../e/" + other])).exist == [True] * 2
    )
    carry_out(files, Delete(path=root + other))
    assert names_in(root) == []


@given(path=PATHS, other=PATHS, is_absolute=st.booleans())
def test_whatever_is_asked_is_done_inside_or_refused(files, top, path, other, is_absolute):
    root, before = plant(top), open_descriptors()
    if is_absolute:
        path, other = root + b"/" + path, root + b"/" + other
    assert len(carry_out(files, Exist(paths=[path, other])).exist) == 2
    for call in (
        List(path=path, limit=3),
        Stat(path=path, checksum=True),
        Mkdir(path=other, parents=True),
        Copy(source=path, destination=other, overwrite=True),
        Move(source=path, destination=other),
        Delete(path=other, recursive=True),
    ):
        _tolerating(lambda call=call: carry_out(files, call))
    _tolerating(lambda: files.open(Read(path=path)).close())
    _tolerating(lambda: files.place(Write(path=other, create_parents=True), lambda: False).close())
    assert open_descriptors() == before
    assert names_in(os.fsencode(top)) == [b"outside", b"root", b"state"]
    assert names_in(os.fsencode(top / "outside")) == [b"f"]
    assert (top / "outside/f").read_text() == "as it is"


def _tolerating(call) -> None:
    try:
        call()
    except FileFailure as exc:
        failure = exc
    else:
        return
    assert failure.code in CODES, failure
    assert failure.message.isprintable()
    assert len(failure.message) < 1000


@given(path=st.binary(max_size=1000))
def test_a_path_in_a_message_is_short_and_does_nothing_to_a_terminal(path):
    assert shown(path).isprintable()
    assert len(shown(path)) <= 200


def test_a_path_in_a_message_is_told_as_it_is_where_that_is_possible():
    assert shown("/tmp/ä b".encode()) == "/tmp/ä b"
    assert shown(b"/\xff\n\x1b[2J") == "/���[2J"
