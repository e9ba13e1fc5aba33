"""The sampler: its pace, in the background too, and what it does when a disk hangs."""

import threading
from dataclasses import replace

import pytest
import trio

from cmdop_appliance.agent.outbox import SAMPLES_WAIT_S, Outbox
from cmdop_appliance.agent.pace import Pace
from cmdop_appliance.agent.telemetry import Processor, Sampler, sample
from cmdop_appliance.protocol.messages import (
    FEATURES,
    Background,
    Bye,
    Heartbeat,
    Samples,
    Telemetry,
)
from tests.support.agents import QUICK, running_agent
from tests.support.hub_peer import running_hub
from tests.support.records import TELEMETRY

FAST = replace(QUICK, first_sample_s=0.01, sample_s=0.02, background_s=3600)


# ── measuring ────────────────────────────────────────────────────────────────────────────────


def test_the_load_of_the_processor_is_that_of_the_time_since():
    begun, nothing = sample(None)
    assert nothing is None
    idle = Processor(begun.busy_s, begun.total_s - 100)
    now, telemetry = sample(idle)
    assert now.total_s >= begun.total_s
    assert telemetry.cpu_percent < 50
    _, telemetry = sample(Processor(begun.busy_s - 100, begun.total_s - 100))
    assert telemetry.cpu_percent > 50


def test_what_cannot_be_measured_is_no_sample_and_no_error(monkeypatch):
    def hidden(_path):
        raise ValueError("a container may hide anything")

    before, _ = sample(None)
    monkeypatch.setattr("psutil.disk_usage", hidden)
    assert sample(before) == (before, None)


# ── the pace ─────────────────────────────────────────────────────────────────────────────────


class Machine:
    """Measures in `takes_s`, of virtual time, and notes when."""

    def __init__(self, outbox: Outbox, pace: Pace) -> None:
        self.at: list[float] = []
        self.takes_s = 0.0
        self.sampler = Sampler(outbox, pace, self._measure)

    def _measure(self, before: Processor | None) -> tuple[Processor | None, Telemetry | None]:
        if before is None:
            return Processor(0, 0), None
        self.at.append(trio.current_time())
        return before, TELEMETRY

    async def run_sync(self, fn, *args, **_):
        """As a thread would."""
        await trio.sleep(self.takes_s)
        return fn(*args)


@pytest.fixture
async def machine(monkeypatch, nursery):
    outbox = Outbox()
    outbox.open(FEATURES)
    machine = Machine(outbox, Pace())
    monkeypatch.setattr(trio.to_thread, "run_sync", machine.run_sync)
    nursery.start_soon(machine.sampler.run)
    return machine


async def test_samples_come_at_one_moment_of_each_interval_whatever_one_takes(
    autojump_clock, machine
):
    await trio.sleep(61)
    assert machine.at[0] == pytest.approx(1)
    first = machine.at[1]
    assert 1 <= first <= 16
    assert machine.at[2:] == pytest.approx(
        [first + 15, first + 30, first + 45][: len(machine.at) - 2]
    )
    machine.takes_s = 40
    await trio.sleep(100)
    machine.takes_s = 0
    await trio.sleep(100)
    assert (machine.at[-1] - first) % 15 == pytest.approx(0) or (
        machine.at[-1] - first
    ) % 15 == pytest.approx(15)


async def test_in_the_background_samples_come_once_a_minute(autojump_clock, machine):
    await trio.sleep(60)
    await machine.sampler.set_background(on=True)
    await trio.sleep(60)
    count = len(machine.at)
    await trio.sleep(600)
    assert len(machine.at) == count + 10
    await trio.sleep(machine.at[-1] + 60.1 - trio.current_time())  # one was just taken
    count = len(machine.at)
    await machine.sampler.set_background(on=False)
    await trio.sleep(15)
    assert len(machine.at) == count + 1
    await trio.sleep(150)
    assert len(machine.at) == count + 11


async def test_a_disk_that_hangs_holds_one_thread_and_no_heartbeat(state_dir, monkeypatch):
    let_go, inside = threading.Event(), []

    def hang(_path):
        inside.append(threading.current_thread())
        let_go.wait()
        raise OSError

    monkeypatch.setattr("psutil.disk_usage", hang)
    pace = replace(FAST, heartbeat_s=0.05)
    try:
        async with running_hub() as hub, running_agent(state_dir, hub, pace=pace):
            for _ in range(3):  # connections
                peer = await hub.accept()
                for _ in range(5):
                    await peer.expect(Heartbeat)
                await peer.cut()
            assert len(inside) == 1
    finally:
        let_go.set()


# ── the way out ──────────────────────────────────────────────────────────────────────────────


async def test_samples_wait_behind_everything_else():
    outbox = Outbox()
    outbox.open(FEATURES)
    outbox.keep(TELEMETRY)
    await outbox.say(Bye())
    assert isinstance(await outbox.next(), Bye)
    assert isinstance(await outbox.next(), Samples)
    assert outbox.next_nowait() is None


async def test_samples_outlive_a_connection_that_nothing_else_outlives():
    outbox = Outbox()
    outbox.keep(TELEMETRY)  # before there is one
    outbox.open(FEATURES)
    await outbox.say(Bye())
    first = [await outbox.next(), await outbox.next()]
    outbox.shut()
    outbox.open(FEATURES)
    again = await outbox.next()
    assert isinstance(again, Samples)
    assert (again.series, again.samples[0].number) == (first[1].series, 1)
    outbox.sampled(1)
    assert outbox.next_nowait() is None


async def test_more_samples_follow_once_those_before_are_confirmed():
    outbox = Outbox()
    outbox.open(FEATURES)
    outbox.keep(TELEMETRY)
    assert isinstance(await outbox.next(), Samples)
    outbox.keep(TELEMETRY)
    assert outbox.next_nowait() is None
    async with trio.open_nursery() as nursery:
        said = []

        async def listen() -> None:
            said.append(await outbox.next())

        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        outbox.sampled(1)
    assert said[0].samples[0].number == 2


async def test_an_agent_in_the_background_says_so_on_each_connection():
    outbox = Outbox()
    await outbox.set_background(on=True)
    for _ in range(2):
        outbox.open(FEATURES)
        assert await outbox.next() == Background(on=True)
        outbox.shut()
    outbox.open(FEATURES)
    assert isinstance(await outbox.next(), Background)
    await outbox.set_background(on=False)
    assert await outbox.next() == Background(on=False)
    outbox.shut()
    outbox.open(FEATURES)
    assert outbox.next_nowait() is None


async def test_a_hub_of_the_first_release_hears_only_what_it_knows():
    outbox = Outbox()
    await outbox.set_background(on=True)
    outbox.keep(TELEMETRY)
    outbox.open([])
    await outbox.set_background(on=False)
    await outbox.set_background(on=True)
    outbox.keep(TELEMETRY)
    assert outbox.next_nowait() is None
    await outbox.say(Heartbeat())
    assert await outbox.next() == Heartbeat()
    outbox.shut()
    outbox.open(["background", "of a later release"])
    assert await outbox.next() == Background(on=True)
    assert outbox.next_nowait() is None
    outbox.shut()
    outbox.open(FEATURES)
    assert await outbox.next() == Background(on=True)
    filled_in = await outbox.next()
    assert isinstance(filled_in, Samples)
    assert [sample.number for sample in filled_in.samples] == [1, 2]


async def test_samples_pass_output_that_never_ends_once_in_a_while(autojump_clock):
    class Endless:
        """A command that always has something to say."""

        is_untold = False

        class outflow:  # noqa: N801
            active = True

            @staticmethod
            def catch_up() -> bool:
                return False

        @staticmethod
        def next() -> Bye:
            return Bye()

    outbox = Outbox()
    outbox.open(FEATURES)
    outbox.look_at(Endless())
    outbox.keep(TELEMETRY)
    assert isinstance(await outbox.next(), Bye)
    await trio.sleep(SAMPLES_WAIT_S)
    assert isinstance(await outbox.next(), Samples)
    outbox.sampled(1)
    outbox.keep(TELEMETRY)
    assert [type(await outbox.next()) for _ in range(3)] == [Bye] * 3
