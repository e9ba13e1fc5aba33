"""What a hub says of a machine's terminals, and what that answers.

A terminal is held by the machine's keeper, and outlives every connection. Its output has byte
offsets from its start on, of which the last MiB is kept; so has the input of each writer, so that
what is typed arrives once, whatever dies on the way.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from cmdop_appliance.protocol.files import Count, Label
from cmdop_appliance.protocol.limits import (
    ARGUMENTS_ITEMS,
    INPUT_BYTES,
    INVENTORY_ITEMS,
    NAME_CHARS,
    SIDE_CELLS,
)
from cmdop_appliance.protocol.words import Message

TerminalId = Annotated[str, Meta(pattern=r"^(term|session)_[0-7][0-9A-HJKMNP-TV-Z]{25}\Z")]
# Who types: one client through all its connections, which has chosen it.
Writer = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Cells = Annotated[int, Meta(ge=1, le=SIDE_CELLS)]
Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS)]


class Size(Struct, frozen=True):
    """How large a screen is."""

    cols: Cells = 80
    rows: Cells = 24


class Shell(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="shell"):
    """A program in a terminal."""

    argv: Annotated[list[str], Meta(max_length=ARGUMENTS_ITEMS)] = []  # default: the login shell
    cwd: str | None = None  # default: the user's home
    env: dict[str, str] = {}
    user: str | None = None  # default: whoever the agent runs as


class Coding(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="coding"):
    """An AI coding agent in a terminal, as one of the machine's flavours starts it."""

    directory: str
    flavour: Name
    model: Name | None = None
    yolo: bool = False  # it asks nobody before it does things
    worktree: Name | None = None  # make a git worktree of this name, and start there


class Worktree(Struct, frozen=True, kw_only=True):
    """A git worktree that was made for a coding session."""

    repository: Label  # the main working tree
    path: Label
    branch: Label
    name: Label  # with the suffix that it was given, if the name was taken


class KnownTerminal(Struct, frozen=True, kw_only=True):
    """A terminal as the agent remembers it."""

    id: TerminalId
    phase: Literal["running", "ended"]


# ── hub → agent ──────────────────────────────────────────────────────────────────────────────


class TerminalOpen(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Open this terminal, unless this id was ever seen. → `TerminalOpened` or `TerminalFailed`"""

    id: TerminalId
    what: Shell | Coding
    size: Size
    operator: str | None = None  # who asked, shown to the program as CMDOP_OPERATOR


class TerminalEnd(Message, frozen=True):
    """End this terminal and all that runs in it. → `TerminalEnded`"""

    id: TerminalId


class TerminalForget(Message, frozen=True):
    """The end of these terminals is on the hub's disk; the agent may forget them."""

    ids: Annotated[list[TerminalId], Meta(max_length=INVENTORY_ITEMS)]


class TerminalResize(Message, frozen=True):
    """The screen has this size from now on."""

    id: TerminalId
    size: Size


class TerminalInput(Message, frozen=True):
    """`data` stands at byte `offset` of what `writer` types. → `TerminalTaken`

    What was taken before is ignored. Behind a gap nothing is taken, and `TerminalTaken` says from
    where to type again.
    """

    id: TerminalId
    writer: Writer
    offset: Count
    data: Annotated[bytes, Meta(min_length=1, max_length=INPUT_BYTES)]


class TerminalWatch(Message, frozen=True, omit_defaults=True):
    """Send output from `offset` on; null: all that is kept. → `TerminalWatched`, then `Screen`s.

    `watch` is new on this connection, and names this reader in all that is said of it. Without a
    `TerminalCredit` it is sent `WATCH_BYTES`.
    """

    watch: Count
    id: TerminalId
    offset: Count | None = None
    quiet: bool = False  # no person looks: the terminal's idle time runs on


class TerminalCredit(Message, frozen=True):
    """The reader has room: its output may come up to this byte offset."""

    watch: Count
    offset: Count


class TerminalUnwatch(Message, frozen=True):
    """Nobody reads there any more."""

    watch: Count


# ── agent → hub ──────────────────────────────────────────────────────────────────────────────


class Terminals(Message, frozen=True):
    """A part of the terminals that the agent knows; said on each connection, once it is ready.

    With the last part `is_last`: what the hub believes to run and none of them named does not.
    """

    terminals: Annotated[list[KnownTerminal], Meta(max_length=INVENTORY_ITEMS)]
    is_last: bool


class TerminalOpened(Message, frozen=True, omit_defaults=True):
    """A terminal runs; said again when it is asked again."""

    id: TerminalId
    started_ms: Count
    directory: Label | None = None  # where it runs, as far as that was asked for; links resolved
    worktree: Worktree | None = None


class TerminalFailed(Message, frozen=True):
    """A terminal was not opened, and nothing of it is left; it never will be."""

    id: TerminalId
    code: Label  # a stable word
    message: Label  # the same for people


class TerminalEnded(Message, frozen=True, omit_defaults=True):
    """A terminal has ended; repeated after every reconnect until `TerminalForget`."""

    id: TerminalId
    # By itself; on request; silent for longer than the host allows; nobody can tell.
    end: Literal["exited", "cancelled", "idle", "lost"]
    exit_code: Annotated[int, Meta(ge=0, le=255)] | None = None  # by a signal: 128 + its number
    signal: Label | None = None
    reason: Label | None = None  # lost: which kind, a stable word
    message: Label | None = None  # the same for people
    started_ms: Count | None = None
    duration_ms: Count | None = None


class TerminalTaken(Message, frozen=True):
    """What this writer typed is typed up to this byte offset."""

    id: TerminalId
    writer: Writer
    offset: Count


class TerminalWatched(Message, frozen=True):
    """Output comes from byte `offset` on; up to `end` it was there before somebody watched."""

    watch: Count
    offset: Count
    end: Count
    size: Size


class TerminalGap(Message, frozen=True):
    """The output goes on at byte `offset`; what stood before is not kept any more."""

    watch: Count
    offset: Count


class TerminalDone(Message, frozen=True):
    """There is no more output: it ends at byte `end`, all of which was sent."""

    watch: Count
    end: Count


class TerminalWaiting(Message, frozen=True):
    """A coding session waits for somebody, or goes on with its work."""

    id: TerminalId
    on: bool


FromAgent = (
    Terminals
    | TerminalOpened
    | TerminalFailed
    | TerminalEnded
    | TerminalTaken
    | TerminalWatched
    | TerminalGap
    | TerminalDone
    | TerminalWaiting
)
FromHub = (
    TerminalOpen
    | TerminalEnd
    | TerminalForget
    | TerminalResize
    | TerminalInput
    | TerminalWatch
    | TerminalCredit
    | TerminalUnwatch
)
