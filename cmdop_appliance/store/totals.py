"""How many of everything there are now, in all workspaces."""

from cmdop_appliance.model import Record
from cmdop_appliance.store.conditions import IS_CURRENT, IS_OPEN
from cmdop_appliance.store.transaction import Tx, reads


class Total(Record, frozen=True, kw_only=True):
    """How many have this status."""

    status: str
    number: int


@reads
def machines(tx: Tx) -> int:
    """How many machines there are, connected or not."""
    number: int = tx.value("SELECT COUNT(*) FROM machine WHERE removed_ms IS NULL")
    return number


@reads
def live_sessions(tx: Tx) -> dict[str, int]:
    """Sessions that are not over, by status; a machine has one at the most."""
    return _by_status(tx, f"session WHERE {IS_CURRENT}")


@reads
def open_commands(tx: Tx) -> dict[str, int]:
    """Commands that have not ended, by status."""
    return _by_status(tx, f"command WHERE {IS_OPEN}")


@reads
def deliveries(tx: Tx) -> dict[str, int]:
    """Deliveries that wait, and dead ones that are kept, by status."""
    return {
        **_by_status(tx, "delivery WHERE status = 'pending'"),
        **_by_status(tx, "delivery WHERE status = 'dead' AND ended_ms IS NOT NULL"),
    }


@reads
def schedules(tx: Tx) -> dict[str, int]:
    """Schedules that fire, and those that are disabled."""
    every = tx.value("SELECT COUNT(*) FROM schedule")
    disabled = tx.value("SELECT COUNT(*) FROM schedule WHERE next_ms IS NULL")
    return {"enabled": every - disabled, "disabled": disabled}


def _by_status(tx: Tx, source: str) -> dict[str, int]:
    sql = f"SELECT status, COUNT(*) AS number FROM {source} GROUP BY status"  # noqa: S608
    return {total.status: total.number for total in tx.all(Total, sql)}
