"""What becomes of an upgrade on each machine, and whose turn it is: one machine, then in waves."""

from collections.abc import Sequence
from typing import Final

from cmdop_appliance.model import MachineUpgrade, MachineUpgradeState, Record, Upgrade
from cmdop_appliance.protocol.messages import Facts
from cmdop_appliance.store import upgrades
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.transaction import Tx, brief, reads

ORDER = {"wave": "wave", "changed_at": "changed_ms", "name": "name"}

# The code of a machine that needed nothing; it shows nothing of the release.
ALREADY: Final = "already"
_SILENT: Final = "silent"
_NOT_HEARD_OF: Final = "it was not heard of; what came of it counts if it returns"
_STUCK: Final = "it is connected, and has got no further"

_UNDER_WAY: Final = "state IN ('offered', 'downloading', 'starting')"
_FAILED: Final = "state IN ('failed', 'rolled_back')"
# No machine goes back, nor on from its end: it would never be taken for stuck.
_ONWARDS: Final = (
    "(:state NOT IN ('downloading', 'starting') OR state = 'offered'"
    " OR (state = 'downloading' AND :state = 'starting'))"
)


class Counts(Record, frozen=True, kw_only=True):
    """How many machines are where, those not counted that were removed."""

    total: int
    waiting: int
    under_way: int
    healthy: int
    failed: int  # or rolled back
    refused: int
    proven: int  # of the healthy ones, those that came to it by this upgrade


class _Candidate(Record, frozen=True):
    id: str
    facts: Facts


def enter(tx: Tx, upgrade: Upgrade, now_ms: int) -> None:
    """Have every machine that is to get it stand in line, also those that joined meanwhile."""
    new = tx.all(
        _Candidate,
        "SELECT machine.id, machine.facts_json FROM machine LEFT JOIN machine_upgrade"
        " ON machine_upgrade.upgrade_id = :upgrade_id AND machine_upgrade.machine_id = machine.id"
        " WHERE machine_upgrade.machine_id IS NULL AND machine.removed_ms IS NULL"
        " ORDER BY machine.id",
        upgrade_id=upgrade.id,
    )
    tx.many(
        "INSERT INTO machine_upgrade"
        " (upgrade_id, machine_id, wave, state, code, changed_ms)"
        " VALUES (:upgrade_id, :machine_id, 0, :state, :code, :now_ms)",
        (
            {
                "upgrade_id": upgrade.id,
                "machine_id": machine.id,
                "state": "healthy" if machine.facts.agent_version == upgrade.version else "waiting",
                "code": ALREADY if machine.facts.agent_version == upgrade.version else None,
                "now_ms": now_ms,
            }
            for machine in new
            if upgrade.machine_ids is None or machine.id in upgrade.machine_ids
        ),
    )


@reads
def counts(tx: Tx, upgrade_id: str) -> Counts:
    """How far an upgrade is."""
    found = tx.one(
        Counts,
        "SELECT count(*) AS total,"  # noqa: S608 - literals of our own
        " COUNT(CASE WHEN state = 'waiting' THEN 1 END) AS waiting,"
        f" COUNT(CASE WHEN {_UNDER_WAY} THEN 1 END) AS under_way,"
        " COUNT(CASE WHEN state = 'healthy' THEN 1 END) AS healthy,"
        f" COUNT(CASE WHEN {_FAILED} THEN 1 END) AS failed,"
        " COUNT(CASE WHEN state = 'refused' THEN 1 END) AS refused,"
        " COUNT(CASE WHEN state = 'healthy' AND COALESCE(code, '') <> :already THEN 1 END)"
        " AS proven"
        " FROM machine_upgrade JOIN machine ON machine.id = machine_upgrade.machine_id"
        " WHERE upgrade_id = :upgrade_id AND machine.removed_ms IS NULL",
        upgrade_id=upgrade_id,
        already=ALREADY,
    )
    assert found is not None  # an aggregate has one row
    return found


@reads
def page(
    tx: Tx, upgrade_id: str, paging: Paging, *, state: MachineUpgradeState | None = None
) -> Page[MachineUpgrade]:
    """What became of it on each machine.

    Raises:
        UpgradeNotFound: there is no such upgrade.
    """
    upgrades.get(tx, upgrade_id)
    return select_page(
        tx,
        MachineUpgrade,
        paging,
        columns="machine_upgrade.*, name, is_online",
        source="machine_upgrade JOIN machine ON machine.id = machine_upgrade.machine_id",
        within=("upgrade_id = :upgrade_id AND removed_ms IS NULL", {"upgrade_id": upgrade_id}),
        filters={"state = :state": state},
        order=ORDER,
        key="machine_id",
    )


@brief
@reads
def under_way(tx: Tx, machine_id: str) -> Upgrade | None:
    """The upgrade of which this machine is to tell what came of it; the newest, if it has more."""
    upgrade_id = tx.value(
        "SELECT max(upgrade_id) FROM machine_upgrade"  # noqa: S608 - literals of our own
        f" WHERE machine_id = :machine_id AND {_UNDER_WAY}",
        machine_id=machine_id,
    )
    return None if upgrade_id is None else upgrades.get(tx, upgrade_id)


def begin_wave(
    tx: Tx, upgrade: Upgrade, *, percent: int, max_failures: int, now_ms: int
) -> Sequence[str]:
    """The machines whose turn it is now; they are to be told.

    None, as long as the wave before has not ended. As long as no machine has shown that the
    release is good, a wave is one machine. When all have had their turn the upgrade is complete;
    with more than `max_failures` it has failed, and goes no further.
    """
    so_far = counts(tx, upgrade.id)
    if so_far.failed > max_failures:
        reason = f"{so_far.failed} of {so_far.total} machines could not be upgraded"
        upgrades.fail(tx, upgrade.id, f"{reason}: no more are tried", now_ms)
        return ()
    if so_far.under_way:
        return ()
    if not so_far.waiting:
        upgrades.complete(tx, upgrade.id, now_ms)
        return ()
    chosen = tx.all(
        MachineUpgrade,
        "UPDATE machine_upgrade SET state = 'offered', changed_ms = :now_ms, wave = 1 +"
        " (SELECT max(wave) FROM machine_upgrade WHERE upgrade_id = :upgrade_id)"
        " WHERE upgrade_id = :upgrade_id AND machine_id IN"
        " (SELECT machine_id FROM machine_upgrade"
        " JOIN machine ON machine.id = machine_upgrade.machine_id"
        " WHERE upgrade_id = :upgrade_id AND state = 'waiting' AND is_online = 1"
        " AND removed_ms IS NULL ORDER BY machine_id LIMIT :size) RETURNING *",
        upgrade_id=upgrade.id,
        size=max(1, so_far.total * percent // 100) if so_far.proven else 1,
        now_ms=now_ms,
    )
    return [machine.machine_id for machine in chosen]


@reads
def offered(tx: Tx, upgrade_id: str) -> list[str]:
    """The machines that have not answered yet."""
    return [
        machine.machine_id
        for machine in tx.all(
            MachineUpgrade,
            "SELECT * FROM machine_upgrade WHERE upgrade_id = :upgrade_id AND state = 'offered'",
            upgrade_id=upgrade_id,
        )
    ]


def give_up(tx: Tx, upgrade_id: str, *, away_before_ms: int, stuck_before_ms: int) -> None:
    """Let those have failed that are away since, or stuck since."""
    for before_ms, is_online, message in (
        (away_before_ms, 0, _NOT_HEARD_OF),
        (stuck_before_ms, 1, _STUCK),
    ):
        tx.execute(
            "UPDATE machine_upgrade SET state = 'failed', code = :code, reason = :reason"  # noqa: S608
            f" WHERE upgrade_id = :upgrade_id AND {_UNDER_WAY} AND changed_ms < :before_ms"
            " AND machine_id IN (SELECT id FROM machine WHERE is_online = :is_online)",
            upgrade_id=upgrade_id,
            code=_SILENT,
            reason=message,
            before_ms=before_ms,
            is_online=is_online,
        )


def record(
    tx: Tx,
    upgrade_id: str,
    machine_id: str,
    state: MachineUpgradeState,
    *,
    code: str | None,
    reason: str | None,
    now_ms: int,
) -> bool:
    """Record how far a machine is. False: it was so far before, or is not to have this upgrade."""
    changed = tx.execute(
        "UPDATE machine_upgrade SET state = :state, code = :code, reason = :reason,"  # noqa: S608
        " changed_ms = :now_ms WHERE upgrade_id = :upgrade_id AND machine_id = :machine_id"
        f" AND state NOT IN ('waiting', :state) AND {_ONWARDS}",
        upgrade_id=upgrade_id,
        machine_id=machine_id,
        state=state,
        code=code,
        reason=reason,
        now_ms=now_ms,
    )
    tx.notify(upgrades.SUBJECT)
    return bool(changed)
