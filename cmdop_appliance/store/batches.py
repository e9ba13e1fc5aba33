"""Batches: which commands are held, how many may be open, what is left."""

from cmdop_appliance.errors import BatchNotFound
from cmdop_appliance.model import Batch, Command, Record
from cmdop_appliance.store.commands import COLUMNS
from cmdop_appliance.store.transaction import Tx, reads, to_json


class Progress(Record, frozen=True, kw_only=True):
    """How many commands of a batch are where."""

    held: int
    under_way: int
    completed: int
    failed: int  # ended in any other way


def insert(tx: Tx, batch: Batch) -> None:
    """Record a new batch; its commands name it."""
    tx.execute(
        "INSERT INTO batch"
        " (id, workspace_id, concurrency, canary, max_errors, refused_json, created_ms)"
        " VALUES (:id, :workspace_id, :concurrency, :canary, :max_errors, :refused, :created_ms)",
        id=batch.id,
        workspace_id=batch.workspace_id,
        concurrency=batch.concurrency,
        canary=batch.canary,
        max_errors=batch.max_errors,
        refused=to_json(batch.refused),
        created_ms=batch.created_ms,
    )


@reads
def get(tx: Tx, workspace_id: str, batch_id: str) -> Batch:
    """One batch.

    Raises:
        BatchNotFound: the workspace has no such batch.
    """
    batch = tx.one(
        Batch,
        "SELECT * FROM batch WHERE id = :id AND workspace_id = :workspace_id",
        id=batch_id,
        workspace_id=workspace_id,
    )
    if batch is None:
        raise BatchNotFound("Batch not found", batch_id=batch_id)
    return batch


@reads
def commands_of(tx: Tx, batch_id: str) -> list[Command]:
    """All commands of a batch, in the order in which they are to start."""
    return tx.all(
        Command,
        f"SELECT {COLUMNS} FROM command WHERE batch_id = :batch_id ORDER BY id",  # noqa: S608
        batch_id=batch_id,
    )


def resume(tx: Tx, batch_id: str, by: str) -> bool:
    """Record which batch runs the rest of this one. False: another does already."""
    return bool(
        tx.execute(
            "UPDATE batch SET resumed_by = :by WHERE id = :id AND resumed_by IS NULL",
            id=batch_id,
            by=by,
        )
    )


def progress(tx: Tx, batch_id: str) -> Progress:
    """How far a batch is."""
    found = tx.one(
        Progress,
        "SELECT COALESCE(SUM(is_held), 0) AS held,"
        " COUNT(CASE WHEN status IN ('pending', 'running') AND is_held = 0 THEN 1 END)"
        " AS under_way,"
        " COUNT(CASE WHEN status = 'completed' THEN 1 END) AS completed,"
        " COUNT(CASE WHEN status NOT IN ('pending', 'running', 'completed', 'skipped') THEN 1 END)"
        " AS failed"
        " FROM command WHERE batch_id = :batch_id",
        batch_id=batch_id,
    )
    assert found is not None  # an aggregate has one row
    return found


def held(tx: Tx, batch_id: str, limit: int) -> list[Command]:
    """The commands whose turn is next."""
    return tx.all(
        Command,
        "SELECT * FROM command WHERE batch_id = :batch_id AND is_held = 1 ORDER BY id LIMIT :limit",
        batch_id=batch_id,
        limit=limit,
    )
