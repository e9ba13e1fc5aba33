"""The output of a terminal: bytes numbered from its start on, in files of which the last are kept.

    output/<slot>.pty/<offset of its first byte>

What the disk does not take is missing: no program in a terminal waits for room on it.
"""
# ruff: noqa: PTH108, PTH116, PTH118, PTH208 - without pathlib, see the package

import os
from collections import deque
from contextlib import suppress

from cmdop_appliance.agent.keeper.files import make_private_folder, open_private

SEGMENT_BYTES = 1024 * 1024  # two are kept, so that the last MiB always is (semantics.md)
MOST_SEGMENTS = 16  # each that the disk refused to go on with is followed by another


class Segments:
    """The growing output of one terminal."""

    __slots__ = ("_fd", "_folder", "_room", "_starts", "end", "stored_end")

    def __init__(self, folder: str) -> None:
        """Make the folder, or take the empty one there is. Raises OSError."""
        make_private_folder(folder)
        self._folder = folder
        self._starts: deque[int] = deque()
        self._fd = -1
        self._room = 0
        self.end = 0  # of all output
        self.stored_end = 0  # of what can be read

    def append(self, data: memoryview) -> memoryview:
        """Add output. What the disk does not take is counted, and missing.

        Returns nothing of it: there is nothing to try again.
        """
        while data:
            try:
                if self._room == 0:
                    self._begin()
                written = os.write(self._fd, data[: self._room])
            except OSError:
                self.end += len(data)
                self.close()
                return data[:0]
            self._room -= written
            self.end += written
            self.stored_end = self.end
            data = data[written:]
        return data

    def close(self) -> None:
        """Write no more to the present file. Closing twice is closing once."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd, self._room = -1, 0
        if self._starts[-1] >= self.stored_end:  # it took nothing at all
            self._remove(self._starts.pop())

    def _begin(self) -> None:
        self.close()
        flags = os.O_WRONLY | os.O_APPEND | os.O_EXCL
        self._fd = open_private(os.path.join(self._folder, str(self.end)), flags)
        self._room = SEGMENT_BYTES
        self._starts.append(self.end)
        while len(self._starts) > 2 and (
            self.end - self._starts[1] >= SEGMENT_BYTES or len(self._starts) > MOST_SEGMENTS
        ):
            self._remove(self._starts.popleft())

    def _remove(self, start: int) -> None:
        with suppress(OSError):  # somebody was faster
            os.unlink(os.path.join(self._folder, str(start)))


def read_segments(folder: str, offset: int, most: int) -> tuple[int, bytes]:
    """At most `most` bytes of output from `offset` on, and where they stand.

    That is later where earlier ones are not kept. At the present end, and where nothing is kept
    any more, there are none. Raises OSError when a file cannot be read.
    """
    while starts := _starts(folder):
        start = max((start for start in starts if start <= offset), default=starts[0])
        begin = max(start, offset)
        try:
            if data := _read(folder, start, begin - start, most):
                return begin, data
            later = min((start for start in starts if start > begin), default=None)
            if later is None:
                break
            return later, _read(folder, later, 0, most)
        except FileNotFoundError:  # it had to make room for a newer one: look again
            continue
    return offset, b""


def kept(folder: str) -> tuple[int, int]:
    """Where the output that can be read begins and ends now; 0 and 0 without any."""
    while starts := _starts(folder):
        try:
            last = starts[-1]
            return starts[0], last + os.stat(os.path.join(folder, str(last))).st_size
        except FileNotFoundError:  # as above
            continue
    return 0, 0


def _starts(folder: str) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(folder))
    except FileNotFoundError:
        return []


def _read(folder: str, start: int, offset: int, most: int) -> bytes:
    fd = os.open(os.path.join(folder, str(start)), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, most, offset)
    finally:
        os.close(fd)
