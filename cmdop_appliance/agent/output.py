"""One command's output on its way to the hub: from the keeper's files, by offset, in a window.

A stream's bytes are numbered by their offset in the file. Nothing is held in memory: what the hub
does not have yet is read from the file when there is room for it, and again after a `resume`.
"""

import hashlib
import logging
import os
from pathlib import Path
from typing import Final

from cmdop_appliance.protocol.frames import STREAMS, Output
from cmdop_appliance.protocol.limits import OUTPUT_BYTES, WINDOW_BYTES
from cmdop_appliance.protocol.messages import Stream

log = logging.getLogger("cmdop.agent.output")

# Hashed in one go before other tasks may run again: some 0.3 ms of work.
HASH_BYTES: Final = 256 * 1024


class Outflow:
    """Both streams of one command; all of it stays silent until `resume`."""

    def __init__(self, command_id: str) -> None:
        self.active = False  # True: the hub knows where it stands on this connection
        self._id = command_id
        self._flows = (_Flow(), _Flow())
        self._turn = 0  # the stream to look at first, so that neither starves the other

    def open(self, stdout: Path, stderr: Path) -> None:
        """The command runs, or did, and this is where its output goes."""
        for flow, path in zip(self._flows, (stdout, stderr), strict=True):
            flow.path = path

    def bytes_written(self) -> tuple[int, int]:
        """What the files of stdout and stderr hold now; a missing file holds nothing."""
        stdout, stderr = self._flows
        return _size(stdout.path), _size(stderr.path)

    def end(self, stdout_bytes: int, stderr_bytes: int) -> None:
        """The command has ended: its streams have these sizes and grow no more."""
        for flow, size in zip(self._flows, (stdout_bytes, stderr_bytes), strict=True):
            flow.size = size

    def resume(self, stdout: int, stderr: int) -> None:
        """Go on at these offsets: the hub holds what lies before them."""
        for flow, offset in zip(self._flows, (stdout, stderr), strict=True):
            flow.sent = flow.stored = offset
        self.active = True

    def hold(self) -> None:
        """The connection has ended: nothing more until the next `resume`."""
        self.active = False

    def stored(self, stdout: int, stderr: int) -> None:
        """The hub holds what lies before these offsets, so there is room for more."""
        for flow, offset in zip(self._flows, (stdout, stderr), strict=True):
            flow.stored = max(flow.stored, min(offset, flow.sent))

    def catch_up(self) -> bool:
        """Hash a part of what was sent by an earlier agent. False: there is nothing of it left."""
        return any(flow.catch_up() for flow in self._flows)

    def next(self) -> Output | None:
        """The next piece, once all is caught up. None: there is no more now, or no room for it."""
        room = WINDOW_BYTES - sum(flow.sent - flow.stored for flow in self._flows)
        for index in (self._turn, 1 - self._turn):
            flow = self._flows[index]
            offset = flow.sent
            if data := flow.read(min(room, OUTPUT_BYTES)):
                self._turn = 1 - index
                return Output(self._id, STREAMS[index], offset, data)
        return None

    def totals(self) -> tuple[Stream, Stream] | None:
        """Both whole streams, stdout first. None: the command runs, or not all of it was sent."""
        stdout, stderr = self._flows
        return (stdout.total(), stderr.total()) if stdout.complete and stderr.complete else None


class _Flow:
    """One stream. Bytes are hashed once, in order, however often they are sent."""

    def __init__(self) -> None:
        self.path: Path | None = None  # None: the command never ran
        self.sent = 0  # offset of the first byte not sent on this connection
        self.stored = 0  # offset of the first byte that the hub may not hold
        self.size: int | None = None  # of the whole, once the command has ended
        self._hash = hashlib.sha256()
        self._hashed = 0  # offset of the first byte not hashed

    @property
    def complete(self) -> bool:
        return self.size is not None and self.size <= min(self.sent, self._hashed)

    def total(self) -> Stream:
        return Stream(self._hashed, self._hash.digest())

    def catch_up(self) -> bool:
        return self._hashed < self.sent and bool(self._read(self._hashed, HASH_BYTES, self.sent))

    def read(self, most: int) -> bytes:
        if self._hashed < self.sent:  # not caught up: the hub holds more than the file does now
            return b""
        data = self._read(self.sent, most)
        self.sent += len(data)
        return data

    def _read(self, start: int, most: int, end: int | None = None) -> bytes:
        """Read and hash. A file that is shorter than it was said to be ends the stream there.

        A disk that cannot be read just now ends nothing: there is nothing to say until it can.
        """
        ends = [at for at in (self.size, end) if at is not None]
        most = min([most, *(at - start for at in ends)])
        if most <= 0:
            return b""
        data = _read_at(self.path, start, most) if self.path else b""
        if data is None:
            return b""
        if self.size is not None and not data:
            self.size = start
        if fresh := data[self._hashed - start :]:
            self._hash.update(fresh)
            self._hashed += len(fresh)
        return data


def _read_at(path: Path, start: int, most: int) -> bytes | None:
    """Bytes of a file; b"": it has none there, or is gone. None: it cannot be read just now."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, most, start)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return b""
    except OSError as exc:
        log.warning("cannot read output", extra={"path": str(path), "why": exc.strerror})
        return None


def _size(path: Path | None) -> int:
    try:
        return path.stat().st_size if path else 0
    except OSError:
        return 0
