import pytest

from tests.hub.fleet import Fleet
from tests.hub.outputs import command_in
from tests.hub.scripted_terminals import joined
from tests.support.live_hub import ScriptedAgent, live_hub


@pytest.fixture
async def live(tmp_path):
    async with live_hub(tmp_path) as live:
        yield live


@pytest.fixture
async def agent(live):
    """An agent whose machine has not joined."""
    return ScriptedAgent(live)


@pytest.fixture
async def link(agent):
    return await agent.join()


@pytest.fixture
async def machine_id(link, agent):
    return (await agent.machine()).id


@pytest.fixture
async def fleet(live):
    return await Fleet(live).grow(4)


@pytest.fixture
async def box(live):
    """A connected machine whose agent knows terminals."""
    return await joined(live)


@pytest.fixture
async def command(tmp_path):
    """A store with one command; its id, and its outputs."""
    async with command_in(tmp_path) as command:
        yield command
