"""What is under way, in the words of the partial indexes: SQLite knows an index by nothing else."""

from typing import Final

# A command that has not ended: index `command_open`.
IS_OPEN: Final = "command.status IN ('pending', 'running')"
# One that nobody knows to have begun; by the same index.
IS_PENDING: Final = f"{IS_OPEN} AND command.status || '' = 'pending'"
# The one session of a machine that is not over: index `session_current`.
IS_CURRENT: Final = "session.status NOT IN ('DISCONNECTED', 'ERROR')"
# One whose machine is there now.
IS_CONNECTED: Final = "session.status IN ('CONNECTED', 'BACKGROUND')"


def stale_ms(table: str) -> str:
    """When the machine of a row was last heard of, if it is not connected; else null."""
    return (
        f"(SELECT last_seen_ms FROM machine WHERE machine.id = {table}.machine_id"  # noqa: S608
        " AND NOT EXISTS (SELECT 1 FROM session WHERE session.machine_id = machine.id"
        f" AND {IS_CURRENT} AND {IS_CONNECTED}))"
    )
