"""What a store is told once when it comes out of a backup: the hub behind it went on meanwhile."""

from typing import Final

from cmdop_appliance.store import audit
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.transaction import Tx, reads

_UNTIL: Final = "restored_ms"


def mark(tx: Tx, made_ms: int, now_ms: int, version: str) -> None:
    """From now on it counts as restored. `made_ms`, `version`: when and by what the backup was.

    Whoever was let in by a token for one use must not be let in by it again, and a browser that
    was signed out stays so: neither is good any more.
    """
    tx.execute(
        "INSERT INTO setting (name, value) VALUES (:name, :value)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        name=_UNTIL,
        value=str(max(made_ms, now_ms)),
    )
    tx.execute(
        "UPDATE enrolment SET expires_ms = :now_ms WHERE expires_ms > :now_ms", now_ms=now_ms
    )
    tx.execute("DELETE FROM sign_in")
    audit.append(tx, Entry.by_hub(now_ms, "hub.restored", made_ms=made_ms, version=version))


@reads
def until_ms(tx: Tx) -> int:
    """Up to then another hub may have done what was due; 0: this store was never restored."""
    return int(tx.value("SELECT value FROM setting WHERE name = :name", name=_UNTIL) or 0)
