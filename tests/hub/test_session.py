"""One agent's connection: its life, and how it ends."""

from contextlib import suppress

import msgspec
import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.hub import lifecycle
from cmdop_appliance.hub.sweep import sweep_forever
from cmdop_appliance.hub.wakes import CancelRequested, Removed, link_subject, machine_subject
from cmdop_appliance.identity import is_signed_by
from cmdop_appliance.model import Session
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.conversation import split
from cmdop_appliance.protocol.frames import Output
from cmdop_appliance.protocol.handshake import revocation_transcript
from cmdop_appliance.protocol.limits import SILENT_S
from cmdop_appliance.protocol.messages import (
    FEATURES,
    Acknowledge,
    Background,
    Bye,
    Dispatch,
    Heartbeat,
    Heartbeatack,
    Known,
    Resume,
    Revoked,
    Sampled,
    Spec,
)
from cmdop_appliance.store import commands, metrics, sessions
from tests.support.live_hub import BOUND, CALLER, LiveHub, ScriptedAgent, live_hub, start
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


async def test_a_heartbeat_and_samples_of_one_frame_are_one_record_and_one_answer(live, agent):
    link = await agent.join()
    await link.heartbeat()
    commits = []
    live.hub.store._writer.set_commit_hook(lambda: bool(commits.append(1)))
    beats = [Heartbeat(), samples(1), Heartbeat()]
    await link.say_raw("\n".join(str(link.conversation.send(beat)) for beat in beats))
    with trio.fail_after(BOUND):
        answer = split(await link.hub_end.agent_hears.receive())
    told = [type(link.conversation.receive_from_hub(part)) for part in answer]
    assert told == [Heartbeatack, Sampled, Heartbeatack]
    assert len(commits) == 1


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


async def test_a_lost_link_is_a_grace_period_and_then_the_end(tmp_path, autojump_clock: MockClock):
    async with live_hub(tmp_path, grace_ms=30_000) as live, trio.open_nursery() as nursery:
        nursery.start_soon(sweep_forever, live.hub)
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
        nursery.start_soon(sweep_forever, live.hub)
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
        nursery.start_soon(sweep_forever, live.hub)
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
