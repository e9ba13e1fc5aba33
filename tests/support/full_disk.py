"""A hub whose disk is full."""

from contextlib import suppress

from cmdop_appliance.errors import StorageFull
from cmdop_appliance.store import events
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.transaction import Tx
from tests.support.records import WORKSPACE


def append(tx: Tx, now_ms: int, size: int = 1) -> None:
    """Record an event that takes so many bytes, and a few."""
    events.append(
        tx, WORKSPACE, "machine.online", subject="mach", data={"x": "x" * size}, now_ms=now_ms
    )


async def fill(store: Store, now_ms: int) -> None:
    """Until nothing more fits on the disk."""
    await store.run(
        lambda tx: tx.execute(f"PRAGMA max_page_count = {tx.value('PRAGMA page_count') + 20}")
    )
    for size in (3000, 1):
        with suppress(StorageFull):
            while True:
                await store.run(append, now_ms, size)
