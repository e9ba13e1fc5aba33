"""One stream of output and its file.

It begins in memory and moves to a file when it outgrows `SMALL_BYTES`, so that a million commands
with a line of output are rows, not files.

Of a stream longer than its cap the head and the tail are kept. The file is the head, then a ring
in which offset n lies at head + (n - head) % ring. The ring is `UNSAFE_BYTES` larger than the tail,
and no more than that is taken before it is safe: so what a crash leaves unsafe has overwritten
nothing of the tail that ends at the last safe byte.
"""

import errno
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cmdop_appliance.errors import RemoteProtocolError, StorageFull, Unavailable

# Streams up to this live in the store: two database pages' worth, most commands print less.
SMALL_BYTES: Final = 8 * 1024
# The head that is always kept (semantics.md, Commands 7); the tail is the rest of the cap.
HEAD_BYTES: Final = 1024 * 1024
# What of a capped stream may be unsafe at a time, and what its file is larger than its cap.
UNSAFE_BYTES: Final = 1024 * 1024
# How much of one stream may stay unsafe: while many megabytes are written back, every commit waits
# behind them (measured at 250 MB/s: commits at p99 take 14 ms, with small syncs 5 ms).
FLUSH_BYTES: Final = 4 * 1024 * 1024
# Output files that are open at a time: a quarter of the 1024 descriptors that a process has where
# nobody asked for more. The rest is for connections and the store.
OPEN_FILES: Final = 256


class OutputGap(RemoteProtocolError):
    """Output begins behind what we hold: bytes are missing in between."""


@dataclass(frozen=True, slots=True)
class Held:
    """Which bytes of a stream are here: `size`, but none from `gap` up to `gap_end`."""

    size: int
    gap: int
    gap_end: int

    @property
    def is_forgotten(self) -> bool:
        """True: there were bytes, and none is here."""
        return self.gap == 0 and self.gap_end == self.size > 0

    def readable(self, offset: int, limit: int) -> int:
        """How many bytes in one piece are here from `offset`, at most `limit`."""
        if self.gap <= offset < self.gap_end:
            return 0
        end = self.gap if offset < self.gap else self.size
        return min(limit, max(0, end - offset))


def nothing_of(size: int) -> Held:
    """Of a stream of this size no byte is here."""
    return Held(size, 0, size)


def held_of(size: int, max_bytes: int) -> Held:
    """Of a stream of this size and with this cap, the bytes that are kept."""
    if size <= max_bytes:
        return Held(size, size, size)
    return Held(size, HEAD_BYTES, size - (max_bytes - HEAD_BYTES))


class OpenFiles:
    """Output files, of which the `OPEN_FILES` that were used last are open."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, int] = OrderedDict()

    def open(self, path: Path, flags: int = 0) -> int:
        """The descriptor of a file, good until the next one is asked for.

        Raises:
            StorageFull, Unavailable: it could not be opened now; that passes.
            OSError: the disk has failed; tell the store.
        """
        file = self._files.get(path)
        if file is None:
            while len(self._files) >= OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            file = self._files[path] = open_file(path, os.O_RDWR | flags)
        else:
            self._files.move_to_end(path)
        return file

    def close(self, path: Path) -> None:
        """Let go of a file, if it is open."""
        if (file := self._files.pop(path, None)) is not None:
            os.close(file)

    def close_all(self) -> None:
        """Let go of every file."""
        for path in list(self._files):
            self.close(path)


class LiveStream:
    """One stream of a command that has not ended."""

    def __init__(
        self,
        files: OpenFiles,
        path: Path,
        max_bytes: int,
        *,
        content: bytes | None = b"",
        size: int = 0,
    ) -> None:
        """`content` None: the stream is a file already, of which `size` bytes are safe."""
        self._files = files
        self._path = path
        self.max_bytes = max_bytes
        self._memory = None if content is None else bytearray(content)
        self.size = size if content is None else len(content)
        self.safe = self.size
        if content is None:
            self._recover()

    @property
    def is_small(self) -> bool:
        """True: it never outgrew the memory."""
        return self._memory is not None

    @property
    def held(self) -> Held:
        """Which of its bytes are here."""
        return held_of(self.size, self.max_bytes)

    def has_room(self, size: int) -> bool:
        """False: `size` bytes more may be taken only when those before are safe."""
        return self.size + size <= max(self.safe, self.max_bytes) + UNSAFE_BYTES

    @property
    def is_due(self) -> bool:
        """True: so much of it is unsafe that it should be made safe now."""
        most = FLUSH_BYTES if self.size <= self.max_bytes else UNSAFE_BYTES // 2
        return self.size - self.safe >= most

    def append(self, offset: int, data: bytes) -> None:
        """Take `data`, for which it has room, at `offset`; what is already here is passed over.

        Raises:
            OutputGap: `offset` lies beyond the end.
            StorageFull, Unavailable: nothing was taken.
            OSError: the disk has failed; tell the store.
        """
        if offset > self.size:
            raise OutputGap(f"output at {offset}, held up to {self.size}")
        fresh = data[self.size - offset :]
        if self._memory is not None and self.size + len(fresh) <= SMALL_BYTES:
            self._memory += fresh
        elif fresh:
            file, left, at = self._file(), memoryview(fresh), self.size
            while left:
                position, room = place(at, self.max_bytes)
                _write(file, left[:room], position)
                left, at = left[room:], at + room
        self.size += len(fresh)

    def read(self, offset: int, limit: int) -> bytes:
        """At most `limit` bytes from `offset`; empty at the end, and where none are kept."""
        if self._memory is not None:
            return bytes(self._memory[offset : offset + limit])
        size = self.held.readable(offset, limit)
        return _read(self._file(), size, offset, self.max_bytes)

    def snapshot(self) -> tuple[bytes | None, Path | None]:
        """(content, None) or (None, the file to sync)."""
        if self._memory is not None:
            return bytes(self._memory), None
        return None, self._path

    def close(self) -> None:
        """Let go of the file; whatever needs it opens it again."""
        self._files.close(self._path)

    def _file(self) -> int:
        if self._memory is None:
            return self._files.open(self._path)
        file = self._make_file()
        os.ftruncate(file, 0)
        _write(file, self._memory, 0)
        self._memory = None
        return file

    def _make_file(self) -> int:
        with _failures_that_pass():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._files.open(self._path, os.O_CREAT)

    def _recover(self) -> None:
        """Beyond the safe bytes may lie what a power cut tore, and a restored hub may lack some.

        What is not here, the agent sends again.
        """
        file = self._make_file()
        length, file_end = os.fstat(file).st_size, self.max_bytes + UNSAFE_BYTES
        if length < min(self.safe, file_end):
            # Where the ring was used, only the head is sure to be what it was.
            sure = length if self.safe <= self.max_bytes else HEAD_BYTES
            self.safe = min(length, sure)
        self.size = self.safe
        os.ftruncate(file, min(self.safe, file_end))


def place(offset: int, max_bytes: int) -> tuple[int, int]:
    """Where in the file a byte of a stream lies, and how many bytes lie there in one piece."""
    end = max_bytes + UNSAFE_BYTES
    if offset >= end:
        offset = HEAD_BYTES + (offset - HEAD_BYTES) % (end - HEAD_BYTES)
    return offset, end - offset


def _write(file: int, data: bytearray | memoryview, offset: int) -> None:
    """All of `data`: on a disk that is nearly full, one call may write a part of it."""
    left = memoryview(data)
    with _failures_that_pass():
        while left:
            written = os.pwrite(file, left, offset)
            left, offset = left[written:], offset + written


def open_file(path: Path, flags: int) -> int:
    """A descriptor of its own for a file.

    Raises:
        StorageFull, Unavailable: it could not be opened now; that passes.
        OSError: the disk has failed; tell the store.
    """
    with _failures_that_pass():
        return os.open(path, flags | os.O_CLOEXEC, 0o600)


@contextmanager
def _failures_that_pass() -> Iterator[None]:
    """Tell what passes (a full disk, too many open files) from a disk that failed."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = "free some space on the hub"
            raise StorageFull("the hub's disk is full", hint=hint) from exc
        if exc.errno in (errno.EMFILE, errno.ENFILE):
            hint = "raise the hub's limit of open files (LimitNOFILE, ulimit -n)"
            raise Unavailable("the hub has too many files open", hint=hint) from exc
        raise


def _read(file: int, size: int, offset: int, max_bytes: int) -> bytes:
    position, there = place(offset, max_bytes)
    data = os.pread(file, min(size, there), position)
    if size > there == len(data):
        data += _read(file, size - there, offset + there, max_bytes)
    return data


def read_path(path: Path, size: int, offset: int, max_bytes: int) -> bytes:
    """`size` bytes from `offset` of a stream that is not live, fewer where its file ends."""
    file = open_file(path, os.O_RDONLY)
    try:
        return _read(file, size, offset, max_bytes)
    finally:
        os.close(file)
