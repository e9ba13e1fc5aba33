"""Single values that belong to the hub itself."""

from cmdop_appliance.store.transaction import Tx


def get_or_set(tx: Tx, name: str, value: str) -> str:
    """The stored value; `value` becomes it if there is none yet."""
    tx.execute(
        "INSERT INTO setting (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING",
        name=name,
        value=value,
    )
    return str(tx.value("SELECT value FROM setting WHERE name = :name", name=name))
