"""Commands that wait for their machine: sent once when it comes, or never."""

from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.errors import CommandNotRunning, MachineNotFound, SessionNotActive
from cmdop_appliance.hub.commands import Ask
from cmdop_appliance.hub.sweep import sweep_forever
from cmdop_appliance.model import Command
from cmdop_appliance.protocol.messages import Acknowledge, Dispatch, Spec, Started
from cmdop_appliance.store import commands, sessions
from cmdop_appliance.store.listing import Paging
from tests.support.live_hub import BOUND, CALLER, LiveHub, ScriptedAgent, finished, live_hub
from tests.support.records import REACH, connected, joined

SPEC = Spec(argv=["true"])
HOUR_MS = 3_600_000


@pytest.fixture
async def away(live, agent):
    """The id of a machine that is not connected; `agent` brings it back."""
    await (await agent.join()).cut()
    return (await agent.machine()).id


async def ask(
    live: LiveHub, machine_id: str, queue_ms: int | None = HOUR_MS, key: str | None = None
) -> Command:
    """A command that may wait for its machine."""
    asked = Ask(queue_ms=queue_ms, supersede_key=key)
    return await live.hub.commands.start(CALLER, machine_id, "true", SPEC, asked)


# ── waiting ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_machine_that_is_away_takes_only_what_may_wait(live, agent, away):
    with pytest.raises(SessionNotActive) as caught:
        await ask(live, away, queue_ms=None)
    assert caught.value.details == {"current_status": "GRACE_PERIOD", "machine_id": away}
    command = await ask(live, away)
    assert (command.status, command.session_id, command.is_queued) == ("pending", None, True)
    page = await live.hub.store.run(commands.page, REACH, Paging(), statuses=("pending",))
    assert [each.id for each in page.items] == [command.id]
    with pytest.raises(MachineNotFound):
        await ask(live, "mach_x")
    assert (await live.hub.store.run(commands.page, REACH, Paging())).total == 1


async def test_what_waits_is_sent_once_and_in_order_when_its_machine_comes(live, agent, away):
    waiting = [await ask(live, away) for _ in range(3)]
    link = await agent.connect()
    sent = [await link.expect(Dispatch) for _ in waiting]
    assert [each.id for each in sent] == [each.id for each in waiting]
    await link.heartbeat()  # nothing more
    for command in waiting:
        assert (await live.command(command.id)).session_id == link.session_id
        await link.say(finished(command.id))
        await link.expect(Acknowledge)
    await link.cut()
    again = await agent.connect()
    await again.heartbeat()
    assert {(await live.command(each.id)).status for each in waiting} == {"completed"}


async def test_a_machine_that_is_there_gets_it_at_once(live, agent):
    link = await agent.join()
    command = await ask(live, (await agent.machine()).id)
    assert command.session_id == link.session_id
    assert (await link.expect(Dispatch)).id == command.id
    await link.heartbeat()


async def test_on_a_busy_machine_the_queue_time_bounds_the_start(live, agent):
    link = await agent.join()
    await ask(live, (await agent.machine()).id, queue_ms=5000)
    ttl_ms = (await link.expect(Dispatch)).ttl_ms
    assert 0 < ttl_ms <= 5000
    await ask(live, (await agent.machine()).id, queue_ms=None)
    assert (await link.expect(Dispatch)).ttl_ms is None


async def test_a_restart_of_the_hub_keeps_what_waits_for_who_connects_first(tmp_path):
    async with live_hub(tmp_path) as live:
        agent = ScriptedAgent(live)
        await (await agent.join()).cut()
        command = await ask(live, (await agent.machine()).id)
        identity = agent.identity
    async with live_hub(tmp_path) as live:
        now_ms = live.hub.clock.now_ms()
        await live.hub.store.run(sessions.recover, now_ms=now_ms, grace_until_ms=now_ms + 30_000)
        assert (await live.command(command.id)).status == "pending"
        agent = ScriptedAgent(live, identity)
        link = await agent.connect()
        assert (await link.expect(Dispatch)).id == command.id
        await link.heartbeat()


# ── too late ─────────────────────────────────────────────────────────────────────────────────────


async def test_what_waited_too_long_expires_and_never_runs(tmp_path, autojump_clock: MockClock):
    async with live_hub(tmp_path) as live, trio.open_nursery() as nursery:
        nursery.start_soon(sweep_forever, live.hub)
        agent = ScriptedAgent(live)
        await (await agent.join()).cut()
        command = await ask(live, (await agent.machine()).id, queue_ms=60_000)
        await trio.sleep(59)
        assert (await live.command(command.id)).status == "pending"
        await trio.sleep(3)
        expired = await live.command(command.id)
        assert (expired.status, expired.exit_code, expired.session_id) == ("expired", None, None)
        link = await agent.connect()
        await link.heartbeat()  # nothing was sent
        await link.say(finished(command.id))  # a lie
        await link.expect(Acknowledge)
        assert await live.command(command.id) == expired
        nursery.cancel_scope.cancel()


async def test_a_machine_that_comes_just_too_late_gets_nothing_though_nobody_swept(
    tmp_path, autojump_clock: MockClock
):
    async with live_hub(tmp_path) as live:
        agent = ScriptedAgent(live)
        await (await agent.join()).cut()
        command = await ask(live, (await agent.machine()).id, queue_ms=1000)
        await trio.sleep(1.002)
        link = await agent.connect()
        await link.heartbeat()
        await live.hub.commands.sweep()
        assert (await live.command(command.id)).status == "expired"
        await link.heartbeat()


# ── waiting for the end ──────────────────────────────────────────────────────────────────────────


class Waiter:
    """Somebody who waits for the end of a command that may wait for its machine."""

    def __init__(self, live: LiveHub, machine_id: str, timeout_ms: int = 30_000) -> None:
        self._live, self._machine_id = live, machine_id
        self._spec = Spec(argv=["true"], timeout_ms=timeout_ms)
        self._answered = trio.Event()
        self._answer: Command | None = None

    async def run(self) -> None:
        self._answer = await self._live.hub.commands.run(
            CALLER, self._machine_id, "true", self._spec, Ask(queue_ms=HOUR_MS)
        )
        self._answered.set()

    async def answer(self) -> Command:
        with trio.fail_after(BOUND):
            await self._answered.wait()
        assert self._answer is not None
        return self._answer


async def waiting(live: LiveHub) -> Command:
    """The one command of the store, once it is there."""
    with trio.fail_after(BOUND):
        while not (page := await live.hub.store.run(commands.page, REACH, Paging())).items:
            await trio.lowlevel.checkpoint()
    return page.items[0]


async def test_who_waits_gets_the_end_if_the_machine_comes_in_time(
    live, agent, away, nursery, autojump_clock: MockClock
):
    waiter = Waiter(live, away)
    nursery.start_soon(waiter.run)
    await waiting(live)
    await trio.sleep(20)
    link = await agent.connect()
    command_id = (await link.expect(Dispatch)).id
    await link.say(Started(id=command_id, started_ms=live.hub.clock.now_ms()))
    await link.heartbeat()
    await trio.sleep(25)  # its own timeout counts from its start
    await link.say(finished(command_id))
    answer = await waiter.answer()
    assert (answer.id, answer.status) == (command_id, "completed")


async def test_who_waits_gets_a_pending_record_after_the_timeout(
    live, agent, away, nursery, autojump_clock: MockClock
):
    waiter = Waiter(live, away, timeout_ms=2000)
    before = trio.current_time()
    nursery.start_soon(waiter.run)
    answer = await waiter.answer()
    assert trio.current_time() - before == pytest.approx(2)
    assert (answer.status, answer.finished_ms) == ("pending", None)
    link = await agent.connect()  # it still runs
    assert (await link.expect(Dispatch)).id == answer.id


async def test_who_waits_hears_of_the_cancel_as_it_stands_in_the_store(live, agent, away, nursery):
    waiter = Waiter(live, away)
    nursery.start_soon(waiter.run)
    command = await waiting(live)
    await live.hub.commands.cancel(CALLER, command.id)
    answer = await waiter.answer()
    assert answer == await live.command(command.id)
    assert (answer.status, answer.cancel_requested_ms is not None) == ("cancelled", True)


async def test_nobody_waits_for_the_start_of_what_was_not_sent(live, agent, away):
    command = await ask(live, away)
    with trio.fail_after(BOUND):
        assert (await live.hub.commands.wait_started(command, BOUND * 2)).status == "pending"


# ── cancelled, superseded, removed ───────────────────────────────────────────────────────────────


async def test_what_was_not_sent_is_cancelled_at_once_and_never_sent(live, agent, away):
    command = await ask(live, away)
    await live.hub.commands.cancel(CALLER, command.id)
    cancelled = await live.command(command.id)
    assert (cancelled.status, cancelled.exit_code, cancelled.error_code) == (
        "cancelled",
        None,
        None,
    )
    with pytest.raises(CommandNotRunning):
        await live.hub.commands.cancel(CALLER, command.id)
    link = await agent.connect()
    await link.heartbeat()
    await link.say(finished(command.id))  # a lie
    await link.expect(Acknowledge)
    assert await live.command(command.id) == cancelled


async def test_ten_upgrades_that_wait_become_one(live, agent, away):
    upgrades = [await ask(live, away, key="upgrade") for _ in range(10)]
    link = await agent.connect()
    assert (await link.expect(Dispatch)).id == upgrades[-1].id
    await link.heartbeat()  # and nothing else
    for old, new in pairwise(upgrades):
        record = await live.command(old.id)
        assert (record.status, record.error_code) == ("cancelled", "superseded")
        assert new.id in (record.error_message or "")


async def test_nothing_else_is_superseded(live, agent, away):
    neighbour = ScriptedAgent(live)
    await (await neighbour.join()).cut()
    others = [
        await ask(live, away, key="reboot"),
        await ask(live, away),
        await ask(live, (await neighbour.machine()).id, key="upgrade"),
    ]
    await ask(live, away, key="upgrade")
    await ask(live, away)
    for other in others:
        assert (await live.command(other.id)).status == "pending"


async def test_what_was_sent_is_not_superseded(live, agent, away):
    sent = await ask(live, away, key="upgrade")
    link = await agent.connect()
    await link.expect(Dispatch)
    newer = await ask(live, away, key="upgrade")
    assert (await link.expect(Dispatch)).id == newer.id
    assert (await live.command(sent.id)).status == "pending"


async def test_a_command_that_is_refused_supersedes_nothing(live, agent, away):
    old = await ask(live, away, key="upgrade")
    with pytest.raises(SessionNotActive):
        await ask(live, away, queue_ms=None, key="upgrade")
    assert (await live.command(old.id)).status == "pending"


async def test_who_waits_for_a_superseded_command_hears_of_it(live, agent, away, nursery):
    spec = Spec(argv=["true"], timeout_ms=30_000)
    answers = []

    async def wait() -> None:
        asked = Ask(queue_ms=HOUR_MS, supersede_key="k")
        answers.append(await live.hub.commands.run(CALLER, away, "true", spec, asked))

    async with trio.open_nursery() as waits:
        waits.start_soon(wait)
        await waiting(live)
        await ask(live, away, key="k")
    assert [each.error_code for each in answers] == ["superseded"]


async def test_removing_a_machine_cancels_what_was_not_sent_and_loses_what_was(live, agent, away):
    link = await agent.connect()
    sent = await ask(live, away)
    await link.expect(Dispatch)
    await link.cut()
    unsent = await ask(live, away)
    await live.hub.commands.remove_machine(CALLER, away)
    for command, status in ((sent, "lost"), (unsent, "cancelled")):
        record = await live.command(command.id)
        assert (record.status, record.error_code) == (status, "machine_removed")
        assert record.exit_code is None


async def test_a_machine_that_never_connected_is_waited_for_too(live):
    machine = await joined(live.hub.store)
    assert (await ask(live, machine.id)).session_id is None
    there, session_id, _ = await connected(live.hub.store)
    assert (await ask(live, there.id)).session_id == session_id
