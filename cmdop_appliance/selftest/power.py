"""A disk under SQLite whose power can be cut: what was not synced is lost, torn or out of order.

Files are where they would be without it. Beside them stands what would survive: the content at the
last sync, and each write since. A cut draws from those: any may be there, or not, or in part, by
sectors; where a file has grown and nothing was written, there is anything. From then on nothing
works, as nothing would, until the files are put back as the cut has left them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final

import apsw

_BASE: Final = "unix"
# What a disk writes as a whole, at the least.
_SECTOR_BYTES: Final = 512
# How much of what was not synced is there after all; each cut has one of these.
_SHARES: Final = (0.0, 0.5, 0.9, 1.0)

_JOURNALS: Final = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL

_names = (f"selftest {number}" for number in count())


class PowerCutError(apsw.IOError):
    """There is no power any more."""


class _Write:
    __slots__ = ("data", "offset")

    def __init__(self, offset: int, data: bytes) -> None:
        self.offset = offset
        self.data = data


class _Truncate:
    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


class _Delete:
    """The file has no name any more."""


_Change = _Write | _Truncate | _Delete


class _File:
    """What would survive of a file; `synced` None: that it is not there."""

    def __init__(self, synced: bytearray | None) -> None:
        self._synced = synced
        self._changes: list[_Change] = []

    def change(self, change: _Change) -> None:
        self._changes.append(change)

    def sync(self) -> None:
        for change in self._changes:
            self._synced = _changed(self._synced, change)
        self._changes = []

    def sync_name(self) -> None:
        """That it was deleted is safe from now on."""
        for at in reversed(range(len(self._changes))):
            if isinstance(self._changes[at], _Delete):
                self._synced, self._changes = None, self._changes[at + 1 :]
                break

    def after_cut(self, dice: Random, share: float) -> bytearray | None:
        """The content that a cut leaves; None: there is no such file."""
        content = None if self._synced is None else self._synced.copy()
        for change in self._changes:
            if isinstance(change, _Write):
                for piece in _sectors(change):
                    if dice.random() < share:
                        content = _changed(content, piece, dice)
            elif dice.random() < share:
                content = _changed(content, change)
            elif isinstance(change, _Delete):
                break  # what follows was written to another file of that name
        return content


def _sectors(write: _Write) -> Iterator[_Write]:
    at = 0
    while at < len(write.data):
        size = _SECTOR_BYTES - (write.offset + at) % _SECTOR_BYTES
        yield _Write(write.offset + at, write.data[at : at + size])
        at += size


def _changed(
    content: bytearray | None, change: _Change, dice: Random | None = None
) -> bytearray | None:
    """The content, which may change in place; with `dice`, what was never written is anything."""
    if isinstance(change, _Delete):
        return None
    content = bytearray() if content is None else content
    if isinstance(change, _Truncate):
        del content[change.size :]
        return content
    hole = change.offset - len(content)
    if hole > 0:
        content += bytes(hole) if dice is None else dice.randbytes(hole)
    content[change.offset : change.offset + len(change.data)] = change.data
    return content


class PowerDisk:
    """The disk. There is power until a plan has come true, and again once that is undone."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self._left: int | None = None
        self._dice = Random()  # noqa: S311 - replaced by the plan's
        self._survived: dict[str, bytearray | None] | None = None

    @property
    def is_dark(self) -> bool:
        """True: the power was cut."""
        return self._survived is not None

    def plan(self, changes: int, dice: Random) -> None:
        """Cut the power at the write, sync, truncation or deletion after so many more.

        It counts for files that are opened from now on.
        """
        self._left, self._dice = changes, dice

    def restore(self) -> None:
        """Put the files back as the cut left them; nobody may have them open. There is power."""
        assert self._survived is not None
        for name, content in self._survived.items():
            path = Path(name)
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)
            Path(f"{name}-shm").unlink(missing_ok=True)  # it was memory
        self._files, self._survived, self._left = {}, None, None

    def watch(self, name: str) -> None:
        """Keep what would survive of a file, from now on; nothing, while no cut is planned."""
        if self._left is not None and name not in self._files:
            path = Path(name)
            self._files[name] = _File(bytearray(path.read_bytes()) if path.exists() else None)

    def change(self, name: str, change: _Change) -> None:
        """Note a change, before it happens."""
        self.check()
        if self._left is not None:
            self._files[name].change(change)
            self._count()

    def sync(self, name: str, *, with_names: bool) -> None:
        """All of a file is safe from now on; so are, perhaps, the names in its directory."""
        self.check()
        if self._left is not None:
            self._count()
            self._files[name].sync()
            if with_names:
                for file in self._files.values():
                    file.sync_name()

    def delete(self, name: str, *, synced: bool) -> None:
        """Note that a file goes. SQLite asks nobody whether that worked: without power it has."""
        self.watch(name)
        with suppress(PowerCutError):
            self.change(name, _Delete())
            if synced and self._left is not None:
                self._files[name].sync()

    def check(self) -> None:
        """Fail if there is no power."""
        if self.is_dark:
            raise PowerCutError("the power was cut")

    def _count(self) -> None:
        assert self._left is not None
        self._left -= 1
        if self._left < 0:
            share = self._dice.choice(_SHARES)
            self._survived = {
                name: file.after_cut(self._dice, share) for name, file in self._files.items()
            }
            raise PowerCutError("the power is cut")


@contextmanager
def power_disk() -> Iterator[PowerDisk]:
    """Every database that is opened within is on this disk."""
    disk = PowerDisk()

    class File(apsw.VFSFile):
        def __init__(self, name: Any, flags: list[int]) -> None:
            self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
            disk.watch(self._name)
            # SQLite's own files for Unix sync the directory with the first sync of such a file.
            self._names_too = bool(flags[0] & _JOURNALS and flags[0] & apsw.SQLITE_OPEN_CREATE)
            super().__init__(_BASE, name, flags)

        def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - the names of SQLite
            disk.change(self._name, _Write(offset, bytes(data)))
            super().xWrite(data, offset)

        def xTruncate(self, size: int) -> None:  # noqa: N802
            disk.change(self._name, _Truncate(size))
            super().xTruncate(size)

        def xSync(self, _flags: int) -> None:  # noqa: N802 - the disk beneath need not know
            disk.sync(self._name, with_names=self._names_too)
            self._names_too = False

        def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
            disk.check()
            content: bytes = super().xRead(amount, offset)
            return content

    def opened(name: Any, flags: list[int]) -> apsw.VFSFile:
        disk.check()
        return File(name, flags)

    def deleted(name: str, is_synced: bool) -> bool:
        disk.delete(name, synced=is_synced)
        return not disk.is_dark

    with system_disk(opened, deleted):
        yield disk


@contextmanager
def system_disk(
    opened: Callable[[Any, list[int]], apsw.VFSFile],
    deleted: Callable[[str, bool], bool] = lambda _name, _is_synced: True,
) -> Iterator[None]:
    """Every database that is opened within has its files from `opened`.

    `deleted` says whether a file that SQLite deletes is really to go.
    """

    class Disk(apsw.VFS):
        def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
            return opened(name, flags)

        def xDelete(self, name: str, is_synced: bool) -> None:  # noqa: N802
            if deleted(name, is_synced):
                super().xDelete(name, is_synced)

    vfs = Disk(next(_names), _BASE, makedefault=True)
    try:
        yield
    finally:
        apsw.set_default_vfs(_BASE)
        vfs.unregister()
