"""Commands: pending → running → one end. An end is recorded once and never changed.

But for `lost: silent`, which only says that a machine was not heard of for long.
"""

from typing import Final

import msgspec

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import (
    CommandNotFound,
    CommandNotRunning,
    MachineNotFound,
    SessionNotActive,
)
from cmdop_appliance.model import CONNECTED_STATUSES, Command, CommandStatus, Record
from cmdop_appliance.store import tallies
from cmdop_appliance.store.conditions import IS_CURRENT, IS_OPEN, IS_PENDING, stale_ms
from cmdop_appliance.store.listing import Page, Paging
from cmdop_appliance.store.reach import within
from cmdop_appliance.store.tallies import Asked
from cmdop_appliance.store.transaction import Tx, brief, reads, to_json
from cmdop_appliance.store.ways import ORDER as ORDER
from cmdop_appliance.store.ways import way_to

# Why a command is lost whose machine was not heard of for long.
SILENT = "silent"
# `start_until_ms` of what its machine has taken in: it may start there whenever that has room.
_WHENEVER_MS = 2**53
# With this a record tells since when nobody can say whether it is still so.
COLUMNS = (
    f"command.*, CASE WHEN {IS_OPEN} AND session_id IS NOT NULL"
    f" THEN {stale_ms('command')} END AS stale_ms"
)


def live_session(tx: Tx, reach: Reach, machine_id: str) -> str:
    """The id of the session through which commands reach this machine now.

    Raises:
        MachineNotFound: no such machine is in reach.
        SessionNotActive: the machine is not connected.
    """
    is_within, values = within(reach, "machine", "id")
    found = tx.value(
        "SELECT COALESCE(session.status, 'DISCONNECTED')"  # noqa: S608 - names of our own
        " || ' ' || COALESCE(session.id, '')"
        " FROM machine LEFT JOIN session ON session.machine_id = machine.id"
        f" AND {IS_CURRENT}"
        f" WHERE machine.id = :id AND {is_within} AND removed_ms IS NULL",
        id=machine_id,
        **values,
    )
    if found is None:
        raise MachineNotFound("Machine not found", machine_id=machine_id)
    status, _, session_id = found.partition(" ")
    if status not in CONNECTED_STATUSES:
        raise SessionNotActive(
            "Session is not in CONNECTED state", current_status=status, machine_id=machine_id
        )
    return str(session_id)


_INSERT: Final = (
    "INSERT INTO command (id, workspace_id, machine_id, session_id, batch_id, schedule_id, run_id,"
    " command, spec_json, spec_hash, status, operator, supersede_key, created_ms, start_until_ms,"
    " is_bounded, is_queued, is_held, is_late, is_unknown_to_hub, serial_key)"
    " VALUES (:id, :workspace_id, :machine_id, :session_id, :batch_id, :schedule_id, :run_id,"
    " :command, :spec, :spec_hash, :status, :operator, :supersede_key, :created_ms,"
    " :start_until_ms, :is_bounded, :is_queued, :is_held, 0, :is_unknown_to_hub, :serial_key)"
)


def insert(tx: Tx, *new: Command) -> None:
    """Record new commands."""
    tx.many(_INSERT, map(_columns, new))


def _columns(command: Command) -> dict[str, object]:
    return {
        "id": command.id,
        "workspace_id": command.workspace_id,
        "machine_id": command.machine_id,
        "session_id": command.session_id,
        "batch_id": command.batch_id,
        "schedule_id": command.schedule_id,
        "run_id": command.run_id,
        "command": command.command,
        "spec": to_json(command.spec),
        "spec_hash": command.spec_hash,
        "status": command.status,
        "operator": command.operator,
        "supersede_key": command.supersede_key,
        "created_ms": command.created_ms,
        "start_until_ms": command.start_until_ms,
        "is_bounded": int(command.is_bounded),
        "is_queued": int(command.is_queued),
        "is_held": int(command.is_held),
        "is_unknown_to_hub": int(command.is_unknown_to_hub),
        "serial_key": command.spec.serial_key,
    }


@brief
@reads
def get(tx: Tx, reach: Reach, command_id: str) -> Command:
    """One command.

    Raises:
        CommandNotFound: no such command is in reach.
    """
    is_within, values = within(reach, "command")
    command = tx.one(
        Command,
        f"SELECT {COLUMNS} FROM command WHERE id = :id AND {is_within}",  # noqa: S608
        id=command_id,
        **values,
    )
    if command is None:
        raise CommandNotFound("Command not found", command_id=command_id)
    return command


def of_connection(tx: Tx, machine_id: str, epoch: int, command_id: str) -> Command | None:
    """A command, if it is this machine's and `epoch` is its newest connection."""
    return tx.one(
        Command,
        "SELECT command.* FROM command JOIN machine ON machine.id = command.machine_id"
        " WHERE command.id = :id AND machine.id = :machine_id AND machine.epoch = :epoch"
        " AND machine.removed_ms IS NULL",
        id=command_id,
        machine_id=machine_id,
        epoch=epoch,
    )


@reads
def ids_of_machine(tx: Tx, machine_id: str, command_ids: list[str]) -> list[str]:
    """Those of `command_ids` that were sent to this machine."""
    return [
        command_id
        for command_id in command_ids
        if tx.value(
            "SELECT 1 FROM command WHERE id = :id AND machine_id = :machine_id"
            " AND session_id IS NOT NULL",
            id=command_id,
            machine_id=machine_id,
        )
    ]


@reads
def exists(tx: Tx, command_id: str) -> bool:
    """True: some machine has a command with this id."""
    return tx.value("SELECT 1 FROM command WHERE id = :id", id=command_id) is not None


@reads
def open_on(tx: Tx, machine_id: str) -> list[Command]:
    """The commands of a machine that have not ended, oldest first."""
    return tx.all(
        Command,
        f"SELECT * FROM command WHERE machine_id = :machine_id"  # noqa: S608
        f" AND {IS_OPEN} ORDER BY created_ms, id",
        machine_id=machine_id,
    )


class _Busy(Record, frozen=True, kw_only=True):
    machine_id: str


@reads
def machines_with_open(tx: Tx) -> list[str]:
    """The machines with commands that they may have heard of, and that have not ended."""
    found = tx.all(
        _Busy,
        f"SELECT DISTINCT machine_id FROM command WHERE {IS_OPEN}"  # noqa: S608
        " AND session_id || '' IS NOT NULL",
    )
    return [each.machine_id for each in found]


@reads
def sent_to(tx: Tx, machine_id: str) -> list[Command]:
    """Those of its open commands that a machine may have heard of, oldest first."""
    return tx.all(
        Command,
        "SELECT * FROM command WHERE machine_id = :machine_id"  # noqa: S608
        f" AND session_id || '' IS NOT NULL AND {IS_OPEN} ORDER BY created_ms, id",
        machine_id=machine_id,
    )


def superseded_by(tx: Tx, command: Command) -> list[Command]:
    """The older commands that were never sent, and need not be: this one takes their place."""
    return tx.all(
        Command,
        f"SELECT * FROM command WHERE machine_id = :machine_id AND {IS_PENDING}"  # noqa: S608
        " AND workspace_id || '' = :workspace_id AND session_id || '' IS NULL"
        " AND supersede_key = :key AND id < :id",
        machine_id=command.machine_id,
        workspace_id=command.workspace_id,
        key=command.supersede_key,
        id=command.id,
    )


def superseder_of(tx: Tx, command: Command) -> str | None:
    """The id of a newer command that takes the place of this one, or has done so."""
    newer: str | None = tx.value(
        "SELECT id FROM command WHERE machine_id = :machine_id AND created_ms >= :created_ms"
        " AND workspace_id = :workspace_id AND supersede_key = :key AND id > :id AND is_held = 0"
        " AND status NOT IN ('cancelled', 'expired', 'skipped') ORDER BY created_ms, id LIMIT 1",
        machine_id=command.machine_id,
        created_ms=command.created_ms,
        workspace_id=command.workspace_id,
        key=command.supersede_key,
        id=command.id,
    )
    return newer


def place(tx: Tx, command: Command) -> bool:
    """Record that a command is held no more; with a session it is to be sent now.

    False: it was not held.
    """
    return bool(
        tx.execute(
            "UPDATE command SET is_held = 0, session_id = :session_id,"
            " start_until_ms = :start_until_ms"
            " WHERE id = :id AND status = 'pending' AND is_held = 1",
            id=command.id,
            session_id=command.session_id,
            start_until_ms=command.start_until_ms,
        )
    )


def skip_held(tx: Tx, batch_id: str, code: str, message: str, now_ms: int) -> list[Command]:
    """End whatever of a batch is held: it never starts."""
    return tx.all(
        Command,
        "UPDATE command SET status = 'skipped', is_held = 0, finished_ms = :now_ms,"
        " error_code = :code, error_message = :message"
        " WHERE batch_id = :batch_id AND status = 'pending' AND is_held = 1 RETURNING *",
        batch_id=batch_id,
        code=code,
        message=message,
        now_ms=now_ms,
    )


def send_queued(tx: Tx, machine_id: str, session_id: str, now_ms: int) -> None:
    """The machine is there: what waited for it in time is to be sent now."""
    tx.execute(
        f"UPDATE command SET session_id = :session_id WHERE machine_id = :machine_id"  # noqa: S608
        f" AND {IS_PENDING} AND session_id || '' IS NULL AND is_held = 0"
        " AND start_until_ms >= :now_ms",
        machine_id=machine_id,
        session_id=session_id,
        now_ms=now_ms,
    )


def reopen_silent(tx: Tx, machine_id: str) -> None:
    """The machine is back: what was lost only because it was silent is open again, marked late.

    It was told to be lost, so it must not start for a first time now.
    """
    tx.execute(
        "UPDATE command SET is_late = 1, start_until_ms = 0,"
        " status = CASE WHEN started_ms IS NULL THEN 'pending' ELSE 'running' END,"
        " finished_ms = NULL, error_code = NULL, error_message = NULL"
        " WHERE machine_id = :machine_id AND status = 'lost' AND error_code = 'silent'",
        machine_id=machine_id,
    )


def reopen_unsent(tx: Tx, machine_id: str, session_id: str, command_id: str) -> Command | None:
    """Open again, and sent: its machine knows a command that was never sent as far as we know.

    None: it is another machine's, or was sent.
    """
    return tx.one(
        Command,
        "UPDATE command SET session_id = :session_id, status = 'pending', is_held = 0,"
        " is_late = CASE WHEN finished_ms IS NULL THEN is_late ELSE 1 END,"
        " finished_ms = NULL, error_code = NULL, error_message = NULL"
        " WHERE id = :id AND machine_id = :machine_id AND session_id IS NULL RETURNING *",
        session_id=session_id,
        id=command_id,
        machine_id=machine_id,
    )


@reads
def count_unknown(tx: Tx, machine_id: str) -> int:
    """How many commands there are, ended ones too, that only their machine knew."""
    return int(
        tx.value(
            "SELECT COUNT(*) FROM command WHERE machine_id = :machine_id AND is_unknown_to_hub = 1",
            machine_id=machine_id,
        )
    )


@reads
def unsent_since(tx: Tx, now_ms: int) -> list[Command]:
    """Commands that were never sent, and are too late for it now."""
    return tx.all(
        Command,
        f"SELECT * FROM command WHERE {IS_PENDING}"  # noqa: S608
        " AND session_id || '' IS NULL AND is_held = 0 AND start_until_ms < :now_ms",
        now_ms=now_ms,
    )


@reads
def silent_since(tx: Tx, before_ms: int) -> list[Command]:
    """Open commands that were sent to machines of which nothing was heard since `before_ms`."""
    return tx.all(
        Command,
        "SELECT command.* FROM command JOIN machine ON machine.id = command.machine_id"  # noqa: S608
        f" WHERE {IS_OPEN} AND command.session_id || '' IS NOT NULL"
        " AND machine.last_seen_ms < :before_ms"
        " AND NOT EXISTS (SELECT 1 FROM session WHERE session.machine_id = machine.id"
        f" AND {IS_CURRENT})",
        before_ms=before_ms,
    )


@reads
def page(
    tx: Tx,
    reach: Reach,
    paging: Paging,
    *,
    machine_id: str | None = None,
    session_id: str | None = None,
    batch_id: str | None = None,
    statuses: tuple[CommandStatus, ...] | None = None,
    since_ms: int | None = None,
) -> Page[Command]:
    """The commands in reach. `statuses`: any one of these."""
    asked = Asked(machine_id, session_id, batch_id, statuses, since_ms)
    total = tallies.count(tx, reach, asked)
    if paging.offset >= total:
        return Page([], total, paging)
    where, values = way_to(tx, reach, asked, paging, total)
    items = tx.all(
        Command,
        f"SELECT {COLUMNS} FROM command WHERE {where}",  # noqa: S608 - words of our own
        **{"limit": paging.limit, "offset": paging.offset, **values},
    )
    return Page(items, total, paging)


@reads
def newest_of(
    tx: Tx, reach: Reach, machine_id: str, most: int, *, serial_key: str | None = None
) -> list[Command]:
    """The newest commands of a machine, newest first; with `serial_key` only those of its line."""
    is_within, values = within(reach, "command", by_index=False)
    condition = ""
    if serial_key is not None:
        condition = " AND serial_key = :serial_key"
        values["serial_key"] = serial_key
    return tx.all(
        Command,
        f"SELECT {COLUMNS} FROM command WHERE machine_id = :machine_id"  # noqa: S608
        f" AND {is_within}{condition} ORDER BY created_ms DESC, id DESC LIMIT :most",
        machine_id=machine_id,
        most=most,
        **values,
    )


def request_cancel(tx: Tx, reach: Reach, command_id: str, now_ms: int) -> Command:
    """Record that a command is to end; the same again changes nothing.

    Raises:
        CommandNotFound: no such command is in reach.
        CommandNotRunning: it has ended; what is only silent may run on, and is to end then.
    """
    command = get(tx, reach, command_id)
    if command.finished_ms is not None and command.error_code != SILENT:
        raise CommandNotRunning("Command has already ended", status=command.status)
    if command.cancel_requested_ms is not None:
        return command
    tx.execute(
        "UPDATE command SET cancel_requested_ms = :now_ms WHERE id = :id",
        id=command_id,
        now_ms=now_ms,
    )
    return msgspec.structs.replace(command, cancel_requested_ms=now_ms)


def accept(tx: Tx, command_id: str, machine_id: str) -> None:
    """Record that its machine has a command, which may start there however late, if unbounded."""
    tx.execute(
        "UPDATE command SET start_until_ms = :whenever_ms WHERE id = :id"
        " AND machine_id = :machine_id AND status = 'pending' AND is_bounded = 0"
        " AND start_until_ms < :whenever_ms",
        id=command_id,
        machine_id=machine_id,
        whenever_ms=_WHENEVER_MS,
    )


def started(tx: Tx, command_id: str, machine_id: str, started_ms: int) -> bool:
    """Record that a command runs. False: that was known, or it has ended since."""
    return bool(
        tx.execute(
            "UPDATE command SET status = 'running', started_ms = :started_ms"
            " WHERE id = :id AND machine_id = :machine_id AND status = 'pending'",
            id=command_id,
            machine_id=machine_id,
            started_ms=started_ms,
        )
    )


def finish(tx: Tx, ended: Command) -> bool:
    """Record an end. False: it had ended before, and that end stands."""
    return bool(
        tx.execute(
            "UPDATE command SET status = :status, started_ms = :started_ms,"  # noqa: S608
            " finished_ms = :finished_ms, duration_ms = :duration_ms, exit_code = :exit_code,"
            " signal = :signal, error_code = :error_code, error_message = :error_message,"
            " stdout_bytes = :stdout_bytes, stderr_bytes = :stderr_bytes,"
            " stdout_sha256 = :stdout_sha256, stderr_sha256 = :stderr_sha256, is_held = 0"
            f" WHERE id = :id AND machine_id = :machine_id AND {IS_OPEN}",
            id=ended.id,
            machine_id=ended.machine_id,
            status=ended.status,
            started_ms=ended.started_ms,
            finished_ms=ended.finished_ms,
            duration_ms=ended.duration_ms,
            exit_code=ended.exit_code,
            signal=ended.signal,
            error_code=ended.error_code,
            error_message=ended.error_message,
            stdout_bytes=ended.stdout_bytes,
            stderr_bytes=ended.stderr_bytes,
            stdout_sha256=ended.stdout_sha256,
            stderr_sha256=ended.stderr_sha256,
        )
    )
