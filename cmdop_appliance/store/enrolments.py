"""Enrolment tokens: who may join, how often and until when."""

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import NotFound
from cmdop_appliance.model import Enrolment
from cmdop_appliance.store.idempotency import Claim, Once, claim
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.reach import carrying
from cmdop_appliance.store.transaction import Tx, reads, to_json

ORDER = {"created_at": "created_ms", "expires_at": "expires_ms"}


def insert(
    tx: Tx, enrolment: Enrolment, secret_hash: str, once: Once | None = None
) -> Claim | None:
    """Record a new token; with `once`, who made it: this request, or the same one before."""
    made = None if once is None else claim(tx, once, enrolment.id)
    if made is not None and made.made_id != enrolment.id:
        return made
    tx.execute(
        "INSERT INTO enrolment"
        " (id, workspace_id, secret_hash, tags_json, max_uses, uses, created_ms, expires_ms)"
        " VALUES (:id, :workspace_id, :secret_hash, :tags, :max_uses, :uses, :created_ms,"
        " :expires_ms)",
        id=enrolment.id,
        workspace_id=enrolment.workspace_id,
        secret_hash=secret_hash,
        tags=to_json(enrolment.tags),
        max_uses=enrolment.max_uses,
        uses=enrolment.uses,
        created_ms=enrolment.created_ms,
        expires_ms=enrolment.expires_ms,
    )
    return made


@reads
def get(tx: Tx, reach: Reach, enrolment_id: str) -> Enrolment:
    """One token.

    Raises:
        NotFound: there is no such token in reach.
    """
    enrolment = tx.one(Enrolment, "SELECT * FROM enrolment WHERE id = :id", id=enrolment_id)
    if enrolment is None or not reach.covers(enrolment.workspace_id, enrolment.tags):
        raise NotFound("enrolment token not found", enrolment_id=enrolment_id)
    return enrolment


def use(tx: Tx, secret_hash: str, now_ms: int) -> Enrolment | None:
    """Take one use of a token; None: unknown, expired or used up."""
    return tx.one(
        Enrolment,
        "UPDATE enrolment SET uses = uses + 1"
        " WHERE secret_hash = :secret_hash AND uses < max_uses AND expires_ms > :now_ms"
        " RETURNING *",
        secret_hash=secret_hash,
        now_ms=now_ms,
    )


@reads
def page(tx: Tx, reach: Reach, paging: Paging) -> Page[Enrolment]:
    """The tokens in reach, used and expired ones included."""
    return select_page(
        tx,
        Enrolment,
        paging,
        columns="*",
        source="enrolment",
        within=carrying(reach, "enrolment"),
        filters={},
        order=ORDER,
    )


def delete(tx: Tx, reach: Reach, enrolment_id: str) -> None:
    """Revoke a token; machines that joined with it stay.

    Raises:
        NotFound: there is no such token in reach.
    """
    get(tx, reach, enrolment_id)
    tx.execute("DELETE FROM enrolment WHERE id = :id", id=enrolment_id)
