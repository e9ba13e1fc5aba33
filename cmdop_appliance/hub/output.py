"""Output under way: the sequence number of a byte is its offset, here as everywhere.

What is not yet safe is made safe once a second, sooner if it is much, and before an end is
recorded; after a crash the agent sends again from the last safe byte. Whoever reads, live or later,
reads by offset through `read`.
"""

import logging
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from cmdop_appliance.errors import StorageFull, Unavailable
from cmdop_appliance.hub.live_stream import (
    Held,
    LiveStream,
    OpenFiles,
    held_of,
    nothing_of,
    open_file,
    read_path,
)
from cmdop_appliance.ids import made_ms
from cmdop_appliance.protocol.frames import STREAMS, StreamName
from cmdop_appliance.store import output as rows
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.transaction import Tx

# Ended commands whose small output is still in memory: 4 MB at the most.
_ENDED_AT_HAND: Final = 256
# How long output may stay unsafe (semantics.md: up to the last sync, ≤ 1 s).
FLUSH_S: Final = 1.0
# What stays in the page cache of a long stream: its live readers are there. The rest would push
# out what others need, and a machine that lends us its memory has to find ever more.
CACHED_BYTES: Final = 16 * 1024 * 1024
# Files that are deleted at a time, when they are kept no longer.
_LEFTOVERS: Final = 200

_log = logging.getLogger("cmdop.hub.output")


Streams = dict[StreamName, LiveStream]


class Outputs:
    """The output of every command, ended or not."""

    def __init__(self, store: Store, folder: Path, max_bytes: int) -> None:
        """`max_bytes`: the cap of streams that begin now, at least twice `HEAD_BYTES`."""
        self._store = store
        self._folder = folder
        self._max_bytes = max_bytes
        self._files = OpenFiles()
        self._live: dict[str, Streams] = {}
        self._keepers = 0  # who needs every file that is there
        self._due: set[str] = set()  # commands of which much is unsafe
        self._has_due = trio.Event()
        self._ended: OrderedDict[str, Streams] = OrderedDict()  # small, whole and final
        self.received_bytes = 0  # since the start
        self.is_held = False  # output stays with the machines: the disk is too full for more of it

    def begin(self, command_id: str) -> None:
        """A new command: both streams empty."""
        if command_id not in self._live:
            self._live[command_id] = self._streams(command_id, {})

    async def resume(self, command_id: str) -> Streams | None:
        """The streams of a command, live, as far as they are held; None: it has ended.

        Raises:
            StorageFull, Unavailable: they cannot be had now.
        """
        if command_id not in self._live:
            stored = await self._store.run(rows.of_command, command_id)
            if command_id not in self._live:  # nobody else was faster
                try:
                    self._live[command_id] = self._streams(command_id, stored)
                except OSError as exc:
                    raise self._store.fail(exc) from exc
            # Last, since only an end that comes later finds them here.
            if await self._store.run(rows.is_final, command_id):
                self._forget(command_id)
        return self._live.get(command_id)

    def live(self, command_id: str) -> Streams | None:
        """The streams of a command that is under way here, or None."""
        return self._live.get(command_id)

    def append(self, command_id: str, stream: StreamName, offset: int, data: bytes) -> None:
        """`LiveStream.append` to a command that is live."""
        taken = self._live[command_id][stream]
        taken.append(offset, data)
        self.received_bytes += len(data)
        if taken.is_due:
            self._due.add(command_id)
            self._has_due.set()

    async def read(self, command_id: str, stream: StreamName, offset: int, limit: int) -> bytes:
        """At most `limit` bytes of a stream from `offset`.

        Empty at its present end, and where none are kept (`held`).
        """
        if streams := self._at_hand(command_id):
            return streams[stream].read(offset, limit)
        row = (await self._store.run(rows.of_command, command_id)).get(stream)
        if row is None or row.is_forgotten:
            return b""
        if row.content is not None:
            return row.content[offset : offset + limit]
        size = held_of(row.stored_bytes, row.max_bytes).readable(offset, limit)
        path = self.path_of(command_id, stream)
        return await trio.to_thread.run_sync(read_path, path, size, offset, row.max_bytes)

    async def held(self, command_id: str) -> dict[StreamName, Held]:
        """Which bytes of each stream are here."""
        if streams := self._at_hand(command_id):
            return {name: stream.held for name, stream in streams.items()}
        held = dict.fromkeys(STREAMS, Held(0, 0, 0))
        for name, row in (await self._store.run(rows.of_command, command_id)).items():
            size = row.stored_bytes
            held[name] = nothing_of(size) if row.is_forgotten else held_of(size, row.max_bytes)
        return held

    async def sizes(self, command_id: str) -> dict[StreamName, int]:
        """How many bytes of each stream were taken, those included that are not kept."""
        return {name: held.size for name, held in (await self.held(command_id)).items()}

    async def sync(self, command_ids: list[str]) -> list["Unsafe"]:
        """Make the files of commands safe; what their last transaction has to save (`save_all`)."""
        unsafe = list(self._unsafe(command_ids))
        await self._sync_files(unsafe)
        return unsafe

    def end(self, command_id: str) -> None:
        """The command's output is recorded for good: it is live no more.

        Small streams stay at hand for a moment, for the caller who waits for this end.
        """
        streams = self._forget(command_id)
        if streams and all(stream.is_small for stream in streams.values()):
            self._ended[command_id] = streams
            if len(self._ended) > _ENDED_AT_HAND:
                self._ended.popitem(last=False)

    async def park(self, command_ids: Iterable[str]) -> None:
        """Nothing more is expected of these for now: make them safe, hold nothing in memory."""
        await self.flush()
        for command_id in command_ids:
            streams = self._live.get(command_id, {})
            if all(stream.size == stream.safe for stream in streams.values()):
                self._forget(command_id)

    async def flush(self, command_ids: Iterable[str] | None = None) -> None:
        """Make everything safe that is not yet, or only what these commands wrote."""
        unsafe = list(self._unsafe(list(self._live if command_ids is None else command_ids)))
        if not unsafe:
            return
        await self._sync_files(unsafe)
        await self._store.run(save_all, unsafe)
        for item in unsafe:
            if streams := self._live.get(item.command_id):
                stream = streams[item.stream]
                stream.safe = max(stream.safe, item.size)  # a later flush may have been faster

    async def flush_forever(self) -> None:
        """The service that keeps what may be lost by a power cut under `FLUSH_S`."""
        next_round = trio.current_time() + FLUSH_S
        while True:
            with trio.move_on_at(next_round) as waiting:
                await self._has_due.wait()
            due, self._due, self._has_due = self._due, set(), trio.Event()
            if waiting.cancelled_caught:
                next_round = trio.current_time() + FLUSH_S
            try:
                await self.flush(None if waiting.cancelled_caught else due)
            except (StorageFull, Unavailable) as exc:  # the next round tries again, or none comes
                _log.warning("output is not safe yet", extra={"why": exc.message})
                await trio.sleep_until(next_round)

    @contextmanager
    def files_kept(self) -> Iterator[None]:
        """Within, what is forgotten keeps its files: a backup names them."""
        self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1

    async def delete_leftovers(self) -> None:
        """Delete the files of what was forgotten: a crash in between leaves none behind."""
        while left := await self._store.run(rows.leftovers, _LEFTOVERS):
            if self._keepers:
                return
            paths = [self.path_of(each.command_id, each.stream) for each in left]
            try:
                await trio.to_thread.run_sync(_delete, paths)
            except OSError as exc:
                raise self._store.fail(exc) from exc
            await self._store.run(rows.deleted, left)

    def let_go(self, before_ms: int) -> None:
        """Have nothing at hand of commands that were made before then: read it from the store."""
        for command_id in [each for each in self._ended if made_ms(each) < before_ms]:
            del self._ended[command_id]

    def close(self) -> None:
        """Let go of every file, after the last flush."""
        for command_id in list(self._live):
            self.end(command_id)
        self._files.close_all()

    async def _sync_files(self, streams: list["Unsafe"]) -> None:
        files = [(item.path, item.size - CACHED_BYTES) for item in streams if item.path is not None]
        if not files:
            return
        try:
            await trio.to_thread.run_sync(_sync, files)
        except OSError as exc:
            raise self._store.fail(exc) from exc

    def _streams(self, command_id: str, stored: Mapping[StreamName, rows.StoredStream]) -> Streams:
        streams = {}
        for stream in STREAMS:
            path, row = self.path_of(command_id, stream), stored.get(stream)
            if row is None:
                streams[stream] = LiveStream(self._files, path, self._max_bytes)
            else:
                streams[stream] = LiveStream(
                    self._files, path, row.max_bytes, content=row.content, size=row.stored_bytes
                )
        return streams

    def _forget(self, command_id: str) -> Streams:
        streams = self._live.pop(command_id, {})
        for stream in streams.values():
            stream.close()
        return streams

    def _at_hand(self, command_id: str) -> Streams | None:
        return self._live.get(command_id) or self._ended.get(command_id)

    def _unsafe(self, command_ids: list[str]) -> Iterator["Unsafe"]:
        for command_id in command_ids:
            for name, stream in self._live.get(command_id, {}).items():
                if stream.size > stream.safe:
                    content, path = stream.snapshot()
                    yield Unsafe(command_id, name, stream.size, stream.max_bytes, content, path)

    def path_of(self, command_id: str, stream: StreamName) -> Path:
        """Where the file of a stream is, if it has one."""
        return self._folder / command_id[-2:] / f"{command_id}.{stream}"


@dataclass(frozen=True, slots=True)
class Unsafe:
    """A stream that grew since it was last made safe, with its content or its file."""

    command_id: str
    stream: StreamName
    size: int
    max_bytes: int
    content: bytes | None
    path: Path | None


def save_all(tx: Tx, streams: list[Unsafe]) -> None:
    """Record streams whose bytes are safe, or safe with this transaction."""
    for item in streams:
        rows.save(
            tx, item.command_id, item.stream, item.size, item.content, max_bytes=item.max_bytes
        )


def _sync(files: list[tuple[Path, int]]) -> None:
    """Sync each file, and let go of as many of its first bytes in the page cache.

    One is open at a time. A write that failed before is told to whoever opens the file next.
    """
    for path, cold in files:
        file = open_file(path, os.O_RDWR)
        try:
            os.fdatasync(file)
            if cold > 0:
                os.posix_fadvise(file, 0, cold, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def _delete(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
