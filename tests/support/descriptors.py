"""The descriptors of this process: how many are open, and none left."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def open_descriptors() -> int:
    """How many this process has open now."""
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def no_free_descriptor() -> Iterator[None]:
    """Within, this process can open nothing: EMFILE."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
