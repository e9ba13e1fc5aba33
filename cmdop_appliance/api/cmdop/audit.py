"""/audit: who changed what, what was refused, and the proof that nothing of it was changed."""

from typing import Any, ClassVar, Literal

from msgspec import Struct

from cmdop_appliance.api.exchange import Call, Listed, Paged, read_paging
from cmdop_appliance.api.fields import LogHead, Time, since_ms, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Caller, Scope
from cmdop_appliance.errors import Forbidden
from cmdop_appliance.model import Action
from cmdop_appliance.protocol.messages import AuditHead
from cmdop_appliance.store import audit as rows


class AuditList(Paged, frozen=True):
    """Filters of the audit log."""

    ORDER: ClassVar = rows.ORDER

    action: Action | None = None
    actor: str | None = None
    target: str | None = None
    outcome: Literal["ok", "refused"] | None = None
    since: Time | None = None


class AuditView(Struct, frozen=True, kw_only=True):
    """An entry. `seq` counts those of the whole hub, `hash` (hexadecimal) covers all up to it."""

    seq: int
    at: Time | None
    actor: str  # an email, a machine's id, or "hub"
    api_key_id: str | None  # by which the actor came: keys may share a name
    action: str
    target: str
    outcome: Literal["ok", "refused"]
    details: dict[str, Any]
    hash: str


class AuditProofQuery(Struct, frozen=True):
    """A head that somebody wrote down: the log must still have this entry."""

    head: LogHead | None = None


class AuditHeadView(Struct, frozen=True):
    """How far the log is."""

    seq: int
    hash: str


class WitnessView(Struct, frozen=True, kw_only=True):
    """The newest entry that a machine remembers, and whether the log still has it."""

    machine_id: str
    seq: int
    agrees: bool
    seen_at: Time | None


class AuditProof(Struct, frozen=True, kw_only=True):
    """`ok`: every entry is as it was recorded, and nobody remembers another one."""

    ok: bool
    entries: int  # from the first, as they were recorded
    head: AuditHeadView  # the last of them
    first_bad: int | None  # the next one, if it is missing or was changed
    given_agrees: bool | None  # the log has the head that was asked for
    contradictions: int  # entries that tell of a machine which remembered something else
    witnesses: list[WitnessView]  # machines of the workspace


@route(
    "GET",
    "/audit",
    scope=Scope.ADMIN,
    query=AuditList,
    answer=list[AuditView],
    errors=(Forbidden,),
)
async def list_audit(call: Call[None, AuditList]) -> Listed:
    """What was done in the workspace, newest first."""
    _require_whole_reach(call.caller)
    page = await call.hub.store.run(
        rows.page,
        call.caller.workspace_id,
        read_paging(call.query),
        action=call.query.action,
        actor=call.query.actor,
        target=call.query.target,
        outcome=call.query.outcome,
        since_ms=since_ms(call.query.since),
    )
    views = [
        AuditView(
            seq=entry.seq,
            at=when(entry.at_ms),
            actor=entry.actor,
            api_key_id=entry.api_key_id,
            action=entry.action,
            target=entry.target,
            outcome=entry.outcome,
            details=entry.details,
            hash=entry.hash.hex(),
        )
        for entry in page.items
    ]
    return Listed(views, page)


@route(
    "GET",
    "/audit/verify",
    scope=Scope.ADMIN,
    query=AuditProofQuery,
    answer=AuditProof,
    errors=(Forbidden,),
)
async def verify_audit(call: Call[None, AuditProofQuery]) -> AuditProof:
    """Walk the log of the whole hub, and hold it against what machines remember."""
    _require_whole_reach(call.caller)
    given_agrees = None
    if call.query.head is not None:
        seq, _, digest = call.query.head.partition(":")
        given = AuditHead(seq=int(seq), hash=bytes.fromhex(digest))
        given_agrees = await call.hub.store.run(rows.holds, given)
    proof = await call.hub.audit.prove(call.caller.workspace_id)
    return AuditProof(
        ok=proof.first_bad is None
        and given_agrees is not False
        and all(witness.is_agreeing for witness in proof.witnesses),
        entries=proof.entries,
        head=AuditHeadView(proof.head.seq, proof.head.hash.hex()),
        first_bad=proof.first_bad,
        given_agrees=given_agrees,
        contradictions=proof.contradictions,
        witnesses=[
            WitnessView(
                machine_id=witness.machine_id,
                seq=witness.seq,
                agrees=witness.is_agreeing,
                seen_at=when(witness.seen_ms),
            )
            for witness in proof.witnesses
        ],
    )


def _require_whole_reach(caller: Caller) -> None:
    """The log tells of every machine: not for a key that may know of some only."""
    if caller.tags:
        raise Forbidden(
            f"this key is restricted to machines with {', '.join(caller.tags)};"
            " the audit log tells of all"
        )
