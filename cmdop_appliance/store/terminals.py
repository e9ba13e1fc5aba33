"""Terminals and coding sessions: what was asked for, and what became of it, on which machine.

Whatever changes one notifies its subject, and tells of a coding session as an event.
"""

from typing import Any, Final

import msgspec

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import TerminalNotFound
from cmdop_appliance.model import EventType, Terminal, TerminalEnding, TerminalKind, TerminalStatus
from cmdop_appliance.protocol.terminals import Coding, Size, Worktree
from cmdop_appliance.store import events
from cmdop_appliance.store.conditions import stale_ms
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.reach import within
from cmdop_appliance.store.transaction import Tx, brief, reads, to_json

ORDER: Final = {"created_at": "created_ms", "name": "name"}
# What is notified when there may be one more to record.
RECORDED: Final = "terminals.recorded"

# How long what has ended is shown …
KEPT_MS: Final = 7 * 86_400_000
# … and how many of a machine at the most, some 1 MB: none can push out those of another.
KEPT_MOST: Final = 1000
# Rows that are dropped at a time: some milliseconds of the writer.
_FORGOTTEN: Final = 100

# With this a record tells since when nobody can say whether it is still so.
_COLUMNS: Final = (
    f"terminal.*, CASE WHEN status <> 'ended' THEN {stale_ms('terminal')} END AS stale_ms"
)


def subject_of(terminal_id: str) -> str:
    """What is notified when a terminal has changed, and when its machine is back."""
    return f"terminal.{terminal_id}"


def insert(tx: Tx, terminal: Terminal) -> None:
    """Enter one; of those of its machine that have ended the oldest make room."""
    fields = {name: getattr(terminal, name) for name in terminal.__struct_fields__}
    fields |= {name: int(fields[name]) for name in ("is_recorded", "is_waiting", "is_ending")}
    del fields["what"], fields["worktree"]
    tx.execute(
        "INSERT INTO terminal (id, workspace_id, machine_id, kind, name, status, what_json, cols,"
        " rows, caller_email, is_recorded, is_waiting, is_ending, directory, worktree_json,"
        ' created_ms, started_ms, changed_ms, ended_ms, "end", exit_code, signal, code, message)'
        " VALUES (:id, :workspace_id, :machine_id, :kind, :name, :status, :what, :cols, :rows,"
        " :caller_email, :is_recorded, :is_waiting, :is_ending, :directory, :worktree,"
        " :created_ms, :started_ms, :changed_ms, :ended_ms, :end, :exit_code, :signal, :code,"
        " :message)",
        what=to_json(terminal.what),
        worktree=None if terminal.worktree is None else to_json(terminal.worktree),
        **fields,
    )
    _make_room(tx, terminal.machine_id)
    if terminal.is_recorded:
        tx.notify(RECORDED)


@brief
@reads
def get(tx: Tx, reach: Reach, terminal_id: str) -> Terminal:
    """One terminal.

    Raises:
        TerminalNotFound: no such terminal is in reach.
    """
    is_within, values = within(reach, "terminal")
    terminal = tx.one(
        Terminal,
        f"SELECT {_COLUMNS} FROM terminal"  # noqa: S608 - names of our own
        f" WHERE id = :id AND {is_within}",
        id=terminal_id,
        **values,
    )
    if terminal is None:
        raise TerminalNotFound("Terminal not found", terminal_id=terminal_id)
    return terminal


@brief
@reads
def find(tx: Tx, terminal_id: str) -> Terminal | None:
    """A terminal of whatever workspace, if it is known."""
    return tx.one(Terminal, "SELECT * FROM terminal WHERE id = :id", id=terminal_id)


@brief
@reads
def named(tx: Tx, machine_id: str, name: str) -> Terminal | None:
    """The one of this name on a machine that has not ended."""
    return tx.one(
        Terminal,
        "SELECT * FROM terminal"
        " WHERE machine_id = :machine_id AND name = :name AND status <> 'ended'",
        machine_id=machine_id,
        name=name,
    )


@reads
def live_of(tx: Tx, machine_id: str) -> list[Terminal]:
    """Those of a machine that have not ended, by name."""
    return tx.all(
        Terminal,
        "SELECT * FROM terminal WHERE machine_id = :machine_id AND status <> 'ended' ORDER BY name",
        machine_id=machine_id,
    )


@reads
def recorded(tx: Tx) -> list[Terminal]:
    """Those of all workspaces that are recorded, and have not ended."""
    return tx.all(Terminal, "SELECT * FROM terminal WHERE status <> 'ended' AND is_recorded = 1")


@reads
def unanswered(tx: Tx, until_ms: int) -> list[Terminal]:
    """Those that were asked for so long ago, and of which their machines have said nothing."""
    return tx.all(
        Terminal,
        "SELECT * FROM terminal WHERE status = 'starting' AND created_ms <= :until_ms",
        until_ms=until_ms,
    )


@reads
def page(
    tx: Tx,
    reach: Reach,
    paging: Paging,
    *,
    machine_id: str | None = None,
    kind: TerminalKind | None = None,
    status: TerminalStatus | None = None,
) -> Page[Terminal]:
    """The terminals in reach."""
    return select_page(
        tx,
        Terminal,
        paging,
        columns=_COLUMNS,
        source="terminal",
        within=within(reach, "terminal"),
        filters={
            "machine_id = :machine_id": machine_id,
            "kind = :kind": kind,
            "status = :status": status,
        },
        order=ORDER,
    )


def start(
    tx: Tx,
    terminal: Terminal,
    *,
    started_ms: int,
    directory: str | None,
    worktree: Worktree | None,
    now_ms: int,
) -> None:
    """It runs, unless that was known, or it has ended."""
    started = tx.one(
        Terminal,
        "UPDATE terminal SET status = 'running', started_ms = :started_ms,"
        " directory = :directory, worktree_json = :worktree, changed_ms = :now_ms"
        " WHERE id = :id AND status = 'starting' RETURNING *",
        id=terminal.id,
        started_ms=started_ms,
        directory=directory,
        worktree=None if worktree is None else to_json(worktree),
        now_ms=now_ms,
    )
    if started is None:
        return
    tx.notify(subject_of(started.id))
    _tell(tx, "coding_session.started", started, now_ms)


def end(
    tx: Tx,
    terminal: Terminal,
    end: TerminalEnding,
    *,
    ended_ms: int,
    now_ms: int,
    exit_code: int | None = None,
    signal: str | None = None,
    code: str | None = None,
    message: str | None = None,
) -> None:
    """It has ended; of several ends the first counts."""
    ended = tx.one(
        Terminal,
        "UPDATE terminal SET status = 'ended', is_waiting = 0, ended_ms = :ended_ms,"
        ' "end" = :end, exit_code = :exit_code, signal = :signal, code = :code,'
        " message = :message, changed_ms = :now_ms"
        " WHERE id = :id AND status <> 'ended' RETURNING *",
        id=terminal.id,
        ended_ms=ended_ms,
        end=end,
        exit_code=exit_code,
        signal=signal,
        code=code,
        message=message,
        now_ms=now_ms,
    )
    if ended is None:
        return
    tx.notify(subject_of(ended.id))
    if ended.started_ms is not None:  # else it never was a session
        _tell(
            tx,
            "coding_session.ended",
            ended,
            now_ms,
            end=end,
            exit_code=exit_code,
            signal=signal,
            code=code,
            message=message,
        )


def set_waiting(
    tx: Tx, terminal: Terminal, *, on: bool, now_ms: int, is_attended: bool = False
) -> None:
    """A coding session waits for somebody, or goes on; whoever attends it needs no event."""
    changed = tx.one(
        Terminal,
        "UPDATE terminal SET is_waiting = :after, changed_ms = :now_ms WHERE id = :id"
        " AND kind = 'coding_session' AND status = 'running' AND is_waiting = :before"
        " RETURNING *",
        id=terminal.id,
        before=int(not on),
        after=int(on),
        now_ms=now_ms,
    )
    if changed is None:
        return
    tx.notify(subject_of(changed.id))
    if on and not is_attended:
        _tell(tx, "coding_session.waiting", changed, now_ms)


def set_size(tx: Tx, terminal_id: str, size: Size) -> None:
    """Its screen has this size from now on."""
    is_new = tx.execute(
        "UPDATE terminal SET cols = :cols, rows = :rows WHERE id = :id AND status <> 'ended'"
        " AND (cols <> :cols OR rows <> :rows)",
        id=terminal_id,
        cols=size.cols,
        rows=size.rows,
    )
    if is_new:
        tx.notify(subject_of(terminal_id))


def request_end(tx: Tx, terminal: Terminal) -> bool:
    """Somebody wants it to end. False: that was so before, or it has ended."""
    is_new = tx.execute(
        "UPDATE terminal SET is_ending = 1 WHERE id = :id AND status <> 'ended' AND is_ending = 0",
        id=terminal.id,
    )
    if is_new:
        tx.notify(subject_of(terminal.id))
    return bool(is_new)


def forget(tx: Tx, now_ms: int) -> None:
    """Drop some of what ended long ago; called again and again, it drops all."""
    tx.execute(
        "DELETE FROM terminal WHERE id IN (SELECT id FROM terminal"
        " WHERE status = 'ended' AND ended_ms < :before ORDER BY ended_ms LIMIT :most)",
        before=now_ms - KEPT_MS,
        most=_FORGOTTEN,
    )


def _make_room(tx: Tx, machine_id: str) -> None:
    tx.execute(
        "DELETE FROM terminal WHERE id IN (SELECT id FROM terminal"
        " WHERE machine_id = :machine_id AND status = 'ended'"
        " ORDER BY ended_ms DESC LIMIT :most OFFSET :kept)",
        machine_id=machine_id,
        most=_FORGOTTEN,
        kept=KEPT_MOST,
    )


def _tell(tx: Tx, kind: EventType, terminal: Terminal, now_ms: int, **more: object) -> None:
    """Record an event of a coding session that was asked for, with `more` than what it is."""
    coding = terminal.what
    if not isinstance(coding, Coding) or terminal.is_adopted:
        return
    hostname = tx.value("SELECT hostname FROM machine WHERE id = :id", id=terminal.machine_id)
    data: dict[str, Any] = {
        "session_id": terminal.id,
        "name": terminal.name,
        "machine_id": terminal.machine_id,
        "machine_hostname": hostname,
        "agent": coding.flavour,
        "model": coding.model,
        "directory": terminal.directory or coding.directory,
        "worktree": None if terminal.worktree is None else msgspec.to_builtins(terminal.worktree),
        "user_email": terminal.caller_email,
    }
    events.append(
        tx,
        terminal.workspace_id,
        kind,
        subject=terminal.id,
        machine_id=terminal.machine_id,
        data=data | more,
        now_ms=now_ms,
    )
