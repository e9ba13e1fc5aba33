"""What makes a process the keeper of the current directory: its lock, its socket, its signals."""
# ruff: noqa: PTH108 - without pathlib, see the package

import fcntl
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

from cmdop_appliance.agent.keeper.files import open_private


class AlreadyKept(Exception):
    """Another keeper has this directory; its text is that one's process id."""


def take_lock() -> int:
    """The descriptor of the lock, which is ours as long as it is open.

    Raises:
        AlreadyKept: another process has it.
    """
    lock = open_private("keeper.lock", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AlreadyKept(os.read(lock, 20).decode()) from None
    os.truncate(lock, 0)
    os.write(lock, b"%d" % os.getpid())
    return lock


def listen() -> socket.socket:
    """The socket on which agents find us, for our user alone; `take_lock` comes before it."""
    # By a relative name: an address holds 108 bytes (unix(7)), a state directory may be deeper.
    with suppress(FileNotFoundError):
        os.unlink("keeper.sock")  # left by a keeper that was killed: we hold the lock
    listener = socket.socket(socket.AF_UNIX)
    umask = os.umask(0o177)
    listener.bind("keeper.sock")
    os.umask(umask)  # commands get the one we were started with
    listener.listen()
    listener.setblocking(False)
    return listener


def catch_signals(child_ended: Callable[[], None], asked_to_stop: Callable[[], None]) -> int:
    """Have signals noted, and written as bytes to the descriptor returned."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: child_ended())
    signal.signal(signal.SIGTERM, lambda _number, _frame: asked_to_stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return reader
