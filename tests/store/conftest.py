import pytest

from cmdop_appliance.store.engine import open_store
from tests.support.faulty_disk import faulty_disk


@pytest.fixture
async def store(tmp_path):
    async with open_store(tmp_path) as store:
        yield store


@pytest.fixture
def disk():
    with faulty_disk() as disk:
        yield disk
        disk.fails.clear()
