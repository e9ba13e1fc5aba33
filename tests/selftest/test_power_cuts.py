"""Power cuts under the real store: nothing acknowledged is lost; and the cuts do cut."""

from random import Random

import pytest

from cmdop_appliance.selftest.ledger import BrokenPromiseError
from cmdop_appliance.selftest.power import power_disk
from cmdop_appliance.selftest.power_cuts import PowerCuts
from cmdop_appliance.store import engine

_CUTS = 100


@pytest.fixture
def cuts(tmp_path, caplog):
    caplog.set_level("CRITICAL", logger="cmdop")  # each cut is the store's own last word
    with power_disk() as disk:
        yield PowerCuts(disk, tmp_path / "store")


async def cut_all(cuts: PowerCuts) -> None:
    for number in range(_CUTS):
        await cuts.cut(Random(f"power/{number}"))


async def test_no_power_cut_takes_what_was_acknowledged(cuts):
    await cut_all(cuts)
    assert cuts.acknowledged > _CUTS


async def test_a_store_that_does_not_wait_for_the_disk_is_found_out(cuts, monkeypatch):
    connect = engine._connect

    def connect_carelessly(path):
        connection = connect(path)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    monkeypatch.setattr(engine, "_connect", connect_carelessly)
    with pytest.raises(BrokenPromiseError, match="acknowledged records are lost"):
        await cut_all(cuts)


async def test_a_disk_that_lies_about_its_syncs_is_found_out(cuts, monkeypatch):
    monkeypatch.setattr(cuts._disk, "sync", lambda _name, *, with_names: None)
    with pytest.raises(BrokenPromiseError):
        await cut_all(cuts)
