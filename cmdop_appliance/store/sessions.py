"""Sessions: PENDING → CONNECTED ⇄ GRACE_PERIOD → DISCONNECTED. Each change is a guarded update.

A change of one connection names its epoch, so that a connection that was replaced changes nothing.
"""

from cmdop_appliance.errors import SessionNotFound
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Machine, Session, SessionStatus
from cmdop_appliance.protocol.messages import Facts, Telemetry
from cmdop_appliance.store import machines
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.transaction import Tx, reads, to_json

ORDER = {
    "created_at": "created_ms",
    "connected_at": "connected_ms",
    "last_heartbeat_at": "last_heartbeat_ms",
    "machine_hostname": "machine_hostname",
    "status": "status",
}


def connect(
    tx: Tx, machine: Machine, *, facts: Facts, ip: str, now_ms: int
) -> tuple[str, int] | None:
    """(session id, epoch) for a machine that has proved its key; None: it was removed.

    A session in its grace period goes on; one that still looks connected is taken over.
    """
    epoch = machines.next_epoch(tx, machine.id, facts=facts, ip=ip, now_ms=now_ms)
    if epoch is None:
        return None
    kept = tx.value(
        "UPDATE session SET epoch = :epoch, machine_hostname = :hostname"
        " WHERE machine_id = :machine_id AND status NOT IN ('DISCONNECTED', 'ERROR')"
        " AND (status <> 'GRACE_PERIOD' OR grace_until_ms >= :now_ms) RETURNING id",
        epoch=epoch,
        hostname=facts.hostname,
        machine_id=machine.id,
        now_ms=now_ms,
    )
    if kept:
        return kept, epoch
    end_expired(tx, now_ms)
    session_id = new_id("sess")
    tx.execute(
        "INSERT INTO session"
        " (id, workspace_id, machine_id, machine_hostname, status, epoch, created_ms)"
        " VALUES (:id, :workspace_id, :machine_id, :hostname, 'PENDING', :epoch, :now_ms)",
        id=session_id,
        workspace_id=machine.workspace_id,
        machine_id=machine.id,
        hostname=facts.hostname,
        epoch=epoch,
        now_ms=now_ms,
    )
    return session_id, epoch


def ready(tx: Tx, session_id: str, epoch: int, now_ms: int) -> bool:
    """The agent has said all it knows: CONNECTED. False: a newer connection took over."""
    return bool(
        tx.execute(
            "UPDATE session SET status = 'CONNECTED', grace_until_ms = NULL,"
            " connected_ms = COALESCE(connected_ms, :now_ms), last_heartbeat_ms = :now_ms"
            " WHERE id = :id AND epoch = :epoch AND status NOT IN ('DISCONNECTED', 'ERROR')",
            id=session_id,
            epoch=epoch,
            now_ms=now_ms,
        )
    )


def heartbeat(
    tx: Tx, session_id: str, epoch: int, telemetry: Telemetry | None, now_ms: int
) -> bool:
    """Record a sign of life, and the sample that came with it. False: not this session's now."""
    machine_id = tx.value(
        "UPDATE session SET last_heartbeat_ms = :now_ms,"
        " telemetry_json = COALESCE(:telemetry, telemetry_json),"
        " sampled_ms = CASE WHEN :telemetry IS NULL THEN sampled_ms ELSE :now_ms END"
        " WHERE id = :id AND epoch = :epoch AND status NOT IN ('DISCONNECTED', 'ERROR')"
        " RETURNING machine_id",
        id=session_id,
        epoch=epoch,
        telemetry=None if telemetry is None else to_json(telemetry),
        now_ms=now_ms,
    )
    return bool(
        tx.execute(
            "UPDATE machine SET last_seen_ms = :now_ms WHERE id = :id",
            id=machine_id,
            now_ms=now_ms,
        )
    )


def lose(tx: Tx, session_id: str, epoch: int, *, now_ms: int, grace_until_ms: int) -> None:
    """The link is gone: GRACE_PERIOD, or DISCONNECTED if it never was connected."""
    tx.execute(
        "UPDATE session SET"
        " status = CASE WHEN status = 'PENDING' THEN 'DISCONNECTED' ELSE 'GRACE_PERIOD' END,"
        " ended_ms = CASE WHEN status = 'PENDING' THEN :now_ms END,"
        " grace_until_ms = COALESCE(grace_until_ms, :grace_until_ms)"
        " WHERE id = :id AND epoch = :epoch AND status NOT IN ('DISCONNECTED', 'ERROR')",
        id=session_id,
        epoch=epoch,
        now_ms=now_ms,
        grace_until_ms=grace_until_ms,
    )


def end(tx: Tx, session_id: str, epoch: int, now_ms: int) -> None:
    """The agent said goodbye: DISCONNECTED, without grace."""
    tx.execute(
        "UPDATE session SET status = 'DISCONNECTED', ended_ms = :now_ms"
        " WHERE id = :id AND epoch = :epoch AND status NOT IN ('DISCONNECTED', 'ERROR')",
        id=session_id,
        epoch=epoch,
        now_ms=now_ms,
    )


def end_expired(tx: Tx, now_ms: int) -> int:
    """DISCONNECTED for every session whose grace period is over; how many."""
    return tx.execute(
        "UPDATE session SET status = 'DISCONNECTED', ended_ms = :now_ms"
        " WHERE status = 'GRACE_PERIOD' AND grace_until_ms < :now_ms",
        now_ms=now_ms,
    )


def recover(tx: Tx, *, now_ms: int, grace_until_ms: int) -> None:
    """After a hub start: no link is left, each machine gets its grace period to come back."""
    tx.execute(
        "UPDATE session SET status = 'DISCONNECTED', ended_ms = :now_ms WHERE status = 'PENDING'",
        now_ms=now_ms,
    )
    tx.execute(
        "UPDATE session SET status = 'GRACE_PERIOD', grace_until_ms = :grace_until_ms"
        " WHERE status IN ('CONNECTED', 'BACKGROUND', 'GRACE_PERIOD')",
        grace_until_ms=grace_until_ms,
    )


@reads
def get(tx: Tx, workspace_id: str, session_id: str) -> Session:
    """One session.

    Raises:
        SessionNotFound: the workspace has no such session.
    """
    session = tx.one(
        Session,
        "SELECT * FROM session WHERE id = :id AND workspace_id = :workspace_id",
        id=session_id,
        workspace_id=workspace_id,
    )
    if session is None:
        raise SessionNotFound("Session not found", session_id=session_id)
    return session


@reads
def live_of(tx: Tx, workspace_id: str, machine_id: str) -> Session | None:
    """The machine's session, if it is CONNECTED, BACKGROUND or GRACE_PERIOD."""
    return tx.one(
        Session,
        "SELECT * FROM session WHERE machine_id = :machine_id AND workspace_id = :workspace_id"
        " AND status NOT IN ('DISCONNECTED', 'ERROR') AND status <> 'PENDING'",
        machine_id=machine_id,
        workspace_id=workspace_id,
    )


@reads
def page(
    tx: Tx,
    workspace_id: str,
    paging: Paging,
    *,
    status: SessionStatus | None,
    machine_id: str | None,
    machine_hostname: str | None,
) -> Page[Session]:
    """The sessions of a workspace."""
    return select_page(
        tx,
        Session,
        paging,
        columns="*",
        source="session",
        filters={
            "workspace_id = :workspace_id": workspace_id,
            "status = :status": status,
            "machine_id = :machine_id": machine_id,
            "machine_hostname = :machine_hostname": machine_hostname,
        },
        order=ORDER,
    )
