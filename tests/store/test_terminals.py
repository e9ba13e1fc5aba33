"""Terminals: what becomes of one, who is told of it, and how long it is kept."""

from collections.abc import Iterator

import apsw
import msgspec
import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import TerminalNotFound
from cmdop_appliance.model import Terminal
from cmdop_appliance.protocol.terminals import Coding, Shell, Size
from cmdop_appliance.store import events, machines, migrate, terminals
from cmdop_appliance.store.listing import Paging
from cmdop_appliance.store.transaction import Tx
from tests.support import records
from tests.support.records import NOW, REACH, WORKSPACE, WORKTREE

WEB = Reach(WORKSPACE, ("web",))
LATER = NOW + 5000


@pytest.fixture
def tx() -> Iterator[Tx]:
    with apsw.Connection(":memory:") as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        migrate.to_latest(Tx(connection))
        yield Tx(connection)


@pytest.fixture
def machine_id(tx) -> str:
    machine = records.machine(tags=["prod"])
    machines.insert(tx, machine, "enr")
    return machine.id


def told(tx: Tx) -> list[tuple[str, dict[str, object]]]:
    return [(event.type, event.data) for event in events.after(tx, REACH, 0, 100)]


def started(tx: Tx, terminal: Terminal, **fields) -> None:
    plain = {"started_ms": NOW, "directory": None, "worktree": None, "now_ms": NOW}
    terminals.start(tx, terminal, **plain | fields)


def ended(tx: Tx, terminal: Terminal, ended_ms: int = LATER, **fields) -> None:
    terminals.end(tx, terminal, "exited", ended_ms=ended_ms, now_ms=LATER, **fields)


@pytest.mark.parametrize(
    "what",
    [
        Shell(argv=["vim", "notes"], cwd="/src", env={"A": "b"}, user="www"),
        Coding(directory="~/work", flavour="claude", model="opus", yolo=True, worktree="fix"),
    ],
)
def test_a_terminal_is_kept_as_it_was_asked_for(tx, machine_id, what):
    terminal = records.terminal(machine_id, what=what, cols=100, is_recorded=True)
    terminals.insert(tx, terminal)
    assert terminals.find(tx, terminal.id) == terminal
    away = msgspec.structs.replace(terminal, stale_ms=NOW)  # its machine is not connected
    assert terminals.get(tx, REACH, terminal.id) == away
    other = records.terminal(machine_id, what=what, name="whole", status="running", started_ms=NOW)
    other = msgspec.structs.replace(other, directory="/src", worktree=WORKTREE)
    terminals.insert(tx, other)
    assert terminals.find(tx, other.id) == other


@pytest.mark.parametrize("reach", [WEB, Reach("ws_other")])
def test_a_terminal_out_of_reach_is_not_there(tx, machine_id, reach):
    terminal = records.terminal(machine_id)
    terminals.insert(tx, terminal)
    with pytest.raises(TerminalNotFound):
        terminals.get(tx, reach, terminal.id)
    assert terminals.page(tx, reach, Paging()).total == 0
    assert terminals.get(tx, Reach(WORKSPACE, ("prod",)), terminal.id).id == terminal.id


def test_a_list_is_asked_for_by_machine_kind_and_status(tx, machine_id):
    elsewhere = records.machine()
    machines.insert(tx, elsewhere, "enr")
    plain, coding = records.terminal(machine_id), records.coding_session(machine_id)
    other = records.terminal(elsewhere.id)
    for each in (plain, coding, other):
        terminals.insert(tx, each)
    started(tx, coding)

    def found(**filters) -> set[str]:
        return {each.id for each in terminals.page(tx, REACH, Paging(), **filters).items}

    assert found() == {plain.id, coding.id, other.id}
    assert found(machine_id=machine_id) == {plain.id, coding.id}
    assert found(kind="terminal") == {plain.id, other.id}
    assert found(status="running") == {coding.id}


def test_a_name_is_free_again_after_the_end(tx, machine_id):
    terminal = records.terminal(machine_id)
    terminals.insert(tx, terminal)
    again = records.terminal(machine_id)
    with pytest.raises(apsw.ConstraintError):
        terminals.insert(tx, again)
    assert terminals.named(tx, machine_id, "main") == terminal
    ended(tx, terminal)
    assert terminals.named(tx, machine_id, "main") is None
    terminals.insert(tx, again)
    assert terminals.live_of(tx, machine_id) == [again]


def test_the_life_of_a_coding_session_is_told_once_each(tx, machine_id):
    session = records.coding_session(machine_id)
    terminals.insert(tx, session)
    started(tx, session, directory="/home/u/work", worktree=WORKTREE)
    started(tx, session)
    for on in (True, True, False, False):
        terminals.set_waiting(tx, session, on=on, now_ms=NOW)
    ended(tx, session, exit_code=3)
    ended(tx, session, exit_code=0)
    started(tx, session)
    row = terminals.get(tx, REACH, session.id)
    assert (row.status, row.directory, row.exit_code) == ("ended", "/home/u/work", 3)
    what = {
        "session_id": session.id,
        "name": "codex-1",
        "machine_id": machine_id,
        "machine_hostname": "web-1",
        "agent": "codex",
        "model": "o3",
        "directory": "/home/u/work",
        "worktree": msgspec.to_builtins(WORKTREE),
        "user_email": "ci@default",
    }
    end = {"end": "exited", "exit_code": 3, "signal": None, "code": None, "message": None}
    assert told(tx) == [
        ("coding_session.started", what),
        ("coding_session.waiting", what),
        ("coding_session.ended", what | end),
    ]
    (event, *_) = events.after(tx, REACH, 0, 1)
    assert (event.subject, event.machine_id) == (session.id, machine_id)


def test_of_a_terminal_and_of_what_never_ran_no_event_tells(tx, machine_id):
    terminal, session = records.terminal(machine_id), records.coding_session(machine_id)
    for each in (terminal, session):
        terminals.insert(tx, each)
    started(tx, terminal)
    ended(tx, terminal)
    terminals.end(tx, session, "failed", ended_ms=NOW, now_ms=NOW, code="not_installed")
    assert told(tx) == []


def test_only_a_coding_session_that_runs_waits_and_none_does_after_its_end(tx, machine_id):
    terminal, session = records.terminal(machine_id), records.coding_session(machine_id)
    for each in (terminal, session):
        terminals.insert(tx, each)
    started(tx, terminal)
    for each in (terminal, session):
        terminals.set_waiting(tx, each, on=True, now_ms=NOW)
        assert not terminals.find(tx, each.id).is_waiting
    started(tx, session)
    terminals.set_waiting(tx, session, on=True, now_ms=NOW)
    ended(tx, session)
    assert not terminals.find(tx, session.id).is_waiting


def test_each_change_wakes_who_waits_and_what_changes_nothing_does_not(tx, machine_id):
    session = records.coding_session(machine_id)
    subject = terminals.subject_of(session.id)
    terminals.insert(tx, session)

    def wakes(change) -> bool:
        tx.notified.clear()
        change()
        return subject in tx.notified

    changes = [
        lambda: started(tx, session),
        lambda: terminals.set_waiting(tx, session, on=True, now_ms=NOW),
        lambda: terminals.set_size(tx, session.id, Size(100, 50)),
        lambda: terminals.request_end(tx, session),
        lambda: ended(tx, session),
    ]
    for change in changes:
        assert wakes(change)
        assert not wakes(change)
    last = terminals.find(tx, session.id)
    assert (last.cols, last.rows, last.is_ending, last.ended_ms) == (100, 50, True, LATER)
    for change in changes:
        assert not wakes(change)  # it has ended
    assert terminals.find(tx, session.id) == last


def test_what_no_machine_has_opened_is_found(tx, machine_id):
    old, new = (records.terminal(machine_id, name=name) for name in ("old", "new"))
    new = msgspec.structs.replace(new, created_ms=LATER)
    running = records.terminal(machine_id, name="running")
    for each in (old, new, running):
        terminals.insert(tx, each)
    started(tx, running)
    assert terminals.unanswered(tx, NOW) == [old]
    assert terminals.unanswered(tx, NOW - 1) == []


def test_what_ended_a_week_ago_is_dropped(tx, machine_id):
    old, new, live = (records.terminal(machine_id, name=name) for name in ("a", "b", "c"))
    for each in (old, new, live):
        terminals.insert(tx, each)
    ended(tx, old, NOW - 1)
    ended(tx, new, NOW)
    terminals.forget(tx, NOW + terminals.KEPT_MS)
    left = terminals.page(tx, REACH, Paging())
    assert {each.id for each in left.items} == {new.id, live.id}


def test_of_too_many_that_have_ended_the_oldest_make_room(tx, machine_id, monkeypatch):
    monkeypatch.setattr(terminals, "KEPT_MOST", 3)
    elsewhere = records.machine()
    machines.insert(tx, elsewhere, "enr")
    others = records.terminal(elsewhere.id)
    terminals.insert(tx, others)
    ended(tx, others, NOW - 1)
    made = [records.terminal(machine_id) for _ in range(6)]
    for number, each in enumerate(made):
        terminals.insert(tx, each)
        ended(tx, each, NOW + number)
    live = records.terminal(machine_id)
    terminals.insert(tx, live)
    left = terminals.page(tx, REACH, Paging(), machine_id=machine_id)
    assert {each.id for each in left.items} == {live.id, *(each.id for each in made[-3:])}
    assert terminals.find(tx, others.id) is not None
