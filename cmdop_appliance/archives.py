"""The file of a backup: a tar whose first member says what it is, and whose last that it is whole.

    cmdop-backup.json   what made it, when, and how much is in it
    output/…  recordings/…  tls/…  dl/…  admin.key
    cmdop.db            the database, as it stood at one instant
    end.json            how much came before, and its SHA-256

Whoever reads one takes these names, as plain files, and nothing else.
"""

import gzip
import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

import msgspec
from msgspec import Struct

from cmdop_appliance.errors import BackupDamaged
from cmdop_appliance.private import sync_directory

DATABASE: Final = "cmdop.db"
MEDIA: Final = "application/gzip"
# May come before the first member: it says nothing but that the rest will follow.
EMPTY: Final = gzip.compress(b"", mtime=0)
_FORMAT: Final = 1
_HEAD: Final = "cmdop-backup.json"
_END: Final = "end.json"
_ID: Final = "[a-z]{3,8}_[0-9A-HJKMNP-TV-Z]{26}"
_PLAIN: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,95}"  # a name of 100 bytes stands in a tar's header
_NAME: Final = re.compile(
    rf"cmdop\.db|admin\.key|output/[0-9A-Z]{{2}}/{_ID}\.std(?:out|err)|recordings/{_ID}\.rec"
    rf"|(?:tls|dl)/{_PLAIN}"
)
# A quick level: what commands write shrinks to a tenth with it, too.
_LEVEL: Final = 1
_PIECE_BYTES: Final = 256 * 1024
_JSON_BYTES: Final = 64 * 1024
_HINT: Final = "take another backup"


def file_name(created_ms: int) -> str:
    """What a backup of then is called; by their names they are in order."""
    return f"cmdop-backup-{datetime.fromtimestamp(created_ms // 1000, UTC):%Y%m%dT%H%M%SZ}.tar.gz"


def made_ms(name: str) -> int | None:
    """When a backup of this name was made; None: it is not called as backups are."""
    try:
        made = datetime.strptime(name, "cmdop-backup-%Y%m%dT%H%M%SZ.tar.gz").replace(tzinfo=UTC)
    except ValueError:
        return None
    made_ms = round(made.timestamp() * 1000)
    return made_ms if file_name(made_ms) == name else None


def is_taken(name: str) -> bool:
    """Whether a backup may have a file of this name, as it stands below the data directory."""
    return _NAME.fullmatch(name) is not None


class Head(Struct, frozen=True, kw_only=True):
    """What a backup is."""

    format: int = _FORMAT
    version: str  # of the program that made it
    schema: int  # of its database
    created_ms: int
    tables: dict[str, int]  # rows of each
    lists: dict[str, int]  # records of each list that the API has, of all workspaces


class End(Struct, frozen=True):
    """What comes before it."""

    members: int
    bytes: int
    sha256: str


class _Sum:
    """What the end of a backup says of the rest."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._members = 0
        self._bytes = 0

    def begin(self, name: str, size: int) -> None:
        self._hash.update(f"{name}\n{size}\n".encode())
        self._members += 1
        self._bytes += size

    def update(self, data: bytes) -> None:
        self._hash.update(data)

    def end(self) -> End:
        return End(self._members, self._bytes, self._hash.hexdigest())


class Packer:
    """Makes the bytes of a backup, in order."""

    def __init__(self, created_ms: int) -> None:
        self._time_s = created_ms // 1000
        self._gzip = zlib.compressobj(_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        self._sum = _Sum()
        self._left = self._padding = 0  # of the member under way

    def head(self, head: Head) -> bytes:
        """The first bytes."""
        return self._whole(_HEAD, head)

    def begin(self, name: str, size: int) -> bytes:
        """A file of `size` bytes, which come next."""
        assert not self._left
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o600, self._time_s
        self._sum.begin(name, size)
        self._left, self._padding = size, -size % tarfile.BLOCKSIZE
        return self._gzip.compress(info.tobuf(tarfile.GNU_FORMAT))

    def add(self, data: bytes) -> bytes:
        """Bytes of that file."""
        self._left -= len(data)
        assert self._left >= 0
        self._sum.update(data)
        packed = self._gzip.compress(data)
        if not self._left:
            packed += self._gzip.compress(bytes(self._padding))
            self._padding = 0
        return packed

    def end(self) -> bytes:
        """The last bytes."""
        packed = self._whole(_END, self._sum.end())
        packed += self._gzip.compress(bytes(2 * tarfile.BLOCKSIZE))
        return packed + self._gzip.flush()

    def _whole(self, name: str, value: object) -> bytes:
        data = msgspec.json.encode(value)
        return self.begin(name, len(data)) + self.add(data)


def read_head(path: Path) -> Head:
    """What a backup says of itself.

    Raises:
        BackupDamaged: it is none.
        OSError: it cannot be read.
    """
    with _opened(path) as tar:
        return _head_of(tar, _Sum())


def unpack(path: Path, folder: Path) -> Head:
    """Put the files of a backup into an empty folder of our own, and sync them.

    Raises:
        BackupDamaged: it is none, or not whole; the folder holds a part of it.
        OSError: the file cannot be read, or the folder not written.
    """
    sums, end, names = _Sum(), None, set[str]()
    with _opened(path) as tar:
        head = _head_of(tar, sums)
        while (member := tar.next()) is not None:
            is_ours = member.name == _END or is_taken(member.name)
            if end is not None or member.name in names or not is_ours:
                raise BackupDamaged(f"{path} has something in it that no backup has")
            names.add(member.name)
            if member.name == _END:
                end = msgspec.json.decode(_read_small(tar, member), type=End)
            else:
                _unpack_member(tar, member, folder, sums)
        assert tar.fileobj is not None  # as long as it is open
        while rest := tar.fileobj.read(_PIECE_BYTES):  # the packed file's checksum stands behind it
            if any(rest):
                raise BackupDamaged(f"{path} goes on behind its end")
        if end is None or end != sums.end() or DATABASE not in names:
            raise BackupDamaged(f"{path} is not whole", hint=_HINT)
    for entry in [folder, *folder.rglob("*")]:
        if entry.is_dir():
            sync_directory(entry)
    return head


class _PlainFile(tarfile.TarInfo):
    """A member. The others are refused before they are read: a name can be as long as it likes."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type != tarfile.REGTYPE:
            raise tarfile.ReadError("no plain file")
        return info


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """An archive to be read from its beginning; what is wrong with it becomes `BackupDamaged`."""
    try:
        with (
            gzip.open(path, "rb") as file,
            tarfile.open(fileobj=file, mode="r|", tarinfo=_PlainFile) as tar,
        ):
            yield tar
    except (gzip.BadGzipFile, EOFError, zlib.error, tarfile.TarError, msgspec.MsgspecError) as exc:
        raise BackupDamaged(f"{path} is no backup, or not whole", hint=_HINT) from exc


def _head_of(tar: tarfile.TarFile, sums: _Sum) -> Head:
    member = tar.next()
    if member is None or member.name != _HEAD:
        raise tarfile.ReadError("another file")
    data = _read_small(tar, member)
    sums.begin(member.name, member.size)
    sums.update(data)
    head = msgspec.json.decode(data, type=Head)
    if head.format != _FORMAT:
        raise BackupDamaged(
            f"the backup was made by cmdop {head.version}, in a form that is not known here",
            hint=f"use cmdop {head.version} or a newer one",
        )
    return head


def _read_small(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _JSON_BYTES:
        raise tarfile.ReadError("too long")
    file = tar.extractfile(member)
    assert file is not None  # a regular file has contents
    return file.read()


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, sums: _Sum) -> None:
    sums.begin(member.name, member.size)
    file = tar.extractfile(member)
    assert file is not None
    *names, name = member.name.split("/")
    for each in names:
        folder /= each
        folder.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as to:
        while data := file.read(_PIECE_BYTES):
            sums.update(data)
            to.write(data)
        to.flush()
        os.fsync(handle)
