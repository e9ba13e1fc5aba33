"""Little room on the hub's own disk: what is refused, what goes on, and how it heals."""

import math
import threading
from collections import namedtuple
from collections.abc import Callable

import pytest
import trio

from cmdop_appliance.config import DiskConfig
from cmdop_appliance.errors import StorageFull
from cmdop_appliance.hub import disk as module
from cmdop_appliance.hub.bus import LocalBus
from cmdop_appliance.hub.disk import BALLAST_FILE, Disk, make_room_to_start
from cmdop_appliance.protocol.frames import Output
from cmdop_appliance.protocol.messages import Acknowledge, Dispatch, Resume
from cmdop_appliance.store import integrity
from cmdop_appliance.store.engine import DATABASE_FILE, open_store
from cmdop_appliance.store.transaction import Tx, reads
from tests.support.descriptors import no_free_descriptor
from tests.support.full_disk import append
from tests.support.live_hub import finished, start

MIB = 1024 * 1024
PAGES = "PRAGMA page_count"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT count(*) FROM n"
CONFIG = DiskConfig(ballast_bytes=4 * MIB, reserve_bytes=8 * MIB)

Usage = namedtuple("Usage", "total used free")


class Room:
    """How much the system says is free; the ballast takes of it."""

    def __init__(self, path) -> None:
        self.ballast = path / BALLAST_FILE
        self.free = 100 * MIB

    def usage(self, _path) -> Usage:
        taken = self.ballast.stat().st_size if self.ballast.exists() else 0
        return Usage(0, 0, self.free - taken)


class Held:
    """What the disk wants of outputs."""

    is_held = False


@pytest.fixture
def room(tmp_path, monkeypatch):
    room = Room(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", room.usage)
    return room


@pytest.fixture
def disk(tmp_path, room):
    return Disk(CONFIG, tmp_path, Held(), LocalBus())


async def test_below_the_reserve_nothing_new_is_begun_until_there_is_clearly_more(
    disk, room, caplog
):
    await disk.look()
    disk.require_room()
    for free_mib, is_short in ((11, True), (12, True), (13, False), (12, False)):
        room.free = free_mib * MIB  # the ballast has 4 of them, the reserve is 8
        await disk.look()
        assert disk.is_short is is_short, free_mib
        assert not disk._outputs.is_held
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


async def test_a_refusal_names_the_numbers_and_the_remedy(disk, room, caplog):
    room.free = 11 * MIB
    await disk.look()
    told = "has 7 MiB free, and nothing new is begun below 8 MiB"
    with pytest.raises(StorageFull, match=told) as caught:
        disk.require_room()
    assert caught.value.details == {"free_bytes": 7 * MIB, "need_bytes": 8 * MIB}
    assert "[disk] reserve_bytes" in caught.value.hint


async def test_the_ballast_takes_real_room_and_is_given_up_once(disk, room, caplog):
    await disk.look()
    assert room.ballast.stat().st_blocks * 512 >= CONFIG.ballast_bytes
    assert room.ballast.stat().st_mode & 0o777 == 0o600
    assert disk.give_up_ballast()
    assert not disk.give_up_ballast()
    assert not room.ballast.exists()
    assert disk.is_short
    assert disk._outputs.is_held
    assert caplog.text.count("the ballast is given up") == 1


async def test_the_ballast_is_made_again_when_there_is_room_for_it_and_as_much_beside(
    disk, room, caplog
):
    disk.give_up_ballast()
    for free_mib, is_there in ((7, False), (8, True)):
        room.free = free_mib * MIB
        await disk.look()
        assert room.ballast.exists() is is_there


async def test_a_ballast_that_cannot_be_made_now_is_made_later(disk, room):
    with no_free_descriptor():
        await disk.look()
    assert not disk.has_ballast
    await disk.look()
    assert disk.has_ballast


async def test_without_room_for_the_ballast_output_is_held_back(disk, room, caplog):
    room.free = 7 * MIB
    await disk.look()
    assert (room.ballast.exists(), disk._outputs.is_held) == (False, False)
    room.free = 3 * MIB
    await disk.look()
    assert (disk._outputs.is_held, disk.is_short) == (True, True)


async def test_a_ballast_of_another_size_is_made_anew(tmp_path, disk, room):
    await disk.look()
    other = Disk(DiskConfig(ballast_bytes=2 * MIB, reserve_bytes=0), tmp_path, Held(), LocalBus())
    await other.look()
    assert room.ballast.stat().st_size == 2 * MIB
    none = Disk(DiskConfig(ballast_bytes=0, reserve_bytes=0), tmp_path, Held(), LocalBus())
    await none.look()
    assert not none.has_ballast


async def test_a_hub_that_starts_on_a_full_disk_has_the_room_of_the_ballast(tmp_path, disk, room):
    await disk.look()
    make_room_to_start(CONFIG, tmp_path)
    assert disk.has_ballast
    room.free = 5 * MIB
    make_room_to_start(CONFIG, tmp_path)
    assert not disk.has_ballast


async def test_a_store_that_meets_a_full_disk_has_the_ballast_given_up(live, caplog):
    hub = live.hub
    await hub.disk.look()
    assert hub.disk.has_ballast
    await hub.store.run(lambda tx: tx.execute(f"PRAGMA max_page_count = {tx.value(PAGES)}"))
    with pytest.raises(StorageFull):
        await hub.store.run(append, 0, 100_000)
    assert not hub.disk.has_ballast
    assert (hub.disk.is_short, hub.outputs.is_held) == (True, True)


async def test_output_that_is_held_back_stays_with_its_machine_until_there_is_room(live, agent):
    link = await agent.join()
    command_id = await start(live, agent)
    await link.expect(Dispatch)
    live.hub.outputs.is_held = True
    output = bytes(20_000)
    await link.say(Output(command_id, "stdout", 0, output))
    await link.say(finished(command_id, output))
    await link.heartbeat()  # and the link stands
    assert (await live.command(command_id)).finished_ms is None
    await live.hub.disk.look()  # by which there is; nobody has to wait for a sweep
    assert await link.expect(Resume) == Resume(id=command_id, stdout=0, stderr=0)
    await link.say(Output(command_id, "stdout", 0, output))
    await link.say(finished(command_id, output))
    await link.expect(Acknowledge)
    assert (await live.command(command_id)).status == "completed"
    assert await live.hub.outputs.read(command_id, "stdout", 0, 30_000) == output


async def test_an_end_whose_output_is_not_here_is_asked_for_once_there_is_room(live, agent):
    link = await agent.join()
    command_id = await start(live, agent)
    await link.expect(Dispatch)
    live.hub.outputs.is_held = True
    await link.say(finished(command_id, bytes(100)))
    await link.heartbeat()
    await live.hub.disk.look()
    assert await link.expect(Resume) == Resume(id=command_id, stdout=0, stderr=0)


async def test_an_end_without_output_is_recorded_while_output_is_held_back(live, agent):
    link = await agent.join()
    command_id = await start(live, agent)
    await link.expect(Dispatch)
    live.hub.outputs.is_held = True
    await link.say(finished(command_id))
    await link.expect(Acknowledge)


async def test_a_damaged_database_is_told_of(tmp_path, disk, caplog):
    async with open_store(tmp_path) as store:
        await disk.check(store)
        assert disk.troubles == []
        root = await store.run(
            lambda tx: tx.value("SELECT rootpage FROM sqlite_master WHERE name = 'event'")
        )
    with (tmp_path / DATABASE_FILE).open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 100)
    async with open_store(tmp_path) as store:
        await disk.check(store)
    assert disk.troubles == ["the database is damaged: restore a backup"]
    (record,) = caplog.records
    assert record.levelname == "CRITICAL"
    assert record.faults


@pytest.mark.parametrize("look_s", [0.0, math.inf])
async def test_a_large_database_is_looked_at_until_the_time_is_over_or_the_hub_stops(
    tmp_path, disk, monkeypatch, look_s
):
    began = threading.Event()

    @reads
    def look(tx: Tx, is_over: Callable[[], bool]) -> list[str]:
        began.set()
        with tx.until(is_over):
            tx.value(ENDLESS)
        return []

    monkeypatch.setattr(module, "CHECK_S", look_s)
    monkeypatch.setattr(integrity, "quick_faults", look)
    async with open_store(tmp_path) as store, trio.open_nursery() as nursery:
        nursery.start_soon(disk.check, store)
        await trio.to_thread.run_sync(began.wait)
        if look_s:
            nursery.cancel_scope.cancel()


async def test_what_was_not_looked_at_is_not_said_to_be_damaged(tmp_path):
    async with open_store(tmp_path, inline=True) as store:
        assert await store.run(integrity.quick_faults, lambda: True) == []
        assert await store.run(integrity.faults) == []
