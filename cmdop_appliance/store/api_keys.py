"""API keys: hashes, rights and expiry."""

from cmdop_appliance.errors import Conflict, NotFound
from cmdop_appliance.model import ApiKey
from cmdop_appliance.store.idempotency import Claim, Once, claim
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.transaction import Tx, reads, to_json

_COLUMNS = "api_key.*, workspace.namespace AS namespace"
_SOURCE = "api_key JOIN workspace ON workspace.id = api_key.workspace_id"
ORDER = {"created_at": "api_key.created_ms", "name": "api_key.name"}


def insert(tx: Tx, key: ApiKey, key_hash: str, once: Once | None = None) -> Claim | None:
    """Record a new key; with `once`, who made it: this request, or the same one before."""
    made = None if once is None else claim(tx, once, key.id)
    if made is not None and made.made_id != key.id:
        return made
    tx.execute(
        "INSERT INTO api_key"
        " (id, workspace_id, name, key_hash, key_prefix, scopes_json, created_ms, expires_ms)"
        " VALUES (:id, :workspace_id, :name, :key_hash, :key_prefix, :scopes, :created_ms,"
        " :expires_ms)",
        id=key.id,
        workspace_id=key.workspace_id,
        name=key.name,
        key_hash=key_hash,
        key_prefix=key.key_prefix,
        scopes=to_json(key.scopes),
        created_ms=key.created_ms,
        expires_ms=key.expires_ms,
    )
    return made


@reads
def get(tx: Tx, workspace_id: str, key_id: str) -> ApiKey:
    """One key.

    Raises:
        NotFound: the workspace has no such key.
    """
    key = tx.one(
        ApiKey,
        "SELECT api_key.*, workspace.namespace AS namespace"
        " FROM api_key JOIN workspace ON workspace.id = api_key.workspace_id"
        " WHERE api_key.id = :id AND workspace_id = :workspace_id",
        id=key_id,
        workspace_id=workspace_id,
    )
    if key is None:
        raise NotFound("API key not found", key_id=key_id)
    return key


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


@reads
def page(tx: Tx, workspace_id: str, paging: Paging) -> Page[ApiKey]:
    """The keys of a workspace."""
    return select_page(
        tx,
        ApiKey,
        paging,
        columns=_COLUMNS,
        source=_SOURCE,
        filters={"api_key.workspace_id = :workspace_id": workspace_id},
        order=ORDER,
        key="api_key.id",
    )


@reads
def count(tx: Tx) -> int:
    """How many keys there are."""
    return int(tx.value("SELECT count(*) FROM api_key"))


def count_admins(tx: Tx) -> int:
    """How many keys hold the admin scope and never expire."""
    return int(
        tx.value(
            "SELECT count(*) FROM api_key"
            " WHERE scopes_json LIKE '%\"admin\"%' AND expires_ms IS NULL"
        )
    )


def delete(tx: Tx, workspace_id: str, key_id: str) -> None:
    """Revoke a key.

    Raises:
        NotFound: the workspace has no such key.
        Conflict: it is the last admin key that does not expire; nobody could make another.
    """
    gone = tx.execute(
        "DELETE FROM api_key WHERE id = :id AND workspace_id = :workspace_id",
        id=key_id,
        workspace_id=workspace_id,
    )
    if not gone:
        raise NotFound("API key not found", key_id=key_id)
    if not count_admins(tx):
        raise Conflict(
            "this is the last admin key that does not expire", hint="create another one first"
        )
