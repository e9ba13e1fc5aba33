"""What is left to do for the deliveries of a webhook that was changed: done in parts."""

from typing import Final

from cmdop_appliance.store.transaction import Tx

# Rows that are changed or dropped at a time: some milliseconds of the writer.
AT_ONCE: Final = 1000


def leave(tx: Tx, webhook_id: str) -> None:
    """A webhook is another now: what becomes of its deliveries, `clear_away` sees to."""
    tx.execute(
        "INSERT INTO webhook_leftover (webhook_id) VALUES (:webhook_id)"
        " ON CONFLICT (webhook_id) DO NOTHING",
        webhook_id=webhook_id,
    )


def leave_every(tx: Tx) -> None:
    """As `leave`, for each webhook that is enabled."""
    tx.execute(
        "INSERT INTO webhook_leftover (webhook_id) SELECT id FROM webhook WHERE is_enabled = 1"
        " ON CONFLICT (webhook_id) DO NOTHING"
    )


def first(tx: Tx) -> str | None:
    """A webhook that `clear_away` has to do with."""
    found: str | None = tx.value("SELECT min(webhook_id) FROM webhook_leftover")
    return found


def has_any(tx: Tx, webhook_id: str) -> bool:
    """True: there is something to do for this webhook."""
    return bool(tx.value("SELECT 1 FROM webhook_leftover WHERE webhook_id = :id", id=webhook_id))


def clear_away(tx: Tx, webhook_id: str, now_ms: int) -> bool:
    """Do some of it, and say whether more is left: a disabled webhook is told nothing more, of a
    deleted one nothing is kept, and one that is enabled is sent at once what was put off.
    """
    if not has_any(tx, webhook_id):
        return False
    is_enabled = tx.value("SELECT is_enabled FROM webhook WHERE id = :id", id=webhook_id)
    if is_enabled is None:
        change = "DELETE FROM delivery WHERE id IN (SELECT id FROM delivery WHERE webhook_id = :id"
    elif is_enabled:
        change = (
            "UPDATE delivery SET next_attempt_ms = :now_ms WHERE id IN (SELECT id FROM delivery"
            " WHERE webhook_id = :id AND next_attempt_ms > :now_ms AND seq > 0"
        )
    else:
        change = (
            "UPDATE delivery SET status = 'dead', reason = 'the webhook was disabled',"
            " next_attempt_ms = NULL, ended_ms = :now_ms WHERE id IN (SELECT id FROM delivery"
            " WHERE webhook_id = :id AND status = 'pending' AND seq > 0"
        )
    is_more = tx.execute(f"{change} LIMIT :most)", id=webhook_id, now_ms=now_ms, most=AT_ONCE)
    if is_more == AT_ONCE:
        return True
    tx.execute("DELETE FROM webhook_leftover WHERE webhook_id = :id", id=webhook_id)
    return False
