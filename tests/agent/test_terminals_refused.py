"""Terminals that are not opened: each is told why, and nothing is left of it."""

from pathlib import Path

import trio
from trio.testing import wait_all_tasks_blocked

from cmdop_appliance.agent import terminals
from cmdop_appliance.agent.answers import ANSWERS
from cmdop_appliance.agent.coding.spawn import CodingSessions
from cmdop_appliance.agent.journal import Journal
from cmdop_appliance.agent.keeper_client import (
    Event,
    Keeper,
    Refused,
    read_log,
)
from cmdop_appliance.agent.outbox import QUEUE_MESSAGES, Outbox
from cmdop_appliance.agent.policy import Policy, TerminalsPolicy
from cmdop_appliance.agent.terminals import Terminals
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.limits import MESSAGE_BYTES, WATCHES
from cmdop_appliance.protocol.messages import FEATURES
from cmdop_appliance.protocol.terminals import (
    Shell,
    Size,
    TerminalEnd,
    TerminalEnded,
    TerminalFailed,
    TerminalOpen,
    TerminalUnwatch,
    TerminalWatch,
)
from cmdop_appliance.protocol.terminals import Terminals as Inventory
from tests.agent.typed import ask_for, open_terminal, screens, told, watch
from tests.support.agents import eventually, running_agent


async def test_what_cannot_start_is_told_with_its_code_and_leaves_nothing(state_dir, hub):
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        for argv, fields, code in (
            (["/nowhere"], {}, "exec_failed"),
            (["true"], {"cwd": "/nowhere"}, "cwd_missing"),
            (["true"], {"user": "nobody-has-this-name"}, "user_not_found"),
            (["x" * (MESSAGE_BYTES - 150)], {}, "too_large"),
        ):
            terminal = await ask_for(peer, *argv, **fields)
            assert (await told(peer, TerminalFailed, terminal)).code == code
            assert (await watch(peer, terminal)).is_done
            await ask_for(peer, "cat", again=terminal)
            assert (await peer.expect(TerminalEnded, terminal)).reason == "forgotten"
            peer.heard.clear()
        await eventually(lambda: not read_log(state_dir), "the keeper has forgotten them, too")
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        assert await peer.expect(Inventory) == Inventory(terminals=[], is_last=True)
        assert not screens(state_dir)
        await open_terminal(peer, "cat")


async def test_a_refusal_that_no_agent_heard_of_is_forgotten(state_dir, hub, monkeypatch):
    hear = Terminals.heard

    async def deaf(self: Terminals, event: Event) -> None:
        if not isinstance(event, Refused):
            await hear(self, event)

    with monkeypatch.context() as patched:
        patched.setattr(Terminals, "heard", deaf)
        async with running_agent(state_dir, hub):
            peer = await hub.accept()
            terminal = await ask_for(peer, "/nowhere")
            await open_terminal(peer, "cat")  # which the keeper was asked for later
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        assert terminal not in {known.id for known in (await peer.expect(Inventory)).terminals}
        await ask_for(peer, "cat", again=terminal)
        assert (await peer.expect(TerminalEnded, terminal)).reason == "forgotten"


async def test_what_starts_though_its_opening_failed_is_ended_and_forgotten(
    state_dir, hub, monkeypatch, caplog
):
    start = Keeper.start

    async def failing(self: Keeper, **fields: object) -> None:
        await start(self, **fields)
        raise RuntimeError("a bug")

    monkeypatch.setattr(Keeper, "start", failing)
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        terminal = await ask_for(peer, "cat")
        assert (await told(peer, TerminalFailed, terminal)).code == "agent_failed"
        await eventually(lambda: terminal in keeper_log(state_dir), "it has started")
        await eventually(lambda: not read_log(state_dir), "it has ended")
    assert "opening failed" in caplog.text


async def test_what_agent_toml_does_not_allow_is_not_opened_and_audited(state_dir, hub):
    policy = Policy(terminals=TerminalsPolicy(enabled=False))
    async with running_agent(state_dir, hub, policy=policy):
        peer = await hub.accept()
        terminal = await ask_for(peer, "true")
        failed = await told(peer, TerminalFailed, terminal)
    assert failed.code == "policy_denied"
    assert "agent.toml" in failed.message
    assert terminal in (state_dir / "audit.log").read_text()


async def test_too_many_terminals_are_refused_until_one_has_ended(peer, monkeypatch):
    monkeypatch.setattr(terminals, "TERMINALS", 2)
    first, _ = [await open_terminal(peer, "cat") for _ in range(2)]
    refused = await ask_for(peer, "cat")
    assert (await told(peer, TerminalFailed, refused)).code == "too_many"
    await peer.send(TerminalEnd(id=first))
    await told(peer, TerminalEnded, first)
    await open_terminal(peer, "cat")


async def test_an_opening_that_is_heard_as_its_connection_ends_is_carried_out(tmp_path, nursery):
    policy, terminal = Policy(terminals=TerminalsPolicy(enabled=False)), new_id("term")
    journal = Journal(tmp_path / "journal.log")
    known = Terminals(tmp_path, journal, Outbox(), policy, CodingSessions(tmp_path, policy, {}))
    nursery.start_soon(known.run)
    with trio.CancelScope() as connection:
        connection.cancel()
        await known.hear(TerminalOpen(id=terminal, what=Shell(), size=Size()))
    await eventually(lambda: terminal in journal.tombstones, "it was refused")
    journal.close()


async def test_readers_that_come_and_go_at_once_fill_no_queue(tmp_path, nursery):
    policy = Policy()
    journal = Journal(tmp_path / "journal.log")
    known = Terminals(tmp_path, journal, Outbox(), policy, CodingSessions(tmp_path, policy, {}))
    nursery.start_soon(known.run)
    for number in range(4 * WATCHES):
        await known.hear(TerminalWatch(watch=number, id=new_id("term")))
        await known.hear(TerminalUnwatch(watch=number))
    journal.close()


async def test_a_terminal_of_a_command_is_no_terminal(peer):
    await peer.ws.send_message(f'{{"type":"terminalend","id":"{new_id("cmd")}"}}')
    assert await peer.expect_end() == Close.PROTOCOL


async def test_a_hub_that_asks_on_without_hearing_answers_has_to_wait(tmp_path, nursery):
    outbox, policy = Outbox(), Policy()
    outbox.open(FEATURES)
    journal = Journal(tmp_path / "journal.log")
    coding = CodingSessions(tmp_path, policy, {})
    known = Terminals(tmp_path, journal, outbox, policy, coding)
    nursery.start_soon(known.run)
    heard, scope = [], trio.CancelScope()

    async def ask() -> None:
        with scope:
            for _ in range(2 * (ANSWERS + QUEUE_MESSAGES)):
                await known.hear(TerminalEnd(id=new_id("term")))
                heard.append(1)

    nursery.start_soon(ask)
    await wait_all_tasks_blocked()
    assert ANSWERS < len(heard) <= ANSWERS + QUEUE_MESSAGES + 1
    scope.cancel()
    outbox.shut()
    known.hold()
    await wait_all_tasks_blocked()
    outbox.open(FEATURES)
    await wait_all_tasks_blocked()
    assert outbox.next_nowait() is None  # the next connection is told anew
    journal.close()


def keeper_log(state_dir: Path) -> str:
    return (state_dir / "keeper" / "keeper.log").read_text()
