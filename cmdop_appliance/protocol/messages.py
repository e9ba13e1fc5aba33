"""Every message of the agent link as a typed, frozen record; unknown fields are ignored."""

import re
from typing import Annotated, Final, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct

from cmdop_appliance.errors import LocalProtocolError, RemoteProtocolError
from cmdop_appliance.protocol.files import AnyAnswer, AnyCall, Bytes32, Count, Label
from cmdop_appliance.protocol.limits import (
    FEATURES_ITEMS,
    HOSTNAME_BYTES,
    INVENTORY_ITEMS,
    MESSAGE_BYTES,
    NAME_CHARS,
    SAMPLES_IN_ONE,
    SAMPLES_ITEMS,
)
from cmdop_appliance.protocol.terminals import FromAgent as FromTerminals
from cmdop_appliance.protocol.terminals import FromHub as ToTerminals
from cmdop_appliance.protocol.terminals import Size
from cmdop_appliance.protocol.upgrades import Upgrade, Upgrading
from cmdop_appliance.protocol.words import Message

CommandId = Annotated[str, Meta(pattern=r"^cmd_[0-7][0-9A-HJKMNP-TV-Z]{25}\Z")]
Bytes16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]  # Ed25519, RFC 8032
Features = Annotated[list[Label], Meta(max_length=FEATURES_ITEMS)]
Percent = Annotated[float, Meta(ge=0, le=100)]

_CONTROLS: Final = r"\x00-\x1f\x7f-\x9f"  # C0, DEL and C1
CONTROLS: Final = re.compile(f"[{_CONTROLS}]")
NO_CONTROLS: Final = rf"^[^{_CONTROLS}]*\Z"
# What people call a machine or a key, wherever it is given.
Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS, pattern=NO_CONTROLS)]

End = Literal["exited", "timeout", "cancelled", "failed", "lost", "expired"]
Phase = Literal["queued", "running", "ended"]


def clean(text: str) -> str:
    """What a machine says, without what moves a cursor."""
    return CONTROLS.sub("\ufffd", text)


class Facts(Struct, frozen=True, kw_only=True):
    """What a machine says of itself. Labels for people: identity is the key alone."""

    hostname: Label
    platform: Literal["linux", "darwin", "win32"]
    os: Label  # the distribution as it names itself
    arch: Label
    kernel: Label
    user: Label  # whom the agent runs as
    home: Label
    agent_version: Label
    cpu_cores: Count
    memory_bytes: Count


class Telemetry(Struct, frozen=True, kw_only=True):
    """One sample. Byte counters of the network run since boot; sizes are bytes."""

    cpu_percent: Percent
    memory_percent: Percent
    disk_percent: Percent
    memory_total: Count
    memory_used: Count
    memory_free: Count
    disk_total: Count
    disk_used: Count
    disk_free: Count
    network_rx_bytes: Count
    network_tx_bytes: Count
    uptime_seconds: Count


class Peak(Struct, frozen=True, kw_only=True):
    """The most of each among the samples that became one."""

    cpu_percent: Percent
    memory_percent: Percent
    disk_percent: Percent


class Sample(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The load of a machine at a moment; or over a minute, of `count` samples that became one.

    Then percentages are means, sizes and counters those of the last, and `number` is the last's.
    """

    number: Count  # counts the samples of a series: a higher one was taken later
    age_ms: Count  # how long ago, on a clock that nobody can set
    telemetry: Telemetry
    count: Annotated[int, Meta(ge=1, le=SAMPLES_IN_ONE)] = 1
    peak: Peak | None = None  # default: the percentages themselves


class Spec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to run. The agent adds nothing to it and takes nothing away."""

    argv: Annotated[
        list[str], Meta(min_length=1)
    ]  # argv[0] is looked up on the machine's PATH; the shell stands here if wanted
    cwd: str | None = None  # default: the user's home
    env: dict[str, str] = {}
    user: str | None = None  # default: whoever the agent runs as
    stdin: bytes | None = None  # default: empty
    timeout_ms: Annotated[int, Meta(gt=0, lt=2**53)] | None = None  # from the start; default: none
    operator: str | None = None  # who asked, shown to the command as CMDOP_OPERATOR
    # Equal keys run one after another, in the order dispatched; default: beside everything else.
    serial_key: Annotated[str, Meta(min_length=1, max_length=NAME_CHARS)] | None = None
    # It runs in a terminal of this size, and all it writes is its stdout; default: in none.
    pty: Size | None = None


class AuditHead(Struct, frozen=True, kw_only=True):
    """The newest entry of the hub's audit log at some time: who remembers it misses it."""

    seq: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    hash: Bytes32


class Stream(Struct, frozen=True):
    """One whole output stream of an ended command."""

    bytes: Count
    sha256: Bytes32


class Known(Struct, frozen=True, kw_only=True):
    """A command as the agent remembers it."""

    id: CommandId
    phase: Phase


# ── agent → hub ──────────────────────────────────────────────────────────────────────────────


class Hello(Message, frozen=True):
    """First words: which protocol the agent speaks, and a nonce for the hub to sign."""

    version: Annotated[int, Meta(ge=1, le=65535)]
    nonce: Bytes32


class Prove(Message, frozen=True):
    """The machine's key and its signature; with a token it joins, without it comes back."""

    public_key: Bytes32
    signature: Signature
    boot_id: Label
    keeper_id: Label  # tells a restarted agent from a clone of its state directory
    facts: Facts
    token: Label | None = None
    name: Name | None = None

    # Not a constraint of `Facts`: what an older hub has stored must stay readable.
    def __post_init__(self) -> None:
        if len(self.facts.hostname.encode()) > HOSTNAME_BYTES:
            raise ValueError(f"a hostname is at most {HOSTNAME_BYTES} bytes")
        for name, fact in msgspec.structs.asdict(self.facts).items():
            if isinstance(fact, str) and CONTROLS.search(fact):
                raise ValueError(f"{name} has control characters")


class Inventory(Message, frozen=True):
    """A part of what the agent knows; repeated until all is said."""

    commands: Annotated[list[Known], Meta(max_length=INVENTORY_ITEMS)]


class Ready(Message, frozen=True, omit_defaults=True):
    """The inventory is complete: dispatches may come."""

    audit_head: AuditHead | None = None  # the newest that the agent remembers
    # What else the agent understands: "files", "terminals", "upgrade". First releases name none.
    features: Features = msgspec.field(default_factory=list)


class Heartbeat(Message, frozen=True, omit_defaults=True):
    """A sign of life."""

    telemetry: Telemetry | None = None  # as agents of the first release tell it; `samples` since


class Samples(Message, frozen=True):
    """Samples that the hub has not confirmed; said again after a reconnect until it has.

    The hub takes each number of a series once. A new series begins with each start of the agent.
    """

    series: Bytes16
    samples: Annotated[list[Sample], Meta(min_length=1, max_length=SAMPLES_ITEMS)]


class Background(Message, frozen=True):
    """The machine saves its strength from now on, or no longer; said anew on each connection."""

    on: bool


class Accepted(Message, frozen=True):
    """A command that was dispatched without a bound has to wait here, for room or for its key."""

    id: CommandId


class Started(Message, frozen=True):
    """A command runs. Left out when its end follows at once."""

    id: CommandId
    started_ms: Count


class Finished(Message, frozen=True):
    """A command has ended; repeated after every reconnect until acknowledged.

    All output was sent before it. `exit_code` is null unless the command ended by itself; a
    command ended by a signal has 128 + its number, and the signal's name.
    """

    id: CommandId
    end: End
    stdout: Stream
    stderr: Stream
    exit_code: Annotated[int, Meta(ge=0, le=255)] | None = None
    signal: Label | None = None
    reason: Label | None = None  # failed and lost: which kind, a stable word
    message: Label | None = None  # the same for people
    started_ms: Count | None = None
    duration_ms: Count | None = None


class Rejected(Message, frozen=True):
    """A dispatch that contradicts what the agent knows of this id. Nothing was started."""

    id: CommandId
    reason: Label


class Notice(Message, frozen=True):
    """What this machine allows was widened, or narrowed again, by somebody who works there."""

    event: Label  # a stable word: grant.opened, grant.closed, grant.expired
    message: Label  # the same for people, and who did it


class FileAnswer(Message, frozen=True):
    """What came of a call; for some the first of two answers, with data between them."""

    id: Count
    answer: AnyAnswer


class FileFailed(Message, frozen=True, omit_defaults=True):
    """A call came to nothing, or what was being sent for it ends here and is worthless."""

    id: Count
    code: Label  # of the public API (contract.md §5)
    message: Label  # the same for people
    offset: Count | None = None  # of `offset_mismatch`: where the upload stands


class Bye(Message, frozen=True):
    """The agent stops on purpose and will not be back at once."""


# ── hub → agent ──────────────────────────────────────────────────────────────────────────────


class Challenge(Message, frozen=True):
    """The hub's key, its signature over the agent's nonce, and a nonce for the machine to sign."""

    version: Annotated[int, Meta(ge=1, le=65535)]
    hub_key: Bytes32
    nonce: Bytes32
    signature: Signature


class Welcome(Message, frozen=True, omit_defaults=True):
    """The machine is who it says. `epoch` names this connection."""

    machine_id: Label
    session_id: Label
    epoch: Count
    # Those of `FEATURES` that the hub knows, and newer ones. One of the first release names none.
    features: Features = msgspec.field(default_factory=list)


class Revoked(Message, frozen=True):
    """The machine was removed: the agent ends. Signed, so that nobody else can say it."""

    machine_id: Label
    signature: Signature


class Dispatch(Message, frozen=True, omit_defaults=True):
    """Start this command, unless this id was ever seen. Sent any number of times."""

    id: CommandId
    spec_hash: Bytes32
    ttl_ms: Count | None  # not to be started later than this after receipt; null: no bound
    spec: Spec
    # The hub has it from a backup: it may have been seen so long ago that nobody remembers it.
    is_restored: bool = False


class Cancel(Message, frozen=True):
    """End this command, or never start it."""

    id: CommandId


class Resume(Message, frozen=True):
    """Send this command's output from these byte offsets, and its end if it has ended."""

    id: CommandId
    stdout: Count
    stderr: Count


class Stored(Message, frozen=True):
    """The hub holds this command's output up to these byte offsets."""

    id: CommandId
    stdout: Count
    stderr: Count


class Sampled(Message, frozen=True):
    """The samples up to this number are on the hub's disk; the agent may forget them."""

    number: Count


class Acknowledge(Message, frozen=True):
    """The end of this command is on the hub's disk; the agent may forget it."""

    id: CommandId


class FileCall(Message, frozen=True):
    """Do this. `id` is new on this connection, and names the call in all that is said of it."""

    id: Count
    call: AnyCall


class FileStop(Message, frozen=True):
    """Nobody waits for this call any more; what it has not done yet it shall not do."""

    id: Count


class Heartbeatack(Message, frozen=True, tag="heartbeat_ack", omit_defaults=True):
    """The hub is alive, too."""

    audit_head: AuditHead | None = None  # for the agent to remember


# ── both ways ────────────────────────────────────────────────────────────────────────────────


class FileCredit(Message, frozen=True):
    """The receiver has room: data of this call may come up to this byte offset."""

    id: Count
    offset: Count


class FileEnd(Message, frozen=True, omit_defaults=True):
    """All data of this call was sent: it ends at byte offset `end` of the file.

    To a machine: with `sha256`, that of the whole file, it is put in place; without, it is kept.
    """

    id: Count
    end: Count
    sha256: Bytes32 | None = None


# The messages that came after the first release: agents say them to a hub that names them, only.
FEATURES: Final[tuple[str, ...]] = (
    "samples",
    "background",
    "fileanswer",
    "filefailed",
    "filecredit",
    "fileend",
    *(kind.__struct_config__.tag for kind in get_args(FromTerminals)),
    "upgrading",
)

FromAgent = (
    Hello
    | Prove
    | Inventory
    | Ready
    | Heartbeat
    | Samples
    | Background
    | Accepted
    | Started
    | Finished
    | Rejected
    | Notice
    | FileAnswer
    | FileFailed
    | FileCredit
    | FileEnd
    | FromTerminals
    | Upgrading
    | Bye
)
FromHub = (
    Challenge
    | Welcome
    | Revoked
    | Dispatch
    | Cancel
    | Resume
    | Stored
    | Sampled
    | Acknowledge
    | Heartbeatack
    | FileCall
    | FileStop
    | FileCredit
    | FileEnd
    | ToTerminals
    | Upgrade
)

M = TypeVar("M")

_encoder: Final = msgspec.json.Encoder()
_from_agent: Final[msgspec.json.Decoder[FromAgent]] = msgspec.json.Decoder(FromAgent)
_from_hub: Final[msgspec.json.Decoder[FromHub]] = msgspec.json.Decoder(FromHub)


def encode(message: Message) -> str:
    """The text frame for `message`.

    Raises:
        LocalProtocolError: the frame would be larger than the peer accepts.
    """
    frame = _encoder.encode(message)
    if len(frame) > MESSAGE_BYTES:
        kind = type(message).__name__.lower()
        raise LocalProtocolError(f"{kind} of {len(frame)} bytes; at most {MESSAGE_BYTES} fit")
    return frame.decode()


def decode_from_agent(frame: str) -> FromAgent:
    """What an agent said.

    Raises:
        RemoteProtocolError: it is not a message of an agent.
    """
    return _decode(_from_agent, frame)


def decode_from_hub(frame: str) -> FromHub:
    """What the hub said.

    Raises:
        RemoteProtocolError: it is not a message of a hub.
    """
    return _decode(_from_hub, frame)


def _decode(decoder: msgspec.json.Decoder[M], frame: str) -> M:
    try:
        return decoder.decode(frame)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise RemoteProtocolError(f"not a message: {exc}") from exc
