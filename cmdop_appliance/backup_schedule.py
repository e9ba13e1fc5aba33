"""The backups that the hub makes by itself: when `[backup]` says, and only the newest are kept."""

import logging
import os
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Final

import trio

from cmdop_appliance.archives import file_name, made_ms
from cmdop_appliance.clock import Clock
from cmdop_appliance.config import BackupConfig
from cmdop_appliance.errors import ApplianceError, StartupError
from cmdop_appliance.hub.backups import Backups
from cmdop_appliance.private import sync_directory
from cmdop_appliance.scheduler.cron import CronError, Rule
from cmdop_appliance.store import audit
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.engine import Store

# The clock may be set: so often it is looked at.
_LOOK_S: Final = 30.0
# Written back at a time: commits wait behind much at once.
_SYNC_BYTES: Final = 8 * 1024 * 1024

_log = logging.getLogger("cmdop.backups")


class BackupSchedule:
    """Makes them for as long as the hub runs, and tells `Backups.kept` how it goes."""

    def __init__(self, backups: Backups, store: Store, clock: Clock, config: BackupConfig) -> None:
        """Read what `[backup]` asks for.

        Raises:
            StartupError: when is no time.
        """
        try:
            self._rule = Rule.parse(config.cron, config.timezone)
        except CronError as exc:
            raise StartupError(f"backup.{exc.field}: {exc}") from exc
        self._backups = backups
        self._store = store
        self._clock = clock
        self._keep = config.keep
        self._directory = Path(config.directory).absolute()
        backups.kept.directory = str(self._directory)

    async def run(self) -> None:
        """Make one whenever it is time; one that the hub slept through is made at once."""
        with self._noted():
            await trio.to_thread.run_sync(self._tidy, self._clock.now_ms())
        after_ms = self._backups.kept.last_ms or self._clock.now_ms()
        while True:
            await self._wait(after_ms)
            after_ms = self._clock.now_ms()
            with self._noted():
                await self._make(after_ms)

    async def _wait(self, after_ms: int) -> None:
        """Return when the rule comes due, of which the last instant was before `after_ms`."""
        while True:
            now_ms = self._clock.now_ms()
            after_ms = min(after_ms, now_ms)  # later only for a clock that was put right
            next_ms = self._backups.kept.next_ms = self._rule.next(after_ms)
            if next_ms is not None and next_ms <= now_ms:
                return
            left_s = _LOOK_S if next_ms is None else (next_ms - now_ms) / 1000
            await trio.sleep(min(_LOOK_S, left_s))

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """What goes wrong within is told, and passes."""
        kept = self._backups.kept
        try:
            yield
        except ApplianceError as exc:
            kept.error = exc.message
        except OSError as exc:
            kept.error = f"{self._directory}: {exc.strerror}"
        else:
            kept.error = None
            return
        _log.error("no backup was made", extra={"why": kept.error})

    async def _make(self, now_ms: int) -> None:
        await trio.to_thread.run_sync(self._tidy, now_ms)
        name = file_name(now_ms)
        part = self._directory / f".{name}.part"
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            async with aclosing(self._backups.stream()) as pieces:
                unsynced = 0
                async for piece in pieces:
                    unsynced += len(piece)
                    is_much = unsynced >= _SYNC_BYTES
                    await trio.to_thread.run_sync(_write, handle, piece, is_much)
                    unsynced = 0 if is_much else unsynced
            await trio.to_thread.run_sync(os.fsync, handle)
            part.rename(self._directory / name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
        await trio.to_thread.run_sync(sync_directory, self._directory)
        await trio.to_thread.run_sync(self._tidy, now_ms)
        await self._store.run(audit.append, Entry.by_hub(now_ms, "backup.taken", name))

    def _tidy(self, now_ms: int) -> None:
        """Find what is there; delete older ones, and what a crash left, and no other files.

        One that is named after a later time, when the clock was wrong, is taken for no newer one.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._directory.glob(".cmdop-backup-*.part"):
            path.unlink()
        found = [(made_ms(path.name), path) for path in self._directory.iterdir()]
        made = sorted(path for at_ms, path in found if at_ms is not None and at_ms <= now_ms)
        for path in made[: -self._keep]:
            path.unlink()
        made = made[-self._keep :]
        kept = self._backups.kept
        kept.number = len(made)
        if made:
            kept.last_ms, kept.last_bytes = made_ms(made[-1].name), made[-1].stat().st_size


def _write(handle: int, data: bytes, is_much: bool) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]
    if is_much:
        os.fdatasync(handle)
