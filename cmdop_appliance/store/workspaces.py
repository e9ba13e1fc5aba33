"""Workspaces: made with their first key, and never without one."""

from cmdop_appliance.errors import Conflict
from cmdop_appliance.model import ApiKey, Workspace
from cmdop_appliance.store import api_keys
from cmdop_appliance.store.idempotency import Claim, Once, claim
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.transaction import Tx, reads

ORDER = {"created_at": "created_ms", "namespace": "namespace"}


def insert(tx: Tx, key: ApiKey, key_hash: str, once: Once | None = None) -> Claim | None:
    """Record the workspace that `key` names, and the key; with `once`, who made the key.

    Raises:
        Conflict: the namespace is taken.
    """
    made = None if once is None else claim(tx, once, key.id)
    if made is not None and made.made_id != key.id:
        return made
    inserted = tx.execute(
        "INSERT INTO workspace (id, namespace, created_ms) VALUES (:id, :namespace, :created_ms)"
        " ON CONFLICT (namespace) DO NOTHING",
        id=key.workspace_id,
        namespace=key.namespace,
        created_ms=key.created_ms,
    )
    if not inserted:
        raise Conflict("there is a workspace of this namespace", namespace=key.namespace)
    api_keys.insert(tx, key, key_hash)
    return made


def set_created(tx: Tx, now_ms: int) -> None:
    """Date the workspace that came with the schema, if it is not: as its first key, or now."""
    tx.execute(
        "UPDATE workspace SET created_ms = COALESCE((SELECT MIN(created_ms) FROM api_key"
        " WHERE api_key.workspace_id = workspace.id), :now_ms) WHERE created_ms = 0",
        now_ms=now_ms,
    )


@reads
def page(tx: Tx, paging: Paging) -> Page[Workspace]:
    """All workspaces."""
    return select_page(
        tx,
        Workspace,
        paging,
        columns="id, namespace, created_ms",
        source="workspace",
        within=("TRUE", {}),
        filters={},
        order=ORDER,
    )
