"""The agent, its keeper or the way to it dies: a terminal goes on, or is told to be lost."""

import os
import signal

import trio

from cmdop_appliance.agent import commands
from cmdop_appliance.agent.keeper_client import (
    Keeper,
    KeeperLost,
    open_keeper,
)
from cmdop_appliance.protocol.terminals import (
    KnownTerminal,
    Size,
    TerminalEnd,
    TerminalEnded,
    TerminalOpened,
)
from cmdop_appliance.protocol.terminals import Terminals as Inventory
from tests.agent.dispatched import sh
from tests.agent.typed import ask_for, open_terminal, told, type_in, watch
from tests.support.agents import keepers_of, running_agent


async def test_a_terminal_outlives_its_agent_with_the_same_bytes_and_what_was_typed(state_dir, hub):
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        terminal = await open_terminal(peer, *sh("stty -echo; echo ready; cat"), size=Size(100, 30))
        reader = await watch(peer, terminal)
        await reader.read_until(b"ready\r\n")
        await type_in(peer, terminal, b"one\r")
        await reader.read_until(b"one\r\n")
        before = reader.data
    async with running_agent(state_dir, hub, join=False):
        peer = await hub.accept()
        known = [KnownTerminal(id=terminal, phase="running")]
        assert await peer.expect(Inventory) == Inventory(terminals=known, is_last=True)
        reader = await watch(peer, terminal)
        assert reader.watched.size == Size(100, 30)
        await type_in(peer, terminal, b"one\r")  # again, as a client that heard no answer does
        await type_in(peer, terminal, b"two\r", 4)
        await reader.read_until(b"two\r\n")
        assert reader.data == before + b"two\r\n"
        later = await watch(peer, terminal, 2, len(before))
        await later.read_until(b"two\r\n")
        assert later.data == b"two\r\n"
        await peer.send(TerminalEnd(id=terminal))
        assert (await told(peer, TerminalEnded, terminal)).end == "cancelled"


async def test_a_terminal_whose_keeper_was_killed_is_lost_and_what_it_wrote_is_shown(
    state_dir, hub
):
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        terminal = await open_terminal(peer, *sh("echo ready; cat"))
        reader = await watch(peer, terminal)
        await reader.read_until(b"ready\r\n")
        (keeper,) = keepers_of(state_dir)
        os.kill(keeper, signal.SIGKILL)
        ended = await told(peer, TerminalEnded, terminal)
        assert (ended.end, ended.reason) == ("lost", "keeper_killed")
        assert await reader.read_all() == b"ready\r\n"
        await open_terminal(peer, "cat")


async def test_what_happens_while_the_keeper_is_out_of_reach_is_made_good(
    state_dir, hub, monkeypatch
):
    monkeypatch.setattr(commands, "KEEPER_RETRY_S", 0.01)
    cancel, lost = Keeper.cancel, []

    async def losing(self: Keeper, terminal_id: str) -> None:
        if not lost:
            lost.append(terminal_id)
            raise KeeperLost("the keeper has gone")
        await cancel(self, terminal_id)

    monkeypatch.setattr(Keeper, "cancel", losing)
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        terminal = await open_terminal(peer, *sh("stty -echo; echo ready; cat"))
        reader = await watch(peer, terminal)
        await reader.read_until(b"ready\r\n")
        async with open_keeper(state_dir):  # which has one agent at a time
            pass
        while b"more" not in reader.data:  # what it does not take is typed again
            await type_in(peer, terminal, b"more\r")
            with trio.move_on_after(0.1):
                await reader.read_until(b"more")
        await peer.send(TerminalEnd(id=terminal))
        await ask_for(peer, "cat", again=terminal)
        await peer.expect(TerminalOpened, terminal)
        assert lost == [terminal]
        async with open_keeper(state_dir):
            pass
        assert (await told(peer, TerminalEnded, terminal)).end == "cancelled"
