"""A few hundred cases of the sweep, the proof that they repeat, and that the judge can say no."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from cmdop_appliance.agent.backlog import Backlog
from cmdop_appliance.agent.journal import Journal
from cmdop_appliance.agent.output import Outflow
from cmdop_appliance.hub.command_link import CommandLink
from cmdop_appliance.hub.live_stream import LiveStream
from cmdop_appliance.protocol.messages import Acknowledge
from cmdop_appliance.store import metrics
from tests.simulation.actors import Disks
from tests.simulation.cases import Block, Theatre, blocks, theatre
from tests.simulation.dice import Dice
from tests.simulation.judge import Kind
from tests.simulation.plans import Fault, Plan

CASES = 300
REPEATED = "few.3:hub@40+,agent@61-,link@75+,machine@90-"
# Plans that a broken product may survive before the test says that nobody noticed.
PATIENCE = 250


@pytest.fixture(scope="module")
def stage():
    with theatre() as made:
        yield made


@pytest.mark.parametrize("block", blocks(0, CASES), ids=str)
def test_whatever_dies_each_command_starts_at_most_once_and_has_its_true_end(
    stage: Theatre, block: Block, caplog
):
    # Errors in the log are findings, but for those that a restored backup makes right.
    steps = stage.play(Plan(block.shape, block.seed)).steps
    outcomes = map(stage.play, block.plans_of(steps))
    assert not {str(o.plan): o.found.findings for o in outcomes if o.found.findings}


def test_a_plan_gives_the_same_events_each_time_and_another_seed_other_ones(stage):
    plan = Plan.parse(REPEATED)
    first = stage.play(plan)
    assert stage.play(plan).trace == first.trace
    assert {str(fault) for fault in plan.faults} <= set(first.trace)
    assert stage.play(Plan.parse(REPEATED.replace("few.3", "few.4"))).trace != first.trace


@pytest.mark.slow
def test_a_plan_gives_the_same_events_in_another_process():
    def trace() -> str:
        arguments = [sys.executable, "-m", "tests.simulation", "--repeat", REPEATED]
        return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout

    assert len(trace().splitlines()) > 100
    assert trace() == trace()


def test_a_plan_reads_as_it_is_written():
    assert str(Plan.parse(REPEATED)) == REPEATED
    assert Plan.parse("one.7:") == Plan("one", 7)
    assert Plan.parse("wild.7:keeper1@9-").faults == (Fault("keeper", 9, after=False, machine=1),)
    for wrong in ("two.7:", "one.x:", "one.7:dog@3+", "one.7:hub@3", "one.7:hub@+"):
        with pytest.raises(ValueError):
            Plan.parse(wrong)


# ── the judge can say no ─────────────────────────────────────────────────────────────────────────


def notices(stage: Theatre, kind: Kind, plans: Iterator[Plan]) -> bool:
    """True: within some plans something of this kind is found."""
    return any(
        finding.kind == kind
        for _, plan in zip(range(PATIENCE), plans, strict=False)
        for finding in stage.play(plan).found.findings
    )


def each_step(*victims: str) -> Iterator[Plan]:
    """Each of these strikes after each step of a few cases, in any order."""
    plans = [
        Plan("few", seed, (Fault(victim, step, after=True),))
        for step in range(30, 90)
        for victim in victims
        for seed in (1, 2, 3)
    ]
    Dice("each step").shuffle(plans)
    yield from plans


def test_an_agent_that_does_not_write_down_a_start_is_found_out(stage, monkeypatch, caplog):
    monkeypatch.setattr(Journal, "starting", lambda self, entries: None)
    assert notices(stage, "double start", each_step("machine"))


def test_an_agent_that_does_not_wait_for_its_disk_is_found_out(stage, monkeypatch, caplog):
    monkeypatch.setattr(Journal, "sync", lambda self: None)
    assert notices(stage, "double start", each_step("machine"))


def test_a_hub_that_acknowledges_before_it_has_recorded_is_found_out(stage, monkeypatch, caplog):
    record = CommandLink.ended

    async def ended(self, message) -> None:
        await self._line.say(Acknowledge(id=message.id))
        await record(self, message)

    monkeypatch.setattr(CommandLink, "ended", ended)
    assert notices(stage, "no true end", each_step("hub"))


def test_a_hub_that_stores_overlapping_output_twice_is_found_out(stage, monkeypatch, caplog):
    append, resume = LiveStream.append, Outflow.resume
    # An agent may send all of it again.
    monkeypatch.setattr(Outflow, "resume", lambda self, stdout, stderr: resume(self, 0, 0))
    monkeypatch.setattr(
        LiveStream, "append", lambda self, offset, data: append(self, self.size, data)
    )
    assert notices(stage, "output", each_step("link", "hub"))


def test_a_disk_that_forgets_what_it_has_synced_is_found_out(stage, monkeypatch, caplog):
    monkeypatch.setattr(Disks, "synced", lambda self, fd: None)
    assert notices(stage, "output", each_step("hub"))


def test_an_agent_that_keeps_what_was_acknowledged_is_found_out(stage, monkeypatch, caplog):
    monkeypatch.setattr(Journal, "forget", lambda self, command_id: None)
    assert notices(stage, "left behind", iter([Plan("one", 1)]))


def test_a_hub_that_counts_a_sample_again_is_found_out(stage, monkeypatch, caplog):
    monkeypatch.setattr(metrics, "_new", lambda message, last: message.samples)
    assert notices(stage, "samples", each_step("link", "hub"))


def test_an_agent_that_forgets_samples_with_its_link_is_found_out(stage, monkeypatch, caplog):
    monkeypatch.setattr(Backlog, "break_off", lambda self: self.confirm(self._number))
    assert notices(stage, "samples", each_step("link", "hub"))
