"""An agent, and a hub that a test speaks for."""

import pytest

from tests.support.agents import clean_state_dir, running_agent
from tests.support.hub_peer import running_hub


@pytest.fixture
def state_dir(tmp_path):
    with clean_state_dir(tmp_path / "agent") as path:
        yield path


@pytest.fixture
async def hub():
    async with running_hub() as hub:
        yield hub


@pytest.fixture
async def peer(state_dir, hub):
    async with running_agent(state_dir, hub):
        yield await hub.accept()
