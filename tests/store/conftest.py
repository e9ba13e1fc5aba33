import pytest

from cmdop_appliance.store.engine import open_store


@pytest.fixture
async def store(tmp_path):
    async with open_store(tmp_path) as store:
        yield store
