"""Schedules with a real hub and agent, and a clock that the test turns."""

from functools import partial

import pytest

from cmdop_appliance.clock import rfc3339
from tests.support.appliance import wait_for
from tests.support.quick_hub import FIRED, quick_hub, steps_of
from tests.support.stepped import Fault
from tests.support.webhook_receiver import ALLOWED, running_receiver


@pytest.fixture(scope="module")
def hub(place, clock):
    with quick_hub(place, clock, ALLOWED) as hub:
        yield hub


@pytest.fixture
def ledger(tmp_path):
    """Each command that starts leaves a line."""
    return tmp_path / "ledger"


@pytest.fixture
def each_minute(hub, agent, ledger):
    """Makes a schedule; it is gone with the test."""
    made = []

    def make(**fields):
        body = {"machine_id": agent.machine_id, "cron": "* * * * *", **fields}
        made.append(hub.api.post("/schedules", name="each minute", **body)["id"])
        return made[0]

    yield partial(make, command=f"echo $CMDOP_COMMAND_ID >>{ledger}")
    hub.api.delete(f"/schedules/{made[0]}")


def history(hub, schedule):
    """(instant, status, reason) of all runs, the first first."""
    rows = hub.api.get(f"/schedules/{schedule}/history")
    return [(row["scheduled_at"], row["status"], row["reason"]) for row in reversed(rows)]


def wait_history(hub, schedule, *expected):
    """Return when the history says this of minutes, and nothing more."""
    told = [(rfc3339(minute), status, reason) for minute, status, reason in expected]
    wait_for(lambda: history(hub, schedule) == told, f"{told}")


def next_minute(clock):
    """Let it come, and time stand still."""
    minute = clock.next_minute_ms()
    clock.set(minute, 0)
    return minute


def test_a_minute_fires_its_schedules_and_a_failure_is_told_to_who_wants_to_know(
    hub, agent, clock, each_minute
):
    with running_receiver(now_ms=clock.now_ms) as receiver:
        webhook = hub.api.post("/webhooks", url=f"{receiver.url}/x", events=["schedule.failed"])
        receiver.expect("/x", webhook["secret"])
        schedule = each_minute(
            command="echo out; echo err >&2; exit 3", notify={"on_failure": True}
        )
        minute = next_minute(clock)
        wait_history(hub, schedule, (minute, "failed", None))
        (row,) = hub.api.get(f"/schedules/{schedule}/history")
        assert (row["exit_code"], row["stdout"], row["stderr"]) == (3, "out\n", "err\n")
        (arrival,) = receiver.wait_for("/x", 1)
        told = arrival.event["data"]
        assert (arrival.event["type"], told["scheduled_at"]) == ("schedule.failed", rfc3339(minute))
        assert (told["schedule_id"], told["run_id"], told["exit_code"]) == (schedule, row["id"], 3)
        last = hub.api.get(f"/schedules/{schedule}")["last_run"]
        assert last["exit_code"] == 3
        hub.api.delete(f"/webhooks/{webhook['id']}")


def test_a_hub_that_is_killed_as_it_fires_goes_on_and_starts_nothing_twice(
    hub, agent, clock, ledger, each_minute
):
    schedule = each_minute()
    first = next_minute(clock)
    wait_history(hub, schedule, (first, "completed", None))
    steps_of(hub).plan(Fault("hub", 1, "before", of=FIRED))
    second = next_minute(clock)
    wait_for(lambda: not hub.is_running, "the hub has fallen")
    hub.start(config=ALLOWED)
    wait_history(hub, schedule, (first, "completed", None), (second, "completed", None))
    third = next_minute(clock)
    wait_history(hub, schedule, *((each, "completed", None) for each in (first, second, third)))
    rows = hub.api.get(f"/schedules/{schedule}/history")
    assert ledger.read_text().split() == [row["command_id"] for row in reversed(rows)]


def test_a_machine_that_slept_through_some_minutes_runs_the_newest_when_it_is_back(
    hub, agent, clock, ledger, each_minute
):
    schedule = each_minute()
    agent.stop()
    first = next_minute(clock)
    wait_history(hub, schedule, (first, "pending", None))
    second = next_minute(clock)
    superseded = (first, "cancelled", "superseded")
    wait_history(hub, schedule, superseded, (second, "pending", None))
    agent.rejoin(hub)
    wait_history(hub, schedule, superseded, (second, "completed", None))
    assert len(ledger.read_text().split()) == 1
