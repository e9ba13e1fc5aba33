"""The data directory: ours alone, and one hub at a time."""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from cmdop_appliance.errors import StartupError
from cmdop_appliance.private import lock_or_holder

LOCK_FILE = "hub.lock"
RESTORING = "restoring"  # what is not whole yet, of a backup
# A release on trial dies with the hub that was killed; but that may take a moment.
_DYING_S = 1.0
_LOOK_S = 0.05


@contextlib.contextmanager
def claim(data_dir: Path) -> Iterator[int]:
    """Make the directory (0700) and hold it until the block ends; by this descriptor.

    Whoever inherits that holds it, too.

    Raises:
        StartupError: another hub holds it (named by pid), it is not ours to use or to close, or
            holds half of a backup.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if data_dir.stat().st_uid != os.geteuid():
            raise StartupError(
                f"data directory {data_dir} belongs to uid {data_dir.stat().st_uid}, not to us",
                hint="start as that user, or name another with --data-dir",
            )
        if stat.S_IMODE(data_dir.stat().st_mode) != 0o700:
            if any(data_dir.iterdir()) and not (data_dir / LOCK_FILE).exists():
                raise StartupError(
                    f"{data_dir} holds other files and is open to others",
                    hint="name a new or empty directory with --data-dir",
                )
            data_dir.chmod(0o700)
        lock = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StartupError(f"cannot use data directory {data_dir}: {exc.strerror}") from exc
    try:
        if holder := _lock_soon(lock):
            raise StartupError(
                f"data directory {data_dir} is in use by the hub with pid {holder}",
                hint="stop that hub, or name another directory with --data-dir",
            )
        if (data_dir / RESTORING).exists():
            raise StartupError(
                f"a restore into {data_dir} was cut off",
                hint="delete what is in it, and restore again",
            )
        yield lock
    finally:
        os.close(lock)


def _lock_soon(lock: int) -> str | None:
    """None: it is ours now. Else the pid of who holds it, and goes on to."""
    give_up = time.monotonic() + _DYING_S
    while holder := lock_or_holder(lock):
        if time.monotonic() >= give_up:
            return holder
        time.sleep(_LOOK_S)
    return None
