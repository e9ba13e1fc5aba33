"""What takes time: pauses, locks, and work on disks here."""

import time
from collections.abc import Callable
from threading import Lock as Lock
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def sleep(seconds: float) -> None:
    """Let so much time pass."""
    time.sleep(seconds)


def on_disk(call: Callable[[*Ts], T], *args: *Ts) -> T:
    """What `call` gives, which may wait for a disk."""
    return call(*args)
