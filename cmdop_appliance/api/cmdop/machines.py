"""/machines: the managed computers."""

from typing import Any, ClassVar, Literal

from msgspec import UNSET, Struct, UnsetType

from cmdop_appliance.api.exchange import Call, Listed, Paged, read_paging
from cmdop_appliance.api.fields import Name, TagList, Tags, Time, changes_of, since_ms, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Reach, Scope
from cmdop_appliance.errors import (
    Forbidden,
    MachineNotFound,
    SessionNotFound,
    ValidationFailed,
)
from cmdop_appliance.model import Machine, Session, SessionStatus
from cmdop_appliance.protocol.messages import Facts
from cmdop_appliance.store import audit, commands, events, sessions
from cmdop_appliance.store import machines as rows
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.listing import Page, Paging
from cmdop_appliance.store.transaction import Tx, reads

MachineStatus = Literal["online", "offline"]
LiveStatus = Literal["CONNECTED", "BACKGROUND", "GRACE_PERIOD"]


class MachineList(Paged, frozen=True):
    """Filters of the list of machines."""

    ORDER: ClassVar = rows.ORDER

    status: MachineStatus | None = None
    tags: TagList | None = None  # a,b: both
    search: str | None = None


class HistoryList(Paged, frozen=True):
    """Filters of a machine's history."""

    ORDER: ClassVar = commands.ORDER

    since: Time | None = None


class Load(Struct, frozen=True, kw_only=True):
    """The newest sample of a machine. Network bytes count since its boot."""

    at: Time | None
    cpu_percent: float
    memory_percent: float
    disk_percent: float
    network_rx_bytes: int
    network_tx_bytes: int
    uptime_seconds: int


class MachineView(Struct, frozen=True, kw_only=True):
    """The public record of a machine; what its live session tells is null without one."""

    id: str
    name: str
    status: MachineStatus
    os: str
    arch: str
    hostname: str
    tags: list[str]
    agent_version: str
    created_at: Time | None
    last_seen: Time | None
    clone_seen_at: Time | None  # when a second live holder of its key was refused
    session_status: LiveStatus | None
    grace_until: Time | None  # in GRACE_PERIOD: offline then, if it is not back
    load: Load | None  # null before the first sample, too


class MachineDetail(MachineView, frozen=True, kw_only=True):
    """A machine with what it reports of itself."""

    ip: str
    facts: Facts


class MachineBody(Struct, kw_only=True):
    """What to change; what is left out stays as it is."""

    name: Name | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET  # all that it is to have


class LiveSession(Struct, frozen=True):
    """The session through which a machine is reached."""

    session_id: str
    status: SessionStatus
    machine_hostname: str
    connected_at: Time | None


class MachineCommand(Struct, frozen=True):
    """One line of a machine's history; `duration` in ms."""

    id: str
    command: str
    exit_code: int | None
    duration: int | None
    executed_at: Time | None


class Deleted(Struct, frozen=True):
    """The object is gone."""

    deleted: bool = True


@route("GET", "/machines", scope=Scope.MACHINES_READ, query=MachineList, answer=list[MachineView])
async def list_machines(call: Call[None, MachineList]) -> Listed:
    """The machines of the workspace."""
    page, live = await call.hub.store.run(
        _page, call.caller.reach, read_paging(call.query), call.query
    )
    views = [MachineView(**_fields(machine, live.get(machine.id))) for machine in page.items]
    return Listed(views, page)


@route(
    "GET",
    "/machines/:id",
    scope=Scope.MACHINES_READ,
    answer=MachineDetail,
    errors=(MachineNotFound,),
)
async def get_machine(call: Call[None, None]) -> MachineDetail:
    """One machine."""
    return _detail(*await call.hub.store.run(_one, call.caller.reach, call.path["id"]))


@route(
    "PATCH",
    "/machines/:id",
    scope=Scope.MACHINES_WRITE,
    body=MachineBody,
    answer=MachineDetail,
    errors=(MachineNotFound, Forbidden, ValidationFailed),
)
async def edit_machine(call: Call[MachineBody, None]) -> MachineDetail:
    """Change a machine's name or its tags; a key restricted to tags cannot take these off."""
    changes = changes_of(call.body)
    entry = call.entry("machine.changed", call.path["id"], **changes)
    return _detail(*await call.hub.store.run(_edited, call.caller.reach, entry, changes))


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
    session = await call.hub.store.run(sessions.live_of, call.caller.reach, machine.id)
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
        call.caller.reach,
        read_paging(call.query),
        machine_id=machine.id,
        since_ms=since_ms(call.query.since),
    )
    views = [
        MachineCommand(c.id, c.command, c.exit_code, c.duration_ms, when(c.started_ms))
        for c in page.items
    ]
    return Listed(views, page)


@reads
def _page(
    tx: Tx, reach: Reach, paging: Paging, asked: MachineList
) -> tuple[Page[Machine], dict[str, Session]]:
    """(the machines that are asked for, the live sessions of those by machine)"""
    tags = set(asked.tags.split(",")) if asked.tags else None
    page = rows.page(tx, reach, paging, status=asked.status, tags=tags, search=asked.search)
    live = sessions.live_on(tx, reach, [machine.id for machine in page.items])
    return page, {session.machine_id: session for session in live}


@reads
def _one(tx: Tx, reach: Reach, machine_id: str) -> tuple[Machine, Session | None]:
    return rows.get(tx, reach, machine_id), sessions.live_of(tx, reach, machine_id)


def _edited(
    tx: Tx, reach: Reach, entry: Entry, changes: dict[str, Any]
) -> tuple[Machine, Session | None]:
    """The machine as it is from now on, recorded and told if that is not as it was."""
    before = rows.get(tx, reach, entry.target)
    machine = rows.edit(tx, reach, before.id, name=changes.get("name"), tags=changes.get("tags"))
    if machine != before:
        audit.append(tx, entry)
        events.append(
            tx,
            machine.workspace_id,
            "machine.changed",
            subject=machine.id,
            machine_id=machine.id,
            data={
                "machine_id": machine.id,
                "hostname": machine.facts.hostname,
                "name": machine.name,
                "tags": machine.tags,
            },
            now_ms=entry.at_ms,
        )
    return machine, sessions.live_of(tx, reach, machine.id)


async def _find(call: Call[None, Any]) -> Machine:
    return await call.hub.store.run(rows.get, call.caller.reach, call.path["id"])


def load_of(session: Session) -> Load | None:
    """The newest sample of a session; None before the first."""
    if (sample := session.telemetry) is None:
        return None
    return Load(
        at=when(session.sampled_ms),
        cpu_percent=sample.cpu_percent,
        memory_percent=sample.memory_percent,
        disk_percent=sample.disk_percent,
        network_rx_bytes=sample.network_rx_bytes,
        network_tx_bytes=sample.network_tx_bytes,
        uptime_seconds=sample.uptime_seconds,
    )


def _detail(machine: Machine, live: Session | None) -> MachineDetail:
    return MachineDetail(**_fields(machine, live), ip=machine.ip, facts=machine.facts)


def _fields(machine: Machine, live: Session | None) -> dict[str, Any]:
    return {
        "id": machine.id,
        "name": machine.name,
        "status": "online" if machine.is_online else "offline",
        "os": machine.facts.os,
        "arch": machine.facts.arch,
        "hostname": machine.facts.hostname,
        "tags": machine.tags,
        "agent_version": machine.facts.agent_version,
        "created_at": when(machine.created_ms),
        "last_seen": when(machine.last_seen_ms),
        "clone_seen_at": when(machine.clone_seen_ms),
        "session_status": live and live.status,
        "grace_until": live and when(live.grace_until_ms),
        "load": live and load_of(live),
    }
