"""Units of work on the table of settings, one by one and in batches."""

import threading

import trio

from cmdop_appliance.errors import NotFound
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.transaction import Tx, reads

BOUND = 20  # seconds; nothing here waits for it


def put(tx: Tx, name: str, value: str = "x") -> str:
    tx.execute("INSERT INTO setting (name, value) VALUES (:name, :value)", name=name, value=value)
    return name


def put_then_fail(tx: Tx, name: str) -> None:
    put(tx, name)
    raise NotFound("on purpose")


@reads
def names(tx: Tx) -> set[str]:
    return set(filter(None, (tx.value("SELECT group_concat(name) FROM setting") or "").split(",")))


def block(tx: Tx, inside: threading.Event, leave: threading.Event) -> None:
    """Hold the writer until the test lets go: what comes meanwhile is one batch."""
    put(tx, "blocker")
    inside.set()
    assert leave.wait(BOUND)


class Batch:
    """Units that reach the writer together."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._leave = threading.Event()
        self.outcomes: dict[str, object] = {}

    async def commit(self, **units) -> dict[str, object]:
        """What each unit returned, or the error it got."""
        inside = threading.Event()
        with trio.fail_after(BOUND):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._store.run, block, inside, self._leave)
                await trio.to_thread.run_sync(inside.wait)
                for name, unit in units.items():
                    nursery.start_soon(self._run, name, unit)
                while len(self._store._waiting) < len(units):  # noqa: ASYNC110 - has no event
                    await trio.sleep(0.005)
                self._leave.set()
        return self.outcomes

    async def _run(self, name: str, unit) -> None:
        try:
            self.outcomes[name] = await self._store.run(unit)
        except Exception as exc:  # noqa: BLE001 - that is what the test looks at
            self.outcomes[name] = exc
