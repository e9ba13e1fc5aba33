"""The records of the product, as the store keeps them and every other layer passes them around.

Times are wall-clock milliseconds since 1970 UTC (`_ms`), durations milliseconds, sizes bytes.
"""

from typing import Any, Final, Literal, get_args

from msgspec import Struct

from cmdop_appliance.protocol.messages import Facts, Spec, Telemetry
from cmdop_appliance.protocol.terminals import Coding, Shell, Worktree

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
    "machine.changed",
    "machine.removed",
    "command.started",
    "command.completed",
    "command.failed",
    "command.cancelled",
    "command.timeout",
    "command.lost",
    "command.expired",
    "schedule.completed",
    "schedule.failed",
    "schedule.missed",
    "schedule.skipped",
    "file.uploaded",
    "coding_session.started",
    "coding_session.waiting",
    "coding_session.ended",
    "webhook.disabled",
]
EVENT_TYPES: Final[tuple[EventType, ...]] = get_args(EventType)
# What the audit log tells of.
Action = Literal[
    "api_key.created",
    "api_key.revoked",
    "audit.contradicted",
    "backup.taken",
    "batch.accepted",
    "batch.resumed",
    "call.refused",
    "command.accepted",
    "command.cancelled",
    "command.rejected",
    "coding_session.opened",
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
    "hub.restored",
    "hub.started",
    "hub.stopped",
    "machine.changed",
    "machine.clone_refused",
    "machine.joined",
    "machine.removed",
    "machine.trespassed",
    "peer.locked_out",
    "schedule.changed",
    "schedule.created",
    "schedule.deleted",
    "schedule.run",
    "session.client_attached",
    "session.client_detached",
    "sign_in.created",
    "sign_in.link_made",
    "sign_in.removed",
    "terminal.attached",
    "terminal.ended",
    "terminal.opened",
    "upgrade.accepted",
    "upgrade.failed",
    "upgrade.succeeded",
    "webhook.changed",
    "webhook.created",
    "webhook.deleted",
    "webhook.redelivered",
    "webhook.tested",
    "workspace.created",
]
ClientMode = Literal["operator", "observer"]
# What a PTY is for: a person who types, or an AI coding agent (HAPI's session).
TerminalKind = Literal["terminal", "coding_session"]
TerminalStatus = Literal["starting", "running", "ended"]
# How it ended: by itself; could not start; on request; idle for too long; nobody can tell.
TerminalEnding = Literal["exited", "failed", "cancelled", "idle", "lost"]
# What becomes of a firing while a command of the one before is under way on its machine.
Overlap = Literal["skip", "queue", "allow", "cancel_previous"]
# What becomes of a firing that came due while nobody could start it.
Misfire = Literal["run_once", "skip"]
RunStatus = Literal["started", "missed", "skipped"]
Preset = Literal["ntfy", "gotify", "discord", "slack", "telegram"]
DeliveryStatus = Literal["pending", "delivered", "dead"]
# Of an upgrade: the hub's turn; its machines'; done; not for the hub; a later one took its place.
UpgradeStatus = Literal["hub", "machines", "completed", "failed", "superseded"]
MachineUpgradeState = Literal[
    "waiting", "offered", "downloading", "starting", "healthy", "refused", "failed", "rolled_back"
]
# What a delivery tells of: an event, or that somebody tests the webhook.
DeliveredType = Literal[EventType, "webhook.test"]
COMMAND_STATUSES: Final[tuple[CommandStatus, ...]] = get_args(CommandStatus)

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


class SignIn(Record, frozen=True, kw_only=True):
    """A browser that acts as an API key; of its cookie only the hash is kept."""

    id: str
    api_key_id: str
    key_name: str
    created_ms: int
    last_seen_ms: int  # within a minute
    ip: str  # where it was seen last
    user_agent: str  # as the browser says
    expires_ms: int  # at the latest
    ends_ms: int  # if it is not seen again


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
    grace_until_ms: int | None = None  # in GRACE_PERIOD: it is over then
    attached_clients: int = 0  # where the query counts them


class Client(Record, frozen=True, kw_only=True):
    """A person or program looking at a session, and what it may do."""

    session_id: str
    id: str
    api_key_id: str
    caller_email: str
    mode: ClientMode
    attached_ms: int


class Terminal(Record, frozen=True, kw_only=True):
    """A PTY on a machine, held by its keeper; a coding session is one, too."""

    id: str  # `term_…` or `session_…`
    workspace_id: str
    machine_id: str
    kind: TerminalKind
    name: str  # unique among those of its machine that have not ended
    status: TerminalStatus
    what: Shell | Coding  # as it was asked for
    cols: int
    rows: int
    caller_email: str  # who asked; "": nobody, as far as this hub knows
    is_recorded: bool
    is_waiting: bool = False  # a coding session, for somebody to type
    is_ending: bool = False  # on request, which its machine may not have heard of
    directory: str | None = None  # where a coding session runs, as its machine says
    worktree: Worktree | None = None  # that was made for it
    created_ms: int
    started_ms: int | None = None
    changed_ms: int  # of status or `is_waiting`
    ended_ms: int | None = None
    end: TerminalEnding | None = None
    exit_code: int | None = None
    signal: str | None = None
    code: str | None = None  # failed, lost: which kind, a stable word
    message: str | None = None  # the same for people
    stale_ms: int | None = None  # when its machine was last heard of, where the query tells it

    @property
    def is_adopted(self) -> bool:
        """Only its machine tells of it: there may be nothing behind it."""
        return not self.caller_email


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
    schedule_id: str | None = None
    run_id: str | None = None  # the history row of the schedule's firing
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


class Notify(Struct, frozen=True):
    """Of which ends of its runs a schedule tells by an event."""

    on_success: bool = False
    on_failure: bool = False


class Schedule(Record, frozen=True, kw_only=True):
    """A cron rule and what it runs, on one machine, on those named, or on those with all tags."""

    id: str
    workspace_id: str
    name: str
    description: str
    machine_id: str | None
    machine_ids: list[str] | None
    tags: list[str] | None
    command: str  # as the caller wrote it
    spec: Spec
    cron: str
    timezone: str
    is_enabled: bool
    overlap: Overlap
    misfire: Misfire
    misfire_window_ms: int
    notify: Notify
    operator: str  # who said last what it runs
    created_ms: int
    updated_ms: int
    next_ms: int | None  # the first instant that is not decided yet; None: it is disabled
    decided_ms: int  # the wall clock when that was worked out
    last_run_id: str | None = None
    # Of its last run, where the query tells them.
    last_at_ms: int | None = None
    last_exit_code: int | None = None
    last_duration_ms: int | None = None


class Run(Record, frozen=True, kw_only=True):
    """The history row of a firing on one machine, or of one that ran nothing."""

    id: str
    workspace_id: str
    schedule_id: str
    scheduled_ms: int | None  # the instant that came due; None: it was asked for by hand
    position: int  # among the machines of its firing
    claim_ms: int | None = None  # the same, while nobody else may fire it
    first_ms: int | None = None  # it stands for all firings from then on
    first_run_id: str | None = None  # asked for by hand: the first run of that request
    machine_id: str | None
    command_id: str | None
    status: RunStatus
    reason: str | None = None  # why it ran nothing
    message: str | None = None
    is_ahead: bool = False  # it came while the clock was ahead of what it was set to later
    created_ms: int


class Webhook(Record, frozen=True, kw_only=True):
    """Who is told of events of a workspace."""

    id: str
    workspace_id: str
    url: str
    events: list[str]  # types, or "*"
    secret: str
    preset: Preset | None
    headers: dict[str, str]  # beside ours; their values are secrets
    description: str
    tags: list[str]  # it hears only of machines that carry all of them
    is_enabled: bool
    disabled_reason: str | None = None
    seq: int = 0  # how many deliveries were entered for it
    failing_since_ms: int | None = None
    succeeded_ms: int | None = None
    created_ms: int
    updated_ms: int
    pending: int = 0  # deliveries that wait, where the query counts them


class Attempt(Record, frozen=True, kw_only=True):
    """One POST of a delivery."""

    delivery_id: str
    number: int
    at_ms: int
    duration_ms: int
    response_status: int | None
    error: str | None
    excerpt: str | None


class Delivery(Record, frozen=True, kw_only=True):
    """One event for one webhook."""

    id: str
    webhook_id: str
    seq: int  # counts the deliveries of the webhook without gaps; 0: a test
    event_id: str
    type: DeliveredType
    subject: str
    data: dict[str, Any]
    status: DeliveryStatus
    reason: str | None = None  # why it is dead
    attempts: int = 0  # since it was last put in line
    tried: int = 0  # in all
    next_attempt_ms: int | None  # None: it has ended, or waits behind one of the same subject
    created_ms: int  # when the event happened, too
    ended_ms: int | None = None
    tries: list[Attempt] = []  # those that are kept, the newest first, where the query has them


class Upgrade(Record, frozen=True, kw_only=True):
    """A release that the hub was given, for itself and for its machines."""

    id: str
    version: str
    released_ms: int
    manifest: bytes  # as its maker signed it
    signature: bytes
    machine_ids: list[str] | None  # the only ones that get it; None: every one
    status: UpgradeStatus
    reason: str | None = None  # why it failed
    operator: str  # who asked
    created_ms: int
    hub_ms: int | None = None  # when the hub itself ran it
    finished_ms: int | None = None


class MachineUpgrade(Record, frozen=True, kw_only=True):
    """What became of an upgrade on one machine."""

    upgrade_id: str
    machine_id: str
    wave: int  # it comes after those with a smaller one
    state: MachineUpgradeState
    code: str | None = None  # why it came to nothing, a stable word
    reason: str | None = None  # the same for people
    changed_ms: int
    # What it is called, and whether it is there now, where the query tells it.
    name: str = ""
    is_online: bool = False
