"""Commands from the hub's side: recorded, sent, waited for, ended."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cmdop_appliance.errors import (
    CommandNotFound,
    CommandNotRunning,
    MachineNotFound,
    SessionNotActive,
)
from cmdop_appliance.hub import lifecycle
from cmdop_appliance.hub.commands import Ask
from cmdop_appliance.hub.live_stream import HEAD_BYTES
from cmdop_appliance.hub.output import Outputs
from cmdop_appliance.hub.sweep import sweep_forever
from cmdop_appliance.hub.wakes import Grown, command_subject
from cmdop_appliance.model import Command
from cmdop_appliance.protocol.frames import Output
from cmdop_appliance.protocol.messages import (
    Acknowledge,
    Cancel,
    Dispatch,
    Known,
    Rejected,
    Spec,
    Started,
)
from cmdop_appliance.store import commands
from cmdop_appliance.store.listing import Paging
from tests.support.live_hub import BOUND, CALLER, Link, LiveHub, ScriptedAgent, finished, live_hub
from tests.support.records import REACH

SPEC = Spec(argv=["true"])


class Waiter:
    """Somebody who waits for `Commands.run`."""

    def __init__(self, live: LiveHub, machine_id: str, spec: Spec = SPEC) -> None:
        self._live, self._machine_id, self._spec = live, machine_id, spec
        self._answered = trio.Event()
        self._answer: Command | None = None

    async def run(self) -> None:
        self._answer = await self._live.hub.commands.run(
            CALLER, self._machine_id, "true", self._spec
        )
        self._answered.set()

    async def answer(self) -> Command:
        with trio.fail_after(BOUND):
            await self._answered.wait()
        assert self._answer is not None
        return self._answer


@pytest.fixture
async def link(agent):
    return await agent.join()


async def total(live: LiveHub) -> int:
    return (await live.hub.store.run(commands.page, REACH, Paging())).total


async def started(link: Link, nursery: trio.Nursery, waiter: Waiter) -> str:
    """The id of the waiter's command, which runs now."""
    nursery.start_soon(waiter.run)
    command_id = (await link.expect(Dispatch)).id
    await link.say(Started(id=command_id, started_ms=0))
    await link.heartbeat()
    return command_id


# ── there and back ───────────────────────────────────────────────────────────────────────────────


async def test_who_runs_a_command_gets_its_end(live, agent, link, nursery):
    waiter = Waiter(live, (await agent.machine()).id)
    command_id = await started(link, nursery, waiter)
    assert (await live.command(command_id)).status == "running"
    await link.say(Output(command_id, "stdout", 0, b"hello\n"))
    await link.say(finished(command_id, b"hello\n", duration_ms=5))
    assert (await link.expect(Acknowledge)).id == command_id
    answer = await waiter.answer()
    assert answer == await live.command(command_id)  # what is told is what is on disk
    assert (answer.status, answer.exit_code, answer.duration_ms) == ("completed", 0, 5)
    assert answer.operator == "ci@default"
    assert await live.hub.outputs.read(command_id, "stdout", 0, 99) == b"hello\n"


async def test_an_end_is_on_disk_before_the_agent_may_forget_it(live, agent, link):
    machine = await agent.machine()
    command = await live.hub.commands.start(CALLER, machine.id, "true", SPEC)
    await link.expect(Dispatch)
    await link.say(Output(command.id, "stdout", 0, b"x"))
    await link.say(finished(command.id, b"x"))
    await link.expect(Acknowledge)
    async with live_hub(live.hub.outputs._folder.parent) as reopened:
        assert (await reopened.command(command.id)).status == "completed"
        assert await reopened.hub.outputs.read(command.id, "stdout", 0, 9) == b"x"


@pytest.mark.parametrize(
    ("end", "fields", "status", "exit_code"),
    [
        ("exited", {"exit_code": 0}, "completed", 0),
        ("exited", {"exit_code": 7}, "failed", 7),
        ("exited", {"exit_code": 137, "signal": "SIGKILL"}, "failed", 137),
        ("exited", {"exit_code": None}, "failed", None),  # a lie; it completed nothing
        ("failed", {"exit_code": None, "reason": "exec_failed"}, "failed", None),
        ("failed", {"exit_code": 0}, "failed", None),  # a lie
        ("timeout", {"exit_code": None}, "timeout", None),
        ("cancelled", {"exit_code": None}, "cancelled", None),
        ("expired", {"exit_code": None}, "expired", None),
        ("lost", {"exit_code": 0, "reason": "rebooted"}, "lost", None),  # never 0
    ],
)
async def test_every_end_has_its_status(live, agent, link, end, fields, status, exit_code):
    machine = await agent.machine()
    command = await live.hub.commands.start(CALLER, machine.id, "true", SPEC)
    await link.expect(Dispatch)
    await link.say(finished(command.id, end=end, **fields))
    await link.expect(Acknowledge)
    ended = await live.command(command.id)
    assert (ended.status, ended.exit_code) == (status, exit_code)
    assert (ended.signal, ended.error_code) == (fields.get("signal"), fields.get("reason"))


@pytest.mark.parametrize("started_ms", [0, 2**62])
@pytest.mark.parametrize("duration_ms", [0, 2**62, None])
async def test_times_that_a_machine_tells_stay_within_what_the_hub_knows(
    live, agent, link, started_ms, duration_ms
):
    machine = await agent.machine()
    command = await live.hub.commands.start(CALLER, machine.id, "true", SPEC)
    await link.expect(Dispatch)
    await link.say(finished(command.id, started_ms=started_ms, duration_ms=duration_ms))
    await link.expect(Acknowledge)
    ended = await live.command(command.id)
    now_ms = live.hub.clock.now_ms()
    assert command.created_ms <= ended.started_ms <= ended.finished_ms <= now_ms


async def test_many_at_once_never_mix(live, agent, link, nursery):
    other = ScriptedAgent(live)
    links = [link, await other.join()]
    waiters = []
    for one in (agent, other):
        machine = await one.machine()
        waiters += [Waiter(live, machine.id) for _ in range(20)]
    for waiter in waiters:
        nursery.start_soon(waiter.run)
    for one in links:
        ids = [(await one.expect(Dispatch)).id for _ in range(20)]
        for command_id in ids:
            await one.say(Output(command_id, "stdout", 0, command_id.encode()))
        for command_id in reversed(ids):
            await one.say(finished(command_id, command_id.encode()))
        acknowledged = {(await one.expect(Acknowledge)).id for _ in range(20)}
        assert acknowledged == set(ids)
    for waiter in waiters:
        answer = await waiter.answer()
        assert answer.status == "completed"
        read = await live.hub.outputs.read(answer.id, "stdout", 0, 99)
        assert read == answer.id.encode()


# ── where nothing can be started ─────────────────────────────────────────────────────────────────


async def test_where_nothing_can_be_started_nothing_is_recorded(live, agent, link):
    machine = await agent.machine()
    await link.cut()
    with pytest.raises(SessionNotActive):
        await live.hub.commands.start(CALLER, machine.id, "true", SPEC)
    with pytest.raises(SessionNotActive):
        await live.hub.commands.run(CALLER, machine.id, "true", SPEC)
    with pytest.raises(MachineNotFound):
        await live.hub.commands.start(CALLER, "mach_x", "true", SPEC)
    assert await total(live) == 0


async def test_of_many_machines_each_has_its_command_or_its_reason(live, agent, link):
    away = ScriptedAgent(live)
    await (await away.join()).cut()
    ids = [(await agent.machine()).id, (await away.machine()).id, "mach_x"]
    batch, commands = await live.hub.batches.start(
        CALLER, ids, "true", SPEC, Ask(), concurrency=3, canary=0, max_errors=None
    )
    assert [command.machine_id for command in commands] == ids[:1]
    assert [batch.refused[machine_id].code for machine_id in ids[1:]] == [
        "session_not_active",
        "machine_not_found",
    ]
    assert (await link.expect(Dispatch)).id == commands[0].id
    assert await total(live) == 1


async def test_a_caller_of_another_workspace_starts_and_cancels_nothing(live, agent, link):
    machine = await agent.machine()
    stranger = replace(CALLER, workspace_id="ws_other")
    with pytest.raises(MachineNotFound):
        await live.hub.commands.start(stranger, machine.id, "true", SPEC)
    command = await live.hub.commands.start(CALLER, machine.id, "true", SPEC)
    with pytest.raises(CommandNotFound):
        await live.hub.commands.cancel(stranger, command.id)
    assert (await live.command(command.id)).cancel_requested_ms is None


# ── waiting ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_machine_that_comes_back_within_its_grace_still_answers(
    tmp_path, autojump_clock: MockClock
):
    async with live_hub(tmp_path) as live, trio.open_nursery() as nursery:
        nursery.start_soon(sweep_forever, live.hub)
        agent = ScriptedAgent(live)
        link = await agent.join()
        waiter = Waiter(live, (await agent.machine()).id)
        command_id = await started(link, nursery, waiter)
        await link.cut()
        await trio.sleep(25)
        again = await agent.connect(inventory=[Known(id=command_id, phase="ended")])
        await again.hear()  # resume
        await again.say(finished(command_id))
        assert (await waiter.answer()).status == "completed"
        nursery.cancel_scope.cancel()


async def test_when_the_machine_is_gone_the_record_is_still_open(
    tmp_path, autojump_clock: MockClock
):
    async with live_hub(tmp_path) as live, trio.open_nursery() as nursery:
        nursery.start_soon(sweep_forever, live.hub)
        agent = ScriptedAgent(live)
        link = await agent.join()
        waiter = Waiter(live, (await agent.machine()).id)
        command_id = await started(link, nursery, waiter)
        await link.cut()
        lost = trio.current_time()
        answer = await waiter.answer()
        assert (answer.id, answer.status, answer.finished_ms) == (command_id, "running", None)
        assert 30 <= trio.current_time() - lost <= 37  # the grace, and a sweep
        nursery.cancel_scope.cancel()


async def test_a_stopping_hub_answers_who_waits_with_an_open_record(live, agent, link, nursery):
    waiter = Waiter(live, (await agent.machine()).id)
    command_id = await started(link, nursery, waiter)
    await wait_all_tasks_blocked()
    live.hub.bus.stop()
    answer = await waiter.answer()
    assert (answer.id, answer.finished_ms) == (command_id, None)


async def test_nobody_waits_much_longer_than_the_timeout(
    live, agent, link, nursery, autojump_clock: MockClock
):
    waiter = Waiter(live, (await agent.machine()).id, Spec(argv=["true"], timeout_ms=1000))
    await started(link, nursery, waiter)
    before = trio.current_time()
    answer = await waiter.answer()  # the agent is alive, and says nothing
    assert answer.status == "running"
    assert trio.current_time() - before == pytest.approx(1 + 15)


async def test_removing_a_machine_answers_who_waits(
    live, agent, link, nursery, autojump_clock: MockClock
):
    machine = await agent.machine()
    waiter = Waiter(live, machine.id)
    await started(link, nursery, waiter)
    now_ms = live.hub.clock.now_ms()
    await live.hub.store.run(lifecycle.remove_machine, CALLER, machine.id, now_ms)  # unheard
    answer = await waiter.answer()
    assert (answer.status, answer.error_code) == ("lost", "machine_removed")


async def test_removing_a_machine_through_the_hub_answers_at_once_and_keeps_the_output(
    live, agent, link, nursery
):
    machine = await agent.machine()
    waiter = Waiter(live, machine.id)
    command_id = await started(link, nursery, waiter)
    await link.say(Output(command_id, "stdout", 0, b"so far"))
    await link.heartbeat()
    await live.hub.commands.remove_machine(CALLER, machine.id)
    assert (await waiter.answer()).status == "lost"
    await link.closed()
    assert live.hub.outputs.live(command_id) is None
    reread = Outputs(live.hub.store, live.hub.outputs._folder, 2 * HEAD_BYTES)
    assert await reread.read(command_id, "stdout", 0, 99) == b"so far"
    with pytest.raises(MachineNotFound):
        await live.hub.commands.remove_machine(CALLER, machine.id)


async def test_who_waits_for_the_start_hears_of_it_or_gives_up(
    live, agent, link, nursery, autojump_clock: MockClock
):
    machine = await agent.machine()
    command = await live.hub.commands.start(CALLER, machine.id, "true", SPEC)
    await link.expect(Dispatch)
    before = trio.current_time()
    assert (await live.hub.commands.wait_started(command, 2)).status == "pending"
    assert trio.current_time() - before == pytest.approx(2)
    nursery.start_soon(link.say, Started(id=command.id, started_ms=0))
    assert (await live.hub.commands.wait_started(command, 2)).status == "running"


async def test_who_waits_for_the_start_when_the_hub_stops_gets_the_record_as_it_is(
    live, agent, link, nursery
):
    machine = await agent.machine()
    command = await live.hub.commands.start(CALLER, machine.id, "true", SPEC)
    nursery.start_soon(live.hub.commands.wait_started, command, BOUND)
    await wait_all_tasks_blocked()
    live.hub.bus.stop()
    assert (await live.hub.commands.wait_started(command, BOUND)).id == command.id


async def test_an_end_whose_word_was_lost_is_found_by_the_sweep(
    live, agent, link, nursery, autojump_clock: MockClock, monkeypatch
):
    waiter = Waiter(live, (await agent.machine()).id)
    command_id = await started(link, nursery, waiter)
    with monkeypatch.context() as lossy:
        lossy.setattr(live.hub.bus, "publish", lambda subject, message: None)
        await link.say(finished(command_id))
        await link.expect(Acknowledge)
    assert (await waiter.answer()).status == "completed"


# ── cancel ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_cancel_is_recorded_and_told_to_the_machine(live, agent, link, nursery):
    waiter = Waiter(live, (await agent.machine()).id)
    command_id = await started(link, nursery, waiter)
    await live.hub.commands.cancel(CALLER, command_id)
    assert (await live.command(command_id)).cancel_requested_ms is not None
    assert (await link.expect(Cancel)).id == command_id
    await link.say(finished(command_id, end="cancelled", exit_code=None))
    assert (await waiter.answer()).status == "cancelled"


async def test_a_command_that_ends_by_itself_first_has_its_true_end(live, agent, link, nursery):
    waiter = Waiter(live, (await agent.machine()).id)
    command_id = await started(link, nursery, waiter)
    await live.hub.commands.cancel(CALLER, command_id)
    await link.say(finished(command_id, exit_code=3))
    answer = await waiter.answer()
    assert (answer.status, answer.exit_code) == ("failed", 3)
    assert answer.cancel_requested_ms is not None


async def test_what_has_ended_or_never_was_cannot_be_cancelled(live, agent, link):
    machine = await agent.machine()
    command = await live.hub.commands.start(CALLER, machine.id, "true", SPEC)
    await link.expect(Dispatch)
    await link.say(finished(command.id))
    await link.expect(Acknowledge)
    with pytest.raises(CommandNotRunning):
        await live.hub.commands.cancel(CALLER, command.id)
    with pytest.raises(CommandNotFound):
        await live.hub.commands.cancel(CALLER, "cmd_x")
    await link.heartbeat()  # the agent heard nothing


# ── one end ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_later_end_counts_for_nobody(live, agent, link):
    machine = await agent.machine()
    command = await live.hub.commands.start(CALLER, machine.id, "true", SPEC)
    await link.expect(Dispatch)
    await link.say(finished(command.id))
    await link.expect(Acknowledge)
    with live.hub.bus.subscribe(command_subject(command.id)) as changes:
        await link.say(Rejected(id=command.id, reason="spec_mismatch"))
        await link.heartbeat()
        await live.hub.commands.lose(machine.id, link.epoch, command.id, "start_unknown")
        await link.say(finished(command.id, exit_code=3))
        await link.expect(Acknowledge)
        live.hub.bus.publish(command_subject(command.id), Grown())
        assert await changes.next() == Grown()
    assert live.hub.commands.ended == {"completed": 1}
    assert (await live.command(command.id)).status == "completed"


async def test_what_a_caller_waits_for_does_not_start_after_the_caller_has_gone(live, agent):
    """A machine that is busy starts later what nobody waits for, and only that."""
    link = await agent.join()
    machine = await agent.machine()
    async with trio.open_nursery() as nursery:
        spec = Spec(argv=["true"], timeout_ms=1000)
        nursery.start_soon(live.hub.commands.run, CALLER, machine.id, "true", spec)
        awaited = await link.expect(Dispatch)
        assert awaited.ttl_ms is not None
        assert 0 < awaited.ttl_ms <= 5_000
        nursery.cancel_scope.cancel()
    await live.hub.commands.start(CALLER, machine.id, "true", SPEC)
    assert (await link.expect(Dispatch)).ttl_ms is None
