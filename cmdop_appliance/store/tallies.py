"""How many commands a list has, without looking at each of them.

Of those that have ended, triggers keep a tally (migrations/0007): by workspace in buckets of the
time in which they were made, and by machine. Those that are open are few, and counted one by one.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

from cmdop_appliance.auth import Reach
from cmdop_appliance.model import OPEN_STATUSES, CommandStatus, Record
from cmdop_appliance.store.conditions import IS_OPEN
from cmdop_appliance.store.reach import within
from cmdop_appliance.store.transaction import Tx, reads

# How much time a bucket of a workspace's tally covers; the triggers have the same number.
BUCKET_MS: Final = 6 * 3_600_000


@dataclass(frozen=True, slots=True)
class Asked:
    """Which commands are asked for; None: whatever they have there.

    `statuses`: any one of these.
    """

    machine_id: str | None = None
    session_id: str | None = None
    batch_id: str | None = None
    statuses: tuple[CommandStatus, ...] | None = None
    since_ms: int | None = None

    @property
    def has_owner(self) -> bool:
        """True: they are found by what they belong to, not among all of a workspace."""
        return (self.machine_id, self.session_id, self.batch_id) != (None, None, None)

    @property
    def may_be_open(self) -> bool:
        """True: there may be some that have not ended."""
        return self.statuses is None or any(each in OPEN_STATUSES for each in self.statuses)

    @property
    def may_have_ended(self) -> bool:
        """True: there may be some that have ended."""
        return self.statuses is None or any(each not in OPEN_STATUSES for each in self.statuses)

    @property
    def has_many_statuses(self) -> bool:
        """True: no index has all of them in the order of their age."""
        return self.statuses is not None and len(self.statuses) > 1

    def conditions(self, *, by_index: bool = True) -> tuple[str, dict[str, Any]]:
        """The same in SQL, and its parameters; without `by_index`, no index finds rows by them."""
        text, number = ("", "") if by_index else (" || ''", " + 0")
        names = ("machine_id", "session_id", "batch_id")
        values = {name: getattr(self, name) for name in names}
        values = {name: value for name, value in values.items() if value is not None}
        sql = [f"command.{name}{text} = :{name}" for name in values]
        if self.statuses is not None:
            has_status, statuses = _has_status(f"command.status{text}", self.statuses)
            sql.append(has_status)
            values |= statuses
        if self.since_ms is not None:
            sql.append(f"command.created_ms{number} >= :since_ms")
            values["since_ms"] = self.since_ms
        return " AND ".join(sql) or "TRUE", values


def _has_status(
    column: str, statuses: tuple[CommandStatus, ...] | None
) -> tuple[str, dict[str, str]]:
    """The condition that a column has one of these, and its parameters; None: whatever it has."""
    if statuses is None:
        return "TRUE", {}
    values: dict[str, str] = {f"status_{n}": status for n, status in enumerate(statuses)}
    names = ", ".join(f":{name}" for name in values)
    # Only of one value SQLite knows that its rows are in order.
    return f"{column} = {names}" if len(values) == 1 else f"{column} IN ({names})", values


class _Bucket(Record, frozen=True, kw_only=True):
    bucket: int
    commands: int


@reads
def count(tx: Tx, reach: Reach, asked: Asked) -> int:
    """How many commands in reach are as asked for, exactly."""
    if asked.batch_id is not None:
        return _count_of_batch(tx, reach, asked)
    if asked.session_id is not None:
        return _count_of_session(tx, reach, asked, asked.session_id)
    if asked.machine_id is not None:
        return _count_of_machine(tx, reach, asked, asked.machine_id)
    if reach.tags:
        return _count_of_some_machines(tx, reach, asked)
    return _count_of_workspace(tx, reach.workspace_id, asked)


@reads
def bucket_of(
    tx: Tx, workspace_id: str, status: CommandStatus | None, offset: int, *, down: bool
) -> tuple[int, int] | None:
    """(the bucket that has the command at `offset`, how many commands come before that bucket).

    Of a workspace, with this status if it is given, in the order in which they were made, or
    `down` from the newest. None: there are not so many.
    """
    asked = Asked(statuses=None if status is None else (status,))
    has_status, values = _has_status("status", asked.statuses)
    buckets = tx.all(
        _Bucket,
        "SELECT bucket, sum(commands) AS commands FROM command_tally"  # noqa: S608
        f" WHERE owner_id = :workspace_id AND {has_status} GROUP BY bucket",
        workspace_id=workspace_id,
        **values,
    )
    if asked.may_be_open:
        buckets += tx.all(
            _Bucket,
            "SELECT created_ms / :bucket_ms AS bucket, count(*) AS commands"  # noqa: S608
            f" FROM command WHERE workspace_id = :workspace_id AND {IS_OPEN}"
            f" AND {has_status} GROUP BY created_ms / :bucket_ms",
            workspace_id=workspace_id,
            bucket_ms=BUCKET_MS,
            **values,
        )
    commands: dict[int, int] = {}
    for each in buckets:
        commands[each.bucket] = commands.get(each.bucket, 0) + each.commands
    before = 0
    for bucket in sorted(commands, reverse=down):
        if before + commands[bucket] > offset:
            return bucket, before
        before += commands[bucket]
    return None


def _count_of_batch(tx: Tx, reach: Reach, asked: Asked) -> int:
    """One by one: there are 1000 at the most."""
    is_within, reached = within(reach, "command", by_index=False)
    sql, values = asked.conditions()
    return _count_each(tx, f"{is_within} AND {sql}", **reached, **values)


def _count_of_session(tx: Tx, reach: Reach, asked: Asked, session_id: str) -> int:
    is_within, reached = within(reach, "session")
    machine_id = tx.value(
        f"SELECT machine_id FROM session WHERE id = :id AND {is_within}",  # noqa: S608
        id=session_id,
        **reached,
    )
    if machine_id is None or asked.machine_id not in (None, machine_id):
        return 0
    sql, values = replace(asked, machine_id=None).conditions()
    return _count_each(tx, sql, **values)


def _count_of_machine(tx: Tx, reach: Reach, asked: Asked, machine_id: str) -> int:
    """By its tally; since a time one by one."""
    is_within, reached = within(reach, "machine", "id")
    sql = f"SELECT 1 FROM machine WHERE id = :id AND {is_within}"  # noqa: S608
    if tx.value(sql, id=machine_id, **reached) is None:
        return 0
    sql, values = asked.conditions()
    if asked.since_ms is not None:
        return _count_each(tx, sql, **values)
    total = 0
    if asked.may_be_open:
        total += _count_each(tx, f"{IS_OPEN} AND {sql}", **values)
    if asked.may_have_ended:
        has_status, values = _has_status("status", asked.statuses)
        total += tx.value(
            "SELECT coalesce(sum(commands), 0)"  # noqa: S608 - words of our own
            " FROM command_tally WHERE owner_id = :machine_id"
            f" AND bucket = 0 AND {has_status}",
            machine_id=machine_id,
            **values,
        )
    return total


def _count_of_some_machines(tx: Tx, reach: Reach, asked: Asked) -> int:
    """By the tallies of those in reach; since a time one by one."""
    if asked.since_ms is not None:
        return _count_since(tx, reach, asked, asked.since_ms)
    are_within, reached = within(reach, "machine", "id")
    total = 0
    if asked.may_be_open:
        is_within, _ = within(reach, "command")
        sql, values = asked.conditions()
        total += _count_each(tx, f"{is_within} AND {IS_OPEN} AND {sql}", **reached, **values)
    if asked.may_have_ended:
        has_status, values = _has_status("command_tally.status", asked.statuses)
        total += tx.value(
            "SELECT coalesce(sum(commands), 0)"  # noqa: S608 - words of our own
            " FROM machine JOIN command_tally ON command_tally.owner_id = machine.id"
            f" WHERE {are_within} AND command_tally.bucket = 0 AND {has_status}",
            **reached,
            **values,
        )
    return total


def _count_since(tx: Tx, reach: Reach, asked: Asked, since_ms: int) -> int:
    """One by one: of each machine, or all since that time, or those before it: the fewest.

    Each way is the short one somewhere (10,000 machines, 400,000 commands of 30 days, in ms): for
    ten machines since 15 days 8, 164 and 195; for half of all machines since an hour 33, 0.3 and
    202, since 29 days 20, 129 and 4.
    """
    whenever, workspace_id = replace(asked, since_ms=None), reach.workspace_id
    held = _count_of_some_machines(tx, reach, Asked())
    since = _count_of_workspace(tx, workspace_id, asked)
    before = _count_of_workspace(tx, workspace_id, whenever) - since
    is_within, reached = within(reach, "command")
    sql, values = whenever.conditions()
    values |= reached | {"since_ms": since_ms}
    if held <= min(since, before):
        are_within, _ = within(reach, "machine", "id")
        sql += f" AND command.machine_id IN (SELECT id FROM machine WHERE {are_within})"  # noqa: S608
        return _count_each(tx, f"{sql} AND command.created_ms >= :since_ms", **values)
    if since <= before:
        return _count_each(
            tx, f"{is_within} AND {sql} AND command.created_ms >= :since_ms", **values
        )
    earlier = _count_each(tx, f"{is_within} AND {sql} AND command.created_ms < :since_ms", **values)
    return _count_of_some_machines(tx, reach, whenever) - earlier


def _count_of_workspace(tx: Tx, workspace_id: str, asked: Asked) -> int:
    """By its tallies; since a time one by one in the bucket of that time, and by the later ones."""
    total, first_bucket = 0, 0
    if asked.since_ms is not None:
        first_bucket = asked.since_ms // BUCKET_MS + 1
        sql, values = asked.conditions()
        total += _count_each(
            tx,
            f"command.workspace_id = :workspace_id AND {sql} AND command.created_ms < :until_ms",
            workspace_id=workspace_id,
            until_ms=first_bucket * BUCKET_MS,
            **values,
        )
        asked = replace(asked, since_ms=first_bucket * BUCKET_MS)
    if asked.may_be_open:
        sql, values = asked.conditions()
        total += _count_each(
            tx,
            f"command.workspace_id = :workspace_id AND {IS_OPEN} AND {sql}",
            workspace_id=workspace_id,
            **values,
        )
    if asked.may_have_ended:
        has_status, values = _has_status("status", asked.statuses)
        total += tx.value(
            "SELECT coalesce(sum(commands), 0)"  # noqa: S608 - words of our own
            " FROM command_tally WHERE owner_id = :workspace_id"
            f" AND bucket >= :first_bucket AND {has_status}",
            workspace_id=workspace_id,
            first_bucket=first_bucket,
            **values,
        )
    return total


def _count_each(tx: Tx, sql: str, **values: object) -> int:
    return int(tx.value(f"SELECT count(*) FROM command WHERE {sql}", **values))  # noqa: S608
