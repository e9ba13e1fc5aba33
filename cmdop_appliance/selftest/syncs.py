"""How long the disk takes to say that it holds something; too short, and it may not be so."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TIMES: Final = 200
_BYTES: Final = 4096
# No disk that waits for its medium answers so soon; the quickest with a battery take twice as long.
_SUSPICIOUS_US: Final = 8


@dataclass(frozen=True, slots=True)
class Syncs:
    """What was measured on the file system of a folder."""

    kind: str  # such as ext4; "": unknown
    median_us: int
    slowest_us: int

    @property
    def doubt(self) -> str:
        """Why its syncs may be worth nothing; "": nothing speaks for that."""
        if self.kind in ("tmpfs", "ramfs"):
            return "this is memory: nothing of it survives a power cut"
        if self.median_us < _SUSPICIOUS_US:
            return "it answers sooner than a disk can: something on the way does not wait for it"
        return ""


def measure(folder: Path) -> Syncs:
    """Append and sync, again and again, in a file that is removed in the end.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / "syncs"
    took = []
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(_TIMES):
            os.write(handle, os.urandom(_BYTES))
            begun = time.perf_counter_ns()
            os.fdatasync(handle)
            took.append((time.perf_counter_ns() - begun) // 1000)
    finally:
        os.close(handle)
        path.unlink()
    took.sort()
    return Syncs(_kind(folder), took[_TIMES // 2], took[-1])


def _kind(folder: Path) -> str:
    """The type of the file system, from the mount point nearest above."""
    best, kind = "", ""
    try:
        lines = Path("/proc/mounts").read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return ""
    where = str(folder.resolve())
    for line in lines:
        _, point, found, *_ = line.split(" ")
        if f"{where}/".startswith(f"{point.rstrip('/')}/") and len(point) >= len(best):
            best, kind = point, found
    return kind
