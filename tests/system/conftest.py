"""A hub with two machines for the tests that leave it as they found it."""

from dataclasses import dataclass

import pytest

from tests.support.appliance import Agent, Api, Hub, running_agent, running_hub
from tests.support.quick_hub import FileClock, ms_of


@dataclass(frozen=True)
class Fleet:
    """A hub, and two agents on one host."""

    hub: Hub
    api: Api
    agents: tuple[Agent, Agent]
    machine: str  # id of the first
    other: str  # id of the second


@pytest.fixture(scope="session")
def fleet(tmp_path_factory):
    place = tmp_path_factory.mktemp("fleet")
    with (
        running_hub(place) as hub,
        running_agent(hub, place, "one") as one,
        running_agent(hub, place, "two") as two,
    ):
        yield Fleet(hub, hub.api, (one, two), one.machine_id, two.machine_id)


@pytest.fixture
def api(fleet):
    return fleet.api


@pytest.fixture
def machine(fleet):
    return fleet.machine


@pytest.fixture(scope="module")
def clock(place):
    """A clock for the module's hub: it stands until a test turns it."""
    clock = FileClock(place / "clock")
    clock.set(ms_of("2030-01-02T10:00:30Z"), 0)
    return clock
