"""The shapes the hub answers with: plain JSON objects, typed for the reader, never converted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

CommandStatus = Literal[
    "pending",
    "running",
    "completed",
    "failed",
    "cancelled",
    "timeout",
    "lost",
    "expired",
    "skipped",
]


class Machine(TypedDict):
    """One row of GET /machines; the single machine has more facts."""

    id: str
    name: str
    status: Literal["online", "offline"]
    os: str | None
    arch: str | None
    hostname: str
    tags: list[str]
    agent_version: str
    created_at: str
    last_seen: str | None


class Cpu(TypedDict):
    """`usage` in percent of all `cores`."""

    usage: float
    cores: int


class Space(TypedDict):
    """Memory or disk, in bytes; `free` is what programs can still have."""

    total: int
    used: int
    free: int


class MachineStatus(TypedDict):
    """How a machine is now; `uptime` in seconds. What nobody knows now is None."""

    connected: bool
    uptime: int | None
    last_ping: str | None
    cpu: Cpu | None
    memory: Space | None
    disk: Space | None
    sampled_at: str | None


class Point(TypedDict):
    """The load in the step of time that begins at `at`; bytes are None where they are not known."""

    at: str
    cpu_percent: float
    cpu_percent_max: float
    memory_percent: float
    memory_percent_max: float
    disk_percent: float
    disk_percent_max: float
    network_rx_bytes: int | None
    network_tx_bytes: int | None


# The load of a machine over time; `step` in ms. A step without samples has no point.
Metrics = TypedDict(
    "Metrics", {"machine_id": str, "from": str, "to": str, "step": int, "points": list[Point]}
)


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
    """One execution. Times RFC 3339; `exit_code` and `duration` (ms) are None until it has ended.

    Lists come without output. In one command it is at most 1 MiB of each stream, as text.
    """

    id: str
    machine_id: str
    session_id: str | None  # None: it was never sent to its machine
    batch_id: str | None
    schedule_id: str | None
    command: str
    status: CommandStatus
    exit_code: int | None
    signal: str | None
    error: CommandError | None
    duration: int | None
    timeout: int | None
    cwd: str | None
    user: str | None
    user_email: str
    queue: bool
    supersede_key: str | None
    serial_key: str | None
    cancel_requested: bool
    late: bool  # it was lost because its machine was silent, which has returned
    unknown_to_hub: bool  # only its machine knows what was asked: the hub was restored
    stale_since: str | None  # its machine was last heard of then, and is not connected
    created_at: str
    started_at: str | None
    finished_at: str | None
    stdout: NotRequired[str]
    stderr: NotRequired[str]
    stdout_bytes: NotRequired[int]
    stderr_bytes: NotRequired[int]
    stdout_sha256: NotRequired[str | None]
    stderr_sha256: NotRequired[str | None]
    stdout_truncated: NotRequired[bool]
    stderr_truncated: NotRequired[bool]
    stdout_lossy: NotRequired[bool]
    stderr_lossy: NotRequired[bool]
    output_forgotten: NotRequired[bool]  # it is kept no longer


class Refused(TypedDict):
    """Why nothing was recorded for one machine of a batch."""

    error: CommandError


Batch = dict[str, Command | Refused]  # by machine id


class CommandOptions(TypedDict, total=False):
    """How a command shall run. What is missing or None is left to the hub.

    With an `idempotency_key` the hub carries the same call out once in 24 h, however often it is
    made. Without one each call has its own, so that only its repetitions are recognised.
    """

    timeout_ms: int | None
    cwd: str | None
    env: Mapping[str, str] | None
    user: str | None
    stdin: str | None
    shell: str | None
    queue: bool | None  # wait for a machine that is away
    queue_timeout_ms: int | None  # not for longer than this
    supersede_key: str | None  # take the place of unsent commands with the same key
    serial_key: str | None  # start after the end of those before it with the same key
    pty: bool | None  # in a terminal, to which both streams go: all of it is stdout
    idempotency_key: str | None


class StartedCommand(TypedDict):
    """The answer to a start that is not waited for."""

    id: str
    status: CommandStatus


class APIKey(TypedDict):
    """An API key without its secret; `key` is there in the answer to its creation only."""

    id: str
    name: str
    key_prefix: str
    scopes: list[str]
    tags: list[str]  # it is good only for machines that have all of them
    expires_at: str | None
    created_at: str
    last_used_at: NotRequired[str | None]  # right to a minute
    last_used_ip: NotRequired[str | None]
    key: NotRequired[str]


class Workspace(TypedDict):
    """An owner of machines and keys."""

    id: str
    namespace: str
    created_at: str


class NewWorkspace(Workspace):
    """A workspace with its first admin key."""

    api_key: APIKey


class Release(TypedDict):
    """What a bundle has in it."""

    version: str
    released_at: str
    programs: list[str]
    running_version: str
    is_running: bool


class Upgrade(Release):
    """A release on its way to a hub and its machines."""

    id: str
    status: Literal["hub", "machines", "completed", "failed", "superseded"]
    reason: str | None
    machine_ids: list[str] | None
    created_at: str
    hub_upgraded_at: str | None
    finished_at: str | None


class MachineUpgrade(TypedDict):
    """What becomes of an upgrade on one machine."""

    machine_id: str
    name: str
    online: bool
    wave: int
    state: Literal[
        "waiting",
        "offered",
        "downloading",
        "starting",
        "healthy",
        "refused",
        "failed",
        "rolled_back",
    ]
    code: str | None
    reason: str | None
    changed_at: str


class EnrollmentToken(TypedDict):
    """A token that lets machines join; `token` is there in the answer to its creation only."""

    id: str
    max_uses: int
    tags: list[str]
    expires_at: str
    token: NotRequired[str]


class AuditEntry(TypedDict):
    """A line of the audit log. `actor`: an email, a machine's id, or "hub"."""

    seq: int
    at: str
    actor: str
    api_key_id: str | None
    action: str
    target: str
    outcome: Literal["ok", "refused"]
    details: dict[str, Any]
    hash: str


class AuditHead(TypedDict):
    """How far the audit log is."""

    seq: int
    hash: str


class AuditWitness(TypedDict):
    """The newest entry that a machine remembers, and whether the log still has it."""

    machine_id: str
    seq: int
    agrees: bool
    seen_at: str


class AuditProof(TypedDict):
    """What a walk through the audit log showed."""

    ok: bool
    entries: int
    head: AuditHead
    first_bad: int | None
    given_agrees: bool | None
    contradictions: int
    witnesses: list[AuditWitness]


class Caller(TypedDict):
    """Who the hub takes us for."""

    id: str
    email: str | None
    name: str
    permissions: list[str]
    workspace: dict[str, str]  # its id and namespace
    tags: list[str]
    expires_at: str | None
    hub_version: str


class FileEntry(TypedDict):
    """One name in a directory of a machine; `size` in bytes, `mode` as chmod takes it: "0644".

    Names and paths are `os.fsdecode`d: bytes that are not UTF-8 are lone surrogates; only for such
    ones `…_base64` is not None.
    """

    name: str
    path: str
    type: Literal["file", "directory", "symlink", "other"]
    size: int
    mode: str
    owner: str
    group: str
    modified_at: str | None  # None: in no year that has four digits
    target: str | None  # what a symlink says
    name_base64: str | None
    path_base64: str | None
    target_base64: str | None


class FileStat(FileEntry):
    """What stands at a path; `version` is another one after every change."""

    version: str
    sha256: str | None  # of a file, if it was asked for or is known


class WrittenFile(TypedDict):
    """A file that is in place on its machine, on the disk, with all its bytes."""

    path: str
    size: int
    sha256: str
    created: NotRequired[bool]  # False: there was one before. Not known after some breaks


class ReadFile(TypedDict):
    """A file that has arrived here, with all its bytes."""

    path: str  # where
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes a command wrote, exactly as it wrote them."""

    stream: Literal["stdout", "stderr"]
    data: bytes


class Event(TypedDict):
    """One event; `seq` counts those of the workspace."""

    id: str
    type: str
    timestamp: str
    seq: int
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EventGap:
    """Events `first` to `last`, which the hub keeps no more."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes of a stream that the hub did not keep: `size` of them, between two `Output`s."""

    stream: Literal["stdout", "stderr"]
    size: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The command has ended and all of its output has been seen."""

    command: Command
