"""A connection that is not its machine's newest changes nothing, and is closed."""

import pytest

from cmdop_appliance.hub import lifecycle
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.frames import Output
from cmdop_appliance.protocol.messages import (
    Accepted,
    Dispatch,
    Heartbeat,
    Inventory,
    Ready,
    Rejected,
    Spec,
    Started,
)
from cmdop_appliance.store import sessions
from tests.support.live_hub import CALLER, Link, LiveHub, ScriptedAgent, finished
from tests.support.records import FACTS, NOW, REACH, samples

SPEC = Spec(argv=["true"])


async def replaced(live: LiveHub, agent: ScriptedAgent) -> None:
    """Another connection took over, by another hub process, and the bus lost its word."""
    machine = await agent.machine()
    now_ms = live.hub.clock.now_ms()
    await live.hub.store.run(sessions.connect, machine, facts=FACTS, ip="::1", now_ms=now_ms)


async def removed(live: LiveHub, agent: ScriptedAgent) -> None:
    """The machine was removed, and the bus lost the word of it."""
    machine = await agent.machine()
    now_ms = live.hub.clock.now_ms()
    await live.hub.store.run(lifecycle.remove_machine, CALLER, machine.id, now_ms)


async def told(live: LiveHub, agent: ScriptedAgent, link: Link) -> str:
    """The id of a command that was sent over `link`."""
    machine = await agent.machine()
    command = await live.hub.commands.start(CALLER, machine.id, "true", SPEC)
    assert (await link.expect(Dispatch)).id == command.id
    return command.id


def word(kind: str, command_id: str):
    return {
        "accepted": Accepted(id=command_id),
        "started": Started(id=command_id, started_ms=NOW),
        "finished": finished(command_id),
        "rejected": Rejected(id=command_id, reason="late"),
        "heartbeat": Heartbeat(),
        "samples": samples(1),
    }[kind]


@pytest.mark.parametrize("fence", [replaced, removed])
@pytest.mark.parametrize(
    "kind", ["accepted", "started", "finished", "rejected", "heartbeat", "samples"]
)
async def test_what_a_stale_connection_says_changes_nothing_and_ends_it(live, agent, kind, fence):
    link = await agent.join()
    command_id = await told(live, agent, link)
    await fence(live, agent)
    before = await live.command(command_id)
    session = await live.hub.store.run(sessions.get, REACH, link.session_id)
    await link.say(word(kind, command_id))
    assert (await link.closed())[0] is Close.REPLACED  # it is not blamed
    assert await live.command(command_id) == before
    assert await live.hub.store.run(sessions.get, REACH, link.session_id) == session


@pytest.mark.parametrize("fence", [replaced, removed])
async def test_output_of_a_stale_connection_is_not_taken(live, agent, fence):
    first = await agent.join()
    command_id = await told(live, agent, first)
    await first.cut()
    link = await agent.connect(inventory=[])
    await link.expect(Dispatch)
    await live.hub.outputs.park([command_id])
    await fence(live, agent)
    await link.say(Output(command_id, "stdout", 0, b"late"))
    assert (await link.closed())[0] is Close.REPLACED
    assert await live.hub.outputs.read(command_id, "stdout", 0, 9) == b""


async def test_a_stale_connection_cannot_become_ready(live, agent):
    link = await agent.join()
    command_id = await told(live, agent, link)
    await link.cut()
    late = agent.dial()
    await late.prove(await late.greet())
    await late.welcomed()
    await replaced(live, agent)
    await late.say(Inventory(commands=[]))
    await late.say(Ready())
    assert (await late.closed())[0] is Close.REPLACED
    assert (await live.command(command_id)).status == "pending"


async def test_the_newest_connection_speaks_for_what_an_older_one_was_sent(live, agent):
    old = await agent.join()
    command_id = await told(live, agent, old)
    new = await agent.connect()
    await old.closed()
    assert (await new.expect(Dispatch)).id == command_id
    await new.say(Started(id=command_id, started_ms=NOW))
    await new.heartbeat()
    assert (await live.command(command_id)).status == "running"


async def test_the_end_of_a_stale_connection_leaves_the_output_to_the_newest(live, agent):
    old = await agent.join()
    command_id = await told(live, agent, old)
    await old.say(Output(command_id, "stdout", 0, b"one"))
    await old.heartbeat()
    new = await agent.connect()
    await old.closed()
    await new.expect(Dispatch)
    await new.say(Output(command_id, "stdout", 0, b"onetwo"))
    await new.heartbeat()
    assert await live.hub.outputs.read(command_id, "stdout", 0, 9) == b"onetwo"
