"""The quota of a machine: the output of what ended first goes, and never that of what runs."""

import pytest

from cmdop_appliance.hub.live_stream import SMALL_BYTES
from cmdop_appliance.hub.quotas import Quotas
from cmdop_appliance.protocol.frames import Output
from cmdop_appliance.protocol.messages import Acknowledge, Dispatch
from tests.support.live_hub import ScriptedAgent, finished, start

_BYTES = 4 * SMALL_BYTES  # of one command: a file
_QUOTA = 3 * _BYTES


@pytest.fixture
def quotas(live):
    return Quotas(live.hub.store, live.hub.outputs, _QUOTA)


async def write(live, agent, link) -> str:
    """A command that has written its share, and runs on."""
    command_id = await start(live, agent)
    await link.expect(Dispatch)
    await link.say(Output(command_id, "stdout", 0, bytes(_BYTES)))
    await link.heartbeat()
    return command_id


async def ended(live, agent, link) -> str:
    """A command that has written its share, and ended."""
    command_id = await write(live, agent, link)
    await link.say(finished(command_id, bytes(_BYTES)))
    await link.expect(Acknowledge)
    return command_id


async def is_kept(live, command_id: str) -> bool:
    return bool(await live.hub.outputs.read(command_id, "stdout", 0, 1))


async def test_the_oldest_output_goes_when_a_machine_has_too_much(live, agent, quotas, caplog):
    link = await agent.join()
    first, *others = [await ended(live, agent, link) for _ in range(4)]
    await quotas.sweep()
    # One too much, and a twentieth of the quota beside.
    assert [await is_kept(live, each) for each in (first, *others)] == [False, False, True, True]
    held = (await live.hub.outputs.held(first))["stdout"]
    assert held.size == _BYTES
    assert not list((live.hub.outputs._folder).rglob(f"{first}*"))
    (record,) = (each for each in caplog.records if each.name == "cmdop.hub.quotas")
    assert (record.machine_id, record.commands) == ((await agent.machine()).id, 2)


async def test_what_runs_keeps_its_output_and_so_do_other_machines(live, agent, quotas, caplog):
    link, other = await agent.join(), ScriptedAgent(live)
    running = [await write(live, agent, link) for _ in range(5)]
    elsewhere = await ended(live, other, await other.join())
    await live.hub.outputs.flush()
    await quotas.sweep()
    assert all([await is_kept(live, each) for each in (*running, elsewhere)])


async def test_nobody_looks_before_something_has_come(live, agent, quotas, monkeypatch):
    link = await agent.join()
    await quotas.sweep()
    asked = []
    monkeypatch.setattr(live.hub.store, "run", asked.append)
    await quotas.sweep()
    assert not asked
    monkeypatch.undo()
    await ended(live, agent, link)
    await quotas.sweep()
    assert quotas._looked_at == _BYTES


async def test_without_a_bound_nothing_goes(live, agent):
    link = await agent.join()
    command_ids = [await ended(live, agent, link) for _ in range(4)]
    await Quotas(live.hub.store, live.hub.outputs, 0).sweep()
    assert all([await is_kept(live, each) for each in command_ids])
