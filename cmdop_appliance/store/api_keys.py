"""API keys: hashes, rights and expiry."""

from collections.abc import Iterable
from dataclasses import dataclass

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import Conflict, NotFound
from cmdop_appliance.model import ApiKey
from cmdop_appliance.store.idempotency import Claim, Once, claim
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.reach import carrying
from cmdop_appliance.store.transaction import Tx, brief, reads, to_json

_COLUMNS = "api_key.*, workspace.namespace AS namespace"
_SOURCE = "api_key JOIN workspace ON workspace.id = api_key.workspace_id"
_FULL_ADMIN = "scopes_json LIKE '%\"admin\"%' AND tags_json = '[]'"
ORDER = {"created_at": "api_key.created_ms", "name": "api_key.name"}


@dataclass(frozen=True, slots=True)
class Use:
    """When a key or a sign-in was used, and from where."""

    id: str
    at_ms: int
    address: str | None  # None: as before


def subject_of(key_id: str) -> str:
    """What is notified when a key is good no more."""
    return f"api_key.{key_id}"


def insert(tx: Tx, key: ApiKey, key_hash: str, once: Once | None = None) -> Claim | None:
    """Record a new key; with `once`, who made it: this request, or the same one before."""
    made = None if once is None else claim(tx, once, key.id)
    if made is not None and made.made_id != key.id:
        return made
    tx.execute(
        "INSERT INTO api_key"
        " (id, workspace_id, name, key_hash, key_prefix, scopes_json, tags_json, created_ms,"
        " expires_ms)"
        " VALUES (:id, :workspace_id, :name, :key_hash, :key_prefix, :scopes, :tags, :created_ms,"
        " :expires_ms)",
        id=key.id,
        workspace_id=key.workspace_id,
        name=key.name,
        key_hash=key_hash,
        key_prefix=key.key_prefix,
        scopes=to_json(key.scopes),
        tags=to_json(key.tags),
        created_ms=key.created_ms,
        expires_ms=key.expires_ms,
    )
    return made


@brief
@reads
def get(tx: Tx, reach: Reach, key_id: str) -> ApiKey:
    """One key.

    Raises:
        NotFound: there is no such key in reach.
    """
    key = by_id(tx, key_id)
    if key is None or not reach.covers(key.workspace_id, key.tags):
        raise NotFound("API key not found", key_id=key_id)
    return key


@brief
@reads
def by_id(tx: Tx, key_id: str) -> ApiKey | None:
    """The key with this id, whosever it is."""
    return tx.one(
        ApiKey,
        "SELECT api_key.*, workspace.namespace AS namespace"
        " FROM api_key JOIN workspace ON workspace.id = api_key.workspace_id"
        " WHERE api_key.id = :id",
        id=key_id,
    )


@brief
@reads
def by_hash(tx: Tx, key_hash: str, now_ms: int) -> ApiKey | None:
    """The key with this hash, unless it has expired."""
    return tx.one(
        ApiKey,
        "SELECT api_key.*, workspace.namespace AS namespace"
        " FROM api_key JOIN workspace ON workspace.id = api_key.workspace_id"
        " WHERE key_hash = :key_hash AND (expires_ms IS NULL OR expires_ms > :now_ms)",
        key_hash=key_hash,
        now_ms=now_ms,
    )


@brief
@reads
def is_good(tx: Tx, key_id: str, now_ms: int) -> bool:
    """True: there is a key with this id, and it has not expired."""
    found = tx.value(
        "SELECT 1 FROM api_key WHERE id = :id AND (expires_ms IS NULL OR expires_ms > :now_ms)",
        id=key_id,
        now_ms=now_ms,
    )
    return found is not None


@reads
def oldest_admin(tx: Tx, workspace_id: str, now_ms: int) -> ApiKey | None:
    """The first of a workspace's admin keys that reaches every machine and has not expired."""
    return tx.one(
        ApiKey,
        f"SELECT {_COLUMNS} FROM {_SOURCE}"  # noqa: S608 - literals of our own
        f" WHERE api_key.workspace_id = :workspace_id AND {_FULL_ADMIN}"
        " AND (expires_ms IS NULL OR expires_ms > :now_ms)"
        " ORDER BY api_key.created_ms, api_key.id LIMIT 1",
        workspace_id=workspace_id,
        now_ms=now_ms,
    )


@reads
def page(tx: Tx, reach: Reach, paging: Paging) -> Page[ApiKey]:
    """The keys in reach."""
    return select_page(
        tx,
        ApiKey,
        paging,
        columns=_COLUMNS,
        source=_SOURCE,
        within=carrying(reach, "api_key"),
        filters={},
        order=ORDER,
        key="api_key.id",
    )


@reads
def count(tx: Tx) -> int:
    """How many keys there are."""
    return int(tx.value("SELECT count(*) FROM api_key"))


def note_uses(tx: Tx, uses: Iterable[Use]) -> None:
    """Record when keys were used last."""
    for use in uses:
        tx.execute(
            "UPDATE api_key SET last_used_ms = :at_ms,"
            " last_used_ip = COALESCE(:address, last_used_ip) WHERE id = :id",
            at_ms=use.at_ms,
            address=use.address,
            id=use.id,
        )


def delete(tx: Tx, reach: Reach, key_id: str) -> None:
    """Revoke a key.

    Raises:
        NotFound: there is no such key in reach.
        Conflict: it is the workspace's last admin key without expiry and tags; nobody could make
            another.
    """
    key = get(tx, reach, key_id)
    tx.execute("DELETE FROM api_key WHERE id = :id", id=key_id)
    if not _has_lasting_admin(tx, key.workspace_id):
        raise Conflict(
            "this is the last admin key that does not expire and reaches every machine",
            hint="create another one first",
        )
    tx.notify(subject_of(key_id))


def _has_lasting_admin(tx: Tx, workspace_id: str) -> bool:
    return bool(
        tx.value(
            "SELECT count(*) FROM api_key WHERE workspace_id = :workspace_id"  # noqa: S608
            f" AND {_FULL_ADMIN} AND expires_ms IS NULL",
            workspace_id=workspace_id,
        )
    )
