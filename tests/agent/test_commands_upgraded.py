"""The keeper of an earlier release: it keeps what it has, and makes room for another."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cmdop_appliance.agent import commands, keeper_client
from cmdop_appliance.agent.journal import Journal
from cmdop_appliance.agent.keeper_client import Keeper, open_keeper
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.messages import Finished
from cmdop_appliance.protocol.terminals import Size, TerminalFailed
from tests.agent.dispatched import sh
from tests.agent.keeper.running import start
from tests.agent.typed import ask_for, open_terminal, told
from tests.support.agents import eventually, keepers_of, running_agent

_EARLIER = (
    "import sys; sys.path.insert(0, sys.argv[3]);"
    " from cmdop_appliance.agent.keeper import main; main.FEATURES = ();"
    " sys.exit(main.main(sys.argv[2]))"
)


@asynccontextmanager
async def earlier_keeper(state_dir: Path, monkeypatch) -> AsyncIterator[Keeper]:
    """A keeper that names no features; it runs on."""
    with monkeypatch.context() as patched:
        patched.setattr(keeper_client, "_FROM_SOURCE", _EARLIER)
        async with open_keeper(state_dir) as keeper:
            assert not keeper.has_pty
            yield keeper


async def replaced(state_dir: Path, earlier: int) -> None:
    """There is another keeper."""

    def is_replaced() -> bool:
        present = keepers_of(state_dir)
        return bool(present) and earlier not in present

    await eventually(is_replaced, "another keeper runs")


async def test_it_is_replaced_when_its_commands_have_ended_and_their_ends_are_kept(
    state_dir, hub, tmp_path, monkeypatch
):
    monkeypatch.setattr(commands, "KEEPER_RETRY_S", 0.01)
    command, script = new_id("cmd"), f"until [ -e {tmp_path}/go ]; do sleep 0.01; done; echo out"
    async with earlier_keeper(state_dir, monkeypatch) as keeper:
        await start(keeper, command, *sh(f"{script}; exit 9"))
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        assert peer.inventory == {command: "running"}
        refused = await told(peer, TerminalFailed, await ask_for(peer, "cat"))
        assert refused.code == "terminals_not_supported"
        assert "the keeper of an earlier release" in refused.message
        finished = await peer.finish(await peer.dispatch("true", pty=Size()))
        assert (finished.end, finished.reason) == ("failed", "terminals_not_supported")
        assert (await peer.finish(await peer.dispatch("true"))).exit_code == 0
        assert keepers_of(state_dir) == [keeper.pid]
        (tmp_path / "go").touch()
        await replaced(state_dir, keeper.pid)
        await open_terminal(peer, "cat")
        assert (await peer.finish(await peer.dispatch("true", pty=Size()))).exit_code == 0
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        assert peer.inventory[command] == "ended"
        await peer.resume(command)
        finished = await peer.expect(Finished, command)
        assert (finished.end, finished.exit_code) == ("exited", 9)
        assert peer.stdout(command) == b"out\n"


async def test_it_stays_for_what_only_it_knows_of(state_dir, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "KEEPER_RETRY_S", 0.01)
    command = new_id("cmd")
    async with earlier_keeper(state_dir, monkeypatch) as keeper:
        await start(keeper, command, *sh(f"until [ -e {tmp_path}/go ]; do sleep 0.01; done"))
    journal = Journal(state_dir / "journal.log")
    journal.forget(command)  # by an agent whose machine was removed
    journal.close()
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        assert peer.inventory == {}
        assert (await peer.finish(await peer.dispatch("true"))).exit_code == 0
        assert keepers_of(state_dir) == [keeper.pid]
        (tmp_path / "go").touch()
        await replaced(state_dir, keeper.pid)


async def test_one_that_does_not_end_is_lived_with(state_dir, hub, monkeypatch, caplog):
    monkeypatch.setattr(commands, "RETIRE_S", 0.01)
    async with earlier_keeper(state_dir, monkeypatch) as keeper:
        pass
    with monkeypatch.context() as patched:
        patched.setattr(commands.os, "kill", lambda _pid, _number: None)
        async with running_agent(state_dir, hub):
            peer = await hub.accept()
            for _ in range(2):
                assert (await peer.finish(await peer.dispatch("true"))).exit_code == 0
            assert keepers_of(state_dir) == [keeper.pid]
    assert caplog.text.count("the keeper of an earlier release stays") == 1
