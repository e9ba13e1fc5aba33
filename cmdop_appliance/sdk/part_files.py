"""What has arrived of a file, kept until it is whole.

It stands beside the place where it shall be, as `.NAME.cmdop-part`; `.NAME.cmdop-from` tells what
it is of. So a program that asks for the same file again goes on where one before has stopped.
"""

import errno
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from cmdop_appliance.sdk.errors import CmdopError
from cmdop_appliance.sdk.pieces import PIECE_BYTES
from cmdop_appliance.sdk.umask import less_umask

_NAME_BYTES: Final = 255  # of a file name (NAME_MAX, linux/limits.h)
_PART: Final = ".cmdop-part"
_FROM: Final = ".cmdop-from"
_OURS_ONLY: Final = 0o600


class PartFile:
    """The bytes of a file that have arrived, and the sha256 of them."""

    def __init__(self, directory: int, name: str, file: int) -> None:
        """`directory`: a descriptor of where the file `name` shall be; `file`: of the part."""
        self._directory = directory
        self._name = name
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def known(self) -> dict[str, Any]:
        """What `describe` was told by whoever began; {} when nothing is of use."""
        with suppress(OSError, ValueError, RecursionError), self._description(os.O_RDONLY) as file:
            said = json.loads(os.read(file, PIECE_BYTES))
            if isinstance(said, dict):
                return said
        return {}

    def take_up(self) -> None:
        """Go on behind what is there."""
        while piece := os.pread(self._file, PIECE_BYTES, self.size):
            self._digest.update(piece)
            self.size += len(piece)

    def begin(self, description: Mapping[str, object]) -> None:
        """Begin with nothing, and note what it will be of."""
        with self._description(os.O_WRONLY | os.O_CREAT) as file:
            os.ftruncate(file, 0)  # before the bytes: they must never be taken for another file's
            os.ftruncate(self._file, 0)
            os.write(file, json.dumps(description).encode())
        self._digest = hashlib.sha256()
        self.size = 0

    def append(self, piece: bytes) -> None:
        """Write all of `piece`."""
        rest = memoryview(piece)
        while rest:
            rest = rest[os.pwrite(self._file, rest, self.size + len(piece) - len(rest)) :]
        self._digest.update(piece)
        self.size += len(piece)

    def sha256(self) -> str:
        """Of all that is there."""
        return self._digest.hexdigest()

    def put_in_place(self, mode: int) -> None:
        """Make it the file, on the disk; one that was there before leaves it its mode and owner.

        `mode`: of a new file, less what the umask takes.
        """
        os.fchmod(self._file, less_umask(mode))
        with suppress(FileNotFoundError):
            before = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
            if stat.S_ISREG(before.st_mode):
                with suppress(PermissionError):
                    os.fchown(self._file, before.st_uid, before.st_gid)
                os.fchmod(self._file, before.st_mode & 0o777)
        os.fsync(self._file)
        part = _beside(self._name, _PART)
        os.rename(part, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        with suppress(FileNotFoundError):
            os.unlink(_beside(self._name, _FROM), dir_fd=self._directory)
        os.fsync(self._directory)

    def drop_if_empty(self) -> None:
        """Leave nothing behind if nothing has arrived."""
        part = _beside(self._name, _PART)
        if not os.fstat(self._file).st_size and _is_at(part, self._directory, self._file):
            os.unlink(part, dir_fd=self._directory)
            with suppress(FileNotFoundError):
                os.unlink(_beside(self._name, _FROM), dir_fd=self._directory)

    @contextmanager
    def _description(self, flags: int) -> Iterator[int]:
        file = _open(_beside(self._name, _FROM), flags, self._directory)
        try:
            yield file
        finally:
            os.close(file)


@contextmanager
def part_file(path: str, dir_fd: int | None = None) -> Iterator[PartFile]:
    """The part of the file `path`, new or left by another program, for us alone.

    Raises:
        CmdopError: something stands there that is no file, or another program is at it.
    """
    parent, name = os.path.split(path)
    directory = os.open(parent or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        _require_file(name, directory, path)
        file = _open_locked(_beside(name, _PART), directory, path)
        part = PartFile(directory, name, file)
        try:
            yield part
        finally:
            try:
                part.drop_if_empty()
            finally:
                os.close(file)
    finally:
        os.close(directory)


def _open_locked(part: str, directory: int, path: str) -> int:
    while True:
        file = _open(part, os.O_RDWR | os.O_CREAT, directory)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(part, directory, file):
                return file
        except BlockingIOError:
            os.close(file)
            raise CmdopError(f"another program is fetching {path}") from None
        os.close(file)  # the other program has put it in place since we opened it


def _require_file(name: str, directory: int, path: str) -> None:
    if name in ("", ".", ".."):
        raise CmdopError(f"{path!r} is not the name of a file")
    with suppress(FileNotFoundError):
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(there.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not (stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode)):
            raise CmdopError(f"{path} is not a regular file, and is not replaced by one")


def _open(name: str, flags: int, directory: int) -> int:
    """A file of ours that nobody else can have put there.

    Raises:
        CmdopError: it is not.
    """
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    file = os.open(name, flags, _OURS_ONLY, dir_fd=directory)
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink > 1:
        os.close(file)
        raise CmdopError(f"{name} is in the way: remove it")
    return file


def _is_at(name: str, directory: int, file: int) -> bool:
    """True: `name` is this open file."""
    try:
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(file))


def _beside(name: str, ending: str) -> str:
    """The name of a hidden file that goes with `name`."""
    hidden = f".{name}{ending}"
    if len(os.fsencode(hidden)) <= _NAME_BYTES:
        return hidden
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()}{ending}"
