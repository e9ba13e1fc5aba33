"""/terminals: PTYs on machines that outlive whoever looks at them; coding sessions, too."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta, Struct

from cmdop_appliance.api.cmdop.terminal_records import (
    OpenedTerminal,
    TerminalView,
    fields_of,
    view_of,
)
from cmdop_appliance.api.exchange import Call, Listed, Paged, Response, read_paging
from cmdop_appliance.api.fields import AnyText, EnvName, Name, Text, Time, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Scope, new_secret
from cmdop_appliance.errors import (
    Conflict,
    Forbidden,
    IdempotencyConflict,
    MachineNotFound,
    RecordingNotFound,
    SessionNotActive,
    TerminalEnded,
    TerminalNotFound,
    TerminalNotStarted,
    TerminalsNotSupported,
    TooManyTerminals,
    UpgradeRequired,
    ValidationFailed,
)
from cmdop_appliance.hub.terminals import Opening
from cmdop_appliance.hub.tickets import TICKET_MS
from cmdop_appliance.model import ClientMode, Terminal, TerminalKind, TerminalStatus
from cmdop_appliance.protocol.limits import ARGUMENTS_ITEMS, SPEC_BYTES
from cmdop_appliance.protocol.terminals import Cells, Shell, Size
from cmdop_appliance.store import clients
from cmdop_appliance.store import terminals as rows
from cmdop_appliance.store.idempotency import claim, find

_ASCIICAST = "application/x-asciicast"


class TerminalList(Paged, frozen=True):
    """Filters of the list of terminals."""

    ORDER: ClassVar = rows.ORDER

    machine_id: str | None = None
    kind: TerminalKind | None = None
    status: TerminalStatus | None = None


class OpenBody(Struct, kw_only=True):
    """What to open. One of this name that is open is answered instead, as it is."""

    name: Name | None = None  # default: a new one
    argv: Annotated[list[Text], Meta(max_length=ARGUMENTS_ITEMS)] = []  # default: the login shell
    cwd: Text | None = None  # default: the user's home
    env: dict[EnvName, AnyText] = {}
    user: Text | None = None  # default: whoever the agent runs as
    cols: Cells = 80
    rows: Cells = 24
    record: bool | None = None  # default: `[terminals] record` of the hub


class TicketBody(Struct, kw_only=True):
    """What its holder may do."""

    mode: ClientMode = "operator"


class Ticket(Struct, frozen=True):
    """Opens the socket of this terminal once, as the subprotocol `cmdop.ticket.<ticket>`."""

    ticket: str
    mode: ClientMode
    expires_at: Time | None


class Ended(Struct, frozen=True):
    """That it is to end is recorded; it ends within 10 s, or when its machine is back."""

    ended: bool = True


@route(
    "GET", "/terminals", scope=Scope.SESSIONS_READ, query=TerminalList, answer=list[TerminalView]
)
async def list_terminals(call: Call[None, TerminalList]) -> Listed:
    """The terminals and coding sessions of the workspace; of those that ended, the last 7 days'."""
    page = await call.hub.store.run(
        rows.page,
        call.caller.reach,
        read_paging(call.query),
        machine_id=call.query.machine_id,
        kind=call.query.kind,
        status=call.query.status,
    )
    return Listed([view_of(call.hub, terminal) for terminal in page.items], page)


@route(
    "POST",
    "/machines/:id/terminals",
    scope=Scope.COMMANDS_EXECUTE,
    body=OpenBody,
    answer=OpenedTerminal,
    errors=(
        MachineNotFound,
        SessionNotActive,
        TerminalsNotSupported,
        TerminalNotStarted,
        TooManyTerminals,
        Conflict,
        IdempotencyConflict,
        ValidationFailed,
    ),
)
async def open_terminal(call: Call[OpenBody, None]) -> OpenedTerminal:
    """Open a terminal; it lives until its program ends, or somebody ends it."""
    body = call.body
    what = Shell(argv=body.argv, cwd=body.cwd, env=body.env, user=body.user)
    if len(msgspec.json.encode(what)) > SPEC_BYTES:
        reason = f"argv and env are more than {SPEC_BYTES} bytes as JSON"
        raise ValidationFailed("Validation failed", body=reason)
    opening = Opening(
        kind="terminal",
        name=body.name,
        what=what,
        size=Size(body.cols, body.rows),
        is_recorded=body.record,
    )
    opened = await call.hub.terminals.open(call.caller, call.path["id"], opening, call.once)
    created = opened.created or await _came_before(call, opened.terminal)
    return OpenedTerminal(**fields_of(call.hub, opened.terminal), created=created)


@route(
    "GET",
    "/terminals/:id",
    scope=Scope.SESSIONS_READ,
    answer=TerminalView,
    errors=(TerminalNotFound,),
)
async def get_terminal(call: Call[None, None]) -> TerminalView:
    """One terminal."""
    return view_of(call.hub, await _find(call))


@route(
    "DELETE",
    "/terminals/:id",
    scope=Scope.COMMANDS_EXECUTE,
    answer=Ended,
    errors=(TerminalNotFound, TerminalEnded),
)
async def end_terminal(call: Call[None, None]) -> Ended:
    """End a terminal and all that runs in it; one whose machine is away ends when that is back."""
    await call.hub.terminals.end(call.caller, call.path["id"])
    return Ended()


@route(
    "POST",
    "/terminals/:id/tickets",
    scope=Scope.SESSIONS_READ,
    body=TicketBody,
    answer=Ticket,
    errors=(TerminalNotFound, TerminalEnded, Forbidden, ValidationFailed),
)
async def issue_terminal_ticket(call: Call[TicketBody, None]) -> Ticket:
    """A ticket for the socket, where a browser cannot send its key: good once, within 30 s."""
    terminal, mode = await _find(call), call.body.mode
    if mode == "operator":
        call.caller.require(Scope.COMMANDS_EXECUTE)
        await call.hub.store.run(clients.require_operator, call.caller.key_id, terminal.machine_id)
    if terminal.status == "ended":
        raise TerminalEnded("Terminal has ended", terminal_id=terminal.id)
    secret, made_ms, is_again = new_secret(), call.hub.clock.now_ms(), False
    if call.once is not None:
        made = await call.hub.store.run(claim, call.once, terminal.id)
        secret, made_ms = call.once.secret(made.salt), made.created_ms
        is_again = made.salt != call.once.salt
    if not is_again:
        call.hub.tickets.issue(call.caller, terminal.id, mode, secret.hex())
    return Ticket(secret.hex(), mode, when(made_ms + TICKET_MS))


@route(
    "GET",
    "/terminals/:id/recording",
    scope=Scope.SESSIONS_READ,
    answer=bytes,
    media=_ASCIICAST,
    errors=(TerminalNotFound, RecordingNotFound),
)
async def get_terminal_recording(call: Call[None, None]) -> Response:
    """What the terminal has shown so far, as asciicast v2; what was typed is not in it."""
    terminal = await _find(call)
    headers = {
        "Content-Type": _ASCIICAST,
        "Content-Disposition": f'attachment; filename="{terminal.id}.cast"',
        "Cache-Control": "no-store",
    }
    lines: AsyncGenerator[bytes, None] = await call.hub.recordings.asciicast(terminal)
    return Response(200, headers, lines)


@route(
    "GET",
    "/terminals/:id/socket",
    scope=Scope.SESSIONS_READ,
    answer=bytes,
    status=101,
    errors=(TerminalNotFound, UpgradeRequired),
)
async def open_terminal_socket(call: Call[None, None]) -> Response:
    """The screen and the keyboard of a terminal, over a websocket: see docs/terminals.md.

    The subprotocol is `cmdop.terminal.v1`. A browser sends a ticket beside it, as a subprotocol
    `cmdop.ticket.<ticket>`; whoever can sends the key, as everywhere. Typing needs
    `commands:execute`.
    """
    await _find(call)
    raise UpgradeRequired(
        "this is a websocket", hint="ask for it with `Upgrade: websocket`, on a new connection"
    )


async def _came_before(call: Call[OpenBody, None], terminal: Terminal) -> bool:
    """True: the same request opened this one when it came first."""
    if call.once is None:
        return False
    made = await call.hub.store.run(find, call.once)
    return made is not None and terminal.created_ms >= made.created_ms


async def _find(call: Call[Any, Any]) -> Terminal:
    return await call.hub.store.run(rows.get, call.caller.reach, call.path["id"])
