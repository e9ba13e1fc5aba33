"""Checksums of files that were read or written whole, for as long as nobody changes them."""

import hashlib
import os
import threading
import time
from collections import OrderedDict
from typing import Final

# A file is stamped with the time of the kernel's last tick (current_time() in fs/inode.c; finer
# since Linux 6.13, on some file systems): 10 ms at CONFIG_HZ=100, the slowest. Twice that is safe.
TICK_S: Final = 0.02
# Files remembered, the latest used: some 1 MB.
_ITEMS: Final = 4096


def version_of(status: os.stat_result) -> str:
    """A word that is another after every change of a file, also of its mode."""
    text = " ".join(map(str, _identity(status)))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def is_settled(status: os.stat_result) -> bool:
    """True: a write from now on shows in the time of the last one, for that is a tick ago."""
    return settles_in_s(status) <= 0


def settles_in_s(status: os.stat_result) -> float:
    """How long `is_settled` is still to wait for; at most two ticks, also when clocks jump."""
    age_s = (time.time_ns() - status.st_mtime_ns) / 1e9
    return TICK_S - age_s if abs(age_s) < TICK_S else 0.0


def is_unchanged(before: os.stat_result, now: os.stat_result) -> bool:
    """True: nobody has written to the file meanwhile, and it is the same."""
    return _identity(before) == _identity(now)


class Digests:
    """sha256 by what a file was when it was read; used by several threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, ...], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, status: os.stat_result) -> bytes | None:
        """The sha256 of the content, if that is known."""
        with self._lock:
            sha256 = self._known.get(_identity(status))
            if sha256 is not None:
                self._known.move_to_end(_identity(status))
            return sha256

    def put_moved(self, ready: os.stat_result | None, now: os.stat_result, sha256: bytes) -> None:
        """Remember it of a file that got its name between the two, if nobody wrote to it since.

        `ready` is None if the file was not settled then: a write in that tick would not show.
        """
        if ready and (ready.st_size, ready.st_mtime_ns) == (now.st_size, now.st_mtime_ns):
            self.put(now, sha256)

    def put(self, status: os.stat_result, sha256: bytes) -> None:
        """Remember it, unless a change could still hide in the tick of the last write."""
        if not is_settled(status):
            return
        with self._lock:
            self._known[_identity(status)] = sha256
            self._known.move_to_end(_identity(status))
            if len(self._known) > _ITEMS:
                self._known.popitem(last=False)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
