"""A hub with two machines for the tests that leave it as they found it."""

from dataclasses import dataclass

import pytest

from tests.support.appliance import Agent, Api, Hub, running_agent, running_hub


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
