"""What the keeper needs and only Linux has: subreaper, boot id, and the process table of /proc."""
# ruff: noqa: PTH123, PTH208 - without pathlib, see the package

import ctypes
import fcntl
import os
import signal
import socket
import sys

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Process:
    """One live process. (pid, start_ticks) names it beyond the reuse of its number."""

    __slots__ = ("group", "parent", "pid", "session", "start_ticks")

    def __init__(self, pid: int, parent: int, group: int, session: int, start_ticks: int) -> None:
        self.pid = pid
        self.parent = parent
        self.group = group
        self.session = session
        self.start_ticks = start_ticks  # clock ticks after boot


def become_subreaper() -> None:
    """Orphaned descendants become children of this process instead of init's."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def close_on_exec() -> None:
    """No descriptor that this process was given, beyond 0, 1 and 2, reaches a command."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2:
                fcntl.fcntl(int(name), fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        except OSError:  # the one that listed the directory
            continue


def boot_id() -> str:
    """Names this boot of the machine: process ids and start times mean nothing in another one."""
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read().strip().decode()


def peer_uid(connection: socket.socket) -> int:
    """The user id of the process at the other end of a unix socket."""
    ucred = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)  # pid, uid, gid
    return int.from_bytes(ucred[4:8], sys.byteorder)


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks after boot; 0 when there is none of this number."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def is_alive(pid: int, started_ticks: int, boot: str) -> bool:
    """True: this very process lives, not another one that was given its number."""
    return (
        boot == boot_id()
        and (process := _process(pid)) is not None
        and (process.start_ticks == started_ticks)
    )


def processes() -> dict[int, Process]:
    """Every live process but this one; zombies are not alive."""
    table: dict[int, Process] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := _process(int(name))) is not None:
            table[process.pid] = process
    table.pop(os.getpid(), None)
    return table


def carries(pid: int, variable: bytes) -> bool:
    """True: the process was started with this `NAME=value` in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return variable in file.read().split(b"\0")
    except OSError:  # it has ended, or is not ours to look at
        return False


def send_signal(process: Process, number: signal.Signals) -> None:
    """Signal one process, if it is still the one that was seen."""
    if start_ticks(process.pid) != process.start_ticks:
        return
    try:
        os.kill(process.pid, number)
    except (ProcessLookupError, PermissionError):  # gone, or it has become another user's
        return


def _process(pid: int) -> Process | None:
    fields = _stat(pid)
    # A process whose main thread has ended shows as a zombie while its other threads run on.
    if not fields or (fields[0] in b"ZX" and int(fields[17]) <= 1):
        return None
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def _stat(pid: int) -> list[bytes]:
    """The fields of proc(5) stat from the third (state) on; the name before them is hostile."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.read(fd, 1024).rpartition(b")")[2].split()  # a line is at most some 350 bytes
    except OSError:  # it ended in between
        return []
    finally:
        os.close(fd)
