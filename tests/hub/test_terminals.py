"""Terminals for callers: who may open and end them, and what they are told.

The agent is scripted: it answers what a test wants it to.
"""

from dataclasses import replace

import pytest
import trio
from msgspec.structs import replace as replace_fields
from trio.testing import MockClock

from cmdop_appliance.errors import (
    Conflict,
    Forbidden,
    IdempotencyConflict,
    MachineNotFound,
    SessionNotActive,
    TerminalNotFound,
    TerminalNotStarted,
    TerminalsNotSupported,
    TooManyTerminals,
    Unavailable,
)
from cmdop_appliance.hub.connection import LinkClosed
from cmdop_appliance.hub.terminal_link import TerminalLink
from cmdop_appliance.hub.terminals import OPEN_S
from cmdop_appliance.protocol.limits import TERMINALS
from cmdop_appliance.protocol.terminals import (
    Shell,
    Size,
    TerminalEnd,
    TerminalFailed,
    TerminalOpen,
    TerminalOpened,
)
from cmdop_appliance.store import clients
from cmdop_appliance.store import terminals as rows
from tests.hub.scripted_terminals import CODING, NAMED, SHELL, PtyMachine, joined
from tests.support import records
from tests.support.clocks import StepClock
from tests.support.live_hub import CALLER, LiveHub, live_hub
from tests.support.records import WORKTREE, once

OTHERS = (replace(CALLER, workspace_id="ws_other"), replace(CALLER, tags=("web",)))


async def observe(live: LiveHub, box: PtyMachine) -> None:
    """The caller becomes one who may only look."""
    client = records.client(box.link.session_id, CALLER.key_id, mode="observer")
    await live.hub.store.run(clients.attach, client)


async def count(live: LiveHub) -> int:
    return int(await live.hub.store.run(lambda tx: tx.value("SELECT count(*) FROM terminal")))


# ── opened ───────────────────────────────────────────────────────────────────────────────────────


async def test_the_machine_is_told_what_was_asked_for_and_whoever_asked_what_it_opened(live, box):
    shell = Shell(argv=["vim"], user="www")
    opening = replace(SHELL, what=shell, size=Size(100, 50), is_recorded=True)
    async with trio.open_nursery() as nursery:
        opened = []

        async def ask() -> None:
            opened.append(await box.ask(opening))

        nursery.start_soon(ask)
        asked = await box.open_next()
    (made,) = opened
    assert made.created
    terminal = made.terminal
    assert asked == TerminalOpen(
        id=terminal.id, what=shell, size=Size(100, 50), operator="ci@default"
    )
    assert (terminal.status, terminal.machine_id) == ("running", box.machine_id)
    assert (terminal.kind, terminal.name) == ("terminal", f"term-{terminal.id[-6:].lower()}")
    assert (terminal.cols, terminal.rows, terminal.is_recorded) == (100, 50, True)
    assert terminal == await box.row(terminal.id)
    (entry,) = await box.recorded()
    assert (entry.action, entry.target, entry.actor) == (
        "terminal.opened",
        terminal.id,
        "ci@default",
    )
    details = {"machine_id": box.machine_id, "name": terminal.name, "user": "www"}
    assert entry.details == details


async def test_a_coding_session_tells_where_it_runs(live, box):
    terminal = await box.opened(CODING, directory="/home/u\x1b[2J", worktree=WORKTREE)
    assert terminal.id.startswith("session_")
    assert terminal.name == f"codex-{terminal.id[-6:].lower()}"
    assert (terminal.directory, terminal.worktree) == ("/home/u\ufffd[2J", WORKTREE)
    assert await box.told() == ["coding_session.started"]
    (entry,) = await box.recorded()
    assert (entry.action, entry.details["yolo"]) == ("coding_session.opened", True)


async def test_recording_is_as_the_hub_is_configured_unless_it_is_asked_for(box):
    assert not (await box.opened()).is_recorded
    box.live.hub.terminals._config = replace_fields(box.live.hub.config.terminals, record=True)
    assert (await box.opened()).is_recorded
    assert not (await box.opened(replace(SHELL, is_recorded=False))).is_recorded


async def test_a_name_gives_the_terminal_that_has_it_until_its_end(live, box):
    first = await box.opened(NAMED)
    again = await box.ask(NAMED)
    assert (again.terminal, again.created) == (first, False)
    with pytest.raises(Conflict, match="a terminal on this machine has the name main"):
        await box.ask(replace(CODING, name="main"))
    await live.hub.terminals.end(CALLER, first.id)
    await box.link.expect(TerminalEnd)
    with pytest.raises(Conflict, match="about to end"):
        await box.ask(NAMED)
    await box.ended(first.id, end="cancelled")
    async with box.answering():
        other = await box.ask(NAMED)
    assert other.created
    assert other.terminal.id != first.id
    assert len(await box.recorded()) == 3


@pytest.mark.parametrize(("opening", "same"), [(NAMED, None), (SHELL, once())])
async def test_two_who_ask_for_the_same_at_once_get_one_terminal(live, box, opening, same):
    opened = []

    async def ask() -> None:
        opened.append(await box.ask(opening, once=same))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
        nursery.start_soon(box.open_next)
    assert sorted(each.created for each in opened) == [False, True]
    assert opened[0].terminal == opened[1].terminal
    assert await count(live) == 1


# ── asked again ──────────────────────────────────────────────────────────────────────────────────


async def test_the_same_request_again_gives_the_same_terminal(live, box):
    async with box.answering():
        first = await box.ask(once=once())
    again = await box.ask(once=once(salt=b"2" * 32))
    assert (again.terminal, again.created) == (first.terminal, False)
    with pytest.raises(IdempotencyConflict):
        await box.ask(once=once(request_hash=b"x" * 32))
    await box.link.cut()
    assert (await box.ask(once=once())).terminal == first.terminal
    for other in OTHERS:
        with pytest.raises((MachineNotFound, TerminalNotFound)):
            await live.hub.terminals.open(other, box.machine_id, SHELL, once())
    assert await count(live) == 1


# ── not opened ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("opening", [SHELL, NAMED, CODING])
async def test_an_observer_opens_nothing_and_ends_nothing(live, box, opening):
    terminal = await box.opened(opening)
    await observe(live, box)
    with pytest.raises(Forbidden, match="observer"):
        await box.ask(opening)
    with pytest.raises(Forbidden, match="observer"):
        await live.hub.terminals.end(CALLER, terminal.id)
    await box.link.heartbeat()  # nothing was said to the machine before
    assert len(await box.recorded()) == await count(live) == 1


async def test_what_is_out_of_reach_is_neither_opened_nor_ended(live, box):
    terminal = await box.opened()
    for caller in OTHERS:
        with pytest.raises(MachineNotFound):
            await live.hub.terminals.open(caller, box.machine_id, SHELL)
        with pytest.raises(TerminalNotFound):
            await live.hub.terminals.end(caller, terminal.id)
    await box.link.heartbeat()
    assert len(await box.recorded()) == await count(live) == 1


async def test_on_a_machine_that_is_away_nothing_is_opened(live, box):
    await box.link.cut()
    with pytest.raises(SessionNotActive):
        await box.ask()
    assert await count(live) == 0


async def test_an_agent_of_an_earlier_release_is_not_asked(live, agent, link, machine_id):
    with pytest.raises(TerminalsNotSupported, match="carries no terminals") as caught:
        await live.hub.terminals.open(CALLER, machine_id, SHELL)
    assert caught.value.details == {"machine_id": machine_id}
    await link.heartbeat()
    assert await count(live) == 0


async def test_a_machine_has_so_many_and_no_more(live, box):
    def fill(tx) -> None:
        for number in range(TERMINALS):
            rows.insert(tx, records.terminal(box.machine_id, name=f"n{number}"))

    await live.hub.store.run(fill)
    with pytest.raises(TooManyTerminals, match="64 terminals are open on this machine"):
        await box.ask()
    await box.link.heartbeat()
    named = replace(NAMED, name="n0")
    one = (await live.hub.store.run(rows.named, box.machine_id, "n0")).id
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.ask, named)  # it is one of them
        await box.link.say(TerminalOpened(id=one, started_ms=records.NOW))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("not_installed", TerminalNotStarted),
        ("too_many", TooManyTerminals),
        ("terminals_not_supported", TerminalsNotSupported),
        ("\x1b[2J", TerminalNotStarted),
    ],
)
async def test_why_the_machine_refused_is_said_and_kept(live, box, code, kind):
    async with trio.open_nursery() as nursery:

        async def refuse() -> None:
            asked = await box.link.expect(TerminalOpen)
            await box.link.say(
                TerminalFailed(id=asked.id, code=code, message="codex is not\x1b here")
            )

        nursery.start_soon(refuse)
        with pytest.raises(kind, match="codex is not\ufffd here") as caught:
            await box.ask(CODING)
    row = await box.row(caught.value.details["terminal_id"])
    word = "unknown" if "\x1b" in code else code
    assert caught.value.details["reason"] == row.code == word
    assert (row.status, row.end, row.started_ms) == ("ended", "failed", None)
    assert await box.told() == []


async def test_what_ran_and_has_ended_was_opened(box):
    async with trio.open_nursery() as nursery:

        async def play() -> None:
            asked = await box.link.expect(TerminalOpen)
            said = {"started_ms": records.NOW, "duration_ms": 5}
            await box.ended(asked.id, exit_code=0, **said)

        nursery.start_soon(play)
        terminal = (await box.ask(CODING)).terminal
    assert (terminal.end, terminal.exit_code) == ("exited", 0)
    assert await box.told() == ["coding_session.started", "coding_session.ended"]


async def test_a_machine_that_says_nothing_has_failed_after_a_minute(
    live, box, autojump_clock: MockClock
):
    begin = trio.current_time()
    with pytest.raises(TerminalNotStarted, match="within 60 s") as caught:
        await live.hub.terminals.open(CALLER, box.machine_id, NAMED)
    assert trio.current_time() - begin == pytest.approx(OPEN_S, abs=1)
    asked = await box.link.expect(TerminalOpen)
    assert caught.value.details == {"reason": "no_answer", "terminal_id": asked.id}
    await box.link.say(TerminalOpened(id=asked.id, started_ms=records.NOW))  # too late
    assert await box.link.expect(TerminalEnd) == TerminalEnd(id=asked.id)
    assert (await box.row(asked.id)).end == "failed"


async def test_what_nobody_waits_for_is_given_up_by_the_sweep(live, box, autojump_clock: MockClock):
    with trio.move_on_after(1):
        await live.hub.terminals.open(CALLER, box.machine_id, SHELL)
    asked = await box.link.expect(TerminalOpen)
    await live.hub.terminals.sweep()
    assert (await box.row(asked.id)).status == "starting"
    await trio.sleep(OPEN_S)
    await live.hub.terminals.sweep()
    assert (await box.row(asked.id)).code == "no_answer"


async def test_nobody_waits_longer_than_a_minute_whatever_the_clock_says(
    tmp_path, autojump_clock: MockClock
):
    async with live_hub(tmp_path, clock=StepClock()) as live:
        box = await joined(live)
        opened = await live.hub.terminals.open(CALLER, box.machine_id, SHELL)
        assert opened.terminal.status == "starting"


async def test_a_link_that_is_lost_before_the_machine_was_asked_has_lost_the_terminal(
    live, box, monkeypatch
):
    post = TerminalLink.post

    def shut_first(link: TerminalLink, message: object) -> None:
        link.shut()
        post(link, message)

    monkeypatch.setattr(TerminalLink, "post", shut_first)
    with pytest.raises(TerminalNotStarted, match="connection to the machine was lost") as caught:
        await box.ask()
    assert caught.value.details["reason"] == "connection_lost"


async def test_whoever_waits_while_the_hub_stops_is_told_what_was_recorded(live, box):
    """And is given the same again: it is no failure, after which nothing would be there."""
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            await box.link.expect(TerminalOpen)
            live.hub.bus.stop()

        nursery.start_soon(stop)
        opened = await box.ask(once=once())
    assert (opened.created, opened.terminal.status) == (True, "starting")
    again = await box.ask(once=once())
    assert (again.created, again.terminal) == (False, opened.terminal)


async def test_a_disk_that_fails_after_it_was_recorded_is_no_failure_to_open_it(
    live, box, monkeypatch
):
    def shut_first(link: TerminalLink, _message: object) -> None:
        monkeypatch.setattr(live.hub.terminals, "_store", Broken())
        raise LinkClosed

    class Broken:
        async def run(self, *_args: object) -> None:
            raise Unavailable("the hub's disk failed")

    monkeypatch.setattr(TerminalLink, "post", shut_first)
    opened = await box.ask()
    assert opened.terminal == await box.row(opened.terminal.id)
