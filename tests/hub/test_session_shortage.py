"""Agents' connections to a hub that has no more room on its disk, or no descriptor."""

from contextlib import suppress

import msgspec
import trio

from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.frames import Output
from cmdop_appliance.protocol.messages import Acknowledge, Dispatch, Known, Rejected, Resume
from cmdop_appliance.store.transaction import Tx
from tests.support.descriptors import no_free_descriptor
from tests.support.live_hub import ScriptedAgent, finished, start
from tests.support.records import FACTS


def limit_pages(tx: Tx, more: int) -> None:
    tx.execute(f"PRAGMA max_page_count = {tx.value('PRAGMA page_count') + more}")


async def test_on_a_full_disk_an_end_is_not_acknowledged_and_comes_again(live, agent):
    link = await agent.join()
    command_id = await start(live, agent)
    await link.expect(Dispatch)
    output = bytes(8000)
    await live.hub.store.run(limit_pages, 0)
    await link.say(Output(command_id, "stdout", 0, output))
    await link.say(finished(command_id, output))
    assert (await link.closed())[0] is Close.STOPPING
    assert (await live.command(command_id)).finished_ms is None
    await live.hub.store.run(limit_pages, 1000)
    again = await agent.connect(inventory=[Known(id=command_id, phase="ended")])
    assert await again.expect(Resume) == Resume(id=command_id, stdout=8000, stderr=0)
    await again.say(finished(command_id, output))
    await again.expect(Acknowledge)
    assert (await live.command(command_id)).status == "completed"


async def test_on_a_full_disk_what_an_agent_says_sends_it_away(live, agent):
    link = await agent.join()
    commands_of_it = [await start(live, agent) for _ in range(8)]
    for _ in commands_of_it:
        await link.expect(Dispatch)
    await live.hub.store.run(limit_pages, 0)
    for command_id in commands_of_it:
        with suppress(trio.BrokenResourceError):  # it has been sent away already
            await link.say(Rejected(id=command_id, reason="x" * 4096))
    assert await link.closed() == (Close.STOPPING, "the hub's disk is full")
    assert (await live.command(commands_of_it[-1])).finished_ms is None


async def test_on_a_full_disk_a_machine_that_joins_is_told_to_come_again(live, agent):
    facts = msgspec.structs.replace(FACTS, home="x" * 4000, kernel="x" * 4000)
    token = await live.token()
    await live.hub.store.run(limit_pages, 0)
    link = agent.dial()
    await link.prove(await link.greet(), token=token, facts=facts)
    assert await link.closed() == (Close.STOPPING, "the hub's disk is full")
    await live.hub.store.run(limit_pages, 1000)
    again = agent.dial()
    await again.prove(await again.greet(), token=token, facts=facts)
    await again.welcomed()


async def test_a_hub_without_a_free_descriptor_sends_an_agent_back_and_goes_on(live, agent):
    link, other = await agent.join(), await ScriptedAgent(live).join()
    command_id = await start(live, agent)
    await link.expect(Dispatch)
    with no_free_descriptor():
        await link.say(Output(command_id, "stdout", 0, b"x" * 9000))
        code, reason = await link.closed()
        assert (code, reason) == (Close.STOPPING, "the hub has too many files open")
        await other.heartbeat()
    assert not live.hub.store.is_broken
    again = await agent.connect(inventory=[Known(id=command_id, phase="running")])
    assert await again.expect(Resume) == Resume(id=command_id, stdout=0, stderr=0)
    await again.say(Output(command_id, "stdout", 0, b"x" * 9000))
    await again.heartbeat()
    assert (await live.hub.outputs.sizes(command_id))["stdout"] == 9000
