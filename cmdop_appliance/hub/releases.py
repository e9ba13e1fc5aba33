"""Releases that the hub was given: verified while they arrive, kept, and served at /dl.

What is in a bundle waits in a folder of its own until the hub runs that release itself. Only then
can machines fetch it: none is to get a program that is newer than its hub.
"""

import errno
import os
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO, Final

import trio

from cmdop_appliance import RELEASED_MS, __version__
from cmdop_appliance.auth import Caller
from cmdop_appliance.clock import Clock
from cmdop_appliance.errors import (
    ApplianceError,
    BundleRefused,
    Conflict,
    NotInstalled,
    StorageFull,
    Unavailable,
)
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Upgrade
from cmdop_appliance.private import sync_directory
from cmdop_appliance.release.bundle import BundleReader, Manifest, read_known, this_platform
from cmdop_appliance.service.folders import Home
from cmdop_appliance.store import upgrades
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.engine import Store

SERVED_FOLDER: Final = "dl"  # of the data directory: what is there is served at /dl
_FOLDER: Final = "upgrades"
_FRESH: Final = ".new-"  # begins what is on its way; from a crash, if it is found at a start
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)

Pieces = AsyncGenerator[bytes, None]


class Releases:
    """Takes bundles. One upgrade at a time is under way."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        data_dir: Path,
        keys: Sequence[bytes],
        find_home: Callable[[], Home | None],
    ) -> None:
        """`keys`: whose releases are taken. `find_home`: where the hub itself is installed."""
        self.has_come = trio.Event()  # one that the hub is to run itself
        self._store = store
        self._clock = clock
        self._folder = data_dir / _FOLDER
        self._served = data_dir / SERVED_FOLDER
        self._keys = keys
        self._find_home = find_home

    async def check(self, pieces: Pieces, machine_ids: list[str] | None) -> Manifest:
        """Read a bundle to its end, refuse what `take` refuses, and keep nothing of it."""
        reader = await self._read(pieces, machine_ids, _keep_nothing)
        assert reader.manifest is not None
        return reader.manifest

    async def take(self, caller: Caller, pieces: Pieces, machine_ids: list[str] | None) -> Upgrade:
        """Keep a release, for the hub if that does not run it, then for machines.

        `machine_ids`: the only ones that are to get it; None: every one. Once this returns, it is
        on disk.

        Raises:
            BundleRefused: it is no bundle, not of somebody who is trusted, not newer, or not for
                this machine.
            NotInstalled: the hub cannot replace itself.
            Conflict: the hub runs it already, and no machine is to get it.
            MachineNotFound: there is no such machine.
            UpgradeRunning: the hub is busy with another one.
            StorageFull: there is no room for it.
        """
        upgrade_id = new_id("upg")
        place = self._folder / upgrade_id
        fresh = _Fresh(self._folder / f"{_FRESH}{upgrade_id}")
        try:
            await _on_disk(fresh.begin)
            reader = await self._read(pieces, machine_ids, fresh.write)
            await _on_disk(fresh.finish, place)
            upgrade = self._upgrade(upgrade_id, reader, machine_ids, caller)
            if upgrade.status == "machines":
                await self.serve(upgrade)
            at_ms, version = upgrade.created_ms, upgrade.version
            entry = Entry.by(caller, at_ms, "upgrade.accepted", upgrade_id, version=version)
            await self._store.run(entry.recording(upgrades.insert), upgrade)
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(fresh.undo, place)
            raise
        if upgrade.status == "hub":
            self.has_come.set()
        return upgrade

    def program(self, upgrade: Upgrade) -> Path:
        """The one for the hub itself, of a release that it does not run yet."""
        return self._folder / upgrade.id / f"cmdop-{this_platform()}"

    async def serve(self, upgrade: Upgrade) -> None:
        """From now on machines can fetch its programs. Done twice, it changes nothing."""
        names = [file.name for file in read_known(upgrade.manifest).files]
        await _on_disk(_move, self._folder / upgrade.id, self._served, names)

    async def succeeded(self, upgrade: Upgrade) -> None:
        """Record that the hub runs it, and let machines have it."""
        await self.serve(upgrade)
        now_ms = self._clock.now_ms()
        entry = Entry.by_hub(now_ms, "upgrade.succeeded", upgrade.id, version=upgrade.version)
        await self._store.run(entry.recording(upgrades.hub_upgraded), upgrade, now_ms)

    async def failed(self, upgrade: Upgrade, reason: str) -> None:
        """Record that the hub does not run it, and nobody is to have it."""
        now_ms = self._clock.now_ms()
        entry = Entry.by_hub(
            now_ms, "upgrade.failed", upgrade.id, version=upgrade.version, reason=reason
        )
        await self._store.run(entry.recording(upgrades.fail), upgrade.id, reason, now_ms)
        await self.sweep()

    async def sweep(self) -> None:
        """Delete what nobody waits for: from a crash, or of an upgrade that failed."""
        upgrade = await self._store.run(upgrades.open_one)
        await trio.to_thread.run_sync(_sweep, self._folder, upgrade.id if upgrade else None)

    async def _read(
        self,
        pieces: Pieces,
        machine_ids: list[str] | None,
        write: Callable[[str, bytes], None],
    ) -> BundleReader:
        reader, is_useful = BundleReader(self._keys), False
        async with aclosing(pieces):
            async for piece in pieces:
                for file, content in reader.feed(piece):
                    if not is_useful:
                        assert reader.manifest is not None
                        self._require_useful(reader.manifest, machine_ids)
                        is_useful = True
                    await _on_disk(write, file.name, content)
        reader.close()
        return reader

    def _require_useful(self, manifest: Manifest, machine_ids: list[str] | None) -> None:
        if not manifest.is_newer_than(__version__, RELEASED_MS):
            if not is_running(manifest.version, manifest.released_ms):
                raise BundleRefused(
                    f"the bundle is of {manifest.version}, and the hub runs {__version__}, which"
                    " came later",
                    hint="the way back to an older release is a backup that it made",
                )
            if machine_ids == []:
                raise Conflict(f"the hub runs {manifest.version} already")
            return
        if manifest.program_for(this_platform()) is None:
            raise BundleRefused(f"the bundle has no program for {this_platform()}")
        home = self._find_home()
        if home is None:
            raise NotInstalled(
                "this hub cannot replace itself: it does not run from an installed folder",
                hint="cmdop install hub makes one; a container is upgraded by a newer image",
            )
        if not home.is_writable():
            raise NotInstalled(
                "this hub cannot replace itself: the folder it runs from is not its to write",
                hint="run cmdop install hub with the new program, as the owner of that folder",
            )

    def _upgrade(
        self, upgrade_id: str, reader: BundleReader, machine_ids: list[str] | None, caller: Caller
    ) -> Upgrade:
        manifest, now_ms = reader.manifest, self._clock.now_ms()
        assert manifest is not None
        is_for_hub = manifest.is_newer_than(__version__, RELEASED_MS)
        return Upgrade(
            id=upgrade_id,
            version=manifest.version,
            released_ms=manifest.released_ms,
            manifest=reader.manifest_bytes,
            signature=reader.signature,
            machine_ids=machine_ids,
            status="hub" if is_for_hub else "machines",
            operator=caller.email,
            created_ms=now_ms,
            hub_ms=None if is_for_hub else now_ms,
        )


def is_running(version: str, released_ms: int) -> bool:
    """True: that release is this program."""
    return (version, released_ms) == (__version__, RELEASED_MS)


class _Fresh:
    """A folder of programs on its way to the disk. Everything in it blocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = ""
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True)

    def write(self, name: str, content: bytes) -> None:
        if name != self._name:
            self._close()
            self._name, self._file = name, (self._folder / name).open("xb")
        assert self._file is not None
        self._file.write(content)

    def finish(self, place: Path) -> None:
        """All was written: once this returns, the disk holds it at `place`."""
        self._close()
        sync_directory(self._folder)
        self._folder.rename(place)
        sync_directory(place.parent)

    def undo(self, place: Path) -> None:
        if self._file is not None:
            self._file.close()
        for folder in (self._folder, place):
            shutil.rmtree(folder, ignore_errors=True)

    def _close(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            os.fchmod(self._file.fileno(), 0o755)
            self._file.close()
            self._file = None


def _keep_nothing(_name: str, _content: bytes) -> None:
    """Of a bundle that is only looked at."""


def _move(folder: Path, served: Path, names: Sequence[str]) -> None:
    served.mkdir(mode=0o700, exist_ok=True)
    for name in names:
        if (folder / name).exists():  # else it was moved before a crash
            (folder / name).replace(served / name)
    sync_directory(served)
    shutil.rmtree(folder, ignore_errors=True)


def _sweep(folder: Path, kept: str | None) -> None:
    for place in folder.glob("*"):
        if place.name != kept:
            shutil.rmtree(place, ignore_errors=True)


async def _on_disk(do: Callable[..., None], *args: object) -> None:
    try:
        await trio.to_thread.run_sync(do, *args)
    except OSError as exc:
        raise _as_failure(exc) from exc


def _as_failure(exc: OSError) -> ApplianceError:
    if exc.errno in _NO_ROOM:
        return StorageFull("the hub's disk is full", hint="free some space on the hub")
    return Unavailable(f"the hub cannot keep the bundle: {exc.strerror}")
