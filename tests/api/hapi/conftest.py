import pytest

from tests.api.local_api import LocalApi
from tests.support.live_hub import ScriptedAgent, live_hub


@pytest.fixture
async def live(tmp_path):
    async with live_hub(tmp_path) as live:
        yield live


@pytest.fixture
async def api(live):
    """An admin of the machines' workspace."""
    return await LocalApi.of(live.hub)


@pytest.fixture
async def scripted(live):
    """An agent that carries terminals, and whose machine has not joined."""
    agent = ScriptedAgent(live)
    agent.features.append("terminals")
    return agent


@pytest.fixture
async def link(scripted):
    return await scripted.join()


@pytest.fixture
async def machine_id(link, scripted):
    return (await scripted.machine()).id
