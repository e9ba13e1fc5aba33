"""A disk that is full refuses and goes on later; one that fails ends the store."""

from functools import partial

import apsw
import pytest
import trio

from cmdop_appliance.errors import StorageFull, Unavailable
from cmdop_appliance.store.engine import open_store
from cmdop_appliance.store.transaction import Tx, reads
from tests.store.units import BOUND, Batch, names, put
from tests.support.faulty_disk import FaultyDisk

# ── a disk that is full ──────────────────────────────────────────────────────────────────────────


def limit_pages(tx: Tx, more: int) -> None:
    pages = tx.value("PRAGMA page_count")
    tx.execute(f"PRAGMA max_page_count = {pages + more}")


@pytest.mark.parametrize("inline", [False, True])
async def test_on_a_full_disk_nothing_is_recorded_and_later_it_works_again(tmp_path, inline):
    async with open_store(tmp_path, inline=inline) as store:
        await store.run(limit_pages, 2)
        with pytest.raises(StorageFull, match="the hub's disk is full"):
            await store.run(put, "big", "x" * 100_000)
        assert await store.run(names) == set()
        await store.run(limit_pages, 1_000_000)
        await store.run(put, "big", "x" * 100_000)
        assert await store.run(names) == {"big"}
        assert not store.is_broken


async def test_on_a_full_disk_every_unit_of_a_batch_is_there_or_was_refused(store):
    await store.run(limit_pages, 4)
    outcomes = await Batch(store).commit(
        small=partial(put, name="small"),
        big=partial(put, name="big", value="x" * 100_000),
        late=partial(put, name="late"),
    )
    await store.run(limit_pages, 1_000_000)
    kept = await store.run(names)
    assert isinstance(outcomes["big"], StorageFull)
    for name, outcome in outcomes.items():
        assert isinstance(outcome, StorageFull) != (outcome == name)
        assert (name in kept) == (outcome == name)


@pytest.mark.parametrize("inline", [False, True])
async def test_what_did_not_fit_is_recorded_when_somebody_makes_room(tmp_path, inline):
    async with open_store(tmp_path, inline=inline) as store:
        made = []

        def make_room() -> bool:
            made.append(True)
            store._writer.execute("PRAGMA max_page_count = 1000000")
            return True

        await store.run(limit_pages, 2)
        store.make_room = make_room
        await store.run(put, "big", "x" * 100_000)
        assert await store.run(names) == {"big"}
        assert made == [True]


async def test_a_log_index_that_cannot_grow_is_a_full_disk_and_no_failure(store):
    error = apsw.IOError("the index of the log")
    error.extendedresult = apsw.SQLITE_IOERR_SHMSIZE

    def grow(tx: Tx) -> None:
        raise error

    with pytest.raises(StorageFull):
        await store.run(grow)
    assert not store.is_broken
    assert await store.run(put, "after") == "after"


# ── a disk that fails ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("operation", ["xSync", "xWrite"])
async def test_after_a_disk_error_nothing_is_acknowledged_any_more(
    disk: FaultyDisk, tmp_path, operation, inline, caplog
):
    async with open_store(tmp_path, inline=inline) as store:
        await store.run(put, "before")
        disk.fails.add(operation)
        with pytest.raises(Unavailable):
            await store.run(put, "lost")
        with trio.fail_after(BOUND):
            await store.wait_broken()
        assert store.is_broken
        disk.fails.clear()  # an fsync that failed once is never believed again
        with pytest.raises(Unavailable):
            await store.run(put, "after")
        if not inline:
            assert "before" in await store.run(names)
    assert {record.levelname for record in caplog.records} == {"CRITICAL"}


async def test_a_disk_error_refuses_every_unit_of_the_batch(disk, tmp_path, caplog):
    async with open_store(tmp_path) as store:

        def fail_here(tx: Tx) -> None:
            raise apsw.IOError("a page of this unit cannot be read")

        outcomes = await Batch(store).commit(
            one=partial(put, name="one"), bad=fail_here, two=partial(put, name="two")
        )
        assert {type(outcome) for outcome in outcomes.values()} == {Unavailable}
        assert await store.run(names) == {"blocker"}
        assert store.is_broken


async def test_a_reader_that_meets_a_disk_error_ends_the_store_too(disk, tmp_path, caplog):
    async with open_store(tmp_path) as store:

        @reads
        def read(tx: Tx) -> None:
            disk.fails.add("xRead")
            try:
                tx.value("SELECT count(*) FROM command")
            finally:
                disk.fails.clear()

        with pytest.raises(Unavailable):
            await store.run(read)
        with trio.fail_after(BOUND):
            await store.wait_broken()
