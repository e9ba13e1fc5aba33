"""The audit log while the hub runs: what may come too often, what machines remember, the proof."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from cmdop_appliance.clock import Clock
from cmdop_appliance.errors import StorageFull, Unavailable
from cmdop_appliance.model import Machine, Witness
from cmdop_appliance.protocol.messages import AuditHead
from cmdop_appliance.store import audit as rows
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.transaction import Tx

# What one key or machine can have recorded of one kind without being trusted: some 300 bytes each,
# 25 MB a day …
_ENTRIES: Final = 60
_WINDOW_MS: Final = 60_000
# … and those of whom nothing needs to be remembered any more are forgotten beyond so many.
_REMEMBERED: Final = 1000
# Entries that are proved in one go, some 5 ms of a thread: between them others have their turn.
_PIECE: Final = 1000

# Who causes an entry and is nobody that the hub knows: all of them share one bound.
STRANGERS: Final = "strangers"

_log = logging.getLogger("cmdop.hub.audit")


@dataclass(frozen=True, slots=True)
class Proof:
    """What the log proves of itself, and what the machines remember of it."""

    entries: int  # that are as they were recorded, from the first
    head: AuditHead  # the last of them
    first_bad: int | None  # the entry after them, if it is missing or was changed
    contradictions: int  # entries that tell of a machine which remembers something else
    witnesses: list[Witness]


@dataclass(slots=True)
class _Window:
    since_ms: int
    entries: int = 0
    left_out: int = 0

    def is_open(self, now_ms: int) -> bool:
        # Not before, either: the clock may have been set back.
        return self.since_ms <= now_ms < self.since_ms + _WINDOW_MS


@dataclass(frozen=True, slots=True)
class _Walked:
    number: int  # of the walk, since the start
    entries: int
    head: AuditHead
    is_broken: bool
    contradictions: int


class Audit:
    """Records what anybody could have recorded without end, and proves the log."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._windows: dict[tuple[str, str], _Window] = {}
        self._guard = threading.Lock()  # the store's writer counts here, too
        self._proving = trio.Lock()
        self._walks = 0  # that have begun
        self._walked: _Walked | None = None  # by the last that came to its end

    def bounded(self, who: str, entry: Entry) -> Entry | None:
        """The entry, unless `who` has had 60 of its kind within a minute.

        The next one tells how many were left out. `who` is the id of an API key or a machine, or
        `STRANGERS`; the kind is the first word of the action.
        """
        kind, _, _ = entry.action.partition(".")
        with self._guard:
            window = self._windows.get((who, kind))
            if window is None or not window.is_open(entry.at_ms):
                left_out = 0 if window is None else window.left_out
                if len(self._windows) >= _REMEMBERED:
                    self._forget(entry.at_ms)
                window = self._windows[who, kind] = _Window(entry.at_ms, left_out=left_out)
            if window.entries >= _ENTRIES:
                window.left_out += 1
                return None
            window.entries += 1
            left_out, window.left_out = window.left_out, 0
        if not left_out:
            return entry
        return msgspec.structs.replace(entry, details={**entry.details, "left_out": left_out})

    def append(self, tx: Tx, who: str, entry: Entry) -> None:
        """Record the entry in this transaction, as far as it is `bounded`."""
        bounded = self.bounded(who, entry)
        if bounded is not None:
            rows.append(tx, bounded)

    async def record_refusal(self, who: str, entry: Entry) -> None:
        """Record it `bounded`; a store that cannot record it does not change what was refused."""
        bounded = self.bounded(who, entry)
        if bounded is None:
            return
        try:
            await self._store.run(rows.append, bounded)
        except (StorageFull, Unavailable) as exc:
            _log.warning("refusal not recorded", extra={"action": entry.action, "why": exc.message})

    async def hear(self, machine: Machine, told: AuditHead) -> None:
        """Hold what a machine remembers against the log; record it if they contradict each other.

        Then entries were cut off or rewritten, the hub was restored from a backup, or the machine
        lies: whoever reads the entry decides.
        """
        now_ms = self._clock.now_ms()
        testify: Callable[[Tx, str, AuditHead, int], None] = rows.testify
        if await self._store.run(rows.is_news, machine.id, told):
            entry = self.bounded(
                machine.id,
                Entry.by_hub(
                    now_ms,
                    rows.CONTRADICTED,
                    machine.id,
                    workspace_id=machine.workspace_id,
                    seq=told.seq,
                    hash=told.hash.hex(),
                ),
            )
            if entry is None:
                return  # it stays news: the machine says it again when it comes back
            testify = entry.recording(testify)
            _log.critical(
                "a machine contradicts the audit log: it was cut or changed",
                extra={"machine_id": machine.id, "seq": told.seq, "hash": told.hash.hex()},
            )
        await self._store.run(testify, machine.id, told, now_ms)

    async def prove(self, workspace_id: str) -> Proof:
        """Walk the whole log, and hear what machines of this workspace remember.

        Whoever asks during a walk shares the next one with all others who do.
        """
        walked = await self._walk_after(self._walks)
        return Proof(
            entries=walked.entries,
            head=walked.head,
            first_bad=walked.head.seq + 1 if walked.is_broken else None,
            contradictions=walked.contradictions,
            witnesses=await self._store.run(rows.witnesses, workspace_id),
        )

    async def _walk_after(self, number: int) -> _Walked:
        """What a walk found that began later than walk `number`."""
        async with self._proving:
            if self._walked is None or self._walked.number <= number:
                self._walks += 1
                self._walked = await self._walk(self._walks)
            return self._walked

    async def _walk(self, number: int) -> _Walked:
        last, entries, contradictions = rows.START, 0, 0
        while True:
            walk = await self._store.run(rows.walk, last, _PIECE)
            last, entries = walk.head, entries + walk.entries
            contradictions += walk.contradictions
            if walk.is_broken or walk.is_over:
                return _Walked(number, entries, last, walk.is_broken, contradictions)

    def _forget(self, now_ms: int) -> None:
        self._windows = {
            key: window
            for key, window in self._windows.items()
            if window.is_open(now_ms) or window.left_out
        }
