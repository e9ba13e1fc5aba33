"""Batches: which commands are held, how many may be open, what is left."""

import msgspec

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import BatchNotFound, MachineNotFound
from cmdop_appliance.model import Batch, Command, Record
from cmdop_appliance.store.commands import COLUMNS
from cmdop_appliance.store.reach import within
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
def get(tx: Tx, reach: Reach, batch_id: str) -> Batch:
    """One batch; of what it refused, only what is about machines in reach, or about none.

    Raises:
        BatchNotFound: the workspace has no such batch, or no command of it is in reach.
    """
    batch = tx.one(
        Batch,
        "SELECT * FROM batch WHERE id = :id AND workspace_id = :workspace_id",
        id=batch_id,
        workspace_id=reach.workspace_id,
    )
    if batch is None or (reach.tags and not commands_of(tx, reach, batch_id)):
        raise BatchNotFound("Batch not found", batch_id=batch_id)
    if not reach.tags:
        return batch
    refused = {
        machine_id: refusal
        for machine_id, refusal in batch.refused.items()
        if refusal.code == MachineNotFound.code or _is_known(tx, reach, machine_id)
    }
    return msgspec.structs.replace(batch, refused=refused)


@reads
def commands_of(tx: Tx, reach: Reach, batch_id: str) -> list[Command]:
    """The commands of a batch, in the order in which they are to start."""
    is_within, values = within(reach, "command")
    return tx.all(
        Command,
        f"SELECT {COLUMNS} FROM command"  # noqa: S608 - names of our own
        f" WHERE batch_id = :batch_id AND {is_within} ORDER BY id",
        batch_id=batch_id,
        **values,
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


def _is_known(tx: Tx, reach: Reach, machine_id: str) -> bool:
    is_within, values = within(reach, "machine", "id")
    sql = f"SELECT 1 FROM machine WHERE id = :id AND {is_within}"  # noqa: S608
    return tx.value(sql, id=machine_id, **values) is not None
