"""Records that callers ask of a store, a ledger of them kept beside it, and what became of each."""

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import trio

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import StartupError, StorageFull, Unavailable
from cmdop_appliance.model import DEFAULT_WORKSPACE
from cmdop_appliance.selftest.ledger import BrokenPromiseError
from cmdop_appliance.store import audit, events, idempotency, integrity
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.engine import Store, open_store
from cmdop_appliance.store.idempotency import Once
from cmdop_appliance.store.transaction import Tx, brief

BOUND_S: Final = 60.0
_CALLERS: Final = (1, 8)  # at a time
_TEXT_BYTES: Final = (0, 3000)  # of a record: some of them fill pages
_MOST: Final = 150  # of one store: then it is done with

_Record = Callable[[Tx, str, str], None]


def _record(tx: Tx, key: str, text: str) -> None:
    """In three tables at once; of one of them what was there before is dropped now and then."""
    now_ms = len(key)
    audit.append(tx, Entry.by_hub(now_ms, "hub.started", key))
    events.append(
        tx, DEFAULT_WORKSPACE, "machine.online", subject=key, data={"text": text}, now_ms=now_ms
    )
    idempotency.claim(tx, Once("selftest", key, text.encode(), b"", now_ms, ""), key)
    if key.endswith("0"):
        idempotency.forget(tx, now_ms + 2 * idempotency.KEPT_MS)


@brief
def _record_briefly(tx: Tx, key: str, text: str) -> None:
    """The same by way of the event loop, while the disk is quick."""
    _record(tx, key, text)


class Records:
    """Those of one store, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._asked: dict[str, str] = {}  # text of a record by its key
        self._acknowledged: set[str] = set()
        self._refused: set[str] = set()  # the store said that nothing was recorded
        self.acknowledged = 0  # of all stores that were here

    def make_ready(self) -> None:
        """Empty the folder for a new store, if the one in it has many records, or none is there."""
        if len(self._asked) <= _MOST and self.folder.exists():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for known in (self._asked, self._acknowledged, self._refused):
            known.clear()

    async def ask(self, store: Store, dice: Random) -> None:
        """Let some callers ask for more and more, until each was refused."""
        record = dice.choice((_record, _record_briefly))
        async with trio.open_nursery() as callers:
            for _ in range(dice.randint(*_CALLERS)):
                callers.start_soon(self._call, store, record, dice)

    async def ask_one(self, store: Store, dice: Random) -> None:
        """Ask for one more.

        Raises:
            StorageFull, Unavailable: it was refused; with the second, it may be there or not.
        """
        await self._ask(store, _record, dice)

    async def judge(self) -> None:
        """Look at a copy, so that the store itself stays as it is.

        Raises:
            BrokenPromiseError: an acknowledged record is lost, a refused one is there, or what is
                there is not whole.
        """
        copy = shutil.copytree(self.folder, self.folder.with_name("look"))
        try:
            with trio.fail_after(BOUND_S):
                async with open_store(copy, inline=True) as store:
                    faults = await store.run(integrity.faults)
                    kept = await store.run(
                        events.after, Reach(DEFAULT_WORKSPACE), 0, len(self._asked)
                    )
                    chain = await store.run(audit.walk, audit.START, len(self._asked) + 1)
        except (StartupError, Unavailable) as exc:
            raise BrokenPromiseError(f"the database cannot be read: {exc.message}") from exc
        finally:
            shutil.rmtree(copy)
        texts = {event.subject: event.data["text"] for event in kept}
        if faults:
            raise BrokenPromiseError(f"the database is damaged: {faults}")
        if lost := self._acknowledged - texts.keys():
            raise BrokenPromiseError(f"{len(lost)} acknowledged records are lost: {sorted(lost)}")
        if found := self._refused & texts.keys():
            raise BrokenPromiseError(f"{len(found)} refused records are there: {sorted(found)}")
        if len(kept) != len(texts) or texts.items() - self._asked.items():
            raise BrokenPromiseError("a record is there twice, or is not what was asked for")
        if chain.is_broken or chain.entries != len(kept):
            raise BrokenPromiseError(f"{len(kept)} records, {chain.entries} in the audit log")

    async def _call(self, store: Store, record: _Record, dice: Random) -> None:
        while True:
            try:
                await self._ask(store, record, dice)
            except (StorageFull, Unavailable):
                return

    async def _ask(self, store: Store, record: _Record, dice: Random) -> None:
        key, text = f"record {len(self._asked)}", "x" * dice.randint(*_TEXT_BYTES)
        self._asked[key] = text
        try:
            await store.run(record, key, text)
        except StorageFull:
            self._refused.add(key)
            raise
        self._acknowledged.add(key)
        self.acknowledged += 1
