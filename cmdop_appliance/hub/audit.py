"""The audit log while the hub runs: what may come too often, what machines remember, the proof."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from cmdop_appliance.auth import Caller
from cmdop_appliance.clock import Clock
from cmdop_appliance.errors import StorageFull, Unavailable
from cmdop_appliance.model import Machine, Witness
from cmdop_appliance.protocol.messages import AuditHead
from cmdop_appliance.store import audit as rows
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.transaction import Tx

# What one key or machine can have recorded by being refused, whatever it does: 25 MB a day …
_ENTRIES: Final = 60
_WINDOW_S: Final = 60.0
# … and those of whom nothing needs to be remembered any more are forgotten beyond so many.
_REMEMBERED: Final = 1000
# Entries that are proved in one go, some 5 ms of a thread: between them others have their turn.
_PIECE: Final = 1000

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
    until: float  # Trio time
    entries: int = 0
    left_out: int = 0


class Audit:
    """Records what anybody could have recorded without end, and proves the log."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._windows: dict[str, _Window] = {}
        self._proving = trio.Lock()

    def bounded(self, who: str, entry: Entry) -> Entry | None:
        """The entry, unless `who` has had 60 within a minute; the next one tells what was left out.

        `who` is the id of an API key or a machine.
        """
        now = trio.current_time()
        window = self._windows.get(who)
        if window is None or window.until <= now:
            left_out = 0 if window is None else window.left_out
            if len(self._windows) >= _REMEMBERED:
                self._forget(now)
            window = self._windows[who] = _Window(now + _WINDOW_S, left_out=left_out)
        if window.entries >= _ENTRIES:
            window.left_out += 1
            return None
        window.entries += 1
        if window.left_out:
            details = {**entry.details, "left_out": window.left_out}
            entry, window.left_out = msgspec.structs.replace(entry, details=details), 0
        return entry

    async def record_refusal(self, caller: Caller, route: str, target: str, why: str) -> None:
        """Record that a caller was refused; a store that cannot record it does not change that."""
        now_ms = self._clock.now_ms()
        entry = self.bounded(
            caller.key_id,
            Entry.by(caller, now_ms, "call.refused", target, route=route, why=why).refused(),
        )
        if entry is None:
            return
        try:
            await self._store.run(rows.append, entry)
        except (StorageFull, Unavailable) as exc:
            _log.warning("refusal not recorded", extra={"route": route, "why": exc.message})

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
            if entry is not None:
                testify = entry.recording(testify)
                _log.critical(
                    "a machine contradicts the audit log: it was cut or changed",
                    extra={"machine_id": machine.id, "seq": told.seq, "hash": told.hash.hex()},
                )
        await self._store.run(testify, machine.id, told, now_ms)

    async def prove(self, workspace_id: str) -> Proof:
        """Walk the whole log, piece by piece; with what machines of this workspace remember."""
        last, entries, contradictions = rows.START, 0, 0
        async with self._proving:
            while True:
                walk = await self._store.run(rows.walk, last, _PIECE)
                last, entries = walk.head, entries + walk.entries
                contradictions += walk.contradictions
                if walk.is_broken or walk.is_over:
                    break
        return Proof(
            entries=entries,
            head=last,
            first_bad=last.seq + 1 if walk.is_broken else None,
            contradictions=contradictions,
            witnesses=await self._store.run(rows.witnesses, workspace_id),
        )

    def _forget(self, now: float) -> None:
        self._windows = {
            who: window
            for who, window in self._windows.items()
            if window.until > now or window.left_out
        }
