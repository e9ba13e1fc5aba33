"""The permissions that this process takes from new files."""

import os
import threading
from typing import Final

_LOCK: Final = threading.Lock()


def less_umask(mode: int) -> int:
    """The permissions of `mode`, less what this process takes from those of new files."""
    with _LOCK:  # it can only be read by setting it
        found = os.umask(0o077)
        os.umask(found)
    return mode & 0o777 & ~found
