"""/sessions: the connections of machines."""

from typing import Any, ClassVar

from msgspec import Struct

from cmdop_appliance.api.exchange import Call, Listed, Paged, read_paging
from cmdop_appliance.api.fields import ClientId, Time, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import (
    ClientNotFound,
    Conflict,
    Forbidden,
    SessionNotActive,
    SessionNotFound,
    ValidationFailed,
)
from cmdop_appliance.hub import presence
from cmdop_appliance.model import LIVE_STATUSES, ClientMode, Session, SessionStatus
from cmdop_appliance.store import clients, commands
from cmdop_appliance.store import sessions as rows


class SessionList(Paged, frozen=True):
    """Filters of the list of sessions."""

    ORDER: ClassVar = rows.ORDER

    status: SessionStatus | None = None
    machine_id: str | None = None
    machine_hostname: str | None = None


class SessionHistory(Paged, frozen=True):
    """A page of a session's history."""

    ORDER: ClassVar = commands.ORDER


class SessionFields(Struct, frozen=True, kw_only=True):
    """What every record of a session has."""

    session_id: str
    status: SessionStatus
    machine_id: str
    machine_hostname: str
    workspace_id: str
    created_at: Time | None
    connected_at: Time | None
    last_heartbeat_at: Time | None


class SessionView(SessionFields, frozen=True, kw_only=True):
    """A session in a list; `attached_clients` is their number."""

    attached_clients: int


class Usage(Struct, frozen=True):
    """The last sample, in percent."""

    cpu_percent: float
    memory_percent: float
    disk_percent: float


class AttachedClient(Struct, frozen=True):
    """Who looks at a session, and whether they may do more."""

    client_id: str
    user_email: str
    mode: ClientMode
    attached_at: Time | None


class SessionDetail(SessionFields, frozen=True, kw_only=True):
    """One session; `attached_clients` names them, `telemetry` is null before the first sample."""

    attached_clients: list[AttachedClient]
    telemetry: Usage | None


class AttachBody(Struct, kw_only=True):
    """How to attach; the same client again changes its mode."""

    mode: ClientMode = "operator"
    client_id: ClientId | None = None  # default: a new one


class DetachBody(Struct, kw_only=True):
    """Who goes."""

    client_id: ClientId


class Attached(Struct, frozen=True, kw_only=True):
    """A client, and the state of the session it is attached to."""

    session_id: str
    client_id: str
    mode: ClientMode
    user_email: str
    attached_at: Time | None
    status: SessionStatus


class Detached(Struct, frozen=True):
    """The client is gone."""

    session_id: str
    client_id: str
    detached: bool = True


class SessionCommand(Struct, frozen=True):
    """One line of a session's history."""

    command_id: str
    command: str
    exit_code: int | None
    executed_at: Time | None
    user_email: str


class SessionMetrics(Struct, frozen=True, kw_only=True):
    """The last sample of a session; network bytes count since boot."""

    session_id: str
    timestamp: Time | None
    cpu_percent: float
    memory_percent: float
    disk_percent: float
    network_rx_bytes: int
    network_tx_bytes: int
    uptime_seconds: int


@route("GET", "/sessions", scope=Scope.SESSIONS_READ, query=SessionList, answer=list[SessionView])
async def list_sessions(call: Call[None, SessionList]) -> Listed:
    """The sessions of the workspace, newest first."""
    page = await call.hub.store.run(
        rows.page,
        call.caller.reach,
        read_paging(call.query),
        status=call.query.status,
        machine_id=call.query.machine_id,
        machine_hostname=call.query.machine_hostname,
    )
    views = [
        SessionView(**_fields(session), attached_clients=session.attached_clients)
        for session in page.items
    ]
    return Listed(views, page)


@route(
    "GET",
    "/sessions/:id",
    scope=Scope.SESSIONS_READ,
    answer=SessionDetail,
    errors=(SessionNotFound,),
)
async def get_session(call: Call[None, None]) -> SessionDetail:
    """One session."""
    session = await _find(call)
    usage = None
    if (sample := session.telemetry) is not None:
        usage = Usage(sample.cpu_percent, sample.memory_percent, sample.disk_percent)
    attached = [
        AttachedClient(client.id, client.caller_email, client.mode, when(client.attached_ms))
        for client in await call.hub.store.run(clients.of_session, session.id)
    ]
    return SessionDetail(**_fields(session), attached_clients=attached, telemetry=usage)


@route(
    "POST",
    "/sessions/:id/attach",
    scope=(Scope.SESSIONS_READ, Scope.SESSIONS_WRITE),
    body=AttachBody,
    answer=Attached,
    errors=(SessionNotFound, SessionNotActive, Forbidden, Conflict, ValidationFailed),
)
async def attach_to_session(call: Call[AttachBody, None]) -> Attached:
    """Attach to a live session: an operator may type, run, write, resize and signal there.

    An observer may only look, and so may its key on that machine until it detaches.
    """
    if call.body.mode == "operator":
        call.caller.require(Scope.SESSIONS_WRITE)
    now_ms = call.hub.clock.now_ms()
    session, client = await call.hub.store.run(
        presence.attach,
        call.hub.audit,
        call.caller,
        call.path["id"],
        call.body.client_id,
        call.body.mode,
        call.once,
        now_ms,
    )
    return Attached(
        session_id=session.id,
        client_id=client.id,
        mode=client.mode,
        user_email=client.caller_email,
        attached_at=when(client.attached_ms),
        status=session.status,
    )


@route(
    "POST",
    "/sessions/:id/detach",
    scope=(Scope.SESSIONS_READ, Scope.SESSIONS_WRITE),
    body=DetachBody,
    answer=Detached,
    errors=(SessionNotFound, ClientNotFound, ValidationFailed),
)
async def detach_from_session(call: Call[DetachBody, None]) -> Detached:
    """Detach one's own client; an admin's key detaches anybody's."""
    session_id, client_id = call.path["id"], call.body.client_id
    await call.hub.store.run(
        presence.detach,
        call.hub.audit,
        call.caller,
        session_id,
        client_id,
        call.once,
        call.hub.clock.now_ms(),
    )
    return Detached(session_id, client_id)


@route(
    "GET",
    "/sessions/:id/history",
    scope=Scope.SESSIONS_READ,
    query=SessionHistory,
    answer=list[SessionCommand],
    errors=(SessionNotFound,),
)
async def list_session_history(call: Call[None, SessionHistory]) -> Listed:
    """Every command run while this session was current, newest first."""
    session = await _find(call)
    page = await call.hub.store.run(
        commands.page,
        call.caller.reach,
        read_paging(call.query),
        session_id=session.id,
    )
    views = [
        SessionCommand(c.id, c.command, c.exit_code, when(c.started_ms), c.operator)
        for c in page.items
    ]
    return Listed(views, page)


@route(
    "GET",
    "/sessions/:id/metrics",
    scope=Scope.SESSIONS_READ,
    answer=SessionMetrics,
    errors=(SessionNotFound, SessionNotActive),
)
async def get_session_metrics(call: Call[None, None]) -> SessionMetrics:
    """The last sample of a live session, with its own time."""
    session = await _find(call)
    sample = session.telemetry
    if session.status not in LIVE_STATUSES:
        raise SessionNotActive("Session is not in CONNECTED state", current_status=session.status)
    if sample is None:
        raise SessionNotActive("Session has sent no sample yet", current_status=session.status)
    return SessionMetrics(
        session_id=session.id,
        timestamp=when(session.sampled_ms),
        cpu_percent=sample.cpu_percent,
        memory_percent=sample.memory_percent,
        disk_percent=sample.disk_percent,
        network_rx_bytes=sample.network_rx_bytes,
        network_tx_bytes=sample.network_tx_bytes,
        uptime_seconds=sample.uptime_seconds,
    )


async def _find(call: Call[None, Any]) -> Session:
    return await call.hub.store.run(rows.get, call.caller.reach, call.path["id"])


def _fields(session: Session) -> dict[str, Any]:
    return {
        "session_id": session.id,
        "status": session.status,
        "machine_id": session.machine_id,
        "machine_hostname": session.machine_hostname,
        "workspace_id": session.workspace_id,
        "created_at": when(session.created_ms),
        "connected_at": when(session.connected_ms),
        "last_heartbeat_at": when(session.last_heartbeat_ms),
    }
