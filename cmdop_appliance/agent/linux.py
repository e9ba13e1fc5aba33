"""What the agent needs and only Linux has: a signal to the very process that is meant."""

import ctypes
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

from cmdop_appliance.errors import StartupError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGE_BYTES = 1024 * 1024
_KEPT_BYTES = 4 * 1024 * 1024

_libc = ctypes.CDLL(None)
_CAUGHT = re.compile(r"^SigCgt:\t([0-9a-f]+)$", re.MULTILINE)  # proc(5)


def die_with_parent() -> None:
    """This process, and whatever it becomes by execve, is killed when its parent thread ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def keep_heap() -> None:
    """Memory of what was sent is kept for what is sent next, a few megabytes of it.

    Pieces of output have the size from which glibc gives each back to the system at once: a quarter
    of the time that a large output took went into getting it anew, page by page (measured).
    """
    with suppress(AttributeError):  # another libc
        _libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        _libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def signal_holder(lock: Path, number: signal.Signals) -> int | None:
    """Signal the process that is named in `lock` and holds that file open; its id.

    None: there is none. What the file says is not believed: another process is never signalled.

    Raises:
        StartupError: it does not listen to this signal, and would die of it.
        OSError: the file, or the process, is not ours to look at.
    """
    try:
        pid = int(lock.read_text("ascii"))
        process = os.pidfd_open(pid)
    except (FileNotFoundError, ProcessLookupError, ValueError, OverflowError):
        return None
    try:
        if not _holds_open(pid, lock):
            return None
        if not _listens(pid, number):
            raise StartupError(
                f"the agent, process {pid}, does not listen yet", hint="try again in a moment"
            )
        signal.pidfd_send_signal(process, number)
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return None
    finally:
        os.close(process)
    return pid


def _holds_open(pid: int, file: Path) -> bool:
    wanted = file.stat()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.path.samestat(entry.stat(), wanted):
                return True
        except FileNotFoundError:  # closed meanwhile
            continue
    return False


def _listens(pid: int, number: signal.Signals) -> bool:
    caught = _CAUGHT.search(Path(f"/proc/{pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)
