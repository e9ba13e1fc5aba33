"""What is said of a terminal: to whoever asks for it, lists it, or looks at its screen."""

from typing import Any

from msgspec import Struct

from cmdop_appliance.api.fields import Time, when
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.model import Terminal, TerminalEnding, TerminalKind, TerminalStatus
from cmdop_appliance.protocol.terminals import Coding, Shell, Worktree


class TerminalError(Struct, frozen=True):
    """Why a terminal could not start, or what nobody can prove of its end."""

    code: str
    message: str


class Viewers(Struct, frozen=True):
    """How many look at a terminal now."""

    operators: int  # who may type
    observers: int


class TerminalView(Struct, frozen=True, kw_only=True):
    """The public record of a terminal, or of a coding session.

    What only one of them has is null in the other: `argv`, `cwd` and `user` of a terminal; `agent`,
    `model`, `yolo`, `directory` and `worktree` of a coding session.
    """

    id: str
    kind: TerminalKind
    name: str  # unique among those of its machine that have not ended
    machine_id: str
    status: TerminalStatus
    cols: int
    rows: int
    argv: list[str] | None  # empty: the login shell
    cwd: str | None
    user: str | None
    agent: str | None
    model: str | None
    yolo: bool | None
    directory: str | None
    worktree: Worktree | None
    user_email: str
    recorded: bool
    waiting: bool  # a coding session, for somebody to type
    ending: bool  # on request, which its machine may not have heard of
    stale_since: Time | None  # its machine was last heard of then, and is not connected
    viewers: Viewers
    created_at: Time
    started_at: Time | None
    ended_at: Time | None
    end: TerminalEnding | None
    exit_code: int | None
    signal: str | None
    error: TerminalError | None


class OpenedTerminal(TerminalView, frozen=True, kw_only=True):
    """A terminal as it is; it may have been open before."""

    created: bool  # false: one of this name was open


def view_of(hub: Hub, terminal: Terminal) -> TerminalView:
    """The record of a terminal."""
    return TerminalView(**fields_of(hub, terminal))


def fields_of(hub: Hub, terminal: Terminal) -> dict[str, Any]:
    """What `TerminalView` has of a terminal."""
    shell = terminal.what if isinstance(terminal.what, Shell) else None
    coding = terminal.what if isinstance(terminal.what, Coding) else None
    operators, observers = hub.viewings.count(terminal.id)
    error = None
    if terminal.code is not None:
        error = TerminalError(terminal.code, terminal.message or terminal.code)
    return {
        "id": terminal.id,
        "kind": terminal.kind,
        "name": terminal.name,
        "machine_id": terminal.machine_id,
        "status": terminal.status,
        "cols": terminal.cols,
        "rows": terminal.rows,
        "argv": shell and shell.argv,
        "cwd": shell and shell.cwd,
        "user": shell and shell.user,
        "agent": coding and coding.flavour,
        "model": coding and coding.model,
        "yolo": coding and coding.yolo,
        "directory": coding and (terminal.directory or coding.directory),
        "worktree": terminal.worktree,
        "user_email": terminal.caller_email,
        "recorded": terminal.is_recorded,
        "waiting": terminal.is_waiting,
        "ending": terminal.is_ending,
        "stale_since": when(terminal.stale_ms),
        "viewers": Viewers(operators, observers),
        "created_at": when(terminal.created_ms),
        "started_at": when(terminal.started_ms),
        "ended_at": when(terminal.ended_ms),
        "end": terminal.end,
        "exit_code": terminal.exit_code,
        "signal": terminal.signal,
        "error": error,
    }
