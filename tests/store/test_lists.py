"""Long lists: what the tallies count is what there is, and no list is found by a long way."""

import itertools
import random
import re
from collections.abc import Callable, Iterator

import apsw
import msgspec
import pglast
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cmdop_appliance.auth import Reach
from cmdop_appliance.model import COMMAND_STATUSES, OPEN_STATUSES, Command
from cmdop_appliance.store import batches, commands, machines, migrate, sessions, tallies, ways
from cmdop_appliance.store.listing import Page, Paging
from cmdop_appliance.store.tallies import Asked
from cmdop_appliance.store.transaction import Tx
from tests.store.test_sql import as_postgresql
from tests.support import records
from tests.support.records import FACTS, NOW, REACH, WORKSPACE

WEB = Reach(WORKSPACE, ("web",))
OTHER = Reach("ws_other")
NO_FILTER = {"status": None, "machine_id": None, "machine_hostname": None}
ENDED = [status for status in COMMAND_STATUSES if status not in OPEN_STATUSES]
# A history that goes wrong is not made shorter: each step depends on all before it.
HISTORY = (Phase.reuse, Phase.generate)
STEP_MS = tallies.BUCKET_MS // 3


@pytest.fixture
def tx() -> Iterator[Tx]:
    with new_store() as connection:
        yield Tx(connection)


def new_store() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    connection.execute("PRAGMA foreign_keys = ON")
    migrate.to_latest(Tx(connection))
    return connection


def connected(tx: Tx, **fields) -> tuple[str, str]:
    """(machine id, session id)."""
    made = records.machine(**fields)
    machines.insert(tx, made, "enr_x")
    session_id, epoch = sessions.connect(tx, made, facts=FACTS, ip="::1", now_ms=NOW) or ("", 0)
    sessions.ready(tx, session_id, epoch, NOW)
    return made.id, session_id


def all_pages(list_page: Callable[[Paging], Page], sort: str, limit: int) -> tuple[list[str], int]:
    """The ids of a whole list, page by page, and its total."""
    first = list_page(Paging(limit, 0, sort))
    found = [each.id for each in first.items]
    for offset in range(limit, first.total + limit, limit):
        page = list_page(Paging(limit, offset, sort))
        assert page.total == first.total
        found += [each.id for each in page.items]
    return found, first.total


# ── totals and pages ─────────────────────────────────────────────────────────────────────────────


class History:
    """Some machines, of which two are tagged, and what may happen to their commands, at random."""

    def __init__(self, tx: Tx, dice: random.Random) -> None:
        self.tx = tx
        self.dice = dice
        self.places = [connected(tx, tags=tags) for tags in (["web", "a"], ["web"], [], ["webs"])]
        self.batch = records.batch()
        batches.insert(tx, self.batch)
        self.times = [NOW + number * STEP_MS for number in range(8)]

    def everything(self) -> list[Command]:
        return self.tx.all(Command, "SELECT * FROM command")

    def insert(self) -> None:
        machine_id, session_id = self.dice.choice(self.places)
        is_held = self.dice.random() < 0.2
        made = records.command(
            machine_id,
            None if is_held or self.dice.random() < 0.2 else session_id,
            created_ms=self.dice.choice(self.times) + self.dice.randrange(3),
            batch_id=self.batch.id if is_held else None,
            is_held=is_held,
            is_queued=self.dice.random() < 0.5,
        )
        commands.insert(self.tx, made)

    def start(self) -> None:
        one = self.any_command()
        commands.started(self.tx, one.id, one.machine_id, one.created_ms + 1)

    def finish(self) -> None:
        one, status = self.any_command(), self.dice.choice(ENDED)
        duration_ms = self.dice.choice([None, 5, 5, 7])
        end = records.ended(
            one,
            status=status,
            finished_ms=one.created_ms + self.dice.randrange(4),
            duration_ms=duration_ms,
            error_code=self.dice.choice([None, commands.SILENT]) if status == "lost" else None,
        )
        commands.finish(self.tx, end)

    def skip(self) -> None:
        if self.dice.random() < 0.1:
            commands.skip_held(self.tx, self.batch.id, "code", "message", NOW)

    def place(self) -> None:
        one = self.any_command()
        session_id = dict(self.places)[one.machine_id]
        commands.place(self.tx, msgspec.structs.replace(one, session_id=session_id))

    def return_of_a_machine(self) -> None:
        machine_id, session_id = self.dice.choice(self.places)
        commands.reopen_silent(self.tx, machine_id)
        commands.send_queued(self.tx, machine_id, session_id, NOW)

    def reopen(self) -> None:
        one = self.any_command()
        commands.reopen_unsent(self.tx, one.machine_id, dict(self.places)[one.machine_id], one.id)

    def delete(self) -> None:
        if self.dice.random() < 0.1:
            one = self.any_command()
            self.tx.execute("DELETE FROM command WHERE id = :id", id=one.id)

    def retag(self) -> None:
        machine_id, _ = self.dice.choice(self.places)
        tags = self.dice.choice([[], ["web"], ["a", "web"], ["b"]])
        machines.edit(self.tx, REACH, machine_id, name=None, tags=tags)

    def any_command(self) -> Command:
        return self.dice.choice(self.everything())

    def run(self, steps: int) -> None:
        for _ in range(10):
            self.insert()
        often = [self.insert, self.insert, self.start, self.finish, self.finish]
        seldom = [self.skip, self.place, self.return_of_a_machine, self.reopen, self.delete]
        for _ in range(steps):
            self.dice.choice([*often, *seldom, self.retag])()

    def questions(self) -> Iterator[dict[str, object]]:
        choices = {
            "machine_id": [self.places[0][0], self.places[2][0], "mach_x"],
            "session_id": [self.places[0][1], self.places[2][1], "sess_x"],
            "batch_id": [self.batch.id, "batch_x"],
            "statuses": [
                ("pending",),
                ("completed",),
                ("lost",),
                ("pending", "running"),
                ("lost", "running"),
            ],
            "since_ms": [0, self.times[3], self.times[3] + 1, self.times[7] + tallies.BUCKET_MS],
        }
        for values in itertools.product(*([None, *some] for some in choices.values())):
            yield dict(zip(choices, values, strict=True))

    def within(self, reach: Reach) -> list[Command]:
        near = {
            machine_id
            for machine_id, _ in self.places
            if set(reach.tags) <= set(machines.get(self.tx, REACH, machine_id).tags)
        }
        return [
            each
            for each in self.everything()
            if each.machine_id in near and each.workspace_id == reach.workspace_id
        ]


def those(of: list[Command], asked: dict[str, object]) -> list[Command]:
    """The commands that are as asked for."""
    since_ms = asked.get("since_ms") or 0
    equal = {
        name: value
        for name, value in asked.items()
        if name not in ("since_ms", "statuses") and value is not None
    }
    return [
        each
        for each in of
        if each.created_ms >= since_ms
        and each.status in (asked.get("statuses") or COMMAND_STATUSES)
        and all(value == getattr(each, name) for name, value in equal.items())
    ]


@settings(max_examples=10, phases=HISTORY)
@given(st.randoms(use_true_random=False), st.integers(0, 120))
def test_a_total_is_the_number_of_the_commands_whatever_happened_to_them(dice, steps):
    with new_store() as connection:
        tx = Tx(connection)
        history = History(tx, dice)
        history.run(steps)
        for reach in (REACH, WEB, OTHER):
            reached = history.within(reach)
            for asked in history.questions():
                expected = len(those(reached, asked))
                assert tallies.count(tx, reach, Asked(**asked)) == expected, asked


@settings(max_examples=10, phases=HISTORY)
@given(dice=st.randoms(use_true_random=False), limit=st.integers(1, 9))
def test_the_pages_of_a_list_have_each_command_once_and_in_order(dice, limit):
    with new_store() as connection, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ways, "_GREAT_OFFSET", dice.choice([1, 10, 1000]))
        tx = Tx(connection)
        history = History(tx, dice)
        history.run(80)
        questions = dice.sample(list(history.questions()), 10)
        machine_id, session_id = history.places[0]
        plain = [
            {},
            {"statuses": ("completed",)},
            {"statuses": ("running",)},
            {"since_ms": history.times[3]},
            {"machine_id": machine_id},
            {"session_id": session_id, "statuses": ("completed",)},
            {"batch_id": history.batch.id},
        ]
        sorts = ways.ORDER
        reached = {reach: history.within(reach) for reach in (REACH, WEB)}
        for reach, asked, (field, column), way in itertools.product(
            reached, plain + questions, sorts.items(), ("", "-")
        ):

            def key(each: Command, name: str = column.rpartition(".")[2]) -> tuple[object, ...]:
                value = getattr(each, name)
                return (-1 if value is None else value, each.id)

            expected = sorted(those(reached[reach], asked), key=key, reverse=way == "-")
            found, total = all_pages(
                lambda paging, r=reach, a=asked: commands.page(tx, r, paging, **a),
                way + field,
                limit,
            )
            assert (found, total) == ([each.id for each in expected], len(expected))


def test_a_machine_is_online_as_long_as_it_has_a_live_session(tx):
    made = records.machine()
    machines.insert(tx, made, "enr_x")

    def is_online() -> bool:
        (listed,) = machines.page(tx, REACH, Paging()).items
        for status in ("online", "offline"):
            page = machines.page(tx, REACH, Paging(), status=status)
            assert page.total == len(page.items) == (listed.is_online == (status == "online"))
        assert listed.is_online == (sessions.live_of(tx, REACH, made.id) is not None)
        return listed.is_online

    def connect() -> tuple[str, int]:
        return sessions.connect(tx, made, facts=FACTS, ip="::1", now_ms=NOW) or ("", 0)

    assert not is_online()
    session_id, epoch = connect()
    assert not is_online()  # PENDING
    sessions.ready(tx, session_id, epoch, NOW)
    assert is_online()
    sessions.lose(tx, session_id, epoch, now_ms=NOW, grace_until_ms=NOW + 1)
    assert is_online()  # GRACE_PERIOD
    sessions.ready(tx, *connect(), NOW)
    assert is_online()
    sessions.recover(tx, now_ms=NOW, grace_until_ms=NOW + 1)
    assert is_online()
    sessions.end_expired(tx, NOW + 2)
    assert not is_online()
    session_id, epoch = connect()
    sessions.ready(tx, session_id, epoch, NOW)
    sessions.fail(tx, session_id, epoch, NOW)
    assert not is_online()  # ERROR
    connect()
    sessions.recover(tx, now_ms=NOW, grace_until_ms=NOW + 1)
    assert not is_online()
    sessions.ready(tx, *connect(), NOW)
    sessions.end_of(tx, made.id, NOW)
    assert not is_online()


# ── ways ─────────────────────────────────────────────────────────────────────────────────────────

_PARAMETER = re.compile(r"(?<!:):(\w+)")
ID = "sqlite_autoindex_{}_1"
TALLY = ID.format("command_tally")
# Whether the machine of a command is connected.
STALE = {"session_current", ID.format("machine")}
TAGS = ID.format("machine_tag")
MANY, FEW = "mach_many", "mach_few"
SORTED = "-duration"
# what → (the list, the indexes that it uses and no others, whether it sorts some)
WAYS = {
    "all": ({}, {"command_by_status", TALLY, "command_by_age"}, False),
    "of a machine": ({"machine_id": MANY}, {"command_open", TALLY, "command_by_machine"}, False),
    "of a machine since": ({"machine_id": MANY, "since_ms": NOW}, {"command_by_machine"}, False),
    "of a machine that run": (
        {"machine_id": MANY, "statuses": ("running",)},
        {"command_open"},
        False,
    ),
    "of a session": (
        {"session_id": "sess_many"},
        {ID.format("session"), "command_by_session"},
        False,
    ),
    "with a status": ({"statuses": ("completed",)}, {TALLY, "command_by_status"}, False),
    "that run": ({"statuses": ("running",)}, {"command_by_status"}, False),
    "with one of two statuses": (
        {"statuses": ("completed", "running")},
        {"command_by_status", TALLY, "command_by_age"},
        False,
    ),
    "with one of two that are seldom": (
        {"statuses": ("lost", "timeout")},
        {"command_by_status", TALLY},
        True,
    ),
    "of a machine with one of two statuses": (
        {"machine_id": MANY, "statuses": ("completed", "running")},
        {"command_open", TALLY, "command_by_machine"},
        False,
    ),
    "of a machine that have not ended": (
        {"machine_id": MANY, "statuses": ("pending", "running")},
        {"command_open"},
        False,
    ),
    "with a status since": (
        {"statuses": ("completed",), "since_ms": NOW},
        {TALLY, "command_by_status"},
        False,
    ),
    "since": ({"since_ms": NOW}, {TALLY, "command_by_status", "command_by_age"}, False),
    "of a batch": ({"batch_id": "batch_1"}, {"command_by_batch"}, True),
    "the longest": (
        {"sort": SORTED},
        {"command_by_status", TALLY, "command_by_duration"},
        False,
    ),
    "the last to end": (
        {"sort": "-finished_at"},
        {"command_by_status", TALLY, "command_by_end"},
        False,
    ),
    "the longest since": (
        {"sort": SORTED, "since_ms": NOW},
        {"command_by_status", "command_by_age", TALLY, "command_by_duration"},
        False,
    ),
    "the longest of a busy machine": (
        {"sort": SORTED, "machine_id": MANY},
        {"command_by_status", "command_open", TALLY, "command_by_duration"},
        False,
    ),
    "the longest of an idle machine": (
        {"sort": SORTED, "machine_id": FEW},
        {"command_by_status", "command_open", TALLY, "command_by_machine"},
        True,
    ),
    "the longest with a status that is seldom": (
        {"sort": SORTED, "statuses": ("lost",)},
        {"command_by_status", TALLY},
        True,
    ),
    "the longest with a status that is not": (
        {"sort": SORTED, "statuses": ("completed",)},
        {"command_by_status", TALLY, "command_by_duration"},
        False,
    ),
    "all of tagged machines": (
        {"reach": WEB},
        {"command_by_status", TALLY, TAGS, "machine_by_sight", "command_by_age"},
        False,
    ),
    "the longest of a tagged machine": (
        {"reach": Reach(WORKSPACE, ("few",)), "sort": SORTED},
        {"command_by_status", TALLY, TAGS, "machine_by_sight", "command_by_machine"},
        True,
    ),
}


@pytest.fixture
def busy(tx: Tx) -> dict[str, str]:
    """One busy machine, and one that is not; the sessions by their names in `WAYS`."""
    batches.insert(tx, records.batch(id="batch_1"))
    found = {}
    for name, count in (("many", 100), ("few", 1)):
        machine_id, found[f"sess_{name}"] = connected(tx, id=f"mach_{name}", tags=["web", name])
        for number in range(count):
            one = records.command(
                machine_id,
                found[f"sess_{name}"],
                created_ms=NOW + number,
                batch_id="batch_1" if number == 0 else None,
            )
            commands.insert(tx, one)
            commands.started(tx, one.id, machine_id, NOW)
            status = "lost" if number == 1 else "completed"
            if number % 10:
                commands.finish(tx, records.ended(one, status=status, duration_ms=number))
    return found


@pytest.mark.parametrize("name", WAYS)
def test_a_list_is_found_by_the_index_that_makes_its_way_the_shortest(tx, busy, name: str):
    asked, indexes, is_sorted = WAYS[name]
    asked = {
        key: busy.get(value, value) if key == "session_id" else value
        for key, value in asked.items()
    }
    seen: list[str] = []
    tx._connection.exec_trace = lambda _, sql, __: seen.append(sql) or True
    reach, paging = asked.pop("reach", REACH), Paging(sort=asked.pop("sort", "-created_at"))
    page = commands.page(tx, reach, paging, **asked)
    tx._connection.exec_trace = None
    assert page.items
    assert plan(tx, seen, sorts=is_sorted) == indexes | STALE


def plan(tx: Tx, statements: list[str], *, sorts: bool) -> set[str]:
    """The indexes that the statements use; they neither scan, nor sort unless they may."""
    steps = []
    for sql in statements:
        pglast.parse_sql(as_postgresql(sql))
        nothing = dict.fromkeys(_PARAMETER.findall(sql))
        steps += [row[3] for row in tx._connection.execute(f"EXPLAIN QUERY PLAN {sql}", nothing)]
    assert ("USE TEMP B-TREE FOR ORDER BY" in steps) == sorts, steps
    steps = [step for step in steps if not re.search("SUBQUERY|ORDER BY", step)]
    used = [
        re.fullmatch(r"SEARCH \w+ (?:EXISTS )?USING (?:COVERING )?INDEX (\w+) .*", step)
        for step in steps
    ]
    assert all(used), steps
    return {match[1] for match in used}


# Lists of ten thousand, at the most: what counts is that their filters need no rows.
SHORT = {
    "machines": (lambda tx: machines.page(tx, REACH, Paging()), "machine_by_age"),
    "machines that are online": (
        lambda tx: machines.page(tx, REACH, Paging(), status="online"),
        "machine_by_age",
    ),
    "machines with tags and a name": (
        lambda tx: machines.page(tx, REACH, Paging(), tags=["web", "few"], search="WEB"),
        "machine_by_age",
    ),
    "machines by name": (
        lambda tx: machines.page(tx, REACH, Paging(sort="name")),
        "machine_by_name",
    ),
    "machines by hostname": (
        lambda tx: machines.page(tx, REACH, Paging(sort="-hostname")),
        "machine_by_hostname",
    ),
    "machines by last sight": (
        lambda tx: machines.page(tx, REACH, Paging(sort="last_seen")),
        "machine_by_sight",
    ),
    "sessions": (
        lambda tx: sessions.page(tx, REACH, Paging(), **NO_FILTER),
        "session_by_workspace",
    ),
    "sessions with a status": (
        lambda tx: sessions.page(tx, REACH, Paging(), **{**NO_FILTER, "status": "CONNECTED"}),
        "session_by_status",
    ),
    "sessions of a machine": (
        lambda tx: sessions.page(tx, REACH, Paging(), **{**NO_FILTER, "machine_id": MANY}),
        "session_by_machine",
    ),
    "sessions with a hostname": (
        lambda tx: sessions.page(tx, REACH, Paging(), **{**NO_FILTER, "machine_hostname": "web-1"}),
        "session_by_hostname",
    ),
    "sessions by hostname": (
        lambda tx: sessions.page(tx, REACH, Paging(sort="machine_hostname"), **NO_FILTER),
        "session_by_hostname",
    ),
    "sessions by connection": (
        lambda tx: sessions.page(tx, REACH, Paging(sort="-connected_at"), **NO_FILTER),
        "session_by_connection",
    ),
}


@pytest.mark.parametrize("name", SHORT)
def test_a_short_list_is_counted_and_found_by_indexes_alone(tx, busy, name: str):
    list_page, index = SHORT[name]
    seen: list[str] = []
    tx._connection.exec_trace = lambda _, sql, __: seen.append(sql) or True
    page = list_page(tx)
    tx._connection.exec_trace = None
    assert page.items
    counting, paging = seen
    assert plan(tx, [paging], sorts=False) - {ID.format("client")} == {index}
    nothing = dict.fromkeys(_PARAMETER.findall(counting))
    (step,) = tx._connection.execute(f"EXPLAIN QUERY PLAN {counting}", nothing)
    assert "COVERING INDEX" in step[3]
