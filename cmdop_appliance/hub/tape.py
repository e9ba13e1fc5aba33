"""The file of one recording: what a terminal wrote, and when, appended as it comes.

`cmdoprec` │ 8 since, ms since 1970 │ record …
record:  1 kind │ 8 ms since then │ 8 offset │ 4 length │ 4 crc32 of all this and the data │ data

What a crash tore at the end is cut off when the file is opened again, and output goes on at the
byte behind what is left.
"""

import errno
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO, Final, Self

from cmdop_appliance.protocol.limits import SCREEN_BYTES
from cmdop_appliance.protocol.terminals import Size

_MAGIC: Final = b"cmdoprec"
_HEAD: Final = struct.Struct("!8sQ")
_RECORD: Final = struct.Struct("!BQQI")
_SUM: Final = struct.Struct("!I")
_SIZE: Final = struct.Struct("!HH")
_MARK_BYTES: Final = _RECORD.size + _SUM.size  # a record without data


class Kind(IntEnum):
    """What a record tells."""

    OUTPUT = 1  # its data stands at `offset`
    SIZE = 2  # of the screen: columns and rows
    GAP = 3  # output goes on at `offset`, and what stood before was not recorded
    FULL = 4  # nothing more is recorded


_KINDS: Final = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class Record:
    """One record."""

    kind: Kind
    ms: int  # since the recording began
    offset: int
    data: bytes

    @property
    def size(self) -> Size:
        """Of SIZE."""
        return Size(*_SIZE.unpack(self.data))


def records(file: BinaryIO) -> Iterator[Record]:
    """The whole records from where `file` stands; it is left behind the last of them."""
    while True:
        at = file.tell()
        record = _read(file)
        if record is None:
            file.seek(at)
            return
        yield record


def begun_ms(file: BinaryIO) -> int | None:
    """When a recording was begun, ms since 1970; None: it was not. Records come next."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    magic, since_ms = _HEAD.unpack(head)
    return int(since_ms) if magic == _MAGIC else None


def _read(file: BinaryIO) -> Record | None:
    head = file.read(_MARK_BYTES)
    if len(head) < _MARK_BYTES:
        return None
    kind, ms, offset, length = _RECORD.unpack_from(head)
    if kind not in _KINDS or length > SCREEN_BYTES:
        return None
    data = file.read(length)
    if len(data) < length or _sum(head[: _RECORD.size], data) != head[_RECORD.size :]:
        return None
    return Record(Kind(kind), ms, offset, data)


def _sum(head: bytes, data: bytes) -> bytes:
    return _SUM.pack(zlib.crc32(data, zlib.crc32(head)))


class Tape:
    """A recording that goes on. It raises `OSError` where the disk does."""

    def __init__(self, file: int, since_ms: int, max_bytes: int) -> None:
        self.bytes = _HEAD.size  # of the file
        self.end: int | None = None  # offset behind the last byte of output; None: there is none
        self.is_full = False  # it takes no more
        self._file = file
        self._since_ms = since_ms
        self._last_ms = 0
        self._max_bytes = max_bytes
        self._size: Size | None = None

    @classmethod
    def open(cls, path: Path, now_ms: int, max_bytes: int) -> Self:
        """A new recording, or the one that is there, as far as it is whole."""
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            with open(file, "rb", closefd=False) as found:
                since_ms = begun_ms(found)
                tape = cls(file, now_ms if since_ms is None else since_ms, max_bytes)
                if since_ms is None:
                    os.ftruncate(file, 0)
                    os.write(file, _HEAD.pack(_MAGIC, now_ms))
                else:
                    for record in records(found):
                        tape._note(record)
                    os.ftruncate(file, tape.bytes)
        except BaseException:
            os.close(file)
            raise
        return tape

    def resize(self, now_ms: int, size: Size) -> None:
        """The screen has this size."""
        if size != self._size:
            self._append(Kind.SIZE, now_ms, 0, _SIZE.pack(size.cols, size.rows))

    def write(self, now_ms: int, offset: int, data: bytes) -> None:
        """Output that goes on where the last ended."""
        self._append(Kind.OUTPUT, now_ms, offset, data)

    def skip(self, now_ms: int, offset: int) -> None:
        """Output goes on at this byte offset."""
        if offset != (self.end or 0):
            self._append(Kind.GAP, now_ms, offset, b"")

    def miss(self, now_ms: int) -> None:
        """There may have been more output, nobody knows how much."""
        self._append(Kind.GAP, now_ms, self.end or 0, b"")

    def fill(self, now_ms: int) -> None:
        """Take no more: all recordings together have become too large."""
        self._append(Kind.FULL, now_ms, 0, b"")

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _append(self, kind: Kind, now_ms: int, offset: int, data: bytes) -> None:
        if self.is_full:
            return
        if self.bytes + len(data) + 2 * _MARK_BYTES > self._max_bytes:
            kind, offset, data = Kind.FULL, 0, b""  # for which there is always room
        ms = max(self._last_ms, now_ms - self._since_ms)  # the clock may have been set back
        record = Record(kind, ms, offset, data)
        head = _RECORD.pack(kind, ms, offset, len(data))
        written = head + _sum(head, data) + data
        try:
            done = os.write(self._file, written)
        except OSError:
            done = 0
        if done < len(written):
            os.ftruncate(self._file, self.bytes)
            raise OSError(errno.ENOSPC, "a record does not fit on the disk")
        self._note(record)

    def _note(self, record: Record) -> None:
        self.bytes += _MARK_BYTES + len(record.data)
        self._last_ms = record.ms
        match record.kind:
            case Kind.OUTPUT:
                self.end = record.offset + len(record.data)
            case Kind.SIZE:
                self._size = record.size
            case Kind.GAP:
                self.end = record.offset
            case Kind.FULL:
                self.is_full = True
