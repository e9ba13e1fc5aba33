"""What takes time: pauses, locks, and work on disks here."""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import anyio
import anyio.to_thread
from anyio import Lock as Lock

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def sleep(seconds: float) -> None:
    """Let so much time pass."""
    await anyio.sleep(seconds)


async def on_disk(call: Callable[[*Ts], T], *args: *Ts) -> T:
    """What `call` gives, which may wait for a disk: a thread of its own makes it."""
    return await anyio.to_thread.run_sync(call, *args)
