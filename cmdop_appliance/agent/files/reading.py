"""A file that is read: one content from its first byte to its last, or an error.

What the file is (device, inode, size, times) is noted when it is opened and compared after each
read, before the bytes are handed on: whoever has them all has one content. A small file is read
whole when it is opened, so that a change shows before the answer, and what the kernel makes up as
it is read (/proc, /sys) has a size.
"""

import hashlib
import os
import stat
import time
from contextlib import ExitStack, closing
from typing import Final

from cmdop_appliance.agent.files.digests import Digests, is_unchanged, settles_in_s, version_of
from cmdop_appliance.agent.files.failures import FileFailure, IsStopped, Stopped, failing, shown
from cmdop_appliance.agent.files.roots import Place
from cmdop_appliance.protocol.answers import part_of
from cmdop_appliance.protocol.files import Opened, Read

# Read whole when opened: one read at the pace of a slow disk, and little beside TRANSFER_BYTES.
SMALL_BYTES: Final = 64 * 1024
# A file of the kernel's says that it is empty; so much of one is held in memory while it is sent.
MADE_UP_BYTES: Final = 1024 * 1024
# A file that changed under so many looks at it is changing all the time.
_LOOKS: Final = 3
# One read while a checksum is made: some 1 ms, after which is asked whether that is still wanted.
_HASHED_BYTES: Final = 1024 * 1024


class Reading:
    """A file that stands open, or what was in it; `close` it."""

    def __init__(self, place: Place, call: Read, digests: Digests) -> None:
        """Open the file at a place, which is needed no longer then.

        Raises:
            FileFailure: there is no regular file that may be read, or it keeps changing.
        """
        self._path = place.path
        self._digests = digests
        self._fd = -1
        self._content: bytes | None = None  # of a small file
        with ExitStack() as stack:
            stack.callback(self.close)
            with failing(place.path):
                self._fd, self._status = open_regular(place)
                self._look()
            stack.pop_all()
        self.opened = self._opened(call)
        self._at = self.opened.first
        is_whole = self.opened.first == 0 and self.opened.end == self.opened.size
        # Of the whole file, if that is what is read here; else not known before its end.
        self.sha256 = self.opened.sha256 if is_whole else None
        self._hash = hashlib.sha256() if is_whole and self.sha256 is None else None

    def read(self, most: int) -> bytes:
        """The next bytes, at most so many; none: that was all, and nobody has changed it.

        Raises:
            FileFailure: somebody has, or the disk failed.
        """
        most = min(most, self.opened.end - self._at)
        if self._content is not None:
            data = self._content[self._at : self._at + most]
        else:
            data = self._read_unchanged(most)
        self._at += len(data)
        if self._hash is not None:
            self._hash.update(data)
            if self._at == self.opened.end:
                self.sha256 = self._hash.digest()
                self._digests.put(self._status, self.sha256)
        return data

    def close(self) -> None:
        """Let go of the file. It may be said twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read_unchanged(self, most: int) -> bytes:
        with failing(self._path):
            data = os.pread(self._fd, most, self._at)
            now = os.fstat(self._fd)
        if not is_unchanged(self._status, now) or (most > 0 and not data):
            raise self._changed()
        return data

    def _look(self) -> None:
        """Wait until a change would show, and read a small file."""
        for _ in range(_LOOKS):
            time.sleep(settles_in_s(self._status))
            content = None
            if self._status.st_size <= SMALL_BYTES:
                content = self._read_to_end()
            before, self._status = self._status, os.fstat(self._fd)
            if is_unchanged(before, self._status):
                self._content = content
                return
        raise self._changed()

    def _read_to_end(self) -> bytes:
        content = bytearray()
        while data := os.pread(self._fd, SMALL_BYTES, len(content)):
            content += data
            if len(content) > MADE_UP_BYTES:
                raise FileFailure(
                    "not_a_regular_file",
                    f"{shown(self._path)} has no size of its own and more than {MADE_UP_BYTES}"
                    " bytes; read it with a command",
                )
        return bytes(content)

    def _opened(self, call: Read) -> Opened:
        version = version_of(self._status)
        size, sha256 = self._status.st_size, self._digests.get(self._status)
        if self._content is not None:  # its size may be another than the kernel says
            size, sha256 = len(self._content), hashlib.sha256(self._content).digest()
        first, end = part_of(call, size)
        if call.if_version not in (None, version, sha256 and sha256.hex()):
            first, end = 0, size
        return Opened(
            path=self._path,
            size=size,
            first=first,
            end=end,
            version=version,
            modified_ms=self._status.st_mtime_ns // 1_000_000,
            sha256=sha256,
        )

    def _changed(self) -> FileFailure:
        return FileFailure(
            "changed_during_read", f"{shown(self._path)} was changed while it was read; try again"
        )


def open_regular(place: Place) -> tuple[int, os.stat_result]:
    """A descriptor of the regular file at a place, to read it, and what it is.

    Anything else is not even opened: a device may act on that.

    Raises:
        OSError: it cannot be opened.
        FileFailure: there is none.
    """
    check_regular(place, place.status)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(place.name, flags, dir_fd=place.parent)
    try:
        status = os.fstat(fd)
        check_regular(place, status)
    except BaseException:
        os.close(fd)
        raise
    return fd, status


def check_regular(place: Place, status: os.stat_result | None) -> None:
    """Do nothing if that is the status of a regular file.

    Raises:
        FileFailure: it is something else, or nothing.
    """
    if status is None:
        raise FileFailure("file_not_found", f"{shown(place.path)} does not exist")
    if stat.S_ISDIR(status.st_mode):
        raise FileFailure("is_a_directory", f"{shown(place.path)} is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise FileFailure(
            "not_a_regular_file",
            f"{shown(place.path)} is not a regular file: devices, pipes and sockets are for"
            " commands",
        )


def sha256_of(place: Place, digests: Digests, is_stopped: IsStopped) -> bytes:
    """The sha256 of the file at a place.

    Raises:
        FileFailure: there is no regular file that may be read, it changed meanwhile, or nobody
            waits for this any more.
    """
    with closing(Reading(place, Read(path=place.path), digests)) as reading:
        while reading.sha256 is None:
            if is_stopped():
                raise Stopped
            reading.read(_HASHED_BYTES)
        return reading.sha256
