"""/machines: the managed computers."""

from typing import Any, Literal

from msgspec import Struct

from cmdop_appliance.api.exchange import Call, Listed, Paged, read_paging
from cmdop_appliance.api.fields import since_ms, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import MachineNotFound, SessionNotFound
from cmdop_appliance.model import LIVE_STATUSES, Machine, SessionStatus
from cmdop_appliance.protocol.messages import Facts
from cmdop_appliance.store import commands, sessions
from cmdop_appliance.store import machines as rows

MachineStatus = Literal["online", "offline"]


class MachineList(Paged, frozen=True):
    """Filters of the list of machines."""

    status: MachineStatus | None = None
    tags: str | None = None  # a,b: both
    search: str | None = None


class HistoryList(Paged, frozen=True):
    """Filters of a machine's history."""

    since: str | None = None


class MachineView(Struct, frozen=True, kw_only=True):
    """The public record of a machine."""

    id: str
    name: str
    status: MachineStatus
    os: str
    arch: str
    hostname: str
    tags: list[str]
    created_at: str | None
    last_seen: str | None
    clone_seen_at: str | None  # when a second live holder of its key was refused


class MachineDetail(MachineView, frozen=True, kw_only=True):
    """A machine with what it reports of itself."""

    ip: str
    agent_version: str
    facts: Facts


class LiveSession(Struct, frozen=True):
    """The session through which a machine is reached."""

    session_id: str
    status: SessionStatus
    machine_hostname: str
    connected_at: str | None


class MachineCommand(Struct, frozen=True):
    """One line of a machine's history; `duration` in ms."""

    id: str
    command: str
    exit_code: int | None
    duration: int | None
    executed_at: str | None


class Deleted(Struct, frozen=True):
    """The object is gone."""

    deleted: bool = True


@route("GET", "/machines", scope=Scope.MACHINES_READ, query=MachineList, answer=list[MachineView])
async def list_machines(call: Call[None, MachineList]) -> Listed:
    """The machines of the workspace."""
    page = await call.hub.store.run(
        rows.page,
        call.caller.workspace_id,
        read_paging(call.query, rows.ORDER),
        status=call.query.status,
        tags=[tag for tag in (call.query.tags or "").split(",") if tag],
        search=call.query.search,
    )
    return Listed([MachineView(**_fields(machine)) for machine in page.items], page)


@route(
    "GET",
    "/machines/:id",
    scope=Scope.MACHINES_READ,
    answer=MachineDetail,
    errors=(MachineNotFound,),
)
async def get_machine(call: Call[None, None]) -> MachineDetail:
    """One machine."""
    machine = await _find(call)
    facts = machine.facts
    return MachineDetail(
        **_fields(machine), ip=machine.ip, agent_version=facts.agent_version, facts=facts
    )


@route(
    "DELETE",
    "/machines/:id",
    scope=Scope.MACHINES_WRITE,
    answer=Deleted,
    errors=(MachineNotFound,),
)
async def delete_machine(call: Call[None, None]) -> Deleted:
    """Remove a machine: its agent's key is refused from now on, its connection cut at once."""
    await call.hub.commands.remove_machine(call.caller, call.path["id"])
    return Deleted()


@route(
    "GET",
    "/machines/:id/session",
    scope=Scope.SESSIONS_READ,
    answer=LiveSession,
    errors=(MachineNotFound, SessionNotFound),
)
async def get_machine_session(call: Call[None, None]) -> LiveSession:
    """The machine's live session."""
    machine = await _find(call)
    session = await call.hub.store.run(sessions.live_of, machine.workspace_id, machine.id)
    if session is None:
        raise SessionNotFound("No active session for this machine")
    return LiveSession(
        session.id, session.status, session.machine_hostname, when(session.connected_ms)
    )


@route(
    "GET",
    "/machines/:id/commands",
    scope=Scope.SESSIONS_READ,
    query=HistoryList,
    answer=list[MachineCommand],
    errors=(MachineNotFound,),
)
async def list_machine_commands(call: Call[None, HistoryList]) -> Listed:
    """The machine's commands, newest first."""
    machine = await _find(call)
    page = await call.hub.store.run(
        commands.page,
        machine.workspace_id,
        read_paging(call.query, commands.ORDER),
        machine_id=machine.id,
        since_ms=since_ms(call.query.since),
    )
    views = [
        MachineCommand(c.id, c.command, c.exit_code, c.duration_ms, when(c.started_ms))
        for c in page.items
    ]
    return Listed(views, page)


async def _find(call: Call[None, Any]) -> Machine:
    return await call.hub.store.run(rows.get, call.caller.workspace_id, call.path["id"])


def _fields(machine: Machine) -> dict[str, Any]:
    return {
        "id": machine.id,
        "name": machine.name,
        "status": "online" if machine.session_status in LIVE_STATUSES else "offline",
        "os": machine.facts.os,
        "arch": machine.facts.arch,
        "hostname": machine.facts.hostname,
        "tags": machine.tags,
        "created_at": when(machine.created_ms),
        "last_seen": when(machine.last_seen_ms),
        "clone_seen_at": when(machine.clone_seen_ms),
    }
