"""Files that are ours alone: replaced whole and for good, and a lock that names its holder."""

import contextlib
import fcntl
import os
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Replace a file whole, 0600 whatever the umask; once this returns, the disk holds it."""
    fresh = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        os.fchmod(handle, 0o600)
        file.write(text)
        file.flush()
        os.fsync(handle)
    fresh.rename(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Wait until the disk holds the names in this directory, as after a rename."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock_or_holder(handle: int) -> str | None:
    """None: the open file is locked for this process until it closes it. Else: who holds it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return None
