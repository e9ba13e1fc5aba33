"""One agent's connection: what it may do, what it cannot, and how it ends."""

import json
from contextlib import suppress

import msgspec
import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.hub import command_link, lifecycle
from cmdop_appliance.hub.commands import (
    CancelRequested,
    Removed,
    link_subject,
    machine_subject,
)
from cmdop_appliance.identity import is_signed_by
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Session
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.conversation import State
from cmdop_appliance.protocol.frames import Output, encode_output
from cmdop_appliance.protocol.handshake import revocation_transcript
from cmdop_appliance.protocol.limits import SILENT_S
from cmdop_appliance.protocol.messages import (
    FEATURES,
    Accepted,
    Acknowledge,
    Background,
    Bye,
    Dispatch,
    Heartbeat,
    Heartbeatack,
    Hello,
    Inventory,
    Known,
    Rejected,
    Resume,
    Revoked,
    Sampled,
    Spec,
    Started,
)
from cmdop_appliance.server import _sweep
from cmdop_appliance.store import commands, metrics, sessions
from cmdop_appliance.store.transaction import Tx
from tests.support.descriptors import no_free_descriptor
from tests.support.live_hub import (
    BOUND,
    CALLER,
    LiveHub,
    ScriptedAgent,
    finished,
    live_hub,
    start,
)
from tests.support.records import FACTS, NOW, REACH, TELEMETRY, samples

SPEC = Spec(argv=["true"])


async def session_of(live: LiveHub, session_id: str) -> Session:
    return await live.hub.store.run(sessions.get, REACH, session_id)


async def until_status(live: LiveHub, session_id: str, status: str) -> None:
    with trio.fail_after(BOUND):
        while (await session_of(live, session_id)).status != status:  # noqa: ASYNC110
            await trio.sleep(0.1)


async def live_clock_moves(live: LiveHub) -> None:
    """Samples of one millisecond are one to the store."""
    before_ms = live.hub.clock.now_ms()
    while live.hub.clock.now_ms() == before_ms:  # noqa: ASYNC110
        await trio.sleep(0.001)


def limit_pages(tx: Tx, more: int) -> None:
    tx.execute(f"PRAGMA max_page_count = {tx.value('PRAGMA page_count') + more}")


# ── its life ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_session_is_connected_once_its_agent_is_ready(live, agent):
    link = agent.dial()
    await link.prove(await link.greet(), token=await live.token())
    await link.welcomed()
    assert (await session_of(live, link.session_id)).status == "PENDING"
    await link.be_ready()
    await link.heartbeat()
    assert (await session_of(live, link.session_id)).status == "CONNECTED"


async def test_samples_are_confirmed_once_they_are_kept(live, agent):
    link = await agent.join()
    await link.say(samples(3, 4))
    assert (await link.expect(Sampled)).number == 4
    session = await session_of(live, link.session_id)
    assert session.telemetry == TELEMETRY


async def test_an_agent_is_told_what_its_hub_knows_beyond_the_first_release(live, agent):
    link = agent.dial()
    await link.prove(await link.greet(), token=await live.token())
    assert (await link.welcomed()).features == list(FEATURES)


async def test_the_samples_of_an_agent_of_the_first_release_come_with_its_heartbeats(live, agent):
    link = await agent.join()
    busy = msgspec.structs.replace(TELEMETRY, cpu_percent=60.5)
    for telemetry in (TELEMETRY, None, busy):
        await live_clock_moves(live)
        await link.say(Heartbeat(telemetry=telemetry))
        await link.expect(Heartbeatack)  # and no confirmation, which it would not understand
    again = await agent.connect()
    await live_clock_moves(live)
    await again.say(Heartbeat(telemetry=busy))
    await again.expect(Heartbeatack)
    assert (await session_of(live, again.session_id)).telemetry == busy
    machine = await agent.machine()
    (point,) = await live.hub.store.run(
        metrics.points, REACH, machine.id, from_ms=0, until_ms=2**53, step_ms=86_400_000
    )
    assert point.cpu_percent == (1.5 + 60.5 + 60.5) / 3


async def test_a_machine_in_the_background_still_gets_its_commands(live, agent):
    link = await agent.join()
    await link.say(Background(on=True))
    await link.heartbeat()
    assert (await session_of(live, link.session_id)).status == "BACKGROUND"
    machine = await agent.machine()
    command = await live.hub.commands.start(CALLER, machine.id, "true", SPEC)
    assert (await link.expect(Dispatch)).id == command.id
    await link.say(Background(on=False))
    await link.heartbeat()
    assert (await session_of(live, link.session_id)).status == "CONNECTED"


async def test_a_lost_link_is_a_grace_period_and_then_the_end(tmp_path, autojump_clock: MockClock):
    async with live_hub(tmp_path, grace_ms=30_000) as live, trio.open_nursery() as nursery:
        nursery.start_soon(_sweep, live.hub)
        link = await ScriptedAgent(live).join()
        await link.cut()
        lost = trio.current_time()
        assert (await session_of(live, link.session_id)).status == "GRACE_PERIOD"
        await until_status(live, link.session_id, "DISCONNECTED")
        assert 30 <= trio.current_time() - lost <= 32
        nursery.cancel_scope.cancel()


async def test_an_agent_that_is_back_in_time_has_its_session_again(
    tmp_path, autojump_clock: MockClock
):
    async with live_hub(tmp_path, grace_ms=30_000) as live, trio.open_nursery() as nursery:
        nursery.start_soon(_sweep, live.hub)
        agent = ScriptedAgent(live)
        first = await agent.join()
        await first.cut()
        await trio.sleep(29)
        second = await agent.connect()
        await second.heartbeat()
        assert second.session_id == first.session_id
        await trio.sleep(60)
        assert (await session_of(live, second.session_id)).status == "CONNECTED"
        await second.cut()
        await trio.sleep(32)
        third = await agent.connect()
        assert third.session_id != first.session_id
        nursery.cancel_scope.cancel()


async def test_an_agent_whose_grace_ends_during_its_handshake_is_sent_back_not_left_in_limbo(
    tmp_path, autojump_clock: MockClock
):
    async with live_hub(tmp_path, grace_ms=30_000) as live, trio.open_nursery() as nursery:
        nursery.start_soon(_sweep, live.hub)
        agent = ScriptedAgent(live)
        first = await agent.join()
        await first.cut()
        await trio.sleep(29)
        late = agent.dial()
        await late.prove(await late.greet())
        await late.welcomed()
        assert late.session_id == first.session_id
        await trio.sleep(5)
        await late.be_ready()
        assert (await late.closed())[0] is Close.REPLACED
        again = await agent.connect()
        await again.heartbeat()
        assert again.session_id != first.session_id
        assert (await session_of(live, again.session_id)).status == "CONNECTED"
        nursery.cancel_scope.cancel()


async def test_a_goodbye_ends_the_session_at_once(live, agent):
    link = await agent.join()
    await link.say(Bye())
    assert (await link.closed())[0] is Close.STOPPING
    assert (await session_of(live, link.session_id)).status == "DISCONNECTED"


async def test_a_silent_link_is_closed(tmp_path, autojump_clock: MockClock):
    async with live_hub(tmp_path, silent_ms=round(SILENT_S * 1000)) as live:
        link = await ScriptedAgent(live).join()
        for _ in range(5):
            await trio.sleep(SILENT_S - 1)
            await link.heartbeat()
        since = trio.current_time()
        code, reason = await link.closed()
        assert (code, reason) == (Close.SILENT, "nothing was heard for too long")
        assert trio.current_time() - since == pytest.approx(SILENT_S)
        assert (await session_of(live, link.session_id)).status == "GRACE_PERIOD"


async def test_a_stopping_hub_says_so_to_every_agent(live, agent):
    links = [await agent.join(), await ScriptedAgent(live).join()]
    live.hub.bus.stop()
    for link in links:
        code, reason = await link.closed()
        assert (code, reason) == (Close.STOPPING, "the hub is stopping")
        assert (await session_of(live, link.session_id)).status == "GRACE_PERIOD"


@pytest.mark.parametrize("is_ready", [True, False])
async def test_a_machine_that_is_removed_hears_it_signed_and_is_cut(live, agent, is_ready):
    link = agent.dial()
    await link.prove(await link.greet(), token=await live.token())
    await link.welcomed()
    if is_ready:
        await link.be_ready()
        await link.heartbeat()
    machine = await agent.machine()
    await trio.testing.wait_all_tasks_blocked()
    await live.hub.store.run(lifecycle.remove_machine, CALLER, machine.id, NOW)
    live.hub.bus.publish(link_subject(machine.id), Removed())
    revoked = await link.expect(Revoked)
    transcript = revocation_transcript(link.nonce, machine.id)
    assert is_signed_by(live.hub.identity.public_key, revoked.signature, transcript)
    assert (await link.closed())[0] is Close.REMOVED
    assert (await session_of(live, link.session_id)).status == "DISCONNECTED"


async def test_a_removed_machine_that_takes_nothing_is_cut_and_writes_no_more(live, agent, caplog):
    link = await agent.join()
    machine = await agent.machine()
    command = await live.hub.commands.start(CALLER, machine.id, "yes", Spec(argv=["yes"]))
    await link.expect(Dispatch)
    link.hub_end.takes = trio.Event()
    live.hub.bus.publish(machine_subject(machine.id), CancelRequested(command.id))
    await trio.testing.wait_all_tasks_blocked()  # the hub is stuck in a send
    await live.hub.commands.remove_machine(CALLER, machine.id)
    with suppress(trio.BrokenResourceError):
        await link.say(Output(command.id, "stdout", 0, b"late"))
    with trio.fail_after(BOUND):
        await link.over.wait()
    assert live.hub.outputs.live(command.id) is None
    row = await live.hub.store.run(commands.get, REACH, command.id)
    assert (row.status, row.error_code) == ("lost", "machine_removed")
    assert (await live.hub.outputs.sizes(command.id))["stdout"] == 0
    assert "agent broke the protocol" not in caplog.messages  # it could not know yet


async def test_a_replaced_connection_that_takes_nothing_is_cut_and_writes_no_more(live, agent):
    old = await agent.join()
    machine = await agent.machine()
    command = await live.hub.commands.start(CALLER, machine.id, "yes", Spec(argv=["yes"]))
    await old.expect(Dispatch)
    old.hub_end.takes = trio.Event()
    live.hub.bus.publish(machine_subject(machine.id), CancelRequested(command.id))
    await trio.testing.wait_all_tasks_blocked()  # the hub is stuck in a send
    new = await agent.connect(inventory=[Known(id=command.id, phase="running")])
    await new.expect(Resume)
    with trio.fail_after(BOUND):
        await old.over.wait()
    with suppress(trio.BrokenResourceError):
        await old.say(Output(command.id, "stdout", 0, b"late"))
    await new.heartbeat()
    assert old.hub_end.closed == (Close.REPLACED, "replaced by a newer connection")
    assert (await live.hub.outputs.sizes(command.id))["stdout"] == 0


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


async def test_a_command_that_ended_while_its_streams_were_looked_up_leaves_none_behind(
    live, agent, monkeypatch
):
    link = await agent.join()
    command_id = await start(live, agent)
    await link.expect(Dispatch)
    await live.hub.outputs.park([command_id])  # as by a connection that was lost
    resume = live.hub.outputs.resume

    async def resume_late(command_id: str):
        now_ms = live.hub.clock.now_ms()
        await live.hub.store.run(
            lifecycle.remove_machine, CALLER, (await agent.machine()).id, now_ms
        )
        return await resume(command_id)

    monkeypatch.setattr(live.hub.outputs, "resume", resume_late)
    await link.say(Output(command_id, "stdout", 0, b"late"))
    await link.expect(Acknowledge)
    assert live.hub.outputs.live(command_id) is None


async def test_a_machine_that_is_removed_while_it_connects_gets_no_session(live, agent):
    link = await agent.join()
    machine = await agent.machine()
    await live.hub.store.run(lifecycle.remove_machine, CALLER, machine.id, NOW)
    connected = await live.hub.store.run(
        sessions.connect, machine, facts=FACTS, ip="192.0.2.1", now_ms=NOW
    )
    assert connected is None
    assert (await session_of(live, link.session_id)).status == "DISCONNECTED"


# ── two who hold one key ─────────────────────────────────────────────────────────────────────────


async def test_a_clone_of_a_live_agent_is_refused_and_flagged_and_the_first_stays(live, agent):
    link = await agent.join()
    clone = ScriptedAgent(live, agent.identity, keeper_id="another keeper").dial()
    await clone.prove(await clone.greet())
    code, reason = await clone.closed()
    assert code is Close.IN_USE
    assert "clone" in reason
    assert (await agent.machine()).clone_seen_ms is not None
    await link.heartbeat()
    assert (await session_of(live, link.session_id)).status == "CONNECTED"


async def test_a_holder_who_answers_no_ping_makes_room(live, agent, autojump_clock: MockClock):
    link = await agent.join()
    link.hub_end.answers_pings = trio.Event()
    again = ScriptedAgent(live, agent.identity, keeper_id="another keeper").dial()
    await again.prove(await again.greet())
    await again.welcomed()
    assert (await link.closed())[0] is Close.REPLACED
    assert (await agent.machine()).clone_seen_ms is None


async def test_the_same_agent_takes_its_own_place(live, agent):
    old = await agent.join()
    new = await agent.connect()
    assert (await old.closed())[0] is Close.REPLACED
    await new.heartbeat()
    assert (new.session_id, new.epoch) == (old.session_id, old.epoch + 1)
    session = await session_of(live, new.session_id)
    assert session.status == "CONNECTED"  # the end of the old link changed nothing
    await new.cut()
    assert (await session_of(live, new.session_id)).status == "GRACE_PERIOD"


async def test_a_replaced_connection_that_was_not_told_finds_out_by_itself(live, agent):
    link = await agent.join()
    machine = await agent.machine()
    await live.hub.store.run(
        sessions.connect, machine, facts=machine.facts, ip="::1", now_ms=NOW
    )  # by another hub process, and the bus lost its word
    await link.say(Heartbeat())
    assert (await link.closed())[0] is Close.REPLACED


# ── hostile agents ───────────────────────────────────────────────────────────────────────────────

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


async def test_a_machine_changes_its_ground_once_a_second(
    tmp_path, monkeypatch, autojump_clock: MockClock
):
    async with live_hub(tmp_path) as live:
        link = await ScriptedAgent(live).join()
        begun = trio.current_time()
        for number in range(11):
            await link.say(Background(on=number % 2 == 0))
        await link.heartbeat()
        assert trio.current_time() - begun >= 10
        assert (await session_of(live, link.session_id)).status == "BACKGROUND"


# ── a hub in trouble ─────────────────────────────────────────────────────────────────────────────


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
