"""The hub's switch, where no hub is needed to see it; tests/system/test_upgrade.py has one."""

import json
import os
import socket

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance import __version__, upgrading
from cmdop_appliance.errors import StartupError, StorageFull
from cmdop_appliance.hub.releases import Releases
from cmdop_appliance.service.folders import Version
from cmdop_appliance.store import settings, trial, upgrades
from cmdop_appliance.store.engine import DATABASE_FILE, open_store
from tests.support import records
from tests.support.clocks import LoopClock
from tests.support.live_hub import BOUND


def test_sockets_are_taken_over_where_the_hub_still_listens(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        handle = os.dup(server.fileno())
        os.set_inheritable(handle, True)
        environ = {"CMDOP_SOCKETS": f"127.0.0.1:3006 {handle}", "CMDOP_LISTEN": "x"}
        assert upgrading.handed_sockets(environ, "127.0.0.1:3006") == [handle]
        assert environ == {"CMDOP_LISTEN": "x"}
        assert not os.get_inheritable(handle)
        os.close(handle)


def test_sockets_of_another_address_than_is_configured_now_are_closed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        handle = os.dup(server.fileno())
        environ = {"CMDOP_SOCKETS": f"127.0.0.1:3006 {handle}"}
        assert upgrading.handed_sockets(environ, "127.0.0.1:3007") == []
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handle)


def test_whoever_was_handed_nothing_opens_sockets_of_its_own():
    assert upgrading.handed_sockets({}, "127.0.0.1:3006") == []
    assert upgrading.watcher_of({}) is None


def told(show) -> tuple[int, bytes]:
    """The exit code, and what the watcher hears."""
    ours, theirs = socket.socketpair()
    environ = {"CMDOP_TRIAL": str(theirs.detach())}
    with ours:
        watcher = upgrading.watcher_of(environ)
        assert environ == {}
        with watcher:
            code = upgrading.stand_trial(watcher, show)
        return code, ours.recv(10_000)


def test_a_release_on_trial_says_that_it_is_well_or_why_not():
    def fails() -> None:
        raise StartupError("no port")

    assert told(lambda: None) == (0, f"well {__version__}".encode())
    assert told(fails) == (1, b"no port")


async def closed_store(place) -> bytes:
    """A store that holds something, and its bytes."""
    async with open_store(place) as store:
        await store.run(settings.get_or_set, "name", "before")
    return (place / DATABASE_FILE).read_bytes()


def test_a_trial_has_time_to_migrate_a_large_store(tmp_path):
    for size, seconds in (0, 60), (3_000_000_000, 360):
        with (tmp_path / "cmdop.db").open("wb") as database:
            database.truncate(size)
        assert upgrading.patience_s(tmp_path) == seconds


async def test_a_trial_that_nobody_ended_did_not_happen(tmp_path):
    before = await closed_store(tmp_path)
    upgrading._note(tmp_path)
    async with open_store(tmp_path, is_trial=True) as store:
        await store.run(settings.get_or_set, "other", "x")
    upgrading.put_back(tmp_path)
    assert trial.is_closed(tmp_path)
    assert (tmp_path / DATABASE_FILE).read_bytes() == before
    assert json.loads((tmp_path / "upgrade.json").read_text())["why_not"] is not None


@pytest.mark.parametrize("why", ["it was no good", None])
async def test_a_start_without_a_trial_leaves_the_log_of_the_store_alone(tmp_path, why):
    """After a crash what the log has was acknowledged."""
    if why is not None:
        upgrading._note(tmp_path, why)
    async with open_store(tmp_path, is_trial=True) as store:  # leaves its log, as a crash does
        await store.run(settings.get_or_set, "name", "acknowledged")
    upgrading.put_back(tmp_path)
    async with open_store(tmp_path) as store:
        assert await store.run(settings.get_or_set, "name", "lost") == "acknowledged"


async def test_a_store_that_was_not_closed_whole_is_not_tried(tmp_path):
    async with open_store(tmp_path, is_trial=True) as store:
        await store.run(settings.get_or_set, "name", "acknowledged")
    assert (
        upgrading.try_out(tmp_path, 0, Version(tmp_path / "versions/1.0.0-0123456789ab")) == "bad"
    )
    async with open_store(tmp_path) as store:
        assert await store.run(settings.get_or_set, "name", "lost") == "acknowledged"


@pytest.mark.parametrize("was_tried", [False, True])
async def test_what_became_of_an_upgrade_is_recorded_once_the_disk_has_room(
    tmp_path, monkeypatch, nursery, caplog, autojump_clock: MockClock, was_tried
):
    fail = upgrades.fail

    def fail_once(*_args) -> None:
        monkeypatch.setattr(upgrades, "fail", fail)
        raise StorageFull("the hub's disk is full")

    monkeypatch.setattr(upgrades, "fail", fail_once)
    async with open_store(tmp_path, inline=True) as store:
        await store.run(upgrades.insert, records.upgrade(status="hub", hub_ms=None))
        releases = Releases(store, LoopClock(), tmp_path, [], lambda: None)
        upgrader = upgrading.Upgrader(store, releases, None)
        if was_tried:
            upgrading._note(tmp_path, "it was no good")
        await upgrader.settle(tmp_path)
        nursery.start_soon(upgrader.run, trio.Event())
        with trio.fail_after(BOUND):
            while await store.run(upgrades.open_one) is not None:  # noqa: ASYNC110
                await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [each.message for each in caplog.records] == ["not upgraded"] * (not was_tried)
