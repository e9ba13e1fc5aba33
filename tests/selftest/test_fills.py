"""A disk that fills up under the real store, again and again."""

from random import Random

import pytest

from cmdop_appliance.errors import StorageFull
from cmdop_appliance.selftest.fills import Fills, full_disk
from cmdop_appliance.selftest.ledger import BrokenPromiseError
from cmdop_appliance.store.engine import Store


@pytest.fixture
def fills(tmp_path):
    with full_disk() as disk:
        yield Fills(disk, tmp_path / "store")


async def fill_all(fills: Fills, times: int) -> None:
    for number in range(times):
        await fills.fill(Random(f"full/{number}"))


async def test_what_was_acknowledged_is_there_and_what_was_refused_is_not(fills):
    await fill_all(fills, 20)
    assert fills.acknowledged > 20


async def test_a_store_that_acknowledges_what_does_not_fit_is_found_out(fills, monkeypatch):
    await fill_all(fills, 1)  # a store is opened while it fits
    commit = Store._commit

    def commit_carelessly(self, units):
        outcome = commit(self, units)
        for unit in units:
            if isinstance(unit.error, StorageFull):
                unit.error = None
                raised.append(unit)
                if len(raised) > 3:
                    unit.error = StorageFull("full")
        return outcome

    raised: list[object] = []
    monkeypatch.setattr(Store, "_commit", commit_carelessly)
    with pytest.raises(BrokenPromiseError, match="acknowledged records are lost"):
        await fill_all(fills, 5)
