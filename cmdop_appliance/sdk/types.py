"""The shapes the hub answers with: plain JSON objects, typed for the reader, never converted."""

from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict


class Machine(TypedDict):
    """One row of GET /machines; the single machine has more facts."""

    id: str
    name: str
    status: Literal["online", "offline"]
    os: str | None
    arch: str | None
    hostname: str
    tags: list[str]
    created_at: str
    last_seen: str | None


class Session(TypedDict):
    """One connection of a machine. `attached_clients`: a number in lists, the clients in one."""

    session_id: str
    status: str
    machine_id: str
    machine_hostname: str
    created_at: str
    connected_at: str | None
    last_heartbeat_at: str | None
    attached_clients: int | list[dict[str, Any]]


class CommandError(TypedDict):
    """Why a command could not start, or why its outcome is unknown."""

    code: str
    message: NotRequired[str]


class Command(TypedDict):
    """One execution. `exit_code`, `finished_at` and `duration` (ms) are None until it has ended."""

    id: str
    machine_id: str
    command: str
    status: str
    exit_code: int | None
    duration: int | None
    started_at: str | None
    finished_at: str | None
    stdout: NotRequired[str]
    stderr: NotRequired[str]
    error: NotRequired[CommandError | None]


class StartedCommand(TypedDict):
    """The answer to a start that is not waited for."""

    id: str
    status: str


class APIKey(TypedDict):
    """An API key without its secret; `key` is there in the answer to its creation only."""

    id: str
    name: str
    key_prefix: str
    scopes: list[str]
    expires_at: str | None
    created_at: str
    key: NotRequired[str]


class EnrollmentToken(TypedDict):
    """A token that lets machines join; `token` is there in the answer to its creation only."""

    id: str
    max_uses: int
    tags: list[str]
    expires_at: str
    token: NotRequired[str]


class Caller(TypedDict):
    """Who the hub takes us for."""

    id: str
    email: str | None
    name: str
    permissions: list[str]


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes a command wrote, exactly as it wrote them."""

    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes of a stream that the hub did not keep: `size` of them, between two `Output`s."""

    stream: Literal["stdout", "stderr"]
    size: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The command has ended and all of its output has been seen."""

    command: Command
