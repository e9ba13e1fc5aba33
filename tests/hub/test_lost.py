"""Machines that are silent for long: their commands are lost until they return."""

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.hub.commands import Ask
from cmdop_appliance.hub.sweep import sweep_forever
from cmdop_appliance.protocol.frames import Output
from cmdop_appliance.protocol.messages import (
    Acknowledge,
    Cancel,
    Dispatch,
    Known,
    Resume,
    Spec,
    Started,
)
from cmdop_appliance.store import commands, machines, sessions
from tests.support.live_hub import CALLER, Link, LiveHub, ScriptedAgent, finished, live_hub
from tests.support.records import REACH

SPEC = Spec(argv=["true"])
LOST_AFTER_S = 90


@pytest.fixture
async def hub(tmp_path):
    """A hub that looks after its machines, for longer than it needs to settle.

    A mock clock counts only for the test that names it.
    """
    async with (
        live_hub(tmp_path, lost_after_ms=LOST_AFTER_S * 1000) as live,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(sweep_forever, live.hub)
        await trio.sleep(61)
        yield live
        nursery.cancel_scope.cancel()


class Silent:
    """A machine with a command, that went away."""

    def __init__(self, live: LiveHub) -> None:
        self.live = live
        self.agent = ScriptedAgent(live)
        self.command_id = ""

    async def go(self, *, started: bool = True, output: bytes = b"") -> "Silent":
        link = await self.agent.join()
        machine = await self.agent.machine()
        command = await self.live.hub.commands.start(CALLER, machine.id, "true", SPEC)
        self.command_id = command.id
        await link.expect(Dispatch)
        if started:
            await link.say(Started(id=command.id, started_ms=0))
        if output:
            await link.say(Output(command.id, "stdout", 0, output))
        await link.heartbeat()
        await link.cut()
        return self

    async def lost(self) -> "Silent":
        await trio.sleep(LOST_AFTER_S + 2)
        record = await self.record()
        assert (record.status, record.error_code) == ("lost", "silent")
        return self

    async def back(self, phase: str | None = None) -> Link:
        known = [Known(id=self.command_id, phase=phase)] if phase else []
        return await self.agent.connect(inventory=known)

    async def record(self):
        return await self.live.command(self.command_id)


async def test_a_machine_that_is_silent_for_long_has_lost_its_commands(
    hub, autojump_clock: MockClock
):
    silent = await Silent(hub).go()
    await trio.sleep(LOST_AFTER_S - 2)
    assert (await silent.record()).status == "running"
    await trio.sleep(4)
    lost = await silent.record()
    assert (lost.status, lost.error_code, lost.exit_code) == ("lost", "silent", None)
    assert lost.finished_ms is not None
    assert not lost.is_late


async def test_a_machine_that_is_connected_loses_nothing_however_long_it_takes(
    hub, autojump_clock: MockClock
):
    agent = ScriptedAgent(hub)
    link = await agent.join()
    command = await hub.hub.commands.start(CALLER, (await agent.machine()).id, "true", SPEC)
    await link.expect(Dispatch)
    await link.say(Started(id=command.id, started_ms=0))
    await trio.sleep(2 * LOST_AFTER_S)  # without a heartbeat, which the hub would not suffer
    assert (await hub.command(command.id)).status == "running"


async def test_a_machine_in_its_grace_period_loses_nothing(tmp_path, autojump_clock: MockClock):
    grace_ms = 4 * LOST_AFTER_S * 1000
    async with live_hub(tmp_path, lost_after_ms=LOST_AFTER_S * 1000, grace_ms=grace_ms) as live:
        silent = await Silent(live).go()
        await trio.sleep(2 * LOST_AFTER_S)
        await live.hub.commands.sweep()
        assert (await silent.record()).status == "running"


async def test_right_after_its_start_a_hub_calls_nobody_silent(tmp_path, autojump_clock: MockClock):
    options = {"lost_after_ms": LOST_AFTER_S * 1000, "grace_ms": 0}
    async with live_hub(tmp_path, **options) as live:
        silent = await Silent(live).go()
    await trio.sleep(2 * LOST_AFTER_S)
    async with live_hub(tmp_path, **options) as live:
        now_ms = live.hub.clock.now_ms()
        await live.hub.store.run(sessions.recover, now_ms=now_ms, grace_until_ms=now_ms)
        silent.live = live
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sweep_forever, live.hub)
            await trio.sleep(58)
            assert (await silent.record()).status == "running"
            await trio.sleep(5)
            assert (await silent.record()).error_code == "silent"
            nursery.cancel_scope.cancel()


async def test_what_runs_on_is_running_again_and_late(hub, autojump_clock: MockClock):
    silent = await (await Silent(hub).go(output=b"one")).lost()
    link = await silent.back("running")
    assert await link.expect(Resume) == Resume(id=silent.command_id, stdout=3, stderr=0)
    await link.heartbeat()
    record = await silent.record()
    assert (record.status, record.is_late, record.finished_ms) == ("running", True, None)
    assert record.error_code is None
    await link.say(Output(silent.command_id, "stdout", 3, b"two"))
    await link.say(finished(silent.command_id, b"onetwo", exit_code=3))
    await link.expect(Acknowledge)
    ended = await silent.record()
    assert (ended.status, ended.exit_code, ended.is_late) == ("failed", 3, True)
    assert await hub.hub.outputs.read(silent.command_id, "stdout", 0, 99) == b"onetwo"


async def test_what_ended_meanwhile_has_its_true_end_and_all_its_output(
    hub, autojump_clock: MockClock
):
    silent = await (await Silent(hub).go(output=b"one")).lost()
    assert await hub.hub.outputs.read(silent.command_id, "stdout", 0, 99) == b"one"
    link = await silent.back("ended")
    await link.expect(Resume)
    whole = b"one" * 1000  # small: a mock clock does not wait for the threads that sync files
    await link.say(Output(silent.command_id, "stdout", 3, whole[3:]))
    await link.say(finished(silent.command_id, whole))
    await link.expect(Acknowledge)
    ended = await silent.record()
    assert (ended.status, ended.exit_code, ended.is_late) == ("completed", 0, True)
    assert ended.error_code is None
    assert await hub.hub.outputs.read(silent.command_id, "stdout", 0, 99_999) == whole


async def test_what_its_machine_never_started_is_not_started_any_more(
    hub, autojump_clock: MockClock
):
    silent = await (await Silent(hub).go(started=False)).lost()
    link = await silent.back()
    dispatch = await link.expect(Dispatch)
    assert (dispatch.id, dispatch.ttl_ms) == (silent.command_id, 0)  # 0: only tell how it went
    await link.say(finished(dispatch.id, end="expired", exit_code=None))
    await link.expect(Acknowledge)
    ended = await silent.record()
    assert (ended.status, ended.error_code, ended.is_late) == ("expired", None, True)


async def test_what_its_machine_knows_nothing_of_is_lost_for_that_reason(
    hub, autojump_clock: MockClock
):
    silent = await (await Silent(hub).go()).lost()
    link = await silent.back()
    await link.heartbeat()
    record = await silent.record()
    assert (record.status, record.error_code, record.is_late) == ("lost", "start_unknown", True)
    assert record.exit_code is None


async def test_a_cancel_from_before_is_told_when_the_machine_is_back(
    hub, autojump_clock: MockClock
):
    silent = await Silent(hub).go()
    await hub.hub.commands.cancel(CALLER, silent.command_id)
    await silent.lost()
    link = await silent.back("running")
    await link.expect(Resume)
    assert (await link.expect(Cancel)).id == silent.command_id


async def test_a_cancel_while_it_is_lost_is_told_when_the_machine_is_back(
    hub, autojump_clock: MockClock
):
    silent = await (await Silent(hub).go()).lost()
    await hub.hub.commands.cancel(CALLER, silent.command_id)
    assert (await silent.record()).status == "lost"
    assert hub.hub.commands.ended == {"lost": 1}
    link = await silent.back("running")
    await link.expect(Resume)
    assert (await link.expect(Cancel)).id == silent.command_id


async def test_what_was_told_to_be_lost_does_not_start_for_a_first_time_days_later(
    hub, autojump_clock: MockClock
):
    agent = ScriptedAgent(hub)
    link = await agent.join()
    ask = Ask(queue_ms=7 * 24 * 3_600_000)
    command = await hub.hub.commands.start(CALLER, (await agent.machine()).id, "true", SPEC, ask)
    await link.cut()  # before the machine has read its dispatch
    await trio.sleep(LOST_AFTER_S + 2)
    assert (await hub.command(command.id)).error_code == "silent"
    back = await agent.connect()
    assert (await back.expect(Dispatch)).ttl_ms == 0
    await back.say(finished(command.id, end="expired", exit_code=None))
    await back.expect(Acknowledge)
    assert (await hub.command(command.id)).status == "expired"


async def test_what_was_lost_for_another_reason_stays_lost(hub, autojump_clock: MockClock):
    silent = await Silent(hub).go()
    record = await silent.record()
    epoch = await hub.hub.store.run(machines.epoch_of, record.machine_id)
    await hub.hub.commands.lose(record.machine_id, epoch, record.id, "start_unknown")
    lost = await silent.record()
    assert lost.status == "lost"
    link = await silent.back("running")
    await link.expect(Acknowledge)  # it may forget it
    await link.say(finished(silent.command_id))
    await link.expect(Acknowledge)
    assert await silent.record() == lost


async def test_a_machine_that_was_silent_once_may_be_so_again(hub, autojump_clock: MockClock):
    silent = await (await Silent(hub).go()).lost()
    link = await silent.back("running")
    await link.expect(Resume)
    await link.cut()
    await silent.lost()
    assert (await silent.record()).is_late


async def test_since_when_nothing_is_known_is_told_until_the_machine_is_back(
    hub, autojump_clock: MockClock
):
    silent = await Silent(hub).go()
    machine = await silent.agent.machine()
    assert (await silent.record()).stale_ms == machine.last_seen_ms
    link = await silent.back("running")
    await link.expect(Resume)
    await link.heartbeat()
    assert (await silent.record()).stale_ms is None
    await link.cut()
    await silent.lost()
    assert (await silent.record()).stale_ms is None  # it has ended, as far as anybody knows
    assert await hub.hub.store.run(commands.get, REACH, silent.command_id)
