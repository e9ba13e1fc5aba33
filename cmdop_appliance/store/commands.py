"""Commands: pending → running → one end. An end is recorded once and never changed."""

from cmdop_appliance.errors import (
    CommandNotFound,
    CommandNotRunning,
    MachineNotFound,
    SessionNotActive,
)
from cmdop_appliance.model import CONNECTED_STATUSES, Command, CommandStatus
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.transaction import Tx, reads, to_json

ORDER = {
    "created_at": "created_ms",
    "started_at": "started_ms",
    "finished_at": "finished_ms",
    "duration": "duration_ms",
    "status": "status",
}


def live_session(tx: Tx, workspace_id: str, machine_id: str) -> str:
    """The id of the session through which commands reach this machine now.

    Raises:
        MachineNotFound: the workspace has no such machine.
        SessionNotActive: the machine is not connected.
    """
    found = tx.value(
        "SELECT COALESCE(session.status, 'DISCONNECTED') || ' ' || COALESCE(session.id, '')"
        " FROM machine LEFT JOIN session ON session.machine_id = machine.id"
        " AND session.status NOT IN ('DISCONNECTED', 'ERROR')"
        " WHERE machine.id = :id AND machine.workspace_id = :workspace_id"
        " AND removed_ms IS NULL",
        id=machine_id,
        workspace_id=workspace_id,
    )
    if found is None:
        raise MachineNotFound("Machine not found", machine_id=machine_id)
    status, _, session_id = found.partition(" ")
    if status not in CONNECTED_STATUSES:
        raise SessionNotActive(
            "Session is not in CONNECTED state", current_status=status, machine_id=machine_id
        )
    return str(session_id)


def insert(tx: Tx, command: Command) -> None:
    """Record a new command."""
    tx.execute(
        "INSERT INTO command (id, workspace_id, machine_id, session_id, command, spec_json,"
        " spec_hash, status, operator, created_ms, start_until_ms, is_awaited)"
        " VALUES (:id, :workspace_id, :machine_id, :session_id, :command, :spec, :spec_hash,"
        " :status, :operator, :created_ms, :start_until_ms, :is_awaited)",
        id=command.id,
        workspace_id=command.workspace_id,
        machine_id=command.machine_id,
        session_id=command.session_id,
        command=command.command,
        spec=to_json(command.spec),
        spec_hash=command.spec_hash,
        status=command.status,
        operator=command.operator,
        created_ms=command.created_ms,
        start_until_ms=command.start_until_ms,
        is_awaited=int(command.is_awaited),
    )


@reads
def get(tx: Tx, workspace_id: str, command_id: str) -> Command:
    """One command.

    Raises:
        CommandNotFound: the workspace has no such command.
    """
    command = tx.one(
        Command,
        "SELECT * FROM command WHERE id = :id AND workspace_id = :workspace_id",
        id=command_id,
        workspace_id=workspace_id,
    )
    if command is None:
        raise CommandNotFound("Command not found", command_id=command_id)
    return command


@reads
def of_machine(tx: Tx, machine_id: str, command_id: str) -> Command | None:
    """A command, if it is this machine's: what an agent may speak about."""
    return tx.one(
        Command,
        "SELECT * FROM command WHERE id = :id AND machine_id = :machine_id",
        id=command_id,
        machine_id=machine_id,
    )


@reads
def ids_of_machine(tx: Tx, machine_id: str, command_ids: list[str]) -> list[str]:
    """Those of `command_ids` that are this machine's commands."""
    return [
        command_id
        for command_id in command_ids
        if tx.value(
            "SELECT 1 FROM command WHERE id = :id AND machine_id = :machine_id",
            id=command_id,
            machine_id=machine_id,
        )
    ]


@reads
def open_on(tx: Tx, machine_id: str) -> list[Command]:
    """The commands of a machine that have not ended, oldest first."""
    return tx.all(
        Command,
        "SELECT * FROM command WHERE machine_id = :machine_id"
        " AND status IN ('pending', 'running') ORDER BY created_ms, id",
        machine_id=machine_id,
    )


@reads
def page(
    tx: Tx,
    workspace_id: str,
    paging: Paging,
    *,
    machine_id: str | None = None,
    session_id: str | None = None,
    status: CommandStatus | None = None,
    since_ms: int | None = None,
) -> Page[Command]:
    """The commands of a workspace."""
    return select_page(
        tx,
        Command,
        paging,
        columns="*",
        source="command",
        filters={
            "workspace_id = :workspace_id": workspace_id,
            "machine_id = :machine_id": machine_id,
            "session_id = :session_id": session_id,
            "status = :status": status,
            "created_ms >= :since_ms": since_ms,
        },
        order=ORDER,
    )


def request_cancel(tx: Tx, workspace_id: str, command_id: str, now_ms: int) -> Command:
    """Record that a command is to end; the same again changes nothing.

    Raises:
        CommandNotFound: the workspace has no such command.
        CommandNotRunning: it has ended.
    """
    command = get(tx, workspace_id, command_id)
    if command.finished_ms is not None:
        raise CommandNotRunning("Command has already ended", status=command.status)
    tx.execute(
        "UPDATE command SET cancel_requested_ms = COALESCE(cancel_requested_ms, :now_ms)"
        " WHERE id = :id",
        id=command_id,
        now_ms=now_ms,
    )
    return command


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
            "UPDATE command SET status = :status, started_ms = :started_ms,"
            " finished_ms = :finished_ms, duration_ms = :duration_ms, exit_code = :exit_code,"
            " signal = :signal, error_code = :error_code, error_message = :error_message,"
            " stdout_bytes = :stdout_bytes, stderr_bytes = :stderr_bytes,"
            " stdout_sha256 = :stdout_sha256, stderr_sha256 = :stderr_sha256"
            " WHERE id = :id AND machine_id = :machine_id AND status IN ('pending', 'running')",
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
