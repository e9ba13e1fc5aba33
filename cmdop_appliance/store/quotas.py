"""How much of the disk the output of each machine's commands takes, and what goes when it is much.

Looked at seldom: it reads what is known of every output.
"""

from typing import Final

from cmdop_appliance.model import Record
from cmdop_appliance.store.transaction import Tx, reads

# Of a stream that is longer than its cap, the middle is not kept.
_KEPT: Final = (
    "CASE WHEN output.stored_bytes < output.max_bytes"
    " THEN output.stored_bytes ELSE output.max_bytes END"
)


class Taken(Record, frozen=True, kw_only=True):
    """A machine, and how much its commands' output takes."""

    machine_id: str
    kept_bytes: int


class _Ended(Record, frozen=True, kw_only=True):
    id: str
    kept_bytes: int


@reads
def over(tx: Tx, most_bytes: int) -> list[Taken]:
    """The machines whose commands' output takes more than that."""
    return tx.all(
        Taken,
        f"SELECT command.machine_id, sum({_KEPT}) AS kept_bytes"  # noqa: S608 - words of our own
        " FROM output JOIN command ON command.id = output.command_id"
        " WHERE output.is_forgotten = 0"
        f" GROUP BY command.machine_id HAVING sum({_KEPT}) > :most_bytes",
        most_bytes=most_bytes,
    )


@reads
def oldest(tx: Tx, machine_id: str, excess_bytes: int) -> list[str]:
    """The commands that ended first, until what they wrote is so much; fewer, if there are no more.

    One that was only silent may return, and is passed over.
    """
    found: list[str] = []
    for command in tx.each(
        _Ended,
        f"SELECT command.id, sum({_KEPT}) AS kept_bytes"  # noqa: S608 - words of our own
        " FROM command JOIN output ON output.command_id = command.id"
        " WHERE command.machine_id = :machine_id AND command.finished_ms IS NOT NULL"
        " AND coalesce(command.error_code, '') <> 'silent' AND output.is_forgotten = 0"
        " GROUP BY command.id, command.finished_ms ORDER BY command.finished_ms, command.id",
        machine_id=machine_id,
    ):
        if excess_bytes <= 0:
            break
        found.append(command.id)
        excess_bytes -= command.kept_bytes
    return found
