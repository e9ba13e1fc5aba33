"""What has ended is forgotten after its time, a piece at a time: first its output, then all of it.

A command that was only silent may return, and is passed over with its output while that is kept.
"""

from typing import Final

from cmdop_appliance.model import Record
from cmdop_appliance.store import output
from cmdop_appliance.store.transaction import Tx

# Commands of one transaction: some 10 ms of the writer.
PIECE_COMMANDS: Final = 100


class _Workspace(Record, frozen=True, kw_only=True):
    id: str
    output_until_ms: int


class _Ended(Record, frozen=True, kw_only=True):
    id: str
    finished_ms: int
    batch_id: str | None


def forget_output(tx: Tx, before_ms: int) -> bool:
    """Forget the output of some that ended before then; True: there may be more.

    How far that is stands with the workspace: an end that is told later than its time is passed
    over, until the command itself is forgotten.
    """
    has_more = False
    for workspace in tx.all(_Workspace, "SELECT id, output_until_ms FROM workspace"):
        # All of one millisecond go together, however many they are.
        until_ms = tx.value(
            "SELECT finished_ms FROM command WHERE workspace_id = :workspace_id"
            " AND finished_ms > :after_ms AND finished_ms < :before_ms"
            " ORDER BY finished_ms LIMIT 1 OFFSET :most",
            workspace_id=workspace.id,
            after_ms=workspace.output_until_ms,
            before_ms=before_ms,
            most=PIECE_COMMANDS - 1,
        )
        has_more |= until_ms is not None
        ended = tx.all(
            _Ended,
            "SELECT id, finished_ms, batch_id FROM command WHERE workspace_id = :workspace_id"
            " AND finished_ms > :after_ms AND finished_ms <= :until_ms"
            " AND coalesce(error_code, '') <> 'silent'",
            workspace_id=workspace.id,
            after_ms=workspace.output_until_ms,
            until_ms=before_ms - 1 if until_ms is None else until_ms,
        )
        for command in ended:
            output.forget(tx, command.id)
        if until_ms is None and ended:
            until_ms = max(command.finished_ms for command in ended)
        if until_ms is not None:
            tx.execute(
                "UPDATE workspace SET output_until_ms = :until_ms WHERE id = :id",
                id=workspace.id,
                until_ms=until_ms,
            )
    return has_more


def forget_commands(tx: Tx, before_ms: int) -> bool:
    """Drop some that ended before then, with what they wrote; True: there may be more.

    One with a file goes once that is deleted.
    """
    has_more = False
    for workspace in tx.all(_Workspace, "SELECT id, output_until_ms FROM workspace"):
        ended = tx.all(
            _Ended,
            "SELECT id, finished_ms, batch_id FROM command WHERE workspace_id = :workspace_id"
            " AND finished_ms < :before_ms ORDER BY finished_ms, id LIMIT :most",
            workspace_id=workspace.id,
            before_ms=before_ms,
            most=PIECE_COMMANDS,
        )
        has_more |= len(ended) == PIECE_COMMANDS
        for command in ended:
            _drop(tx, command.id)
        for batch_id in {command.batch_id for command in ended} - {None}:
            _drop_if_empty(tx, batch_id)
    return has_more


def _drop(tx: Tx, command_id: str) -> None:
    output.forget(tx, command_id)
    tx.execute(
        "DELETE FROM output WHERE command_id = :command_id AND is_leftover = 0",
        command_id=command_id,
    )
    tx.execute(
        "DELETE FROM command WHERE id = :id"
        " AND NOT EXISTS (SELECT 1 FROM output WHERE command_id = command.id)",
        id=command_id,
    )


def _drop_if_empty(tx: Tx, batch_id: str | None) -> None:
    if tx.value("SELECT 1 FROM command WHERE batch_id = :id", id=batch_id) is not None:
        return
    tx.execute("UPDATE batch SET resumed_by = NULL WHERE resumed_by = :id", id=batch_id)
    tx.execute("DELETE FROM batch WHERE id = :id", id=batch_id)
