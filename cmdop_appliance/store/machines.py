"""Machines: who they are, and which connection of each is the newest (its epoch)."""

from collections.abc import Collection, Sequence

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import Forbidden, MachineNotFound
from cmdop_appliance.model import Machine, Record
from cmdop_appliance.protocol.messages import Facts
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.reach import carries, within
from cmdop_appliance.store.transaction import Tx, brief, reads, to_json

ORDER = {
    "created_at": "created_ms",
    "last_seen": "last_seen_ms",
    "hostname": "hostname",
    "name": "name",
}


def insert(tx: Tx, machine: Machine, enrolment_id: str) -> None:
    """Record a machine that joins."""
    tx.execute(
        "INSERT INTO machine (id, workspace_id, name, public_key, enrolment_id, tags_json,"
        " hostname, search_text, facts_json, ip, epoch, created_ms, last_seen_ms)"
        " VALUES (:id, :workspace_id, :name, :public_key, :enrolment_id, :tags, :hostname,"
        " :search_text, :facts, :ip, 0, :created_ms, :last_seen_ms)",
        id=machine.id,
        workspace_id=machine.workspace_id,
        name=machine.name,
        public_key=machine.public_key,
        enrolment_id=enrolment_id,
        tags=to_json(machine.tags),
        hostname=machine.facts.hostname,
        search_text=_search_text(machine.name, machine.facts.hostname),
        facts=to_json(machine.facts),
        ip=machine.ip,
        created_ms=machine.created_ms,
        last_seen_ms=machine.last_seen_ms,
    )
    _write_tags(tx, machine.id, machine.tags)


@brief
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


@brief
@reads
def get(tx: Tx, reach: Reach, machine_id: str) -> Machine:
    """One machine.

    Raises:
        MachineNotFound: no such machine is in reach.
    """
    is_within, values = within(reach, "machine", "id")
    machine = tx.one(
        Machine,
        f"SELECT * FROM machine WHERE id = :id AND {is_within} AND removed_ms IS NULL",  # noqa: S608
        id=machine_id,
        **values,
    )
    if machine is None:
        raise MachineNotFound("Machine not found", machine_id=machine_id)
    return machine


@reads
def workspace_of(tx: Tx, machine_id: str) -> str | None:
    """Whose machine this is; None: nobody's."""
    owner: str | None = tx.value(
        "SELECT workspace_id FROM machine WHERE id = :id AND removed_ms IS NULL", id=machine_id
    )
    return owner


@brief
@reads
def name_of(tx: Tx, machine_id: str | None) -> str | None:
    """What this machine is called, or was until it was removed; None: there was none."""
    name: str | None = tx.value("SELECT name FROM machine WHERE id = :id", id=machine_id)
    return name


@reads
def page(
    tx: Tx,
    reach: Reach,
    paging: Paging,
    *,
    status: str | None = None,
    tags: Collection[str] | None = None,
    search: str | None = None,
) -> Page[Machine]:
    """The machines in reach.

    `status`: online or offline. `tags`: all of them. `search`: a part of name or hostname, in any
    case.
    """
    filters: dict[str, object] = {
        "is_online = :is_online": None if status is None else int(status == "online"),
        "search_text LIKE :pattern ESCAPE '\\'": (
            None if search is None else _containing(search.casefold())
        ),
    }
    for number, tag in enumerate(tags or ()):
        filters[carries("machine", f"tag_{number}")] = to_json(tag)
    is_within, values = within(reach, "machine", "id")
    return select_page(
        tx,
        Machine,
        paging,
        columns="*",
        source="machine",
        within=(f"removed_ms IS NULL AND {is_within}", values),
        filters=filters,
        order=ORDER,
    )


class Listed(Record, frozen=True, kw_only=True):
    """A machine as a list of all of them shows it."""

    id: str
    name: str
    hostname: str
    last_seen_ms: int
    is_online: bool


@reads
def roster(tx: Tx, reach: Reach) -> list[Listed]:
    """All machines in reach, by name."""
    is_within, values = within(reach, "machine", "id")
    return tx.all(
        Listed,
        "SELECT id, name, hostname, last_seen_ms, is_online FROM machine"  # noqa: S608
        f" WHERE removed_ms IS NULL AND {is_within} ORDER BY name, id",
        **values,
    )


def _containing(text: str) -> str:
    """The LIKE pattern for any text with `text` in it."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def next_epoch(tx: Tx, machine_id: str, *, facts: Facts, ip: str, now_ms: int) -> int | None:
    """Record that a machine connects; its new epoch fences every connection before.

    None: it was removed.
    """
    name = tx.value("SELECT name FROM machine WHERE id = :id", id=machine_id)
    epoch: int | None = tx.value(
        "UPDATE machine SET epoch = epoch + 1, hostname = :hostname, search_text = :search_text,"
        " facts_json = :facts, ip = :ip, last_seen_ms = :now_ms"
        " WHERE id = :id AND removed_ms IS NULL RETURNING epoch",
        id=machine_id,
        hostname=facts.hostname,
        search_text=_search_text(name, facts.hostname),
        facts=to_json(facts),
        ip=ip,
        now_ms=now_ms,
    )
    return epoch


def set_online(tx: Tx, machine_id: str, *, is_online: bool) -> None:
    """Record whether a machine has a live session."""
    tx.execute(
        "UPDATE machine SET is_online = :is_online WHERE id = :id",
        id=machine_id,
        is_online=int(is_online),
    )


def edit(
    tx: Tx, reach: Reach, machine_id: str, *, name: str | None, tags: Sequence[str] | None
) -> Machine:
    """The machine as it is called and tagged from now on; None: as before.

    Raises:
        MachineNotFound: no such machine is in reach.
        Forbidden: it would be out of reach then.
    """
    machine = get(tx, reach, machine_id)
    if name is not None:
        tx.execute(
            "UPDATE machine SET name = :name, search_text = :search_text WHERE id = :id",
            id=machine_id,
            name=name,
            search_text=_search_text(name, machine.facts.hostname),
        )
    if tags is not None:
        if lost := [tag for tag in reach.tags if tag not in tags]:
            raise Forbidden(
                f"this key is good only for machines tagged {', '.join(reach.tags)}",
                hint="keep these tags, or ask with a key that is not restricted to them",
                tags=lost,
            )
        tx.execute(
            "UPDATE machine SET tags_json = :tags WHERE id = :id",
            id=machine_id,
            tags=to_json(list(dict.fromkeys(tags))),
        )
        tx.execute("DELETE FROM machine_tag WHERE machine_id = :id", id=machine_id)
        _write_tags(tx, machine_id, tags)
    return get(tx, reach, machine_id)


def flag_clone(tx: Tx, machine_id: str, now_ms: int) -> None:
    """Record that a second live holder of this machine's key was refused."""
    tx.execute(
        "UPDATE machine SET clone_seen_ms = :now_ms WHERE id = :id", id=machine_id, now_ms=now_ms
    )


def remove(tx: Tx, reach: Reach, machine_id: str, now_ms: int) -> Machine:
    """Take a machine out: its key is refused from now on. What it was.

    Its tags stay: they tell who may see what ran on it.

    Raises:
        MachineNotFound: no such machine is in reach.
    """
    is_within, values = within(reach, "machine", "id")
    gone = tx.one(
        Machine,
        "UPDATE machine SET removed_ms = :now_ms"  # noqa: S608 - names of our own
        f" WHERE id = :id AND {is_within} AND removed_ms IS NULL RETURNING *",
        id=machine_id,
        now_ms=now_ms,
        **values,
    )
    if gone is None:
        raise MachineNotFound("Machine not found", machine_id=machine_id)
    return gone


def _search_text(name: str, hostname: str) -> str:
    """What a search looks through."""
    return f"{name} {hostname}".casefold()


def _write_tags(tx: Tx, machine_id: str, tags: Sequence[str]) -> None:
    for tag in dict.fromkeys(tags):
        tx.execute(
            "INSERT INTO machine_tag (machine_id, tag) VALUES (:machine_id, :tag)",
            machine_id=machine_id,
            tag=tag,
        )


@brief
@reads
def epoch_of(tx: Tx, machine_id: str) -> int | None:
    """Which connection of a machine is the newest; None: it was removed."""
    epoch: int | None = tx.value(
        "SELECT epoch FROM machine WHERE id = :id AND removed_ms IS NULL", id=machine_id
    )
    return epoch
