"""Sessions: PENDING → CONNECTED ⇄ GRACE_PERIOD → DISCONNECTED. Each change is a guarded update.

A change of one connection names its epoch, so that a connection that was replaced changes nothing.
Each transition leaves its event, once; save CONNECTED ⇄ BACKGROUND, which leaves none: the contract
names no such event.
"""

from collections.abc import Iterable

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import RateLimited, SessionNotFound
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import (
    CONNECTED_STATUSES,
    LIVE_STATUSES,
    Client,
    EventType,
    Machine,
    Record,
    Session,
    SessionStatus,
)
from cmdop_appliance.protocol.messages import Facts, Telemetry
from cmdop_appliance.store import clients, events, machines
from cmdop_appliance.store.conditions import IS_CONNECTED, IS_CURRENT
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.reach import within
from cmdop_appliance.store.transaction import Tx, brief, is_any, reads, to_json

ORDER = {
    "created_at": "created_ms",
    "connected_at": "connected_ms",
    "machine_hostname": "machine_hostname",
}

# New sessions that a machine gets within a minute. An honest agent needs a few: it waits longer and
# longer, and within the grace period it comes back to the session that it has.
_NEW_MOST = 30
_NEW_WITHIN_MS = 60_000
# A sample so much older than a session still tells how its machine is when that begins.
_FRESH_MS = 60_000


def connect(
    tx: Tx, machine: Machine, *, facts: Facts, ip: str, now_ms: int
) -> tuple[str, int] | None:
    """(session id, epoch) for a machine that has proved its key; None: it was removed.

    A session in its grace period goes on; one that still looks connected is taken over.

    Raises:
        RateLimited: it has had too many new ones within a minute; nothing was recorded.
    """
    epoch = machines.next_epoch(tx, machine.id, facts=facts, ip=ip, now_ms=now_ms)
    if epoch is None:
        return None
    kept = tx.value(
        "UPDATE session SET epoch = :epoch, machine_hostname = :hostname"  # noqa: S608
        f" WHERE machine_id = :machine_id AND {IS_CURRENT}"
        " AND (status <> 'GRACE_PERIOD' OR grace_until_ms >= :now_ms) RETURNING id",
        epoch=epoch,
        hostname=facts.hostname,
        machine_id=machine.id,
        now_ms=now_ms,
    )
    if kept:
        return kept, epoch
    end_expired(tx, now_ms)
    _require_room(tx, machine, now_ms)
    new = tx.one(
        Session,
        "INSERT INTO session"
        " (id, workspace_id, machine_id, machine_hostname, status, epoch, created_ms)"
        " VALUES (:id, :workspace_id, :machine_id, :hostname, 'PENDING', :epoch, :now_ms)"
        " RETURNING *",
        id=new_id("sess"),
        workspace_id=machine.workspace_id,
        machine_id=machine.id,
        hostname=facts.hostname,
        epoch=epoch,
        now_ms=now_ms,
    )
    assert new is not None
    record_event(tx, "session.created", new, now_ms)
    return new.id, epoch


def _require_room(tx: Tx, machine: Machine, now_ms: int) -> None:
    new = tx.value(
        "SELECT count(*) FROM session WHERE workspace_id = :workspace_id"
        " AND machine_id = :machine_id AND created_ms > :since_ms AND created_ms <= :now_ms",
        workspace_id=machine.workspace_id,
        machine_id=machine.id,
        since_ms=now_ms - _NEW_WITHIN_MS,
        now_ms=now_ms,
    )
    if new >= _NEW_MOST:
        raise RateLimited(
            f"this machine had {_NEW_MOST} new sessions within a minute", _NEW_WITHIN_MS // 1000
        )


def ready(tx: Tx, session_id: str, epoch: int, now_ms: int) -> bool:
    """The agent has said all it knows: CONNECTED. False: a newer connection took over."""
    before = _of_connection(tx, session_id, epoch)
    if before is None:
        return False
    session = tx.one(
        Session,
        "UPDATE session SET status = 'CONNECTED', grace_until_ms = NULL,"
        " connected_ms = COALESCE(connected_ms, :now_ms), last_heartbeat_ms = :now_ms"
        " WHERE id = :id RETURNING *",
        id=session_id,
        now_ms=now_ms,
    )
    assert session is not None
    if before.status not in CONNECTED_STATUSES:
        record_event(tx, "session.connected", session, now_ms)
    if before.connected_ms is None:
        machines.set_online(tx, session.machine_id, is_online=True)
        _tell_machine(tx, "machine.online", session, now_ms)
    return True


def heartbeat(tx: Tx, session_id: str, epoch: int, now_ms: int) -> bool:
    """Record a sign of life. False: not this session's now."""
    machine_id = tx.value(
        "UPDATE session SET last_heartbeat_ms = :now_ms"  # noqa: S608
        f" WHERE id = :id AND epoch = :epoch AND {IS_CURRENT} RETURNING machine_id",
        id=session_id,
        epoch=epoch,
        now_ms=now_ms,
    )
    return bool(
        tx.execute(
            "UPDATE machine SET last_seen_ms = :now_ms WHERE id = :id",
            id=machine_id,
            now_ms=now_ms,
        )
    )


def sampled(
    tx: Tx, machine_id: str, epoch: int, telemetry: Telemetry, at_ms: int, now_ms: int
) -> bool:
    """Keep a sample of `at_ms` as the session's last, unless it has a later one.

    What was taken long before the session began is not its own. False: not this session's now.
    """
    is_last = (
        "(:at_ms > COALESCE(sampled_ms, created_ms - :fresh_ms)"
        " OR sampled_ms > :now_ms)"  # the hub's clock was set back
    )
    return bool(
        tx.execute(
            f"UPDATE session SET"  # noqa: S608 - literals of our own
            f" telemetry_json = CASE WHEN {is_last} THEN :telemetry ELSE telemetry_json END,"
            f" sampled_ms = CASE WHEN {is_last} THEN :at_ms ELSE sampled_ms END"
            f" WHERE machine_id = :machine_id AND epoch = :epoch AND {IS_CURRENT}",
            machine_id=machine_id,
            epoch=epoch,
            telemetry=to_json(telemetry),
            at_ms=at_ms,
            now_ms=now_ms,
            fresh_ms=_FRESH_MS,
        )
    )


def set_background(tx: Tx, session_id: str, epoch: int, *, on: bool) -> bool:
    """CONNECTED ⇄ BACKGROUND. False: it is so already, or not this connection's to say."""
    return bool(
        tx.execute(
            "UPDATE session SET status = :after"
            " WHERE id = :id AND epoch = :epoch AND status = :before",
            id=session_id,
            epoch=epoch,
            before="CONNECTED" if on else "BACKGROUND",
            after="BACKGROUND" if on else "CONNECTED",
        )
    )


def lose(tx: Tx, session_id: str, epoch: int, *, now_ms: int, grace_until_ms: int) -> None:
    """The link is gone: GRACE_PERIOD, or DISCONNECTED if it never was connected."""
    before = _of_connection(tx, session_id, epoch)
    if before is None or before.status == "GRACE_PERIOD":
        return
    if before.status == "PENDING":
        _end(tx, before.id, "DISCONNECTED", now_ms)
    else:
        _enter_grace(tx, before.id, now_ms, grace_until_ms)


def end(tx: Tx, session_id: str, epoch: int, now_ms: int) -> None:
    """The agent said goodbye: DISCONNECTED, without grace."""
    if _of_connection(tx, session_id, epoch) is not None:
        _end(tx, session_id, "DISCONNECTED", now_ms)


def fail(tx: Tx, session_id: str, epoch: int, now_ms: int) -> None:
    """The agent broke the protocol: ERROR; it gets a new session if it comes back."""
    if _of_connection(tx, session_id, epoch) is not None:
        _end(tx, session_id, "ERROR", now_ms)


def end_of(tx: Tx, machine_id: str, now_ms: int) -> None:
    """The machine is no more: DISCONNECTED, whatever connection has it."""
    current = tx.value(
        f"SELECT id FROM session WHERE machine_id = :machine_id AND {IS_CURRENT}",  # noqa: S608
        machine_id=machine_id,
    )
    if current:
        _end(tx, current, "DISCONNECTED", now_ms)


def end_expired(tx: Tx, now_ms: int) -> int:
    """DISCONNECTED for every session whose grace period is over; how many."""
    expired = tx.all(
        Session,
        "SELECT * FROM session WHERE status = 'GRACE_PERIOD' AND grace_until_ms < :now_ms",
        now_ms=now_ms,
    )
    for session in expired:
        _end(tx, session.id, "DISCONNECTED", now_ms)
    return len(expired)


def recover(tx: Tx, *, now_ms: int, grace_until_ms: int) -> None:
    """After a hub start: no link is left, each machine gets its grace period to come back."""
    for session in tx.all(Session, "SELECT * FROM session WHERE status = 'PENDING'"):
        _end(tx, session.id, "DISCONNECTED", now_ms)
    tx.execute(
        "UPDATE session SET grace_until_ms = :grace_until_ms WHERE status = 'GRACE_PERIOD'",
        grace_until_ms=grace_until_ms,
    )
    connected = f"SELECT * FROM session WHERE {IS_CONNECTED}"  # noqa: S608
    for session in tx.all(Session, connected):
        _enter_grace(tx, session.id, now_ms, grace_until_ms)


def _of_connection(tx: Tx, session_id: str, epoch: int) -> Session | None:
    """The session, if it is not over and this connection of it is the newest."""
    return tx.one(
        Session,
        f"SELECT * FROM session WHERE id = :id AND epoch = :epoch AND {IS_CURRENT}",  # noqa: S608
        id=session_id,
        epoch=epoch,
    )


def _enter_grace(tx: Tx, session_id: str, now_ms: int, grace_until_ms: int) -> None:
    session = tx.one(
        Session,
        "UPDATE session SET status = 'GRACE_PERIOD', grace_until_ms = :grace_until_ms"
        " WHERE id = :id RETURNING *",
        id=session_id,
        grace_until_ms=grace_until_ms,
    )
    assert session is not None
    record_event(tx, "session.grace_period", session, now_ms)


def _end(tx: Tx, session_id: str, status: SessionStatus, now_ms: int) -> None:
    session = tx.one(
        Session,
        "UPDATE session SET status = :status, ended_ms = :now_ms WHERE id = :id RETURNING *",
        id=session_id,
        status=status,
        now_ms=now_ms,
    )
    assert session is not None
    for client in clients.detach_all(tx, session_id):
        record_client_event(tx, "session.client_detached", session, client, now_ms)
    record_event(tx, "session.disconnected", session, now_ms)
    if session.connected_ms is not None:
        machines.set_online(tx, session.machine_id, is_online=False)
        _tell_machine(tx, "machine.offline", session, now_ms)


def _tell_machine(tx: Tx, kind: EventType, session: Session, now_ms: int) -> None:
    events.append(
        tx,
        session.workspace_id,
        kind,
        subject=session.machine_id,
        machine_id=session.machine_id,
        data={"machine_id": session.machine_id, "hostname": session.machine_hostname},
        now_ms=now_ms,
    )


def record_client_event(
    tx: Tx, kind: EventType, session: Session, client: Client, now_ms: int
) -> None:
    """Record what became of a client of a session."""
    shown = {"client_id": client.id, "mode": client.mode, "user_email": client.caller_email}
    record_event(tx, kind, session, now_ms, **shown)


def record_event(tx: Tx, kind: EventType, session: Session, now_ms: int, **shown: str) -> None:
    """Record an event of a session, with what is `shown` beside the session itself."""
    events.append(
        tx,
        session.workspace_id,
        kind,
        subject=session.id,
        machine_id=session.machine_id,
        data={
            "session_id": session.id,
            "status": session.status,
            "machine_id": session.machine_id,
            "machine_hostname": session.machine_hostname,
            **shown,
        },
        now_ms=now_ms,
    )


@brief
@reads
def by_id(tx: Tx, session_id: str) -> Session:
    """A session that is there, of whatever workspace."""
    session = tx.one(Session, "SELECT * FROM session WHERE id = :id", id=session_id)
    assert session is not None
    return session


@reads
def get(tx: Tx, reach: Reach, session_id: str) -> Session:
    """One session.

    Raises:
        SessionNotFound: no such session is in reach.
    """
    is_within, values = within(reach, "session")
    session = tx.one(
        Session,
        f"SELECT * FROM session WHERE id = :id AND {is_within}",  # noqa: S608
        id=session_id,
        **values,
    )
    if session is None:
        raise SessionNotFound("Session not found", session_id=session_id)
    return session


@brief
@reads
def live_of(tx: Tx, reach: Reach, machine_id: str) -> Session | None:
    """The machine's session, if it is CONNECTED, BACKGROUND or GRACE_PERIOD."""
    is_within, values = within(reach, "session", by_index=False)
    return tx.one(
        Session,
        f"SELECT * FROM session WHERE machine_id = :machine_id AND {is_within}"  # noqa: S608
        f" AND {IS_CURRENT} AND status <> 'PENDING'",
        machine_id=machine_id,
        **values,
    )


@reads
def live_on(tx: Tx, reach: Reach, machine_ids: Iterable[str]) -> list[Session]:
    """The live sessions of those of these machines that have one, in reach."""
    if not (asked := list(machine_ids)):
        return []
    is_asked, values = is_any("machine_id", asked)
    is_within, reached = within(reach, "session", by_index=False)
    return tx.all(
        Session,
        f"SELECT * FROM session WHERE {is_asked} AND {is_within}"  # noqa: S608
        f" AND {IS_CURRENT} AND status <> 'PENDING'",
        **values,
        **reached,
    )


class _Sampled(Record, frozen=True, kw_only=True):
    machine_id: str


@reads
def sampled_machines(tx: Tx, reach: Reach) -> list[str]:
    """The machines in reach whose live sessions have a sample."""
    is_live, values = is_any("status", LIVE_STATUSES)
    is_within, reached = within(reach, "session")
    found = tx.each(
        _Sampled,
        f"SELECT machine_id FROM session WHERE {is_within} AND {is_live}"  # noqa: S608
        " AND sampled_ms IS NOT NULL ORDER BY status, created_ms, id",
        **values,
        **reached,
    )
    return [each.machine_id for each in found]


@reads
def page(
    tx: Tx,
    reach: Reach,
    paging: Paging,
    *,
    status: SessionStatus | None,
    machine_id: str | None,
    machine_hostname: str | None,
) -> Page[Session]:
    """The sessions in reach."""
    return select_page(
        tx,
        Session,
        paging,
        columns="session.*, (SELECT count(*) FROM client WHERE client.session_id = session.id)"
        " AS attached_clients",
        source="session",
        within=within(reach, "session"),
        filters={
            "status = :status": status,
            "machine_id = :machine_id": machine_id,
            "machine_hostname = :machine_hostname": machine_hostname,
        },
        order=ORDER,
    )
