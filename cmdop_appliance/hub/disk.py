"""Room on the hub's own disk: what is refused when little is left, so that the rest goes on.

Below `reserve_bytes` nothing new is begun; what runs goes on, and so does whatever makes room.
Below `ballast_bytes` output is left with the machines, which keep it and send it later: else it
would take what the store needs for cancels and ends. And when others have taken the last byte, the
ballast is given up, a file of that size which the hub keeps for this. It heals by itself.
"""

import logging
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from cmdop_appliance.config import DiskConfig
from cmdop_appliance.errors import StorageFull, Unavailable
from cmdop_appliance.hub.bus import Bus
from cmdop_appliance.hub.output import Outputs
from cmdop_appliance.store import integrity
from cmdop_appliance.store.engine import Store

BALLAST_FILE: Final = "ballast"
# How often it looks, and so how late it finds that others have filled the disk, or made room.
LOOK_S: Final = 1.0
# So much more than the bound must be free before a refusal ends, lest it comes and goes.
_MORE: Final = 1 / 8
_MIB: Final = 1024 * 1024
# How long the database is looked at after a start: some GB.
CHECK_S: Final = 10.0
# Connections of machines listen to this.
ROOM_SUBJECT: Final = "disk.room"

_log = logging.getLogger("cmdop.hub.disk")


@dataclass(frozen=True, slots=True)
class Room:
    """Bus: output that was left with the machines is taken again."""


class Disk:
    """The disk under the data directory. Before the first `look` there is room."""

    def __init__(self, config: DiskConfig, data_dir: Path, outputs: Outputs, bus: Bus) -> None:
        self._config = config
        self._ballast = data_dir / BALLAST_FILE
        self._outputs = outputs
        self._bus = bus
        self.free_bytes = 0  # when it looked last
        self.is_short = False  # nothing new is begun
        self._is_damaged = False

    @property
    def has_ballast(self) -> bool:
        """False: it was given up, or there is to be none."""
        return self._ballast.exists()

    @property
    def troubles(self) -> list[str]:
        """What somebody should know who watches the hub."""
        damaged = ["the database is damaged: restore a backup"] if self._is_damaged else []
        return damaged + ([self._message()] if self.is_short else [])

    def require_room(self) -> None:
        """Return if something new may be begun.

        Raises:
            StorageFull: too little of the disk is free.
        """
        if self.is_short:
            raise StorageFull(
                self._message(),
                hint="free some space on the hub, or lower [disk] reserve_bytes;"
                " reads, cancels and deletions go on",
                free_bytes=self.free_bytes,
                need_bytes=self._need_bytes,
            )

    def give_up_ballast(self) -> bool:
        """Called by whoever met a full disk, in any thread; True: there is some room now."""
        try:
            self._ballast.unlink()
        except OSError:
            return False
        _log.error("the disk is full: the ballast is given up, output stays with the machines")
        self._outputs.is_held = self.is_short = True
        return True

    async def check(self, store: Store) -> None:
        """Look once whether the database is whole, as far as `CHECK_S` allows.

        The hub serves what can be read of a damaged one; its owner must know.
        """
        faults: list[str] = []
        is_over = False

        async def wait() -> None:
            nonlocal is_over
            try:
                await trio.sleep(CHECK_S)
            finally:
                is_over = True  # also when the hub stops, which waits for whoever reads

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            with suppress(StorageFull, Unavailable):  # who serves finds out by himself
                faults = await store.run(integrity.quick_faults, lambda: is_over)
            nursery.cancel_scope.cancel()
        if faults:
            self._is_damaged = True
            _log.critical("the database is damaged: restore a backup", extra={"faults": faults})

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await trio.sleep(LOOK_S)

    async def look(self) -> None:
        """See how much is free, and refuse or allow by it; make the ballast if there is room."""
        self.free_bytes = await trio.to_thread.run_sync(self._look)
        was_short, was_held = self.is_short, self._outputs.is_held
        is_held = self._outputs.is_held = self._is_below(self._config.ballast_bytes, was_held)
        self.is_short = is_held or self._is_below(self._config.reserve_bytes, was_short)
        if was_held and not is_held:
            self._bus.publish(ROOM_SUBJECT, Room())
        if self.is_short and not was_short:
            _log.error(self._message(), extra={"output_is_held": is_held})
        elif was_short and not self.is_short:
            _log.warning("there is room on the disk again", extra={"free_bytes": self.free_bytes})

    @property
    def _need_bytes(self) -> int:
        return max(self._config.reserve_bytes, self._config.ballast_bytes)

    def _is_below(self, bound: int, was_below: bool) -> bool:
        return self.free_bytes < bound * (1 + _MORE if was_below else 1)

    def _message(self) -> str:
        free, need = self.free_bytes // _MIB, self._need_bytes // _MIB
        return f"the hub's disk has {free} MiB free, and nothing new is begun below {need} MiB"

    def _look(self) -> int:
        size = self._config.ballast_bytes
        free = shutil.disk_usage(self._ballast.parent).free
        stands = _size(self._ballast)
        if stands and stands != size:  # the configuration has changed
            self._ballast.unlink(missing_ok=True)
            free, stands = free + stands, 0
        # Twice its size: with less, what it leaves would have output held.
        if size and not stands and free >= 2 * size and _allocate(self._ballast, size):
            free -= size
        return free


def make_room_to_start(config: DiskConfig, data_dir: Path) -> None:
    """Give up the ballast if the disk is too full for a hub to start."""
    ballast = data_dir / BALLAST_FILE
    if shutil.disk_usage(data_dir).free < config.ballast_bytes and ballast.exists():
        ballast.unlink()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _allocate(path: Path, size: int) -> bool:
    """Take so many bytes of the disk; False: it does not give them, or no descriptor is free."""
    fresh = path.with_suffix(".new")
    try:
        with fresh.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            os.posix_fallocate(file.fileno(), 0, size)
        fresh.rename(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        return False
    return True
