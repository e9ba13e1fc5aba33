"""The records of the product, as the store keeps them and every other layer passes them around.

Times are wall-clock milliseconds since 1970 UTC (`_ms`), durations milliseconds, sizes bytes.
"""

from typing import Final, Literal, get_args

from msgspec import Struct

from cmdop_appliance.protocol.messages import Facts, Spec, Telemetry

SessionStatus = Literal[
    "PENDING", "CONNECTED", "BACKGROUND", "GRACE_PERIOD", "DISCONNECTED", "ERROR"
]
CommandStatus = Literal[
    "pending", "running", "completed", "failed", "cancelled", "timeout", "lost", "expired"
]
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


class ApiKey(Record, frozen=True, kw_only=True):
    """A secret for programs; only its hash is kept."""

    id: str
    workspace_id: str
    namespace: str
    name: str
    key_prefix: str  # enough to recognise a key, not enough to guess it
    scopes: list[str]
    created_ms: int
    expires_ms: int | None


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
    session_status: SessionStatus | None = None  # of its live session, where the query joins it


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


class Command(Record, frozen=True, kw_only=True):
    """One execution on one machine."""

    id: str
    workspace_id: str
    machine_id: str
    session_id: str
    command: str  # as the caller wrote it
    spec: Spec
    spec_hash: bytes
    status: CommandStatus
    operator: str  # who asked
    created_ms: int
    start_until_ms: int  # not to be sent to its machine for a first time later than this
    is_awaited: bool  # a caller waits for its end: it must not start later than that, either
    cancel_requested_ms: int | None
    started_ms: int | None
    finished_ms: int | None
    duration_ms: int | None
    exit_code: int | None
    signal: str | None
    error_code: str | None  # failed: why it could not start; lost: what nobody can prove
    error_message: str | None
    stdout_bytes: int | None
    stderr_bytes: int | None
    stdout_sha256: bytes | None
    stderr_sha256: bytes | None
