"""/sessions: the connections of machines."""

from typing import Any

from msgspec import Struct

from cmdop_appliance.api.exchange import Call, Listed, Paged, read_paging
from cmdop_appliance.api.fields import when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import SessionNotActive, SessionNotFound
from cmdop_appliance.model import LIVE_STATUSES, Session, SessionStatus
from cmdop_appliance.store import commands
from cmdop_appliance.store import sessions as rows


class SessionList(Paged, frozen=True):
    """Filters of the list of sessions."""

    status: SessionStatus | None = None
    machine_id: str | None = None
    machine_hostname: str | None = None


class SessionFields(Struct, frozen=True, kw_only=True):
    """What every record of a session has."""

    session_id: str
    status: SessionStatus
    machine_id: str
    machine_hostname: str
    workspace_id: str
    created_at: str | None
    connected_at: str | None
    last_heartbeat_at: str | None


class SessionView(SessionFields, frozen=True, kw_only=True):
    """A session in a list; `attached_clients` is their number."""

    attached_clients: int


class Usage(Struct, frozen=True):
    """The last sample, in percent."""

    cpu_percent: float
    memory_percent: float
    disk_percent: float


class SessionDetail(SessionFields, frozen=True, kw_only=True):
    """One session; `attached_clients` names them, `telemetry` is null before the first sample."""

    attached_clients: list[dict[str, Any]]
    telemetry: Usage | None


class SessionCommand(Struct, frozen=True):
    """One line of a session's history."""

    command_id: str
    command: str
    exit_code: int | None
    executed_at: str | None
    user_email: str


class SessionMetrics(Struct, frozen=True, kw_only=True):
    """The last sample of a session; network bytes count since boot."""

    session_id: str
    timestamp: str | None
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
        call.caller.workspace_id,
        read_paging(call.query, rows.ORDER),
        status=call.query.status,
        machine_id=call.query.machine_id,
        machine_hostname=call.query.machine_hostname,
    )
    views = [SessionView(**_fields(session), attached_clients=0) for session in page.items]
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
    return SessionDetail(**_fields(session), attached_clients=[], telemetry=usage)


@route(
    "GET",
    "/sessions/:id/history",
    scope=Scope.SESSIONS_READ,
    query=Paged,
    answer=list[SessionCommand],
    errors=(SessionNotFound,),
)
async def list_session_history(call: Call[None, Paged]) -> Listed:
    """Every command run while this session was current, newest first."""
    session = await _find(call)
    page = await call.hub.store.run(
        commands.page,
        session.workspace_id,
        read_paging(call.query, commands.ORDER),
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
    if session.status not in LIVE_STATUSES or sample is None:
        message = "Session is not in CONNECTED state"
        if sample is None:
            message = "Session has sent no sample yet"
        raise SessionNotActive(message, current_status=session.status)
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
    return await call.hub.store.run(rows.get, call.caller.workspace_id, call.path["id"])


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
