"""Files here that are on their way to a machine."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO

from cmdop_appliance.sdk.errors import CmdopError
from cmdop_appliance.sdk.pieces import PIECE_BYTES


class Source:
    """A regular file here, read from any offset and hashed once, whatever is read again."""

    def __init__(self, file: FileIO, name: str) -> None:
        self._file = file
        self._name = name
        self._before = _state(file)
        self._digest = hashlib.sha256()
        self._hashed = 0  # bytes
        self.size = os.fstat(file.fileno()).st_size

    def whole(self) -> bytes:
        """All bytes at once.

        Raises:
            CmdopError: they were changed meanwhile.
        """
        if not self.size:  # or the system makes it up when it is read, such as those in /proc
            return self._file.read()
        data = b"".join(map(bytes, self.pieces(0)))
        self.sha256()
        return data

    @property
    def identity(self) -> str:
        """Another one for another file, and after every change."""
        return ":".join(map(str, self._before))

    def pieces(self, offset: int) -> Iterator[memoryview]:
        """The bytes from `offset` on. What lies before it is hashed first, if it was not yet.

        Raises:
            CmdopError: the file has become shorter.
        """
        self._hash_up_to(offset)
        yield from self._read(offset, self.size)

    def sha256(self) -> str:
        """Of the whole file.

        Raises:
            CmdopError: it was changed meanwhile.
        """
        self._hash_up_to(self.size)
        if _state(self._file) != self._before:
            raise self._changed()
        return self._digest.hexdigest()

    def _hash_up_to(self, end: int) -> None:
        for _ in self._read(self._hashed, end):
            pass

    def _read(self, position: int, end: int) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(PIECE_BYTES))
        while position < end:
            self._file.seek(position)
            read = self._file.readinto(buffer[: end - position])
            if not read:
                raise self._changed()
            piece = buffer[:read]
            position += read
            if position > self._hashed:
                self._digest.update(piece[self._hashed - position :])
                self._hashed = position
            yield piece

    def _changed(self) -> CmdopError:
        return CmdopError(f"{self._name} changed while it was read; nothing was put in place")


@contextmanager
def open_source(path: str | os.PathLike[str]) -> Iterator[Source]:
    """The regular file at `path`.

    Raises:
        CmdopError: it is something else.
        OSError
    """

    def without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # for who writes to a pipe

    with open(path, "rb", buffering=0, opener=without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise CmdopError(f"{os.fspath(path)} is not a regular file")
        yield Source(file, os.fspath(path))


def _state(file: FileIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
