"""Output under way: the sequence number of a byte is its offset, here as everywhere.

A stream begins in memory and moves to a file when it outgrows `SMALL_BYTES`, so that a million
commands with a line of output are rows, not files. What is not yet safe is made safe once a
second, sooner if it is much, and before an end is recorded; after a crash the agent sends again
from the last safe byte. Whoever reads, live or later, reads by offset through `read`.

Of a stream longer than its cap the head and the tail are kept. The file is the head, then a ring
in which offset n lies at head + (n - head) % ring. The ring is `UNSAFE_BYTES` larger than the tail,
and no more than that is taken before it is safe: so what a crash leaves unsafe has overwritten
nothing of the tail that ends at the last safe byte.
"""

import errno
import logging
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from cmdop_appliance.errors import RemoteProtocolError, StorageFull, Unavailable
from cmdop_appliance.ids import made_ms
from cmdop_appliance.protocol.frames import STREAMS, StreamName
from cmdop_appliance.store import output as rows
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.transaction import Tx

# Streams up to this live in the store: two database pages' worth, most commands print less.
SMALL_BYTES: Final = 8 * 1024
# Ended commands whose small output is still in memory: 4 MB at the most.
_ENDED_AT_HAND: Final = 256
# The head that is always kept (semantics.md, Commands 7); the tail is the rest of the cap.
HEAD_BYTES: Final = 1024 * 1024
# What of a capped stream may be unsafe at a time, and what its file is larger than its cap.
UNSAFE_BYTES: Final = 1024 * 1024
# How long output may stay unsafe (semantics.md: up to the last sync, ≤ 1 s).
FLUSH_S: Final = 1.0
# And how much of one stream: while many megabytes are written back, every commit waits behind them
# (measured at 250 MB/s: commits at p99 take 14 ms, with small syncs 5 ms).
FLUSH_BYTES: Final = 4 * 1024 * 1024
# What stays in the page cache of a long stream: its live readers are there. The rest would push
# out what others need, and a machine that lends us its memory has to find ever more.
CACHED_BYTES: Final = 16 * 1024 * 1024
# Output files that are open at a time: a quarter of the 1024 descriptors that a process has where
# nobody asked for more. The rest is for connections and the store.
OPEN_FILES: Final = 256
# Files that are deleted at a time, when they are kept no longer.
_LEFTOVERS: Final = 200

_log = logging.getLogger("cmdop.hub.output")


class OutputGap(RemoteProtocolError):
    """Output begins behind what we hold: bytes are missing in between."""


@dataclass(frozen=True, slots=True)
class Held:
    """Which bytes of a stream are here: `size`, but none from `gap` up to `gap_end`."""

    size: int
    gap: int
    gap_end: int

    @property
    def is_forgotten(self) -> bool:
        """True: there were bytes, and none is here."""
        return self.gap == 0 and self.gap_end == self.size > 0

    def readable(self, offset: int, limit: int) -> int:
        """How many bytes in one piece are here from `offset`, at most `limit`."""
        if self.gap <= offset < self.gap_end:
            return 0
        end = self.gap if offset < self.gap else self.size
        return min(limit, max(0, end - offset))


def nothing_of(size: int) -> Held:
    """Of a stream of this size no byte is here."""
    return Held(size, 0, size)


def _held(size: int, max_bytes: int) -> Held:
    if size <= max_bytes:
        return Held(size, size, size)
    return Held(size, HEAD_BYTES, size - (max_bytes - HEAD_BYTES))


class OpenFiles:
    """Output files, of which the `OPEN_FILES` that were used last are open."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, int] = OrderedDict()

    def open(self, path: Path, flags: int = 0) -> int:
        """The descriptor of a file, good until the next one is asked for.

        Raises:
            StorageFull, Unavailable: it could not be opened now; that passes.
            OSError: the disk has failed; tell the store.
        """
        file = self._files.get(path)
        if file is None:
            while len(self._files) >= OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            file = self._files[path] = _open(path, os.O_RDWR | flags)
        else:
            self._files.move_to_end(path)
        return file

    def close(self, path: Path) -> None:
        """Let go of a file, if it is open."""
        if (file := self._files.pop(path, None)) is not None:
            os.close(file)

    def close_all(self) -> None:
        """Let go of every file."""
        for path in list(self._files):
            self.close(path)


class LiveStream:
    """One stream of a command that has not ended."""

    def __init__(
        self,
        files: OpenFiles,
        path: Path,
        max_bytes: int,
        *,
        content: bytes | None = b"",
        size: int = 0,
    ) -> None:
        """`content` None: the stream is a file already, of which `size` bytes are safe."""
        self._files = files
        self._path = path
        self.max_bytes = max_bytes
        self._memory = None if content is None else bytearray(content)
        self.size = size if content is None else len(content)
        self.safe = self.size
        if content is None:
            self._recover()

    @property
    def is_small(self) -> bool:
        """True: it never outgrew the memory."""
        return self._memory is not None

    @property
    def held(self) -> Held:
        """Which of its bytes are here."""
        return _held(self.size, self.max_bytes)

    def has_room(self, size: int) -> bool:
        """False: `size` bytes more may be taken only when those before are safe."""
        return self.size + size <= max(self.safe, self.max_bytes) + UNSAFE_BYTES

    @property
    def is_due(self) -> bool:
        """True: so much of it is unsafe that it should be made safe now."""
        most = FLUSH_BYTES if self.size <= self.max_bytes else UNSAFE_BYTES // 2
        return self.size - self.safe >= most

    def append(self, offset: int, data: bytes) -> None:
        """Take `data`, for which it has room, at `offset`; what is already here is passed over.

        Raises:
            OutputGap: `offset` lies beyond the end.
            StorageFull, Unavailable: nothing was taken.
            OSError: the disk has failed; tell the store.
        """
        if offset > self.size:
            raise OutputGap(f"output at {offset}, held up to {self.size}")
        fresh = data[self.size - offset :]
        if self._memory is not None and self.size + len(fresh) <= SMALL_BYTES:
            self._memory += fresh
        elif fresh:
            file, left, at = self._file(), memoryview(fresh), self.size
            while left:
                position, room = place(at, self.max_bytes)
                _write(file, left[:room], position)
                left, at = left[room:], at + room
        self.size += len(fresh)

    def read(self, offset: int, limit: int) -> bytes:
        """At most `limit` bytes from `offset`; empty at the end, and where none are kept."""
        if self._memory is not None:
            return bytes(self._memory[offset : offset + limit])
        size = self.held.readable(offset, limit)
        return _read(self._file(), size, offset, self.max_bytes)

    def snapshot(self) -> tuple[bytes | None, Path | None]:
        """(content, None) or (None, the file to sync)."""
        if self._memory is not None:
            return bytes(self._memory), None
        return None, self._path

    def close(self) -> None:
        """Let go of the file; whatever needs it opens it again."""
        self._files.close(self._path)

    def _file(self) -> int:
        if self._memory is None:
            return self._files.open(self._path)
        file = self._make_file()
        os.ftruncate(file, 0)
        _write(file, self._memory, 0)
        self._memory = None
        return file

    def _make_file(self) -> int:
        with _failures_that_pass():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._files.open(self._path, os.O_CREAT)

    def _recover(self) -> None:
        """Beyond the safe bytes may lie what a power cut tore, and a restored hub may lack some.

        What is not here, the agent sends again.
        """
        file = self._make_file()
        length, file_end = os.fstat(file).st_size, self.max_bytes + UNSAFE_BYTES
        if length < min(self.safe, file_end):
            # Where the ring was used, only the head is sure to be what it was.
            sure = length if self.safe <= self.max_bytes else HEAD_BYTES
            self.safe = min(length, sure)
        self.size = self.safe
        os.ftruncate(file, min(self.safe, file_end))


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
        size = _held(row.stored_bytes, row.max_bytes).readable(offset, limit)
        path = self.path_of(command_id, stream)
        return await trio.to_thread.run_sync(_read_path, path, size, offset, row.max_bytes)

    async def held(self, command_id: str) -> dict[StreamName, Held]:
        """Which bytes of each stream are here."""
        if streams := self._at_hand(command_id):
            return {name: stream.held for name, stream in streams.items()}
        held = dict.fromkeys(STREAMS, Held(0, 0, 0))
        for name, row in (await self._store.run(rows.of_command, command_id)).items():
            size = row.stored_bytes
            held[name] = nothing_of(size) if row.is_forgotten else _held(size, row.max_bytes)
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
        file = _open(path, os.O_RDWR)
        try:
            os.fdatasync(file)
            if cold > 0:
                os.posix_fadvise(file, 0, cold, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def _delete(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def place(offset: int, max_bytes: int) -> tuple[int, int]:
    """Where in the file a byte of a stream lies, and how many bytes lie there in one piece."""
    end = max_bytes + UNSAFE_BYTES
    if offset >= end:
        offset = HEAD_BYTES + (offset - HEAD_BYTES) % (end - HEAD_BYTES)
    return offset, end - offset


def _write(file: int, data: bytearray | memoryview, offset: int) -> None:
    """All of `data`: on a disk that is nearly full, one call may write a part of it."""
    left = memoryview(data)
    with _failures_that_pass():
        while left:
            written = os.pwrite(file, left, offset)
            left, offset = left[written:], offset + written


def _open(path: Path, flags: int) -> int:
    with _failures_that_pass():
        return os.open(path, flags | os.O_CLOEXEC, 0o600)


@contextmanager
def _failures_that_pass() -> Iterator[None]:
    """Tell what passes (a full disk, too many open files) from a disk that failed."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = "free some space on the hub"
            raise StorageFull("the hub's disk is full", hint=hint) from exc
        if exc.errno in (errno.EMFILE, errno.ENFILE):
            hint = "raise the hub's limit of open files (LimitNOFILE, ulimit -n)"
            raise Unavailable("the hub has too many files open", hint=hint) from exc
        raise


def _read(file: int, size: int, offset: int, max_bytes: int) -> bytes:
    position, there = place(offset, max_bytes)
    data = os.pread(file, min(size, there), position)
    if size > there == len(data):
        data += _read(file, size - there, offset + there, max_bytes)
    return data


def _read_path(path: Path, size: int, offset: int, max_bytes: int) -> bytes:
    file = _open(path, os.O_RDONLY)
    try:
        return _read(file, size, offset, max_bytes)
    finally:
        os.close(file)
