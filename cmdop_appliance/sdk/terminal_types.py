"""The shapes of terminals: plain JSON objects, typed for the reader, never converted."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

Mode = Literal["operator", "observer"]


class Viewers(TypedDict):
    """How many look at a terminal now."""

    operators: int
    observers: int


class Worktree(TypedDict):
    """A git worktree that was made for a coding session."""

    repository: str  # the main working tree
    path: str
    branch: str
    name: str


class TerminalError(TypedDict):
    """Why a terminal could not start, or what nobody can prove of its end."""

    code: str
    message: str


class Terminal(TypedDict):
    """A PTY on a machine; a coding session is one, too. Times RFC 3339.

    What only one of them has is None in the other: `argv`, `cwd` and `user` of a terminal; `agent`,
    `model`, `yolo`, `directory` and `worktree` of a coding session.
    """

    id: str
    kind: Literal["terminal", "coding_session"]
    name: str  # unique among those of its machine that have not ended
    machine_id: str
    status: Literal["starting", "running", "ended"]
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
    stale_since: str | None  # its machine was last heard of then, and is not connected
    viewers: Viewers
    created_at: str
    started_at: str | None
    ended_at: str | None
    end: Literal["exited", "failed", "cancelled", "idle", "lost"] | None
    exit_code: int | None
    signal: str | None
    error: TerminalError | None


class OpenedTerminal(Terminal):
    """A terminal that was opened now, or was open."""

    created: bool  # False: one of this name was open


class TerminalOptions(TypedDict, total=False):
    """What a terminal may have beside its machine."""

    name: str | None  # of one that runs there already: that one, as it is
    argv: Sequence[str] | None  # default: the login shell
    cwd: str | None
    env: Mapping[str, str] | None
    user: str | None
    cols: int | None
    rows: int | None
    record: bool | None


class Ticket(TypedDict):
    """Opens one websocket within 30 s, without the API key: for browsers."""

    ticket: str
    mode: Mode
    expires_at: str
