"""A disk under SQLite that fails when the test says so."""

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

_BASE = "unix"


class FaultyDisk:
    """While `fails` names an operation (`xSync`, `xWrite`, `xRead`), each one is an I/O error."""

    def __init__(self) -> None:
        self.fails: set[str] = set()

    def check(self, operation: str) -> None:
        if operation in self.fails:
            raise apsw.IOError(f"{operation} by the test")


@contextmanager
def faulty_disk() -> Iterator[FaultyDisk]:
    """Every database that is opened within is on it. It is whole again in the end."""
    disk = FaultyDisk()

    class File(apsw.VFSFile):
        def __init__(self, name, flags) -> None:
            super().__init__(_BASE, name, flags)

        def xSync(self, flags) -> None:  # noqa: N802 - the name of SQLite
            disk.check("xSync")
            super().xSync(flags)

        def xWrite(self, data, offset) -> None:  # noqa: N802
            disk.check("xWrite")
            super().xWrite(data, offset)

        def xRead(self, amount, offset) -> bytes:  # noqa: N802
            disk.check("xRead")
            return super().xRead(amount, offset)

    class Disk(apsw.VFS):
        def xOpen(self, name, flags) -> File:  # noqa: N802
            return File(name, flags)

    vfs = Disk("faulty", _BASE, makedefault=True)
    try:
        yield disk
    finally:
        apsw.set_default_vfs(_BASE)
        vfs.unregister()
