"""/api/machines: the machines that are online, and coding sessions started there."""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from cmdop_appliance.api.exchange import Call
from cmdop_appliance.api.fields import Name, Text
from cmdop_appliance.api.registry import HAPI, route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import (
    Forbidden,
    MachineNotFound,
    SessionNotActive,
    TerminalNotStarted,
    TerminalsNotSupported,
    TooManyTerminals,
    Unavailable,
    ValidationFailed,
)
from cmdop_appliance.hub.terminals import Opening
from cmdop_appliance.model import Machine
from cmdop_appliance.protocol.limits import PATH_BYTES
from cmdop_appliance.protocol.terminals import Coding
from cmdop_appliance.store import machines as rows
from cmdop_appliance.store.listing import Paging

ALL: Final = 2**31 - 1  # HAPI's lists have no pages

# A machine's word for an agent that its agent.toml does not name.
_UNKNOWN_AGENT: Final = "unknown_flavour"

Platform = Literal["linux", "darwin", "win32"]


class OnlineMetadata(Struct, frozen=True, kw_only=True, rename="camel"):
    """What a machine says of itself, by the names of HAPI's pages and by those of its program."""

    hostname: str
    host: str
    display_name: str
    platform: Platform
    version: str
    happy_cli_version: str  # HAPI's; that of our agent
    home_dir: str


class OnlineMachine(Struct, frozen=True, kw_only=True, rename="camel"):
    """A machine that is online; times are ms since 1970."""

    id: str
    namespace: str
    active: bool
    active_at: int
    created_at: int
    last_seen: int
    metadata: OnlineMetadata


class OnlineMachines(Struct, frozen=True):
    """All of them."""

    machines: list[OnlineMachine]


class SpawnBody(Struct, kw_only=True, rename="camel"):
    """What to start, and where. A `worktree` session gets a git worktree of its own.

    `agent` is claude, codex, cursor, gemini, opencode, or what the machine's agent.toml adds.
    """

    directory: Annotated[Text, Meta(max_length=PATH_BYTES)]
    agent: Name = "claude"
    model: Name | None = None
    yolo: bool = False
    session_type: Literal["simple", "worktree"] = "simple"
    worktree_name: Name | None = None


class Spawned(Struct, frozen=True, kw_only=True, rename="camel"):
    """The session that was started."""

    success: Literal[True] = True
    type: Literal["success"] = "success"
    session_id: str


class NotSpawned(Struct, frozen=True, kw_only=True):
    """The machine did not start one; `error` and `message` both say why."""

    success: Literal[False] = False
    type: Literal["error"] = "error"
    error: str
    message: str


@route("GET", "/api/machines", scope=Scope.MACHINES_READ, answer=OnlineMachines, plane=HAPI)
async def list_online_machines(call: Call[None, None]) -> OnlineMachines:
    """The machines that are online."""
    page = await call.hub.store.run(
        rows.page, call.caller.reach, Paging(limit=ALL, sort="name"), status="online"
    )
    namespace = call.caller.namespace
    return OnlineMachines([_view(machine, namespace) for machine in page.items])


@route(
    "POST",
    "/api/machines/:id/spawn",
    scope=Scope.COMMANDS_EXECUTE,
    body=SpawnBody,
    answer=Spawned | NotSpawned,
    errors=(MachineNotFound,),
    plane=HAPI,
)
async def spawn_coding_session(call: Call[SpawnBody, None]) -> Spawned | NotSpawned:
    """Start an AI coding agent on a machine, in a terminal that nobody needs to watch."""
    try:
        opened = await call.hub.terminals.open(
            call.caller, call.path["id"], _opening(call.body), once=call.once
        )
    except MachineNotFound:
        await forbid_what_is_elsewhere(call)
        raise
    except (SessionNotActive, Unavailable) as exc:
        raise Unavailable("Not connected") from exc
    except (TerminalNotStarted, TerminalsNotSupported, TooManyTerminals) as exc:
        if exc.details.get("reason") == _UNKNOWN_AGENT:  # an enumeration that each machine has
            raise ValidationFailed("Validation failed", agent=exc.message) from exc
        said = f"{exc.message}: {exc.hint}" if exc.hint else exc.message
        return NotSpawned(error=said, message=said)
    return Spawned(session_id=opened.terminal.id)


async def forbid_what_is_elsewhere(call: Call[Any, None]) -> None:
    """Pass if nobody has this machine: another workspace's is no secret here (contract.md §1).

    Raises:
        Forbidden: another workspace has it.
    """
    machine_id = call.path["id"]
    owner = await call.hub.store.run(rows.workspace_of, machine_id)
    if owner not in (None, call.caller.workspace_id):
        raise Forbidden("Machine access denied", machine_id=machine_id)


def _opening(body: SpawnBody) -> Opening:
    worktree = None
    if body.session_type == "worktree":
        if body.worktree_name is None:
            raise ValidationFailed(
                "Validation failed", worktreeName="is required for a session of type worktree"
            )
        worktree = body.worktree_name
    what = Coding(
        directory=body.directory,
        flavour=body.agent,
        model=body.model,
        yolo=body.yolo,
        worktree=worktree,
    )
    return Opening(kind="coding_session", what=what)


def _view(machine: Machine, namespace: str) -> OnlineMachine:
    facts = machine.facts
    return OnlineMachine(
        id=machine.id,
        namespace=namespace,
        active=True,
        active_at=machine.last_seen_ms,
        created_at=machine.created_ms,
        last_seen=machine.last_seen_ms,
        metadata=OnlineMetadata(
            hostname=facts.hostname,
            host=facts.hostname,
            display_name=machine.name,
            platform=facts.platform,
            version=facts.agent_version,
            happy_cli_version=facts.agent_version,
            home_dir=facts.home,
        ),
    )
