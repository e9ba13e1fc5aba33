"""/api/sessions: coding sessions; nothing to do with those of /api/v1/sessions."""

from typing import Final

from msgspec import Struct

from cmdop_appliance.api.exchange import Call
from cmdop_appliance.api.hapi.machines import ALL
from cmdop_appliance.api.registry import HAPI, route
from cmdop_appliance.auth import Reach, Scope
from cmdop_appliance.errors import (
    Forbidden,
    MachineNotFound,
    SessionNotFound,
    TerminalEnded,
    TerminalNotFound,
)
from cmdop_appliance.model import Terminal, TerminalEnding, TerminalStatus
from cmdop_appliance.protocol.terminals import Coding
from cmdop_appliance.store import machines
from cmdop_appliance.store import terminals as rows
from cmdop_appliance.store.listing import Paging
from cmdop_appliance.store.transaction import Tx, reads

# All that have not ended, and the newest of those that have.
_LISTED: Final[dict[TerminalStatus, Paging]] = {
    "starting": Paging(limit=ALL),
    "running": Paging(limit=ALL),
    "ended": Paging(limit=100),
}


class CodingWorktree(Struct, frozen=True, kw_only=True, rename="camel"):
    """The git worktree that was made for a session."""

    base_path: str  # the main working tree
    worktree_path: str
    branch: str
    name: str


class CodingMetadata(Struct, frozen=True, kw_only=True, rename="camel"):
    """What runs, and where. `flavor` is the agent."""

    name: str
    path: str
    host: str
    machine_id: str
    flavor: str
    model: str | None
    yolo: bool
    worktree: CodingWorktree | None


class CodingFailure(Struct, frozen=True):
    """Why a session did not start, or nobody knows how it ended."""

    code: str
    message: str


class CodingSession(Struct, frozen=True, kw_only=True, rename="camel"):
    """A coding session; times are ms since 1970.

    `thinking`: it is at work; `waiting`: for somebody to type.
    """

    id: str
    namespace: str
    active: bool  # it has not ended
    thinking: bool
    waiting: bool
    stale_since: int | None  # its machine was last heard of then, and is not connected
    status: TerminalStatus
    model: str | None
    metadata: CodingMetadata
    created_at: int
    started_at: int | None
    updated_at: int
    active_at: int  # when it was so last
    end: TerminalEnding | None
    exit_code: int | None
    signal: str | None
    error: CodingFailure | None


class CodingSessions(Struct, frozen=True):
    """All that have not ended, and the newest of those that have, each newest first."""

    sessions: list[CodingSession]


class OneCodingSession(Struct, frozen=True):
    """One of them."""

    session: CodingSession


class CodingEnded(Struct, frozen=True):
    """It is recorded, and the machine is told, now or when it is back."""

    ok: bool = True


@route("GET", "/api/sessions", scope=Scope.SESSIONS_READ, answer=CodingSessions, plane=HAPI)
async def list_coding_sessions(call: Call[None, None]) -> CodingSessions:
    """The coding sessions of the namespace."""
    caller = call.caller
    return CodingSessions(await call.hub.store.run(_listed, caller.reach, caller.namespace))


@route(
    "GET",
    "/api/sessions/:id",
    scope=Scope.SESSIONS_READ,
    answer=OneCodingSession,
    errors=(SessionNotFound, Forbidden),
    plane=HAPI,
)
async def get_coding_session(call: Call[None, None]) -> OneCodingSession:
    """One coding session."""
    terminal = await _find(call)
    caller = call.caller
    return OneCodingSession(
        await call.hub.store.run(_viewed, caller.reach, terminal, caller.namespace)
    )


@route(
    "DELETE",
    "/api/sessions/:id",
    scope=Scope.COMMANDS_EXECUTE,
    answer=CodingEnded,
    errors=(SessionNotFound, Forbidden, TerminalEnded),
    plane=HAPI,
)
async def end_coding_session(call: Call[None, None]) -> CodingEnded:
    """End a coding session; its record stays for some days."""
    terminal = await _find(call)
    try:
        await call.hub.terminals.end(call.caller, terminal.id)
    except TerminalEnded as exc:
        raise TerminalEnded("Session is inactive", session_id=terminal.id) from exc
    return CodingEnded()


async def _find(call: Call[None, None]) -> Terminal:
    """The session that a path names.

    Raises:
        SessionNotFound: there is none in reach.
        Forbidden: another workspace's is no secret here (contract.md §1).
    """
    caller, session_id = call.caller, call.path["id"]
    terminal = await call.hub.store.run(rows.find, session_id)
    if terminal is None or terminal.kind != "coding_session":
        raise SessionNotFound("Session not found")
    if terminal.workspace_id != caller.workspace_id:
        raise Forbidden("Session access denied")
    try:
        return await call.hub.store.run(rows.get, caller.reach, session_id)
    except TerminalNotFound:
        raise SessionNotFound("Session not found") from None


@reads
def _listed(tx: Tx, reach: Reach, namespace: str) -> list[CodingSession]:
    found: list[Terminal] = []
    for status, paging in _LISTED.items():
        found += rows.page(tx, reach, paging, kind="coding_session", status=status).items
    return [_viewed(tx, reach, terminal, namespace) for terminal in found]


@reads
def _viewed(tx: Tx, reach: Reach, terminal: Terminal, namespace: str) -> CodingSession:
    coding, made = terminal.what, terminal.worktree
    assert isinstance(coding, Coding)
    worktree = error = None
    if made is not None:
        worktree = CodingWorktree(
            base_path=made.repository, worktree_path=made.path, branch=made.branch, name=made.name
        )
    if terminal.code is not None:
        error = CodingFailure(terminal.code, terminal.message or "")
    is_running = terminal.status == "running"
    return CodingSession(
        id=terminal.id,
        namespace=namespace,
        active=terminal.status != "ended",
        thinking=is_running and not (terminal.is_waiting or terminal.stale_ms),
        waiting=terminal.is_waiting,
        stale_since=terminal.stale_ms,
        status=terminal.status,
        model=coding.model,
        metadata=CodingMetadata(
            name=terminal.name,
            path=terminal.directory or coding.directory,
            host=_host(tx, reach, terminal.machine_id),
            machine_id=terminal.machine_id,
            flavor=coding.flavour,
            model=coding.model,
            yolo=coding.yolo,
            worktree=worktree,
        ),
        created_at=terminal.created_ms,
        started_at=terminal.started_ms,
        updated_at=terminal.changed_ms,
        active_at=terminal.changed_ms,
        end=terminal.end,
        exit_code=terminal.exit_code,
        signal=terminal.signal,
        error=error,
    )


def _host(tx: Tx, reach: Reach, machine_id: str) -> str:
    try:
        return machines.get(tx, reach, machine_id).facts.hostname
    except MachineNotFound:  # it was removed since
        return machines.name_of(tx, machine_id) or ""
