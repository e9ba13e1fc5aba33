from itertools import count

import pytest

from tests.api.onlookers import new_onlooker, new_reader
from tests.support.appliance import Agent, Api, Hub, running_hub
from tests.support.machine_files import MachineFiles

_numbers = count()


@pytest.fixture(scope="module")
def strict_hub(tmp_path_factory):
    """A hub that whoever guesses keys may ask on.

    At its end, nothing that was asked of it may have surprised it.
    """
    config = '[log]\nlevel = "debug"\n[auth]\nattempts = 0\n'
    with running_hub(tmp_path_factory.mktemp("strict"), config=config) as hub:
        yield hub
    log = hub.log.read_text()
    assert '"level": "error"' not in log
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def files(hub, agent):
    return MachineFiles(hub.api, agent.machine_id)


@pytest.fixture
def folder(place):
    """A new directory on the machine."""
    path = place / f"folder-{next(_numbers)}"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def session_id(hub: Hub, agent: Agent) -> str:
    return agent.wait_connected(hub)


@pytest.fixture
def reader(hub: Hub, session_id: str) -> Api:
    return new_reader(hub, session_id)


@pytest.fixture
def onlooker(hub: Hub, session_id: str) -> Api:
    return new_onlooker(hub, session_id)
