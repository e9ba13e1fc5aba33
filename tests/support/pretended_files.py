"""The files of a machine that only pretends: it has whatever it is asked for, or says that not.

No byte of it is on any disk, so whatever a fuzzer asks for does no harm.
"""

import hashlib
import random
from collections.abc import Iterator

from cmdop_appliance.protocol.answers import part_of
from cmdop_appliance.protocol.files import (
    AnyAnswer,
    AnyCall,
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
from cmdop_appliance.protocol.frames import Data
from cmdop_appliance.protocol.messages import (
    FileAnswer,
    FileCall,
    FileEnd,
    FileFailed,
    FileStop,
    FromHub,
)

_CONTENT_BYTES = (0, 20, 1000, 100_000)
_FAILURES = (None, None, None, None, "file_not_found", "not_a_directory")  # of any call but Exist
_VERSION = "1"
_NAMES = (b"plain", b"odd\xff\n", b"\xc3\xbc")

Said = FileAnswer | FileFailed | FileEnd | Data


class PretendedFiles:
    """What one connection says of files."""

    def __init__(self) -> None:
        self._writes: dict[int, Write] = {}

    def hear(self, message: FromHub | Data) -> Iterator[Said]:
        """What is said to this; nothing to what is not about files."""
        match message:
            case FileCall():
                yield from self._begin(message.id, message.call)
            case FileEnd() if message.id in self._writes:
                path = self._writes.pop(message.id).path
                answer: AnyAnswer = Kept(offset=message.end)
                if message.sha256 is not None:
                    answer = Written(
                        path=_absolute(path), size=message.end, sha256=message.sha256, created=True
                    )
                yield FileAnswer(id=message.id, answer=answer)
            case FileStop():
                self._writes.pop(message.id, None)

    def _begin(self, number: int, call: AnyCall) -> Iterator[Said]:
        dice = random.Random(number)
        code = dice.choice(_FAILURES)
        if code is not None and not isinstance(call, Exist):
            yield FileFailed(id=number, code=code, message="it only pretends")
        elif isinstance(call, Read):
            yield from _content(number, call, dice.randbytes(dice.choice(_CONTENT_BYTES)))
        elif isinstance(call, Write):
            self._writes[number] = call
            placed = Placed(path=_absolute(call.path), offset=call.offset)
            yield FileAnswer(id=number, answer=placed)
        else:
            yield FileAnswer(id=number, answer=_answer(call))


def _content(number: int, call: Read, data: bytes) -> Iterator[Said]:
    size = len(data)
    first, end = 0, size
    if call.if_version in (None, _VERSION):
        first, end = part_of(call, size)
    opened = Opened(
        path=_absolute(call.path),
        size=size,
        first=first,
        end=end,
        version=_VERSION,
        modified_ms=0,
    )
    yield FileAnswer(id=number, answer=opened)
    if first < end:
        yield Data(number, first, data[first:end])
    is_whole = (first, end) == (0, size)
    yield FileEnd(id=number, end=end, sha256=hashlib.sha256(data).digest() if is_whole else None)


def _answer(call: AnyCall) -> AnyAnswer:
    match call:
        case List():
            names = _NAMES[call.offset : call.offset + call.limit]
            entries = [_entry(name) for name in names]
            return Entries(path=_absolute(call.path), entries=entries, total=len(_NAMES))
        case Stat() | Mkdir():
            return _found(call.path)
        case Move() | Copy():
            return _found(call.destination)
        case Exist():
            return Existing(exist=[len(path) % 2 == 0 for path in call.paths])
        case Uploaded():
            return Kept(offset=0)
        case Delete():
            return Done()
    raise TypeError(call)


def _found(path: bytes) -> Found:
    path = _absolute(path)
    return Found(path=path, entry=_entry(path.rpartition(b"/")[2]), version=_VERSION)


def _entry(name: bytes) -> Entry:
    return Entry(
        name=name, type="file", size=1, mode=0o644, owner="root", group="root", modified_ms=0
    )


def _absolute(path: bytes) -> bytes:
    return b"/" + path.lstrip(b"/")[:255]
