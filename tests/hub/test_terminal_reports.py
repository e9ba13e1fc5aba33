"""What machines tell of their terminals: recorded in order, and only of their own."""

from contextlib import suppress
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.errors import SessionNotActive
from cmdop_appliance.hub import terminal_reports
from cmdop_appliance.hub.terminal_link import Typed, find_terminal_link, typed_subject
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Terminal
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.limits import TERMINALS
from cmdop_appliance.protocol.messages import FileCall, Ready
from cmdop_appliance.protocol.terminals import (
    Coding,
    KnownTerminal,
    Shell,
    Size,
    TerminalEnd,
    TerminalEnded,
    TerminalFailed,
    TerminalForget,
    TerminalOpen,
    TerminalOpened,
    TerminalResize,
    Terminals,
    TerminalTaken,
    TerminalUnwatch,
    TerminalWaiting,
    TerminalWatch,
    Worktree,
)
from cmdop_appliance.store import events, machines, sessions, terminals
from tests.hub.scripted_files import LIST
from tests.hub.scripted_terminals import CODING, SHELL, PtyMachine, joined
from tests.hub.viewers import Gallery
from tests.support import records
from tests.support.live_hub import BOUND, CALLER, Link, LiveHub, live_hub
from tests.support.records import NOW, REACH

WRITER = "a" * 32


async def entered(box: PtyMachine, **fields) -> Terminal:
    """A record that no machine was told of, or has answered."""
    terminal = records.terminal(box.machine_id, **fields)
    await box.live.hub.store.run(terminals.insert, terminal)
    return terminal


async def ready(box: PtyMachine) -> Link:
    """A link of a machine that has not named its terminals."""
    link = box.agent.dial()
    await link.prove(await link.greet())
    await link.welcomed()
    await link.say(Ready(features=box.agent.features))
    return link


# ── back again ───────────────────────────────────────────────────────────────────────────────────


async def test_what_a_machine_names_when_it_is_back_runs_on(box):
    terminal = await box.opened(CODING)
    await box.again((terminal.id, "running"))
    size = Size(terminal.cols, terminal.rows)
    assert await box.link.hear() == TerminalResize(id=terminal.id, size=size)
    await box.link.heartbeat()  # nothing else was said to it
    assert await box.row(terminal.id) == terminal


async def test_whoever_waits_for_a_machine_is_woken_when_it_is_back(live, box):
    terminal = await box.opened()
    await box.link.cut()
    with live.hub.bus.subscribe(terminals.subject_of(terminal.id)) as changes:
        await box.again((terminal.id, "running"))
        with trio.fail_after(BOUND):
            assert await changes.next() is not None
            assert (await find_terminal_link(live.hub.bus, box.machine_id)).is_supported


async def test_what_a_machine_does_not_name_is_lost(box):
    kept, gone = await box.opened(), await box.opened(CODING)
    await box.again((kept.id, "running"))
    row = await box.until(gone.id, status="ended")
    assert (row.end, row.code) == ("lost", "keeper_killed")
    assert (await box.row(kept.id)).status == "running"
    assert await box.told() == ["coding_session.started", "coding_session.ended"]


async def test_what_ended_while_the_machine_was_away_is_told_with_its_exit_code(box):
    terminal = await box.opened(CODING)
    await box.again((terminal.id, "ended"))
    row = await box.ended(terminal.id, exit_code=3)
    assert (row.end, row.exit_code) == ("exited", 3)


async def test_an_opening_that_was_not_heard_of_is_asked_for_once_more(live, box):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.ask)
        asked = await box.link.expect(TerminalOpen)
        await box.again((asked.id, "running"))
        assert await box.open_next() == asked
    assert (await box.row(asked.id)).status == "running"


async def test_an_opening_of_which_the_machine_knows_nothing_has_failed(box):
    terminal = await entered(box)
    await box.again()
    row = await box.until(terminal.id, status="ended")
    assert (row.end, row.code) == ("failed", "connection_lost")


async def test_what_opens_while_the_terminals_are_named_is_not_lost(box):
    terminal = await entered(box)
    await box.link.cut()
    link = await ready(box)
    await link.say(Terminals(terminals=[], is_last=False))
    await link.say(TerminalOpened(id=terminal.id, started_ms=NOW))
    await link.say(Terminals(terminals=[], is_last=True))
    await box.settled()
    assert (await box.row(terminal.id)).status == "running"


async def test_what_has_ended_here_is_ended_there(box):
    terminal = await box.opened()
    await box.live.hub.store.run(
        lambda tx: terminals.end(tx, terminal, "lost", ended_ms=NOW, now_ms=NOW)
    )
    await box.again((terminal.id, "running"))
    assert await box.link.expect(TerminalEnd) == TerminalEnd(id=terminal.id)


@pytest.mark.parametrize(
    ("kind", "what", "name"),
    [("term", Shell(), "term-"), ("session", Coding(directory="", flavour="unknown"), "unknown-")],
)
async def test_what_runs_and_is_not_known_here_is_kept(box, kind, what, name):
    unknown = new_id(kind)
    await box.again((unknown, "running"))
    await box.settled()
    row = await box.row(unknown)
    assert row.status == "running"
    assert (row.machine_id, row.what, row.name) == (
        box.machine_id,
        what,
        name + unknown[-6:].lower(),
    )
    await box.again((unknown, "running"))
    await box.live.hub.terminals.end(CALLER, unknown)
    assert await box.link.expect(TerminalEnd) == TerminalEnd(id=unknown)


async def test_what_is_not_known_here_takes_no_name_from_another(box):
    unknown = new_id("term")
    name = f"term-{unknown[-6:].lower()}"
    terminal = await box.opened(replace(SHELL, name=name))
    await box.again((terminal.id, "running"), (unknown, "running"))
    await box.settled()
    assert await box.live.hub.store.run(terminals.live_of, box.machine_id) == [terminal]
    await box.link.expect(TerminalResize)
    for kind, said in said_of(unknown).items():  # which is no reason to cut it off
        if kind != "named":
            await box.link.say(said)
    assert await box.link.expect(TerminalForget) == TerminalForget(ids=[unknown])


async def test_of_a_machine_so_many_live_ones_are_kept_and_no_more(box, monkeypatch):
    monkeypatch.setattr(terminal_reports, "TERMINALS", 2)
    first = [new_id("term") for _ in range(2)]
    await box.again(*((each, "running") for each in first))
    await box.settled()
    more = [(new_id("term"), "running") for _ in range(2)]
    await box.again(*((each, "ended") for each in first), *more)
    await box.settled()
    live = await box.live.hub.store.run(terminals.live_of, box.machine_id)
    assert sorted(each.id for each in live) == sorted(first)


async def test_of_what_nobody_asked_for_no_event_tells(box):
    unknown = new_id("session")
    await box.again((unknown, "running"))
    await box.settled()
    await box.link.say(TerminalWaiting(id=unknown, on=True))
    await box.until(unknown, is_waiting=True)
    await box.ended(unknown, exit_code=0)
    assert await box.told() == []


async def test_what_has_ended_and_is_not_known_here_may_be_forgotten(box):
    unknown = new_id("term")
    await box.again((unknown, "ended"))
    await box.link.say(TerminalEnded(id=unknown, end="exited", exit_code=0))
    assert await box.link.expect(TerminalForget) == TerminalForget(ids=[unknown])
    assert await box.live.hub.store.run(terminals.find, unknown) is None


async def test_a_hub_that_starts_again_has_it_all_from_its_store(tmp_path):
    async with live_hub(tmp_path) as live:
        box = await joined(live)
        terminal = await box.opened(CODING)
        identity = box.agent.identity
        await box.link.cut()
        machine = await box.agent.machine()
        await live.hub.terminals.end(CALLER, terminal.id)
    async with live_hub(tmp_path) as live:
        await live.hub.store.run(sessions.recover, now_ms=NOW, grace_until_ms=NOW)
        with pytest.raises(SessionNotActive):
            await live.hub.terminals.open(CALLER, machine.id, SHELL)
        other = PtyMachine(live, box.agent, box.link, machine.id)
        other.agent.hub, other.agent._live, other.agent.identity = live.hub, live, identity
        await other.again((terminal.id, "running"))
        assert await other.link.expect(TerminalEnd) == TerminalEnd(id=terminal.id)
        assert (await other.row(terminal.id)).is_ending


async def test_terminals_are_not_shown_before_the_machine_has_named_them(box, autojump_clock):
    await box.link.cut()
    link = await ready(box)
    await link.heartbeat()
    with pytest.raises(SessionNotActive):
        await find_terminal_link(box.live.hub.bus, box.machine_id)
    async with trio.open_nursery() as nursery:  # its files are not kept waiting

        async def ask() -> None:
            with suppress(trio.Cancelled):
                async with box.live.hub.files.open(CALLER, box.machine_id, LIST):
                    await trio.sleep_forever()

        nursery.start_soon(ask)
        await link.expect(FileCall)
        nursery.cancel_scope.cancel()


# ── as it goes ───────────────────────────────────────────────────────────────────────────────────


async def test_a_session_that_waits_is_told_of_each_time(box, autojump_clock: MockClock):
    terminal = await box.opened(CODING)
    for _ in range(2):
        await box.link.say(TerminalWaiting(id=terminal.id, on=True))
        await box.until(terminal.id, is_waiting=True)
        await box.link.say(TerminalWaiting(id=terminal.id, on=False))
        await box.until(terminal.id, is_waiting=False)
    assert await box.told() == ["coding_session.started", *["coding_session.waiting"] * 2]


async def test_a_session_that_waits_for_whoever_sits_at_it_is_told_of_to_nobody(box):
    gallery = Gallery(box, await box.opened(CODING))
    async with gallery.look("observer"):
        async with gallery.look("operator"):
            await box.link.say(TerminalWaiting(id=gallery.terminal.id, on=True))
            await box.until(gallery.terminal.id, is_waiting=True)
            assert await box.told() == ["coding_session.started"]
        for on in (False, True):
            await box.link.say(TerminalWaiting(id=gallery.terminal.id, on=on))
            await box.until(gallery.terminal.id, is_waiting=on)
    assert await box.told() == ["coding_session.started", "coding_session.waiting"]


async def test_a_machine_cannot_fill_the_store_with_waiting(box, autojump_clock: MockClock):
    terminal = await box.opened(CODING)
    begin = trio.current_time()
    for _ in range(20):
        for on in (True, False):
            await box.link.say(TerminalWaiting(id=terminal.id, on=on))
    await box.ended(terminal.id, exit_code=0)
    assert trio.current_time() - begin > 18 * terminal_reports._ATTENTION_S


async def test_what_was_typed_is_told_to_its_writer_alone(live, box):
    terminal, other = await box.opened(), await box.opened()
    bus = live.hub.bus
    with (
        bus.subscribe(typed_subject(terminal.id, WRITER)) as typed,
        bus.subscribe(terminals.subject_of(terminal.id)) as changes,
    ):
        for terminal_id, writer in ((other.id, WRITER), (terminal.id, "b" * 32)):
            await box.link.say(TerminalTaken(id=terminal_id, writer=writer, offset=3))
        await box.link.say(TerminalTaken(id=terminal.id, writer=WRITER, offset=7))
        with trio.fail_after(BOUND):
            assert await typed.next() == Typed(7)
        await box.ended(terminal.id, exit_code=0)
        await box.link.say(TerminalTaken(id=terminal.id, writer=WRITER, offset=9))
        await box.link.heartbeat()  # it is its own, and is not blamed
        assert typed.waiting == 0
        assert changes.waiting == 1  # the end


async def test_what_was_typed_is_told_by_a_machine_that_is_back(live, box):
    terminal = await box.opened()
    await box.again((terminal.id, "running"))
    await box.settled()
    with live.hub.bus.subscribe(typed_subject(terminal.id, WRITER)) as typed:
        await box.link.say(TerminalTaken(id=terminal.id, writer=WRITER, offset=7))
        with trio.fail_after(BOUND):
            assert await typed.next() == Typed(7)


async def test_times_that_a_machine_tells_are_held_to_the_hubs_clock(live, box):
    terminal = await box.opened(started_ms=2**60)
    assert terminal.created_ms <= terminal.started_ms <= live.hub.clock.now_ms()
    said = {"started_ms": 0, "duration_ms": 2**60}
    row = await box.ended(terminal.id, exit_code=0, **said)
    assert row.started_ms <= row.ended_ms <= live.hub.clock.now_ms()


async def test_text_of_a_machine_has_no_controls(box):
    dirty = Worktree(repository="/r\x1b", path="/p\x00", branch="b\x9b", name="n\n")
    terminal = await box.opened(CODING, worktree=dirty)
    said = {"signal": "\x1bc", "reason": "keeper_killed", "message": "\x1b]52;c;eA==\x07"}
    row = await box.ended(terminal.id, end="lost", **said)
    assert row.worktree == Worktree(
        repository="/r\ufffd", path="/p\ufffd", branch="b\ufffd", name="n\ufffd"
    )
    assert (row.signal, row.code) == ("\ufffdc", "keeper_killed")
    assert row.message == "\ufffd]52;c;eA==\ufffd"


# ── what is not its own ──────────────────────────────────────────────────────────────────────────


def said_of(terminal_id: str) -> dict[str, object]:
    return {
        "named": Terminals(
            terminals=[KnownTerminal(id=terminal_id, phase="running")], is_last=True
        ),
        "opened": TerminalOpened(id=terminal_id, started_ms=NOW),
        "failed": TerminalFailed(id=terminal_id, code="x", message="y"),
        "ended": TerminalEnded(id=terminal_id, end="exited", exit_code=0),
        "taken": TerminalTaken(id=terminal_id, writer=WRITER, offset=1),
        "waiting": TerminalWaiting(id=terminal_id, on=True),
    }


@pytest.mark.parametrize("kind", said_of("").keys())
async def test_an_agent_cannot_speak_of_the_terminals_of_others(live: LiveHub, box, kind):
    owners = await box.opened(CODING)
    rogue = await joined(live)
    link = rogue.link
    if kind == "named":
        await link.cut()
        link = await ready(rogue)
    before = await live.hub.store.run(events.last_seq, owners.workspace_id)
    subjects = terminals.subject_of(owners.id), typed_subject(owners.id, WRITER)
    with live.hub.bus.subscribe(*subjects) as heard:
        await link.say(said_of(owners.id)[kind])
        code, reason = await link.closed()
        assert (code, reason) == (Close.PROTOCOL, "not a terminal of this machine")
        assert heard.waiting == 0
    assert await box.row(owners.id) == owners
    (entry,) = await live.trespasses()
    assert (entry.actor, entry.target, entry.outcome) == (rogue.machine_id, owners.id, "refused")
    told = await live.hub.store.run(events.after, REACH, before, 100)
    assert {each.type for each in told} <= {
        "session.grace_period",
        "session.connected",
        "session.disconnected",
        "machine.offline",
    }
    await box.link.heartbeat()


@pytest.mark.parametrize("kind", ["opened", "failed", "taken", "waiting"])
async def test_an_agent_cannot_speak_of_terminals_of_nobody(box, kind):
    await box.link.say(said_of(new_id("term"))[kind])
    assert (await box.link.closed())[0] is Close.PROTOCOL


async def test_what_a_rogue_says_after_its_lie_is_not_heard(box):
    mine = await box.opened(CODING)
    await box.link.say(TerminalWaiting(id=new_id("session"), on=True))
    with suppress(trio.BrokenResourceError):
        await box.link.say(TerminalEnded(id=mine.id, end="exited", exit_code=0))
    assert (await box.link.closed())[0] is Close.PROTOCOL
    assert (await box.row(mine.id)).status == "running"


async def test_terminals_are_named_once(box):
    await box.link.say(Terminals(terminals=[], is_last=True))
    assert (await box.link.closed())[0] is Close.PROTOCOL


@pytest.mark.parametrize(("phase", "most"), [("running", TERMINALS), ("ended", 70)])
async def test_a_machine_names_so_many_and_no_more(box, monkeypatch, phase, most):
    monkeypatch.setattr(terminal_reports, "_NAMED", 70)
    many = [(new_id("term"), phase) for _ in range(most + 1)]
    await box.again(*many[:most])
    await box.settled()
    await box.again(*many)
    assert (await box.link.closed())[0] is Close.PROTOCOL


async def test_a_connection_that_was_replaced_changes_nothing(live, box):
    terminal = await box.opened(CODING)
    told = {"facts": records.FACTS, "ip": "::1", "now_ms": NOW}
    await live.hub.store.run(machines.next_epoch, box.machine_id, **told)
    await box.link.say(TerminalEnded(id=terminal.id, end="exited", exit_code=0))
    assert (await box.link.closed())[0] is Close.REPLACED
    assert await box.row(terminal.id) == terminal


async def test_the_terminals_of_a_replaced_connection_are_not_mended_by_it(live, box):
    terminal = await box.opened(CODING)
    await box.link.cut()
    link = await ready(box)
    await link.heartbeat()
    told = {"facts": records.FACTS, "ip": "::1", "now_ms": NOW}
    await live.hub.store.run(machines.next_epoch, box.machine_id, **told)
    await link.say(Terminals(terminals=[], is_last=True))
    assert (await link.closed())[0] is Close.REPLACED
    assert await box.row(terminal.id) == terminal


# ── let go of ────────────────────────────────────────────────────────────────────────────────────


async def test_an_end_is_kept_by_its_machine_for_who_comes_back_to_read(
    box, autojump_clock: MockClock
):
    over = [(await box.opened()).id for _ in range(2)]
    await box.again(*((each, "ended") for each in over))
    for each in over:
        await box.ended(each)
    begin = trio.current_time()
    assert (await box.link.expect(TerminalForget)).ids == over
    assert trio.current_time() - begin >= terminal_reports._KEPT_S


async def test_an_end_is_kept_by_its_machine_while_somebody_reads(box, autojump_clock: MockClock):
    terminal, other = await box.opened(), await box.opened()
    link = await find_terminal_link(box.live.hub.bus, box.machine_id)
    with link.watch(terminal.id, None):
        await box.link.expect(TerminalWatch)
        await box.ended(terminal.id)
        await box.ended(other.id)
        assert (await box.link.expect(TerminalForget)).ids == [other.id]
        await trio.sleep(terminal_reports._KEPT_MOST_S / 2)
        await box.link.heartbeat()  # it heard nothing before
    await box.link.expect(TerminalUnwatch)
    begin = trio.current_time()
    assert (await box.link.expect(TerminalForget)).ids == [terminal.id]
    assert trio.current_time() - begin < terminal_reports._KEPT_S


async def test_who_reads_for_ever_keeps_an_end_for_a_minute(box, autojump_clock: MockClock):
    terminal = await box.opened()
    link = await find_terminal_link(box.live.hub.bus, box.machine_id)
    with link.watch(terminal.id, None):
        await box.link.expect(TerminalWatch)
        await box.ended(terminal.id)
        begin = trio.current_time()
        await trio.sleep(terminal_reports._KEPT_MOST_S - 1)  # `hear` waits no longer
        assert (await box.link.expect(TerminalForget)).ids == [terminal.id]
        kept_s = trio.current_time() - begin
    assert kept_s == pytest.approx(terminal_reports._KEPT_MOST_S, abs=2)


async def test_a_connection_ends_though_an_end_is_kept(box, autojump_clock: MockClock):
    terminal = await box.opened()
    await box.ended(terminal.id)
    begin = trio.current_time()
    await box.link.cut()
    assert trio.current_time() == pytest.approx(begin)
    await box.again((terminal.id, "ended"))
    await box.ended(terminal.id)
    assert (await box.link.expect(TerminalForget)).ids == [terminal.id]
