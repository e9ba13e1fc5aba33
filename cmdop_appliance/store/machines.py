"""Machines: who they are, and which connection of each is the newest (its epoch)."""

from collections.abc import Sequence

from cmdop_appliance.errors import MachineNotFound
from cmdop_appliance.model import Machine
from cmdop_appliance.protocol.messages import Facts
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.transaction import Tx, reads, to_json

_COLUMNS = "machine.*, session.status AS session_status"
_SOURCE = (
    "machine LEFT JOIN session ON session.machine_id = machine.id"
    " AND session.status NOT IN ('DISCONNECTED', 'ERROR')"
)
_STATUS = (
    "CASE WHEN session.status IN ('CONNECTED', 'BACKGROUND', 'GRACE_PERIOD')"
    " THEN 'online' ELSE 'offline' END"
)
ORDER = {
    "created_at": "machine.created_ms",
    "last_seen": "machine.last_seen_ms",
    "hostname": "machine.hostname",
    "name": "machine.name",
}


def insert(tx: Tx, machine: Machine, enrolment_id: str) -> None:
    """Record a machine that joins."""
    tx.execute(
        "INSERT INTO machine (id, workspace_id, name, public_key, enrolment_id, tags_json,"
        " hostname, facts_json, ip, epoch, created_ms, last_seen_ms)"
        " VALUES (:id, :workspace_id, :name, :public_key, :enrolment_id, :tags, :hostname,"
        " :facts, :ip, 0, :created_ms, :last_seen_ms)",
        id=machine.id,
        workspace_id=machine.workspace_id,
        name=machine.name,
        public_key=machine.public_key,
        enrolment_id=enrolment_id,
        tags=to_json(machine.tags),
        hostname=machine.facts.hostname,
        facts=to_json(machine.facts),
        ip=machine.ip,
        created_ms=machine.created_ms,
        last_seen_ms=machine.last_seen_ms,
    )


@reads
def by_key(tx: Tx, public_key: bytes) -> Machine | None:
    """The machine that holds this key, unless it was removed."""
    return tx.one(
        Machine,
        "SELECT * FROM machine WHERE public_key = :public_key AND removed_ms IS NULL",
        public_key=public_key,
    )


@reads
def removed_by_key(tx: Tx, public_key: bytes) -> str | None:
    """The id of the removed machine that held this key."""
    removed: str | None = tx.value(
        "SELECT id FROM machine WHERE public_key = :public_key AND removed_ms IS NOT NULL",
        public_key=public_key,
    )
    return removed


@reads
def get(tx: Tx, workspace_id: str, machine_id: str) -> Machine:
    """One machine.

    Raises:
        MachineNotFound: the workspace has no such machine.
    """
    machine = tx.one(
        Machine,
        "SELECT machine.*, session.status AS session_status"
        " FROM machine LEFT JOIN session ON session.machine_id = machine.id"
        " AND session.status NOT IN ('DISCONNECTED', 'ERROR')"
        " WHERE machine.id = :id AND machine.workspace_id = :workspace_id"
        " AND removed_ms IS NULL",
        id=machine_id,
        workspace_id=workspace_id,
    )
    if machine is None:
        raise MachineNotFound("Machine not found", machine_id=machine_id)
    return machine


@reads
def page(
    tx: Tx,
    workspace_id: str,
    paging: Paging,
    *,
    status: str | None = None,
    tags: Sequence[str] | None = None,
    search: str | None = None,
) -> Page[Machine]:
    """The machines of a workspace.

    `status`: online or offline. `tags`: all of them. `search`: a part of name or hostname, in any
    case.
    """
    filters: dict[str, object] = {
        "removed_ms IS NULL AND machine.workspace_id = :workspace_id": workspace_id,
        f"{_STATUS} = :status": status,
        "lower(machine.name || ' ' || machine.hostname) LIKE :pattern ESCAPE '\\'": (
            None if search is None else _containing(search.lower())
        ),
    }
    for number, tag in enumerate(tags or ()):
        condition = f"machine.tags_json LIKE :tag{number} ESCAPE '\\'"
        filters[condition] = _containing(to_json(tag))
    return select_page(
        tx,
        Machine,
        paging,
        columns=_COLUMNS,
        source=_SOURCE,
        filters=filters,
        order=ORDER,
        key="machine.id",
    )


def _containing(text: str) -> str:
    """The LIKE pattern for any text with `text` in it."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def next_epoch(tx: Tx, machine_id: str, *, facts: Facts, ip: str, now_ms: int) -> int | None:
    """Record that a machine connects; its new epoch fences every connection before.

    None: it was removed.
    """
    epoch: int | None = tx.value(
        "UPDATE machine SET epoch = epoch + 1, hostname = :hostname, facts_json = :facts,"
        " ip = :ip, last_seen_ms = :now_ms WHERE id = :id AND removed_ms IS NULL"
        " RETURNING epoch",
        id=machine_id,
        hostname=facts.hostname,
        facts=to_json(facts),
        ip=ip,
        now_ms=now_ms,
    )
    return epoch


def flag_clone(tx: Tx, machine_id: str, now_ms: int) -> None:
    """Record that a second live holder of this machine's key was refused."""
    tx.execute(
        "UPDATE machine SET clone_seen_ms = :now_ms WHERE id = :id", id=machine_id, now_ms=now_ms
    )


def remove(tx: Tx, workspace_id: str, machine_id: str, now_ms: int) -> None:
    """Take a machine out: its key is refused from now on, its session is over.

    Raises:
        MachineNotFound: the workspace has no such machine.
    """
    gone = tx.execute(
        "UPDATE machine SET removed_ms = :now_ms"
        " WHERE id = :id AND workspace_id = :workspace_id AND removed_ms IS NULL",
        id=machine_id,
        workspace_id=workspace_id,
        now_ms=now_ms,
    )
    if not gone:
        raise MachineNotFound("Machine not found", machine_id=machine_id)
    tx.execute(
        "UPDATE session SET status = 'DISCONNECTED', ended_ms = :now_ms"
        " WHERE machine_id = :id AND status NOT IN ('DISCONNECTED', 'ERROR')",
        id=machine_id,
        now_ms=now_ms,
    )


@reads
def epoch_of(tx: Tx, machine_id: str) -> int | None:
    """Which connection of a machine is the newest; None: it was removed."""
    epoch: int | None = tx.value(
        "SELECT epoch FROM machine WHERE id = :id AND removed_ms IS NULL", id=machine_id
    )
    return epoch
