"""Upgrades: releases that the hub was given, and what became of them."""

from typing import Final

from cmdop_appliance.errors import MachineNotFound, UpgradeNotFound, UpgradeRunning
from cmdop_appliance.model import Upgrade
from cmdop_appliance.store import machines
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.transaction import Tx, reads, to_json

# What is notified when it may be the machines' turn.
SUBJECT: Final = "upgrades"

ORDER = {"created_at": "created_ms"}

_COLUMNS = (
    "id, version, released_ms, manifest, signature, machine_ids_json, status, reason, operator,"
    " created_ms, hub_ms, finished_ms"
)


def insert(tx: Tx, upgrade: Upgrade) -> None:
    """Record a new one; what machines still wait for of the one before is given up.

    Raises:
        MachineNotFound: there is no machine with one of its ids.
        UpgradeRunning: the hub itself is about to be upgraded.
    """
    for machine_id in upgrade.machine_ids or ():
        if machines.workspace_of(tx, machine_id) is None:
            raise MachineNotFound("Machine not found", machine_id=machine_id)
    before = open_one(tx)
    if before is not None:
        if before.status == "hub":
            raise UpgradeRunning(
                f"the hub is being upgraded to {before.version}", upgrade_id=before.id
            )
        _end(tx, before.id, "superseded", None, upgrade.created_ms)
    tx.execute(
        "INSERT INTO upgrade (id, version, released_ms, manifest, signature, machine_ids_json,"
        " status, operator, created_ms, hub_ms) VALUES (:id, :version, :released_ms, :manifest,"
        " :signature, :machine_ids, :status, :operator, :created_ms, :hub_ms)",
        id=upgrade.id,
        version=upgrade.version,
        released_ms=upgrade.released_ms,
        manifest=upgrade.manifest,
        signature=upgrade.signature,
        machine_ids=None if upgrade.machine_ids is None else to_json(upgrade.machine_ids),
        status=upgrade.status,
        operator=upgrade.operator,
        created_ms=upgrade.created_ms,
        hub_ms=upgrade.hub_ms,
    )
    tx.notify(SUBJECT)


@reads
def get(tx: Tx, upgrade_id: str) -> Upgrade:
    """The one with this id.

    Raises:
        UpgradeNotFound: there is none.
    """
    found = tx.one(
        Upgrade,
        f"SELECT {_COLUMNS} FROM upgrade WHERE id = :id",  # noqa: S608 - literals of our own
        id=upgrade_id,
    )
    if found is None:
        raise UpgradeNotFound("Upgrade not found")
    return found


@reads
def open_one(tx: Tx) -> Upgrade | None:
    """The one that has not ended: there is one at the most."""
    return tx.one(
        Upgrade,
        f"SELECT {_COLUMNS} FROM upgrade"  # noqa: S608 - literals of our own
        " WHERE status IN ('hub', 'machines')",
    )


@reads
def page(tx: Tx, paging: Paging) -> Page[Upgrade]:
    """All that were taken."""
    return select_page(
        tx,
        Upgrade,
        paging,
        columns=_COLUMNS,
        source="upgrade",
        within=("TRUE", {}),
        filters={},
        order=ORDER,
    )


def hub_upgraded(tx: Tx, upgrade: Upgrade, now_ms: int) -> None:
    """The hub runs it: now it is the machines' turn, if any are to have it."""
    tx.execute(
        "UPDATE upgrade SET status = 'machines', hub_ms = :now_ms WHERE id = :id",
        id=upgrade.id,
        now_ms=now_ms,
    )
    if upgrade.machine_ids == []:
        complete(tx, upgrade.id, now_ms)
    tx.notify(SUBJECT)


def complete(tx: Tx, upgrade_id: str, now_ms: int) -> None:
    """Whoever was to have it has it."""
    _end(tx, upgrade_id, "completed", None, now_ms)


def fail(tx: Tx, upgrade_id: str, reason: str, now_ms: int) -> None:
    """Nobody gets it any more."""
    _end(tx, upgrade_id, "failed", reason, now_ms)


def _end(tx: Tx, upgrade_id: str, status: str, reason: str | None, now_ms: int) -> None:
    tx.execute(
        "UPDATE upgrade SET status = :status, reason = :reason, finished_ms = :now_ms"
        " WHERE id = :id",
        id=upgrade_id,
        status=status,
        reason=reason,
        now_ms=now_ms,
    )
