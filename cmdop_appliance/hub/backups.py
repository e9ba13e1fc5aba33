"""A backup of the hub while it runs: the database of one instant, and every byte that it names.

Order is what makes it whole. The instant is fixed first; then the output that commands are still
writing is copied, since it may be written over; then the database. From there on everything that
is named stands still: files of ended commands do not change, and none is deleted meanwhile.
Recordings are taken as they are.
"""

import errno
import logging
import os
import shutil
from collections.abc import AsyncGenerator, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from cmdop_appliance import __version__
from cmdop_appliance.archives import DATABASE, EMPTY, Head, Packer, is_taken
from cmdop_appliance.clock import Clock
from cmdop_appliance.errors import BackupRunning, ChangedDuringRead, StorageFull
from cmdop_appliance.hub.live_copies import copy_live, file_bytes
from cmdop_appliance.hub.live_stream import HEAD_BYTES
from cmdop_appliance.hub.output import Outputs
from cmdop_appliance.protocol.limits import OUTPUT_BYTES
from cmdop_appliance.store import backups as rows
from cmdop_appliance.store.backups import Snapshot, Stream
from cmdop_appliance.store.transaction import Tx

# Below the data directory: what is copied before it is packed.
SCRATCH: Final = "backup.part"
# What is taken as it is: beside the output that the database names.
_FOLDERS: Final = ("recordings", "tls", "dl")
_FILES: Final = ("admin.key",)
_PIECE_BYTES: Final = 256 * 1024
_HINT: Final = "free some space on the hub"

_log = logging.getLogger("cmdop.hub.backups")


@dataclass(slots=True)
class Kept:
    """The backups that the hub makes by itself, and how that goes."""

    directory: str | None = None  # None: it makes none
    next_ms: int | None = None
    last_ms: int | None = None  # the newest that is there
    last_bytes: int | None = None
    number: int = 0
    error: str | None = None  # why the last one that was tried was not made


class Backups:
    """Makes backups of one data directory, one at a time."""

    def __init__(self, outputs: Outputs, clock: Clock, data_dir: Path, reserve_bytes: int) -> None:
        """`reserve_bytes`: so much of the disk is left free."""
        self._outputs = outputs
        self._clock = clock
        self._data_dir = data_dir
        self._reserve_bytes = reserve_bytes
        self._is_running = False
        self.kept = Kept()
        shutil.rmtree(data_dir / SCRATCH, ignore_errors=True)  # what a crash has left

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The bytes of a backup. Nothing of the hub waits for whoever takes them slowly.

        Raises:
            BackupRunning: another is being made.
            StorageFull: there is no room for a copy of the database, or none any more: then the
                files that it keeps from being deleted are worth more.
        """
        if self._is_running:
            raise BackupRunning("a backup is being made", hint="wait until it is done")
        self._is_running = True
        pieces = self._pieces(self._clock.now_ms())
        try:
            with self._outputs.files_kept():
                while (piece := await trio.to_thread.run_sync(next, pieces, None)) is not None:
                    if self._outputs.is_held:
                        raise StorageFull("the hub's disk is full", hint=_HINT)
                    if piece:
                        yield piece
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(pieces.close)
            self._is_running = False  # last: the next one begins with the same scratch

    def _pieces(self, created_ms: int) -> Generator[bytes, None, None]:
        """Step by step, some milliseconds each: they come from threads."""
        scratch = self._data_dir / SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        try:
            packer = Packer(created_ms)
            with (
                rows.failures(),
                Snapshot(self._data_dir / DATABASE, scratch / DATABASE) as snapshot,
            ):
                self._require_room(snapshot.live)
                yield from self._copy(snapshot, scratch)
                yield packer.head(_head(snapshot.copy, created_ms))
                yield from self._pack_output(packer, snapshot, scratch)
            for name in self._others():
                yield from _pack(packer, name, self._data_dir / name)
            yield from _pack(packer, DATABASE, scratch / DATABASE)
            yield packer.end()
        except OSError as exc:
            if exc.errno == errno.ENOSPC:
                raise StorageFull("the hub's disk is full", hint=_HINT) from exc
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _require_room(self, live: list[Stream]) -> None:
        database = self._data_dir / DATABASE
        needed = database.stat().st_size + database.with_name(f"{DATABASE}-wal").stat().st_size
        needed += sum(file_bytes(stream) for stream in live) + self._reserve_bytes
        free = shutil.disk_usage(self._data_dir).free
        if free < needed:
            raise StorageFull(
                f"a backup needs {needed} bytes for a while, and {free} are free",
                hint=_HINT,
                needed_bytes=needed,
                free_bytes=free,
            )

    def _copy(self, snapshot: Snapshot, scratch: Path) -> Iterator[bytes]:
        """First what is being written, then the database; nothing of it is packed yet."""
        overtaken = []
        for stream in snapshot.live:
            path = self._outputs.path_of(stream.command_id, stream.stream)
            written = partial(self._written, snapshot, stream)
            copying = copy_live(stream, path, scratch / path.name, written)
            if path.exists() and not (yield from copying):
                overtaken.append(stream)
        while not snapshot.step():
            yield EMPTY
        for stream in overtaken:
            extra = {"command_id": stream.command_id, "stream": stream.stream}
            _log.warning("of an output that grew too fast a backup has only the head", extra=extra)
            rows.cut(snapshot.copy, stream, min(HEAD_BYTES, stream.stored_bytes))

    def _written(self, snapshot: Snapshot, stream: Stream) -> int:
        """How much of a stream may stand in its file by now."""
        live = self._outputs.live(stream.command_id)
        if live is None:
            return snapshot.stored_now(stream)
        return live[stream.stream].size + OUTPUT_BYTES  # what is being written is not counted yet

    def _pack_output(self, packer: Packer, snapshot: Snapshot, scratch: Path) -> Iterator[bytes]:
        after = ("", "")
        while found := rows.streams(snapshot.copy, after):
            for stream in found:
                path = self._outputs.path_of(stream.command_id, stream.stream)
                copied = scratch / path.name
                name = str(path.relative_to(self._data_dir))
                path = copied if copied.exists() else path
                yield from _pack(packer, name, path, most=file_bytes(stream))
                after = (stream.command_id, stream.stream)

    def _others(self) -> Iterator[str]:
        """What is taken as it is, by its name below the data directory."""
        for name in _FILES:
            if (self._data_dir / name).is_file():
                yield name
        for folder in _FOLDERS:
            for path in sorted((self._data_dir / folder).glob("*")):
                name = f"{folder}/{path.name}"
                if path.is_file() and is_taken(name):
                    yield name


def _head(copy: Tx, created_ms: int) -> Head:
    return Head(
        version=__version__,
        schema=rows.schema(copy),
        created_ms=created_ms,
        tables=rows.tables(copy),
        lists=rows.lists(copy),
    )


def _pack(packer: Packer, name: str, path: Path, most: int | None = None) -> Iterator[bytes]:
    """A file as long as it is now, at the most `most` bytes; one that is missing is left out."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        _log.warning("a file is missing in a backup", extra={"file": name})
        return
    with file:
        size = os.fstat(file.fileno()).st_size
        left = size if most is None else min(size, most)
        yield packer.begin(name, left)
        while left:
            data = file.read(min(_PIECE_BYTES, left))
            if not data:
                raise ChangedDuringRead(f"{name} became shorter while it was read")
            left -= len(data)
            yield packer.add(data)
