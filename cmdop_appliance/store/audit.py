"""The audit log: who changed what, and what was refused. It only grows.

How it works. Entries are numbered from 1 without a gap. The hash of an entry is

    sha256( "cmdop audit 1\\0" + hash of the entry before + the other columns )

where the columns stand in the order of the table as one JSON array without spaces (UTF-8, nothing
escaped that JSON does not escape; `details_json` is a string in it), and 32 zero bytes come before
the first entry. So whoever changes, swaps or takes out an entry has to make all the hashes after
it anew, and whoever knows the newest hash, the head, finds that out. Machines remember heads and
tell them (`testify`): what was cut off at the end is missing from what they tell.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import Any, Concatenate, Final, Literal, ParamSpec, Self, TypeVar

import msgspec
from msgspec import Struct

from cmdop_appliance.auth import Caller
from cmdop_appliance.model import (
    DEFAULT_WORKSPACE,
    Action,
    AuditEntry,
    Machine,
    Record,
    Witness,
)
from cmdop_appliance.protocol.messages import AuditHead
from cmdop_appliance.store.idempotency import Claim
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.transaction import Tx, reads, to_json

P = ParamSpec("P")
T = TypeVar("T")

Outcome = Literal["ok", "refused"]

START: Final = AuditHead(seq=0, hash=bytes(32))
CONTRADICTED: Final = "audit.contradicted"
ORDER: Final = {"created_at": "at_ms"}

_VERSION: Final = b"cmdop audit 1\0"
_HUB: Final = "hub"

_encode: Final = msgspec.json.Encoder().encode


class Entry(Struct, frozen=True, kw_only=True):
    """What is to be recorded. Never of a command's text, environment or input, nor any secret.

    `action` is a stable dotted word, `target` an id; `details` are ids, names and numbers.
    """

    at_ms: int
    workspace_id: str
    actor: str  # an email, a machine's id, or "hub"
    api_key_id: str | None = None
    action: Action
    target: str
    outcome: Outcome = "ok"
    details: dict[str, Any] = {}

    @classmethod
    def by(cls, caller: Caller, at_ms: int, action: Action, target: str, **details: object) -> Self:
        """What a caller does."""
        return cls(
            at_ms=at_ms,
            workspace_id=caller.workspace_id,
            actor=caller.email,
            api_key_id=caller.key_id,
            action=action,
            target=target,
            details=details,
        )

    @classmethod
    def by_hub(
        cls,
        at_ms: int,
        action: Action,
        target: str = "",
        *,
        workspace_id: str = DEFAULT_WORKSPACE,
        **details: object,
    ) -> Self:
        """What the hub does by itself."""
        return cls(
            at_ms=at_ms,
            workspace_id=workspace_id,
            actor=_HUB,
            action=action,
            target=target,
            details=details,
        )

    @classmethod
    def by_machine(
        cls, machine: Machine, at_ms: int, action: Action, target: str, **details: object
    ) -> Self:
        """What a machine does, or somebody who works there."""
        return cls(
            at_ms=at_ms,
            workspace_id=machine.workspace_id,
            actor=machine.id,
            action=action,
            target=target,
            details=details,
        )

    def refused(self) -> Self:
        """The same, as something that was not allowed."""
        return msgspec.structs.replace(self, outcome="refused")

    def recording(self, fn: Callable[Concatenate[Tx, P], T]) -> Callable[Concatenate[Tx, P], T]:
        """`fn`, and this entry in the same transaction: both are recorded, or neither.

        What `fn` finds to have been made by the same request before (a `Claim` of another id than
        `target`) is not recorded again.
        """

        @functools.wraps(fn)  # with its marks
        def both(tx: Tx, /, *args: P.args, **kwargs: P.kwargs) -> T:
            result = fn(tx, *args, **kwargs)
            if not isinstance(result, Claim) or result.made_id == self.target:
                append(tx, self)
            return result

        return both


class Walk(Struct, frozen=True):
    """How far the chain was followed: `head` is the last entry that is as it was recorded."""

    head: AuditHead
    entries: int
    contradictions: int  # of them, those that say that a machine remembers something else
    is_broken: bool  # what should come after `head` is missing or was changed
    is_over: bool  # nothing comes after `head`


def append(tx: Tx, entry: Entry) -> None:
    """Add an entry at the end."""
    before = head(tx)
    seq, details = before.seq + 1, to_json(entry.details)
    columns = {
        "seq": seq,
        "at_ms": entry.at_ms,
        "workspace_id": entry.workspace_id,
        "actor": entry.actor,
        "api_key_id": entry.api_key_id,
        "action": entry.action,
        "target": entry.target,
        "outcome": entry.outcome,
        "details": details,
    }
    tx.execute(
        "INSERT INTO audit (seq, at_ms, workspace_id, actor, api_key_id, action, target, outcome,"
        " details_json, hash) VALUES (:seq, :at_ms, :workspace_id, :actor, :api_key_id, :action,"
        " :target, :outcome, :details, :hash)",
        **columns,
        hash=_hash(before.hash, list(columns.values())),
    )


@reads
def head(tx: Tx) -> AuditHead:
    """The newest entry; `START` before the first."""
    newest = tx.one(_Head, "SELECT seq, hash FROM audit WHERE seq > 0 ORDER BY seq DESC LIMIT 1")
    return START if newest is None else AuditHead(seq=newest.seq, hash=newest.hash)


@reads
def holds(tx: Tx, remembered: AuditHead) -> bool:
    """True: the log has this entry, with this hash."""
    found: bytes | None = tx.value("SELECT hash FROM audit WHERE seq = :seq", seq=remembered.seq)
    return found == remembered.hash


@reads
def page(
    tx: Tx,
    workspace_id: str,
    paging: Paging,
    *,
    action: Action | None = None,
    actor: str | None = None,
    target: str | None = None,
    outcome: str | None = None,
    since_ms: int | None = None,
) -> Page[AuditEntry]:
    """The entries of a workspace."""
    return select_page(
        tx,
        AuditEntry,
        paging,
        columns="*",
        source="audit",
        within=("workspace_id = :workspace_id AND seq > 0", {"workspace_id": workspace_id}),
        filters={
            "action = :action": action,
            "actor = :actor": actor,
            "target = :target": target,
            "outcome = :outcome": outcome,
            "at_ms >= :since_ms": since_ms,
        },
        order=ORDER,
        key="seq",
    )


@reads
def walk(tx: Tx, last: AuditHead, most: int) -> Walk:
    """Follow the chain after the entry `last`, `most` entries at the most.

    After `START` comes whatever is in the table, also what was planted below the first entry.
    """
    entries = contradictions = 0
    after = "" if last == START else " WHERE seq > :last"
    try:
        for row in tx.each(
            _Row,
            "SELECT seq, at_ms, workspace_id, actor, api_key_id, action, target, outcome,"  # noqa: S608
            f" details_json AS details, hash FROM audit{after} ORDER BY seq LIMIT :most",
            last=last.seq,
            most=most,
        ):
            *columns, recorded = msgspec.structs.astuple(row)
            if row.seq != last.seq + 1 or _hash(last.hash, columns) != recorded:
                return Walk(last, entries, contradictions, is_broken=True, is_over=False)
            last = AuditHead(seq=row.seq, hash=row.hash)
            entries += 1
            contradictions += row.action == CONTRADICTED
    except (msgspec.ValidationError, UnicodeError):  # a column is not even what it should be
        return Walk(last, entries, contradictions, is_broken=True, is_over=False)
    return Walk(last, entries, contradictions, is_broken=False, is_over=entries < most)


@reads
def is_news(tx: Tx, machine_id: str, told: AuditHead) -> bool:
    """True: what a machine remembers contradicts the log, and it has not told so before."""
    is_known = tx.value(
        "SELECT 1 FROM audit_witness WHERE machine_id = :machine_id AND seq = :seq"
        " AND hash = :hash",
        machine_id=machine_id,
        seq=told.seq,
        hash=told.hash,
    )
    return not is_known and not holds(tx, told)


def testify(tx: Tx, machine_id: str, told: AuditHead, now_ms: int) -> None:
    """Keep what a machine remembers of the log, unless it has told of newer entries before."""
    tx.execute(
        "INSERT INTO audit_witness (machine_id, seq, hash, seen_ms)"
        " VALUES (:machine_id, :seq, :hash, :now_ms)"
        " ON CONFLICT (machine_id) DO UPDATE"
        " SET seq = excluded.seq, hash = excluded.hash, seen_ms = excluded.seen_ms"
        " WHERE excluded.seq >= audit_witness.seq",
        machine_id=machine_id,
        seq=told.seq,
        hash=told.hash,
        now_ms=now_ms,
    )


@reads
def witnesses(tx: Tx, workspace_id: str) -> list[Witness]:
    """What the machines of a workspace remember of the log; those that contradict it first."""
    return tx.all(
        Witness,
        "SELECT audit_witness.*,"
        " CASE WHEN audit.hash = audit_witness.hash THEN 1 ELSE 0 END AS is_agreeing"
        " FROM machine JOIN audit_witness ON audit_witness.machine_id = machine.id"
        " LEFT JOIN audit ON audit.seq = audit_witness.seq"
        " WHERE machine.workspace_id = :workspace_id AND machine.removed_ms IS NULL"
        " ORDER BY is_agreeing, audit_witness.machine_id",
        workspace_id=workspace_id,
    )


class _Head(Record, frozen=True, kw_only=True):
    seq: int
    hash: bytes


class _Row(Record, frozen=True, kw_only=True):
    """An entry as it stands in the table, in its order."""

    seq: int
    at_ms: int
    workspace_id: str
    actor: str
    api_key_id: str | None
    action: str
    target: str
    outcome: str
    details: str
    hash: bytes


def _hash(before: bytes, columns: list[object]) -> bytes:
    return hashlib.sha256(_VERSION + before + _encode(columns)).digest()
