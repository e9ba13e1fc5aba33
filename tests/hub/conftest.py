import pytest

from tests.support.live_hub import ScriptedAgent, live_hub


@pytest.fixture
async def live(tmp_path):
    async with live_hub(tmp_path) as live:
        yield live


@pytest.fixture
async def agent(live):
    """An agent whose machine has not joined."""
    return ScriptedAgent(live)
