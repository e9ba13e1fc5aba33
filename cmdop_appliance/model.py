"""The records of the product, as the store keeps them and every other layer passes them around.

Times are wall-clock milliseconds since 1970 UTC (`_ms`), durations milliseconds, sizes bytes.
"""

from typing import Any, Final, Literal, get_args

from msgspec import Struct

from cmdop_appliance.protocol.messages import Facts, Spec, Telemetry

SessionStatus = Literal[
    "PENDING", "CONNECTED", "BACKGROUND", "GRACE_PERIOD", "DISCONNECTED", "ERROR"
]
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
EventType = Literal[
    "session.created",
    "session.connected",
    "session.client_attached",
    "session.client_detached",
    "session.grace_period",
    "session.disconnected",
    "machine.registered",
    "machine.online",
    "machine.offline",
    "command.started",
    "command.completed",
    "command.failed",
    "command.cancelled",
    "command.timeout",
    "command.lost",
    "command.expired",
    "file.uploaded",
]
EVENT_TYPES: Final[tuple[EventType, ...]] = get_args(EventType)
# What the audit log tells of.
Action = Literal[
    "api_key.created",
    "api_key.revoked",
    "audit.contradicted",
    "batch.accepted",
    "batch.resumed",
    "call.refused",
    "command.accepted",
    "command.cancelled",
    "command.rejected",
    "enrolment_token.created",
    "enrolment_token.revoked",
    "file.copy",
    "file.delete",
    "file.mkdir",
    "file.move",
    "file.read",
    "file.refused",
    "file.write",
    "grant.closed",
    "grant.expired",
    "grant.opened",
    "hub.started",
    "hub.stopped",
    "machine.changed",
    "machine.clone_refused",
    "machine.joined",
    "machine.removed",
    "peer.locked_out",
    "session.client_attached",
    "session.client_detached",
    "workspace.created",
]
ClientMode = Literal["operator", "observer"]
COMMAND_STATUSES: Final[tuple[str, ...]] = get_args(CommandStatus)

# A machine has one session in these states, or none (contract.md §2).
LIVE_STATUSES: Final = ("CONNECTED", "BACKGROUND", "GRACE_PERIOD")
# Commands can be sent now.
CONNECTED_STATUSES: Final = ("CONNECTED", "BACKGROUND")
# The command has not ended; every other status is final.
OPEN_STATUSES: Final = ("pending", "running")

DEFAULT_WORKSPACE: Final = "ws_default"
DEFAULT_NAMESPACE: Final = "default"


class Record(Struct, frozen=True, kw_only=True):
    """A row. A column `x_json` arrives decoded as `x`, `is_x` as a bool; others as they are."""


class Workspace(Record, frozen=True, kw_only=True):
    """The owner of machines, keys and all that belongs to them."""

    id: str
    namespace: str
    created_ms: int


class ApiKey(Record, frozen=True, kw_only=True):
    """A secret for programs; only its hash is kept."""

    id: str
    workspace_id: str
    namespace: str
    name: str
    key_prefix: str  # enough to recognise a key, not enough to guess it
    scopes: list[str]
    tags: list[str] = []  # good only for machines that carry all of them
    created_ms: int
    expires_ms: int | None
    last_used_ms: int | None = None  # within a minute
    last_used_ip: str | None = None


class Enrolment(Record, frozen=True, kw_only=True):
    """An enrolment token; only its secret's hash is kept."""

    id: str
    workspace_id: str
    tags: list[str]
    max_uses: int
    uses: int
    created_ms: int
    expires_ms: int


class Machine(Record, frozen=True, kw_only=True):
    """A managed computer. Its key is its identity, everything else is a label."""

    id: str
    workspace_id: str
    name: str
    public_key: bytes
    tags: list[str]
    facts: Facts
    ip: str
    created_ms: int
    last_seen_ms: int
    clone_seen_ms: int | None  # when a second live holder of its key was refused, last
    is_online: bool = False  # it has a live session


class Session(Record, frozen=True, kw_only=True):
    """One connection of one machine, from PENDING to DISCONNECTED."""

    id: str
    workspace_id: str
    machine_id: str
    machine_hostname: str
    status: SessionStatus
    created_ms: int
    connected_ms: int | None
    last_heartbeat_ms: int | None
    telemetry: Telemetry | None
    sampled_ms: int | None
    attached_clients: int = 0  # where the query counts them


class Client(Record, frozen=True, kw_only=True):
    """A person or program looking at a session, and what it may do."""

    session_id: str
    id: str
    api_key_id: str
    caller_email: str
    mode: ClientMode
    attached_ms: int


class Event(Record, frozen=True, kw_only=True):
    """Something that happened, to `subject` (an id)."""

    workspace_id: str
    seq: int  # counts the events of the workspace, without gaps
    id: str
    type: EventType
    subject: str
    machine_id: str | None
    data: dict[str, Any]
    created_ms: int
    is_within: bool = True  # its reader may know of it, where the query tells


class Refusal(Struct, frozen=True):
    """An error as its reader gets it."""

    code: str
    message: str
    details: dict[str, Any]


class Command(Record, frozen=True, kw_only=True):
    """One execution on one machine."""

    id: str
    workspace_id: str
    machine_id: str
    session_id: str | None  # through which it was first sent; None: it certainly never was
    batch_id: str | None = None
    command: str  # as the caller wrote it
    spec: Spec
    spec_hash: bytes
    status: CommandStatus
    operator: str  # who asked
    supersede_key: str | None = None  # a newer command with it takes the place of this one
    created_ms: int
    start_until_ms: int  # not to be sent to its machine for a first time later than this
    is_bounded: bool  # it must not start later than that, either
    is_queued: bool = False  # it waits for its machine
    is_held: bool = False  # its batch has not come to it yet
    is_late: bool = False  # it was `lost: silent` until its machine returned
    is_unknown_to_hub: bool = False  # its machine named it to a hub that does not know it
    cancel_requested_ms: int | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    duration_ms: int | None = None
    exit_code: int | None = None
    signal: str | None = None
    error_code: str | None = None  # why it could not start, or what nobody can prove
    error_message: str | None = None
    stdout_bytes: int | None = None
    stderr_bytes: int | None = None
    stdout_sha256: bytes | None = None
    stderr_sha256: bytes | None = None
    stale_ms: int | None = None  # when its machine was last heard of, where the query tells it


class Batch(Record, frozen=True, kw_only=True):
    """One request for many machines: at most `concurrency` of its commands are open at a time.

    It is stopped, and what has not begun is skipped, by an error before `canary` commands have
    completed, or by more than `max_errors` (None: by no number of them).
    """

    id: str
    workspace_id: str
    concurrency: int
    canary: int
    max_errors: int | None
    refused: dict[str, Refusal]  # machine id → why nothing was recorded for it
    resumed_by: str | None = None  # the batch that runs what this one skipped
    created_ms: int


class AuditEntry(Record, frozen=True, kw_only=True):
    """A line of the audit log; `hash` covers it and every line before."""

    seq: int
    at_ms: int
    workspace_id: str
    actor: str  # an email, a machine's id, or "hub"
    api_key_id: str | None
    action: str
    target: str
    outcome: Literal["ok", "refused"]
    details: dict[str, Any]
    hash: bytes


class Witness(Record, frozen=True, kw_only=True):
    """The newest entry of the audit log that a machine remembers."""

    machine_id: str
    seq: int
    hash: bytes
    seen_ms: int  # when it told so
    is_agreeing: bool  # with the log as it is now
