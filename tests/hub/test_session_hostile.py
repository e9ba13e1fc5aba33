"""What an agent's connection may not do, and what becomes of it then."""

import json

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.hub import command_link
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.conversation import State
from cmdop_appliance.protocol.frames import Output, encode_output
from cmdop_appliance.protocol.messages import (
    Accepted,
    Bye,
    Dispatch,
    Heartbeat,
    Heartbeatack,
    Hello,
    Inventory,
    Known,
    Rejected,
    Resume,
    Started,
)
from cmdop_appliance.store import sessions
from tests.support.live_hub import ScriptedAgent, finished, live_hub, start
from tests.support.records import NOW

ID = new_id("cmd")
GARBAGE = {
    "empty": "",
    "no JSON": "{",
    "no message": "[]",
    "no type": "{}",
    "unknown type": '{"type":"rm -rf"}',
    "hostile type": '{"type":"\\u0000\\u202e\\n<script>"}',
    "a message of the hub": '{"type":"welcome","machine_id":"m","session_id":"s","epoch":1}',
    "deep": "[" * 100_000,
    "a wrong id": '{"type":"started","id":"cmd_x","started_ms":1}',
    "a number too large": f'{{"type":"started","id":"{ID}","started_ms":{2**64}}}',
    "a lone surrogate": '{"type":"started","id":"\\ud800","started_ms":1}',
    "empty bytes": b"",
    "bytes": b"\0" * 100,
    "damaged output": encode_output(Output(ID, "stdout", 0, b"x"))[:-1] + b"y",
    "too much output": b"\1" + b"\0" * 70_000,
}


@pytest.mark.parametrize("frame", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("stage", ["new", "challenged", "welcomed", "ready"])
async def test_garbage_ends_that_link_with_a_reason_and_nothing_else(live, agent, frame, stage):
    other = await ScriptedAgent(live).join()
    link = await agent.join() if stage == "ready" else agent.dial()
    if stage in ("challenged", "welcomed"):
        challenge = await link.greet()
        if stage == "welcomed":
            await link.prove(challenge, token=await live.token())
            await link.welcomed()
    await link.say_raw(frame)
    code, reason = await link.closed()
    assert code is Close.PROTOCOL
    assert reason
    await other.heartbeat()


async def test_a_message_out_of_turn_ends_the_link(live, agent):
    link = await agent.join()
    await link.say_raw(json.dumps({"type": "hello", "version": 1, "nonce": "bm9u" * 11}))
    assert (await link.closed())[0] is Close.PROTOCOL
    early = agent.dial()
    await early.greet()
    early.conversation.state = State.READY  # it does not care
    await early.say(Heartbeat())
    code, reason = await early.closed()
    assert (code, reason) == (Close.PROTOCOL, "agent may not send heartbeat in state CHALLENGED")
    twice = agent.dial()
    await twice.greet()
    twice.conversation.state = State.NEW
    await twice.say(Hello(version=1, nonce=b"n" * 32))
    assert (await twice.closed())[0] is Close.PROTOCOL


@pytest.mark.parametrize("kind", ["accepted", "started", "output", "finished", "rejected"])
@pytest.mark.parametrize("of", ["another machine", "nobody"])
async def test_an_agent_cannot_speak_of_the_commands_of_others(live, agent, kind, of):
    owner = ScriptedAgent(live)
    owners_link = await owner.join()
    command_id = await start(live, owner)
    before = await live.command(command_id)
    named = command_id if of == "another machine" else new_id("cmd")
    link = await agent.join()
    await link.say(
        {
            "accepted": Accepted(id=named),
            "started": Started(id=named, started_ms=NOW),
            "output": Output(named, "stdout", 0, b"forged"),
            "finished": finished(named),
            "rejected": Rejected(id=named, reason="forged"),
        }[kind]
    )
    code, reason = await link.closed()
    assert (code, reason) == (Close.PROTOCOL, "not a command of this machine")
    (entry,) = await live.trespasses()
    rogue = await agent.machine()
    assert (entry.actor, entry.target, entry.outcome) == (rogue.id, named, "refused")
    assert await live.command(command_id) == before
    assert await live.hub.outputs.read(command_id, "stdout", 0, 10) == b""
    await owners_link.expect(Dispatch)
    await owners_link.heartbeat()


async def test_an_inventory_without_end_is_refused(live, agent, monkeypatch):
    monkeypatch.setattr(command_link, "_INVENTORY", 5)
    await (await agent.join()).cut()
    link = await agent.connect(inventory=[Known(id=new_id("cmd"), phase="ended")] * 9)
    await link.expect(Resume)
    await link.heartbeat()  # five different ones are allowed
    await link.cut()
    many = agent.dial()
    await many.prove(await many.greet())
    await many.welcomed()
    await many.say(Inventory(commands=[Known(id=new_id("cmd"), phase="ended") for _ in range(6)]))
    assert (await many.closed())[0] is Close.PROTOCOL


async def test_a_machine_cannot_fill_the_store_with_sessions(
    tmp_path, monkeypatch, caplog, autojump_clock: MockClock
):
    monkeypatch.setattr(sessions, "_NEW_MOST", 3)
    async with live_hub(tmp_path) as live:
        agent = ScriptedAgent(live)
        link = await agent.join()
        for _ in range(10):  # these go on with their session
            await link.cut()
            link = await agent.connect()
            await link.heartbeat()
        for _ in range(2):
            await link.say(Bye())
            await link.closed()
            link = await agent.connect()
            await link.heartbeat()
        last = link.session_id
        await link.say(Bye())
        await link.closed()
        refused = agent.dial()
        await refused.prove(await refused.greet())
        reason = "this machine had 3 new sessions within a minute"
        assert await refused.closed() == (Close.TOO_OFTEN, reason)
        other = await ScriptedAgent(live).join()
        assert other.session_id != last
        await trio.sleep(60)
        assert (await agent.connect()).session_id != last


async def test_a_frame_of_many_signs_of_life_costs_few_records_and_each_is_answered(
    live, agent, monkeypatch
):
    link = await agent.join()
    recorded = []
    heartbeat = sessions.heartbeat
    monkeypatch.setattr(sessions, "heartbeat", lambda *said: recorded.append(1) or heartbeat(*said))
    await link.say_raw("\n".join([str(link.conversation.send(Heartbeat()))] * 1000))
    for _ in range(1000):
        await link.expect(Heartbeatack)
    assert len(recorded) == 1000 // 64 + 1
