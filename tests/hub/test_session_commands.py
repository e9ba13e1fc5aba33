"""Commands over an agent's connection: sent, resumed, ended, and those that only it knows."""

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.errors import StorageFull
from cmdop_appliance.hub import lifecycle
from cmdop_appliance.hub.commands import Ask
from cmdop_appliance.hub.lifecycle import StaleConnection
from cmdop_appliance.hub.live_stream import HEAD_BYTES, UNSAFE_BYTES
from cmdop_appliance.hub.sweep import sweep_forever
from cmdop_appliance.hub.wakes import Dispatched, machine_subject
from cmdop_appliance.ids import made_ms, new_id
from cmdop_appliance.protocol.frames import Output
from cmdop_appliance.protocol.messages import (
    Accepted,
    Acknowledge,
    Cancel,
    Dispatch,
    Known,
    Rejected,
    Resume,
    Spec,
    Started,
    Stored,
)
from cmdop_appliance.protocol.terminals import Size
from cmdop_appliance.store import commands, restored, sessions
from tests.support.clocks import StepClock
from tests.support.live_hub import (
    CALLER,
    LiveHub,
    ScriptedAgent,
    finished,
    live_hub,
    start,
)
from tests.support.records import NOW, REACH, recorded

SPEC = Spec(argv=["true"])

# ── commands over the link ───────────────────────────────────────────────────────────────────────


async def test_a_new_command_is_dispatched_once(live, agent):
    link = await agent.join()
    command_id = await start(live, agent, cwd="/", env={"A": "b"})
    dispatch = await link.expect(Dispatch)
    assert dispatch.id == command_id
    assert dispatch.spec == Spec(argv=["true"], cwd="/", env={"A": "b"})
    assert dispatch.ttl_ms is None
    machine = await agent.machine()
    live.hub.bus.publish(machine_subject(machine.id), Dispatched(await live.command(command_id)))
    await link.heartbeat()  # nothing more was said


@pytest.fixture
async def swept(live):
    """The hub sweeps as `cmdop serve` has it sweep."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep_forever, live.hub)
        yield
        nursery.cancel_scope.cancel()


async def test_a_command_whose_wake_up_was_lost_is_found(
    live, agent, swept, autojump_clock: MockClock
):
    link = await agent.join()
    machine = await agent.machine()
    command = await recorded(live.hub.store, machine.id, link.session_id)
    before = trio.current_time()
    assert (await link.expect(Dispatch)).id == command.id
    assert trio.current_time() - before <= 5
    await live.hub.store.run(commands.request_cancel, REACH, command.id, NOW)
    assert (await link.expect(Cancel)).id == command.id


async def test_a_lost_wake_up_is_found_though_little_can_be_recorded_and_much_is_forgotten(
    live, agent, swept, monkeypatch, autojump_clock: MockClock
):
    def fail(*_args) -> None:
        raise StorageFull("the hub's disk is full")

    monkeypatch.setattr(lifecycle, "sweep", fail)
    monkeypatch.setattr(live.hub.quotas, "sweep", trio.sleep_forever)
    link = await agent.join()
    command = await recorded(live.hub.store, (await agent.machine()).id, link.session_id)
    assert (await link.expect(Dispatch)).id == command.id


async def test_output_is_stored_and_acknowledged_in_pieces(live, agent):
    link = await agent.join()
    command_id = await start(live, agent)
    await link.expect(Dispatch)
    data = bytes(range(256)) * 256  # 64 KiB, a quarter of the window
    for piece in range(4):
        await link.say(Output(command_id, "stdout", piece * len(data), data))
    await link.say(Output(command_id, "stderr", 0, b"oops"))
    assert await link.expect(Stored) == Stored(id=command_id, stdout=2 * len(data), stderr=0)
    assert await link.expect(Stored) == Stored(id=command_id, stdout=4 * len(data), stderr=0)
    await link.say(finished(command_id, data * 4, b"oops"))
    await link.expect(Acknowledge)
    command = await live.command(command_id)
    assert (command.status, command.stdout_bytes, command.stderr_bytes) == (
        "completed",
        4 * len(data),
        4,
    )
    assert await live.hub.outputs.read(command_id, "stdout", len(data), 10) == data[:10]
    assert await live.hub.outputs.read(command_id, "stderr", 0, 10) == b"oops"


async def test_output_beyond_its_cap_is_taken_only_as_fast_as_it_is_made_safe(tmp_path):
    async with live_hub(tmp_path, max_bytes=2 * HEAD_BYTES) as live:
        agent = ScriptedAgent(live)
        link = await agent.join()
        command_id = await start(live, agent)
        await link.expect(Dispatch)
        data = bytes(range(256)) * 256
        for piece in range(80):
            await link.say(Output(command_id, "stdout", piece * len(data), data))
            if piece % 2:
                await link.expect(Stored)
        stream = live.hub.outputs.live(command_id)["stdout"]
        assert stream.size == 80 * len(data)
        assert stream.size - stream.safe <= UNSAFE_BYTES


async def test_a_gap_in_the_output_asks_for_what_is_missing(live, agent):
    link = await agent.join()
    command_id = await start(live, agent)
    await link.expect(Dispatch)
    await link.say(Output(command_id, "stdout", 0, b"one"))
    await link.say(Output(command_id, "stdout", 5, b"three"))
    assert await link.expect(Resume) == Resume(id=command_id, stdout=3, stderr=0)
    await link.say(Output(command_id, "stdout", 1, b"ne--"))
    await link.say(Output(command_id, "stdout", 5, b"three"))
    await link.heartbeat()
    assert await live.hub.outputs.read(command_id, "stdout", 0, 99) == b"one--three"


async def test_an_end_whose_output_is_missing_is_not_recorded_until_it_came(live, agent):
    link = await agent.join()
    command_id = await start(live, agent)
    await link.expect(Dispatch)
    await link.say(Output(command_id, "stdout", 0, b"on"))
    await link.say(finished(command_id, b"one", b"err"))
    assert await link.expect(Resume) == Resume(id=command_id, stdout=2, stderr=0)
    assert (await live.command(command_id)).finished_ms is None
    await link.say(Output(command_id, "stdout", 2, b"e"))
    await link.say(Output(command_id, "stderr", 0, b"err"))
    await link.say(finished(command_id, b"one", b"err"))
    assert (await link.expect(Acknowledge)).id == command_id
    assert (await live.command(command_id)).status == "completed"


async def test_output_that_a_machine_lost_in_a_power_cut_stays_and_its_hash_is_unknown(live, agent):
    link = await agent.join()
    command_id = await start(live, agent)
    await link.expect(Dispatch)
    await link.say(Output(command_id, "stdout", 0, b"four"))
    await link.say(Output(command_id, "stderr", 0, b"err"))
    end = finished(command_id, b"", b"err", end="lost", exit_code=None, reason="rebooted")
    await link.say(end)
    await link.expect(Acknowledge)
    command = await live.command(command_id)
    assert (command.stdout_bytes, command.stdout_sha256) == (4, None)
    assert (command.stderr_bytes, command.stderr_sha256) == (3, end.stderr.sha256)
    assert await live.hub.outputs.read(command_id, "stdout", 0, 9) == b"four"


async def test_an_end_that_is_told_again_is_acknowledged_again_and_changes_nothing(live, agent):
    link = await agent.join()
    command_id = await start(live, agent)
    await link.expect(Dispatch)
    await link.say(finished(command_id))
    await link.expect(Acknowledge)
    before = await live.command(command_id)
    await link.say(finished(command_id, exit_code=9))
    await link.expect(Acknowledge)
    await link.say(Started(id=command_id, started_ms=NOW))
    await link.say(Output(command_id, "stdout", 0, b"late"))
    await link.expect(Acknowledge)
    await link.say(Rejected(id=command_id, reason="late"))
    await link.say(Output(command_id, "stdout", 0, b"late"))
    await link.expect(Acknowledge)
    await live.hub.outputs.flush()
    assert await live.command(command_id) == before
    assert await live.hub.outputs.read(command_id, "stdout", 0, 9) == b""


async def test_a_rejected_command_has_failed_and_takes_no_output_any_more(live, agent):
    link = await agent.join()
    command_id = await start(live, agent)
    await link.expect(Dispatch)
    await link.say(Rejected(id=command_id, reason="queue_full"))
    await link.say(Output(command_id, "stdout", 0, b"late"))
    await link.expect(Acknowledge)
    command = await live.command(command_id)
    assert (command.status, command.error_code, command.exit_code) == ("failed", "queue_full", None)
    assert live.hub.outputs.live(command_id) is None


async def test_a_command_that_needs_a_terminal_is_sent_to_an_agent_that_has_some(live, agent):
    agent.features = ["files", "terminals"]
    link = await agent.join()
    command_id = await start(live, agent, pty=Size())
    dispatch = await link.expect(Dispatch)
    assert (dispatch.id, dispatch.spec.pty) == (command_id, Size(cols=80, rows=24))


async def test_a_command_that_needs_a_terminal_has_failed_where_there_is_none(live, agent):
    link = await agent.join()
    machine = await agent.machine()
    await link.cut()
    waits = await recorded(
        live.hub.store, machine.id, link.session_id, spec=Spec(argv=["top"], pty=Size())
    )
    link = await agent.connect()
    asked = await start(live, agent, pty=Size())
    await start(live, agent, cwd="/")
    assert (await link.expect(Dispatch)).spec.cwd == "/"  # it alone was sent
    for command_id in (waits.id, asked):
        command = await live.command(command_id)
        assert (command.status, command.error_code) == ("failed", "terminals_not_supported")
        assert command.error_message.endswith("of a release that carries no terminals")


@pytest.mark.parametrize("error", [StorageFull("the hub's disk is full"), StaleConnection()])
async def test_a_command_whose_refusal_could_not_be_recorded_is_refused_later(
    live, agent, swept, monkeypatch, autojump_clock: MockClock, error
):
    unfit = lifecycle.unfit

    def fail_once(*_args) -> None:
        monkeypatch.setattr(lifecycle, "unfit", unfit)
        raise error

    monkeypatch.setattr(lifecycle, "unfit", fail_once)
    link = await agent.join()
    command_id = await start(live, agent, pty=Size())
    while (await live.command(command_id)).status == "pending":
        await link.heartbeat()
        await trio.sleep(1)
    assert (await live.command(command_id)).status == "failed"


# ── what was open before ─────────────────────────────────────────────────────────────────────────


class Before:
    """A machine that was connected, with a command, and lost its link."""

    def __init__(self, live: LiveHub, agent: ScriptedAgent) -> None:
        self.live = live
        self.agent = agent
        self.command_id = ""

    async def lost(self, *, started: bool = False, output: bytes = b"", ended: bool = False) -> str:
        link = await self.agent.join()
        self.command_id = await start(self.live, self.agent)
        await link.expect(Dispatch)
        if started:
            await link.say(Started(id=self.command_id, started_ms=NOW))
        if output:
            await link.say(Output(self.command_id, "stdout", 0, output))
        if ended:
            await link.say(finished(self.command_id, output))
            await link.expect(Acknowledge)
        await link.heartbeat()
        await link.cut()
        return self.command_id

    def known(self, phase: str) -> list[Known]:
        return [Known(id=self.command_id, phase=phase)]


@pytest.fixture
async def before(live, agent):
    return Before(live, agent)


@pytest.mark.parametrize("phase", ["queued", "running", "ended"])
@pytest.mark.parametrize("started", [True, False])
async def test_an_open_command_that_the_agent_knows_is_resumed(live, agent, before, phase, started):
    command_id = await before.lost(started=started, output=b"one")
    link = await agent.connect(inventory=before.known(phase))
    assert await link.expect(Resume) == Resume(id=command_id, stdout=3, stderr=0)
    await link.say(Output(command_id, "stdout", 3, b"two"))
    await link.say(finished(command_id, b"onetwo"))
    await link.expect(Acknowledge)
    assert await live.hub.outputs.read(command_id, "stdout", 0, 9) == b"onetwo"


async def test_an_ended_command_that_the_agent_still_knows_is_acknowledged(live, agent, before):
    command_id = await before.lost(started=True, ended=True)
    link = await agent.connect(inventory=before.known("ended"))
    assert (await link.expect(Acknowledge)).id == command_id


async def test_a_pending_command_that_the_agent_does_not_know_is_dispatched(live, agent, before):
    command_id = await before.lost()
    link = await agent.connect()
    dispatch = await link.expect(Dispatch)
    assert (dispatch.id, dispatch.ttl_ms) == (command_id, None)
    await link.heartbeat()


async def test_what_a_hub_has_from_a_backup_it_sends_as_that_and_what_is_new_as_new(tmp_path):
    clock = StepClock()
    async with live_hub(tmp_path, clock=clock) as first:
        before = Before(first, ScriptedAgent(first))
        old_id = await before.lost()
        await first.hub.store.run(restored.mark, clock.ms, clock.ms, "0.1.0")
    clock.ms += 1
    async with live_hub(tmp_path, clock=clock) as again:
        agent = ScriptedAgent(again, before.agent.identity)
        link = await agent.connect()
        assert (await link.expect(Dispatch)).is_restored
        fresh = await start(again, agent)
        dispatch = await link.expect(Dispatch)
        assert (dispatch.id, dispatch.is_restored) == (fresh, False)
        assert fresh != old_id


async def test_a_running_command_that_the_agent_does_not_know_is_lost(live, agent, before):
    command_id = await before.lost(started=True, output=b"half")
    link = await agent.connect()
    await link.heartbeat()
    command = await live.command(command_id)
    assert (command.status, command.error_code) == ("lost", "start_unknown")
    assert command.exit_code is None
    assert await live.hub.outputs.read(command_id, "stdout", 0, 9) == b"half"


async def test_a_command_that_reaches_its_machine_late_is_not_started(
    tmp_path, autojump_clock: MockClock
):
    async with live_hub(tmp_path, grace_ms=600_000) as live:
        agent = ScriptedAgent(live)
        command_id = await Before(live, agent).lost()
        await trio.sleep(31)
        link = await agent.connect()
        dispatch = await link.expect(Dispatch)
        assert (dispatch.id, dispatch.ttl_ms) == (command_id, 0)
        await link.say(finished(command_id, end="expired", exit_code=None))
        await link.expect(Acknowledge)
        assert (await live.command(command_id)).status == "expired"


@pytest.mark.parametrize("told", ["accepted", "queued"])
async def test_what_waits_on_its_machine_may_start_there_however_late_unless_it_is_bounded(
    tmp_path, autojump_clock: MockClock, told
):
    async with live_hub(tmp_path, grace_ms=600_000) as live:
        agent = ScriptedAgent(live)
        link = await agent.join()
        machine_id, bounded = (await agent.machine()).id, Ask(queue_ms=30_000)
        ids = [
            (await live.hub.commands.start(CALLER, machine_id, "true", SPEC, ask)).id
            for ask in (Ask(), bounded)
        ]
        for _ in ids:
            await link.expect(Dispatch)
        if told == "queued":
            await link.cut()
            link = await agent.connect(inventory=[Known(id=each, phase="queued") for each in ids])
            for _ in ids:
                await link.expect(Resume)
        else:
            for command_id in ids:
                await link.say(Accepted(id=command_id))
        await link.heartbeat()
        await link.cut()
        await trio.sleep(40)
        link = await agent.connect()  # it was killed, and nothing of them was on its disk
        again = [await link.expect(Dispatch) for _ in ids]
        assert {each.id: each.ttl_ms for each in again} == {ids[0]: None, ids[1]: 0}


async def test_a_pending_command_that_was_cancelled_meanwhile_is_only_cancelled(
    live, agent, before
):
    command_id = await before.lost()
    await live.hub.commands.cancel(CALLER, command_id)
    link = await agent.connect()
    assert (await link.expect(Cancel)).id == command_id
    await link.say(finished(command_id, end="cancelled", exit_code=None))
    await link.expect(Acknowledge)
    assert (await live.command(command_id)).status == "cancelled"


async def test_a_running_command_that_was_cancelled_meanwhile_is_resumed_and_cancelled(
    live, agent, before
):
    command_id = await before.lost(started=True)
    await live.hub.commands.cancel(CALLER, command_id)
    link = await agent.connect(inventory=before.known("running"))
    assert (await link.expect(Resume)).id == command_id
    assert (await link.expect(Cancel)).id == command_id


async def test_output_goes_on_at_the_same_byte_after_a_restart_of_the_hub(tmp_path):
    async with live_hub(tmp_path) as live:
        agent = ScriptedAgent(live)
        before = Before(live, agent)
        command_id = await before.lost(started=True, output=b"safe")
        await live.hub.outputs.flush()
        identity = agent.identity
    async with live_hub(tmp_path) as live:
        await live.hub.store.run(sessions.recover, now_ms=NOW, grace_until_ms=2**50)
        agent = ScriptedAgent(live, identity)
        link = await agent.connect(inventory=before.known("running"))
        assert await link.expect(Resume) == Resume(id=command_id, stdout=4, stderr=0)
        await link.say(Output(command_id, "stdout", 0, b"safe and sound"))
        await link.say(finished(command_id, b"safe and sound"))
        await link.expect(Acknowledge)
        assert await live.hub.outputs.read(command_id, "stdout", 0, 99) == b"safe and sound"


# ── what this hub does not know ──────────────────────────────────────────────────────────────────


async def test_what_only_its_machine_knows_is_kept_and_followed_and_never_run_again(live, agent):
    await (await agent.join()).cut()
    known = Known(id=new_id("cmd"), phase="running")
    link = await agent.connect(inventory=[known])  # to a hub that was restored from a backup
    assert await link.expect(Resume) == Resume(id=known.id, stdout=0, stderr=0)
    await link.heartbeat()
    kept = await live.command(known.id)
    assert (kept.status, kept.is_unknown_to_hub) == ("running", True)
    assert kept.machine_id == (await agent.machine()).id
    assert kept.created_ms <= min(made_ms(known.id), live.hub.clock.now_ms())
    await link.say(Output(known.id, "stdout", 0, b"it ran on"))
    await link.say(finished(known.id, b"it ran on", exit_code=3))
    await link.expect(Acknowledge)
    ended = await live.command(known.id)
    assert (ended.status, ended.exit_code) == ("failed", 3)


async def test_what_was_unknown_and_is_not_there_any_more_is_lost(live, agent):
    await (await agent.join()).cut()
    known = Known(id=new_id("cmd"), phase="queued")
    link = await agent.connect(inventory=[known])
    await link.expect(Resume)
    await link.cut()
    again = await agent.connect()
    await again.heartbeat()  # without a dispatch
    lost = await live.command(known.id)
    assert (lost.status, lost.error_code) == ("lost", "start_unknown")


async def test_what_we_never_sent_and_its_machine_knows_has_the_end_that_it_tells(live, agent):
    await (await agent.join()).cut()
    machine = await agent.machine()
    waits = Ask(queue_ms=60_000)  # in a backup; what was sent later, the backup does not tell
    command = await live.hub.commands.start(CALLER, machine.id, "true", Spec(argv=["true"]), waits)
    await live.hub.commands.cancel(CALLER, command.id)
    assert (await live.command(command.id)).status == "cancelled"
    link = await agent.connect(inventory=[Known(id=command.id, phase="ended")])
    assert await link.expect(Resume) == Resume(id=command.id, stdout=0, stderr=0)
    await link.say(finished(command.id, exit_code=3))
    await link.expect(Acknowledge)
    ended = await live.command(command.id)
    assert (ended.status, ended.exit_code, ended.is_late) == ("failed", 3, True)


async def test_a_machine_cannot_have_the_command_of_another_by_naming_it(live, agent):
    first = await agent.join()
    command_id = await start(live, agent)
    await first.expect(Dispatch)
    thief = ScriptedAgent(live)
    await (await thief.join()).cut()
    link = await thief.connect(inventory=[Known(id=command_id, phase="running")])
    await link.heartbeat()  # nothing was said about it
    assert (await live.command(command_id)).machine_id == (await agent.machine()).id


async def test_a_machine_that_invents_commands_has_a_few_of_them_kept(live, agent, monkeypatch):
    monkeypatch.setattr(lifecycle, "UNKNOWN_MOST", 2)
    await (await agent.join()).cut()
    invented = [Known(id=new_id("cmd"), phase="ended") for _ in range(5)]
    link = await agent.connect(inventory=invented[:4])
    for _ in range(2):
        await link.expect(Resume)
    await link.heartbeat()
    await link.cut()
    again = await agent.connect(inventory=invented)  # and tries once more
    for _ in range(2):
        kept = await again.expect(Resume)
        await again.say(finished(kept.id))
    for _ in range(2):
        await again.expect(Acknowledge)
    await again.cut()
    ended = await agent.connect(inventory=[Known(id=new_id("cmd"), phase="ended")])
    await ended.heartbeat()  # what has ended counts, too
    machine = await agent.machine()
    assert await live.hub.store.run(commands.count_unknown, machine.id) == 2
