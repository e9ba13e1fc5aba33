"""A disk that fills up under the store: what it acknowledged is there, what it refused is not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import apsw
import trio

from cmdop_appliance.errors import StorageFull, Unavailable
from cmdop_appliance.selftest.ledger import BrokenPromiseError
from cmdop_appliance.selftest.power import system_disk
from cmdop_appliance.selftest.records import BOUND_S, Records
from cmdop_appliance.store.engine import open_store

_ROOM_BYTES: Final = (0, 300_000)
_CHECKPOINT_PAGES: Final = (5, 200)


class FullDisk:
    """A disk with so much room left; None: enough."""

    def __init__(self) -> None:
        self.room: int | None = None

    def take(self, size: int) -> None:
        """Give so many bytes of it to a file that grows."""
        if self.room is not None:
            if size > self.room:
                raise apsw.FullError("no room")
            self.room -= size


@contextmanager
def full_disk() -> Iterator[FullDisk]:
    """Every database that is opened within is on this disk."""
    disk = FullDisk()

    class File(apsw.VFSFile):
        def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - the name of SQLite
            disk.take(max(0, offset + len(data) - self.xFileSize()))
            super().xWrite(data, offset)

    def opened(name: Any, flags: list[int]) -> apsw.VFSFile:
        return File("unix", name, flags)

    with system_disk(opened):
        yield disk


class Fills:
    """One store in a folder of its own, whose disk fills up again and again."""

    def __init__(self, disk: FullDisk, folder: Path) -> None:
        self._disk = disk
        self._records = Records(folder)

    @property
    def acknowledged(self) -> int:
        """How many records were acknowledged, and are there."""
        return self._records.acknowledged

    async def fill(self, dice: Random) -> None:
        """Let callers record until nothing fits; then there is room, and they go on.

        Raises:
            BrokenPromiseError: an acknowledged record is lost, a refused one is there, what is
                there is not whole, or nothing can be recorded afterwards.
        """
        records = self._records
        records.make_ready()
        with trio.fail_after(BOUND_S):
            pages = dice.randint(*_CHECKPOINT_PAGES)
            async with open_store(records.folder, checkpoint_pages=pages) as store:
                self._disk.room = dice.randint(*_ROOM_BYTES)
                await records.ask(store, dice)
                self._disk.room = None
                try:
                    await records.ask_one(store, dice)
                except (StorageFull, Unavailable) as exc:
                    raise BrokenPromiseError(f"there is room again, and: {exc.message}") from exc
        await records.judge()
