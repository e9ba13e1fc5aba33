"""Recordings of what terminals show: made while they run, kept within bounds, read as asciicast.

The bytes are recorded as they came, and screened when somebody reads them: whoever plays a
recording has a terminal, too. What is typed is not recorded.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import trio

from cmdop_appliance.clock import Clock
from cmdop_appliance.config import TerminalsConfig
from cmdop_appliance.errors import ApplianceError, RecordingNotFound, Unavailable
from cmdop_appliance.hub.bus import Bus, Subscription
from cmdop_appliance.hub.following import follow
from cmdop_appliance.hub.screening import Screener
from cmdop_appliance.hub.tape import Kind, Record, Tape, begun_ms, records
from cmdop_appliance.hub.terminal_link import Seen, TerminalLink, Watch
from cmdop_appliance.model import Terminal
from cmdop_appliance.protocol.frames import Screen
from cmdop_appliance.protocol.limits import SCREEN_BYTES
from cmdop_appliance.protocol.terminals import Size, TerminalGap, TerminalWatched
from cmdop_appliance.store import terminals as rows
from cmdop_appliance.store.engine import Store

_SUFFIX: Final = ".rec"
# Output that is screened at a time for a reader, in a thread: some milliseconds.
_PIECE_BYTES: Final = 64 * 1024

_log = logging.getLogger("cmdop.hub.recordings")


class Recordings:
    """All recordings of the hub."""

    def __init__(
        self, store: Store, bus: Bus, clock: Clock, folder: Path, config: TerminalsConfig
    ) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self._folder = folder
        self._config = config
        self._bytes = 0  # of all files
        self._begun: set[str] = set()  # terminals that are being recorded
        self._done: set[str] = set()  # those that run, but are recorded no more
        self._ended: dict[str, None] = {}  # recorded and over; the first that ended first

    async def run(self) -> None:
        """Record what is to be recorded, until the hub stops."""
        try:
            await trio.to_thread.run_sync(self._find)
        except OSError as exc:
            _log.error("nothing is recorded", extra={"why": exc.strerror})
            return
        async with trio.open_nursery() as nursery:
            with suppress(Unavailable), self._bus.subscribe(rows.RECORDED) as news:
                while True:
                    await self._look(nursery)
                    await news.next()
            nursery.cancel_scope.cancel()

    async def asciicast(self, terminal: Terminal) -> AsyncGenerator[bytes, None]:
        """What was recorded so far, as lines of asciicast v2, some at a time.

        Raises:
            RecordingNotFound: nothing was, or it is kept no more.
        """
        path = self._path(terminal.id)
        if not await trio.to_thread.run_sync(_is_recording, path):
            raise RecordingNotFound(
                "nothing is recorded of this terminal",
                hint="open it with `record: true`; of recordings, those that ended first are"
                " dropped when all together become too large",
                terminal_id=terminal.id,
            )
        return _read(path, terminal.name)

    def has_room(self, size: int) -> bool:
        """True: `size` bytes more may be recorded; for which others were dropped, if need be."""
        most = self._config.recordings_bytes
        while self._ended and self._bytes + size > most:
            self._drop(next(iter(self._ended)))
        return self._bytes + size <= most

    def grew(self, size: int) -> None:
        """So many bytes more were recorded."""
        self._bytes += size

    def _path(self, terminal_id: str) -> Path:
        return self._folder / f"{terminal_id}{_SUFFIX}"

    def _find(self) -> None:
        """Take over what earlier hubs recorded."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        found = [(path, path.stat()) for path in self._folder.glob(f"*{_SUFFIX}")]
        for path, stat in sorted(found, key=lambda each: each[1].st_mtime_ns):
            self._ended[path.stem] = None
            self._bytes += stat.st_size

    async def _look(self, nursery: trio.Nursery) -> None:
        """Begin what is to be recorded now, and drop what nobody can ask for any more."""
        live = {each.id for each in await self._store.run(rows.recorded)}
        self._ended |= dict.fromkeys(self._done - live)
        self._done &= live
        for terminal_id in live - self._begun - self._done:
            self._ended.pop(terminal_id, None)
            self._begun.add(terminal_id)
            nursery.start_soon(self._record, terminal_id)
        while self._ended:  # the store forgets those of a machine in the same order
            oldest = next(iter(self._ended))
            if await self._store.run(rows.find, oldest) is not None:
                break
            if oldest in self._ended:
                self._drop(oldest)

    def _drop(self, terminal_id: str) -> None:
        del self._ended[terminal_id]
        path = self._path(terminal_id)
        with suppress(OSError):
            size = path.stat().st_size
            path.unlink()
            self._bytes -= size

    async def _record(self, terminal_id: str) -> None:
        """Until the terminal has ended, or no more of it can be recorded."""
        is_done = False
        try:
            is_done = await self._fill_tape(terminal_id)
        except OSError as exc:
            is_done = True
            extra = {"terminal_id": terminal_id, "why": exc.strerror}
            _log.warning("no more is recorded of a terminal", extra=extra)
        except ApplianceError:
            pass  # the hub stops; or the machine takes no reader now, and is asked again
        self._begun.discard(terminal_id)
        if is_done:
            self._done.add(terminal_id)
        else:
            self._ended[terminal_id] = None

    async def _fill_tape(self, terminal_id: str) -> bool:
        """Record until the terminal has ended (False), or the tape is full (True)."""
        path, most = self._path(terminal_id), self._config.recording_bytes
        tape, grown = await trio.to_thread.run_sync(_open, path, self._clock.now_ms(), most)
        self.grew(grown)
        with (
            closing(tape),
            self._bus.subscribe(rows.subject_of(terminal_id)) as news,
            trio.CancelScope() as scope,
        ):
            clock = self._clock
            recorder = _Recorder(self, self._store, clock, terminal_id, tape, news, scope)
            if not tape.is_full:  # since an earlier hub
                await follow(self._store, self._bus, terminal_id, recorder, is_recorder=True)
        return tape.is_full


class _Recorder:
    """Puts what a terminal shows on a tape."""

    def __init__(
        self,
        recordings: Recordings,
        store: Store,
        clock: Clock,
        terminal_id: str,
        tape: Tape,
        news: Subscription,
        full: trio.CancelScope,
    ) -> None:
        self._recordings = recordings
        self._store = store
        self._clock = clock
        self._terminal_id = terminal_id
        self._tape = tape
        self._news = news  # of the terminal
        self._full = full  # to be cancelled when no more can be recorded

    @property
    def position(self) -> int | None:
        """From where on there is nothing on the tape."""
        return self._tape.end

    async def take(self, _link: TerminalLink, watch: Watch, seen: Seen) -> None:
        """Record what came, and the size of the screen if that is another now."""
        is_new = isinstance(seen, TerminalWatched)
        size = await self._size() if is_new or await self._has_changed() else None
        now_ms, tape, before = self._clock.now_ms(), self._tape, self._tape.bytes
        if not self._recordings.has_room(SCREEN_BYTES):
            tape.fill(now_ms)
        if size is not None:
            tape.resize(now_ms, size)
        match seen:
            case TerminalWatched(offset=offset):
                tape.skip(now_ms, offset)
            case TerminalGap(offset=offset):
                tape.skip(now_ms, offset)
                watch.grant(offset)
            case Screen(offset=offset, data=data):
                tape.write(now_ms, offset, data)
                watch.grant(offset + len(data))
        self._recordings.grew(tape.bytes - before)
        if tape.is_full:
            self._full.cancel()

    async def lose(self) -> None:
        """Nothing is shown while the machine is away."""

    async def miss(self, _ended: Terminal) -> None:
        """The last output is missing."""
        before = self._tape.bytes
        self._tape.miss(self._clock.now_ms())
        self._recordings.grew(self._tape.bytes - before)

    async def _has_changed(self) -> bool:
        has_changed = False
        while self._news.waiting:
            await self._news.next()
            has_changed = True
        return has_changed

    async def _size(self) -> Size | None:
        terminal = await self._store.run(rows.find, self._terminal_id)
        return None if terminal is None else Size(terminal.cols, terminal.rows)


def _open(path: Path, now_ms: int, max_bytes: int) -> tuple[Tape, int]:
    """A tape, and by how many bytes its file grew."""
    before = path.stat().st_size if path.exists() else 0
    tape = Tape.open(path, now_ms, max_bytes)
    return tape, tape.bytes - before


def _is_recording(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return begun_ms(file) is not None
    except FileNotFoundError:
        return False


async def _read(path: Path, title: str) -> AsyncGenerator[bytes, None]:
    """The lines of a recording, as far as it goes."""
    with await trio.to_thread.run_sync(path.open, "rb") as file:
        cast = _Cast(title)
        while piece := await trio.to_thread.run_sync(cast.read, file):
            yield piece


class _Cast:
    """A recording as asciicast v2 (docs.asciinema.org/manual/asciicast/v2)."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._screener = Screener(0)
        self._end = 0  # of the output before

    def read(self, file: BinaryIO) -> bytes:
        """The next lines; empty: that was all."""
        lines: list[object] = [self._head(file)] if file.tell() == 0 else []
        taken = 0
        for record in records(file):
            lines += self._lines(record)
            taken += len(record.data)
            if taken >= _PIECE_BYTES and lines:
                break
        return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)

    def _head(self, file: BinaryIO) -> dict[str, object]:
        since_ms = begun_ms(file) or 0
        first = file.tell()
        size = next((each.size for each in records(file) if each.kind == Kind.SIZE), Size())
        file.seek(first)
        return {
            "version": 2,
            "width": size.cols,
            "height": size.rows,
            "timestamp": since_ms // 1000,
            "title": self._title,
            "env": {"TERM": "xterm-256color"},
        }

    def _lines(self, record: Record) -> list[tuple[float, str, str]]:
        at_s = record.ms / 1000
        match record.kind:
            case Kind.OUTPUT:
                self._end = record.offset + len(record.data)
                text = self._screener.screen(record.data).decode()
                return [(at_s, "o", text)] if text else []
            case Kind.SIZE:
                return [(at_s, "r", f"{record.size.cols}x{record.size.rows}")]
            case Kind.GAP:
                lost, self._end = record.offset - self._end, record.offset
                self._screener.skip(record.offset)
                return [(at_s, "m", f"{lost or 'some'} bytes not recorded")]
            case Kind.FULL:
                return [(at_s, "m", "no more was recorded")]
