"""What a machine may answer to which call."""

import hashlib

import pytest
from msgspec.structs import replace

from cmdop_appliance.protocol.answers import fits
from cmdop_appliance.protocol.files import (
    Copy,
    Delete,
    Done,
    Entries,
    Entry,
    Exist,
    Existing,
    Found,
    Kept,
    List,
    Mkdir,
    Move,
    Opened,
    Placed,
    Read,
    Stat,
    Uploaded,
    Write,
    Written,
)
from cmdop_appliance.protocol.messages import FileEnd

DIGEST = hashlib.sha256(b"content").digest()
OTHER = hashlib.sha256(b"other").digest()
LIST = List(path=b"/d", limit=2, offset=4)
WRITE = Write(path=b"/f", offset=3)
END, PART_END = FileEnd(id=0, end=7, sha256=DIGEST), FileEnd(id=0, end=7)


def entry(name: bytes) -> Entry:
    return Entry(name=name, type="file", size=1, mode=0, owner="", group="", modified_ms=0)


def page(*names: bytes, total: int = 6, path: bytes = b"/d") -> Entries:
    return Entries(path=path, entries=[entry(name) for name in names], total=total)


def found(path: bytes, name: bytes) -> Found:
    return Found(path=path, entry=entry(name), version="v")


def opened(first: int, end: int, size: int = 10, path: bytes = b"/f") -> Opened:
    return Opened(path=path, size=size, first=first, end=end, version="v", modified_ms=0)


def read(offset: int = 0, length: int | None = None, if_version: str | None = None) -> Read:
    return Read(path=b"/f", offset=offset, length=length, if_version=if_version)


FOUND = found(b"/d/x", b"x")
WRITTEN = Written(path=b"/f", size=7, sha256=DIGEST, created=True)


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (LIST, page(b"a", b"\xff")),
        (LIST, page()),
        (LIST, page(total=0)),  # it shrank: nothing is left beyond the offset
        (LIST, page(b"a", path=b"/")),
        (Stat(path=b""), FOUND),
        (Stat(path=b"/"), found(b"/", b"")),
        (Move(source=b"/f", destination=b"/d/x"), FOUND),
        (Copy(source=b"/f", destination=b"/d/x"), FOUND),
        (Mkdir(path=b"/d/x"), FOUND),
        (Exist(paths=[]), Existing(exist=[])),
        (Exist(paths=[b"/", b"/x"]), Existing(exist=[True, False])),
        (read(), opened(0, 10)),
        (read(), opened(0, 0, size=0)),
        (read(3), opened(3, 10)),
        (read(3, 4), opened(3, 7)),
        (read(3, 40), opened(3, 10)),
        (read(3, 0), opened(3, 3)),
        (read(40), opened(10, 10)),
        (read(-4), opened(6, 10)),
        (read(-4, 2), opened(6, 8)),
        (read(-40), opened(0, 10)),
        (read(3, 4, "v"), opened(3, 7)),
        (read(3, 4, "another"), opened(0, 10)),
        (WRITE, Placed(path=b"/f", offset=3)),
        (Uploaded(path=b"/f", upload="u"), Kept(offset=2**62)),
        (Delete(path=b"/f"), Done()),
        (END, WRITTEN),
        (PART_END, Kept(offset=7)),
    ],
)
def test_an_answer_to_what_was_asked_fits(asked, answer):
    assert fits(asked, answer)


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (LIST, page(b"a", b"b", b"c", total=100)),
        (LIST, page(b"a", total=4)),
        (LIST, page(b"a", path=b"")),
        (LIST, page(b"a", path=b"d")),
        (LIST, page(b"a", path=b"/d\0")),
        *((LIST, page(name)) for name in (b"", b".", b"..", b"/", b"../x", b"a/b", b"a\0b")),
        (LIST, FOUND),
        (Stat(path=b"/d/x"), found(b"/d/x", b"y")),
        (Stat(path=b"/d/x"), found(b"d/x", b"x")),
        (Mkdir(path=b"/d/x"), found(b"/d/x\0", b"x\0")),
        (Mkdir(path=b"/d/x"), Done()),
        (Exist(paths=[b"/", b"/x"]), Existing(exist=[True])),
        (Exist(paths=[]), Existing(exist=[True])),
        (read(length=4), opened(0, 2**62, size=2**62)),
        (read(length=4), opened(0, 5)),
        (read(length=4), opened(0, 3)),
        (read(3, 4), opened(0, 4)),
        (read(3, 4), opened(0, 10)),
        (read(-4), opened(0, 10)),
        (read(), opened(0, 9)),
        (read(), opened(0, 11)),
        (read(), opened(8, 7)),
        (read(), opened(0, 10, path=b"f")),
        (read(3, 4, "v"), opened(0, 9)),
        (read(), Placed(path=b"/f", offset=0)),
        (WRITE, Placed(path=b"/f", offset=4)),
        (WRITE, Placed(path=b"f", offset=3)),
        (WRITE, WRITTEN),
        (Uploaded(path=b"/f", upload="u"), Done()),
        (Delete(path=b"/f"), Existing(exist=[])),
        (END, replace(WRITTEN, size=8)),
        (END, replace(WRITTEN, sha256=OTHER)),
        (END, replace(WRITTEN, path=b"f")),
        (END, Kept(offset=7)),
        (PART_END, Kept(offset=6)),
        (PART_END, WRITTEN),
    ],
)
def test_an_answer_to_anything_else_does_not_fit(asked, answer):
    assert not fits(asked, answer)
