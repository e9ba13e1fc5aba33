"""Backups by the clock: in time, the newest kept, nobody else's files touched, failures told."""

import os
from contextlib import asynccontextmanager

import pytest
import trio

from cmdop_appliance import archives
from cmdop_appliance.archives import file_name
from cmdop_appliance.backup_schedule import BackupSchedule
from cmdop_appliance.config import BackupConfig
from cmdop_appliance.errors import StartupError, Unavailable
from cmdop_appliance.hub.backups import Backups
from cmdop_appliance.hub.output import Outputs
from cmdop_appliance.store import audit
from cmdop_appliance.store.engine import open_store
from cmdop_appliance.store.listing import Paging
from tests.support.clocks import LoopClock, StepClock
from tests.support.records import WORKSPACE

HOUR_MS = 3_600_000
BEGIN = 1_700_000_000_000 // HOUR_MS * HOUR_MS


class Site:
    """A hub's store, and a directory for backups of it."""

    def __init__(self, store, tmp_path) -> None:
        self.store = store
        self.clock = StepClock(BEGIN)
        self.directory = tmp_path / "backups"
        outputs = Outputs(store, tmp_path / "output", 1 << 22)
        self.backups = Backups(outputs, self.clock, tmp_path, 0)

    def schedule(self, clock=None, **config) -> BackupSchedule:
        asked = {"directory": str(self.directory), "cron": "0 * * * *", **config}
        return BackupSchedule(self.backups, self.store, clock or self.clock, BackupConfig(**asked))

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())


@pytest.fixture
async def site(tmp_path):
    async with open_store(tmp_path, inline=True) as store:
        yield Site(store, tmp_path)


@pytest.fixture
def jumping(autojump_clock, monkeypatch):
    """The clock jumps on when nobody works; it would not wait for threads, so there are none."""

    async def run_sync(fn, *args, **_):
        await trio.lowlevel.checkpoint()
        return fn(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    return autojump_clock


@asynccontextmanager
async def running(schedule: BackupSchedule):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(schedule.run)
        yield
        nursery.cancel_scope.cancel()


async def test_one_is_made_that_is_whole_and_for_its_owner_alone(site, tmp_path):
    await site.schedule()._make(BEGIN)
    assert site.names == [file_name(BEGIN)]
    path = site.directory / file_name(BEGIN)
    assert path.stat().st_mode & 0o077 == site.directory.stat().st_mode & 0o077 == 0
    (tmp_path / "unpacked").mkdir()
    assert archives.unpack(path, tmp_path / "unpacked").created_ms == BEGIN
    kept = site.backups.kept
    assert (kept.last_ms, kept.last_bytes, kept.number) == (BEGIN, path.stat().st_size, 1)
    (entry,) = (await site.store.run(audit.page, WORKSPACE, Paging())).items
    assert (entry.action, entry.target) == ("backup.taken", file_name(BEGIN))


async def test_the_newest_are_kept_and_other_files_are_nobodys(site):
    site.directory.mkdir()
    theirs = ["cmdop-backup-mine.tar.gz", "notes.txt", ".hidden.part"]
    for name in [*theirs, ".cmdop-backup-20200101T000000Z.tar.gz.part"]:
        (site.directory / name).touch()
    schedule = site.schedule(keep=2)
    made = [BEGIN + n * HOUR_MS for n in range(4)]
    for now_ms in made:
        await schedule._make(now_ms)
    assert site.names == sorted([*theirs, *map(file_name, made[-2:])])
    assert site.backups.kept.number == 2


async def test_it_is_made_when_it_is_time_and_only_then(site, jumping):
    clock = LoopClock(BEGIN)
    async with running(site.schedule(clock)):
        await trio.sleep(3599)
        assert (site.names, site.backups.kept.next_ms) == ([], BEGIN + HOUR_MS)
        await trio.sleep(2)
        assert len(site.names) == 1
        await trio.sleep(3600)
        assert len(site.names) == 2


async def test_one_that_the_hub_slept_through_is_made_at_once(site, jumping):
    site.directory.mkdir()
    (site.directory / file_name(BEGIN - 5 * HOUR_MS)).touch()
    async with running(site.schedule(LoopClock(BEGIN + 60_000))):
        await trio.sleep(1)
        assert len(site.names) == 2


async def test_one_of_a_clock_that_was_wrong_stands_in_nobodys_way(site, jumping):
    site.directory.mkdir()
    later = file_name(BEGIN + 10**12)
    (site.directory / later).touch()
    async with running(site.schedule(LoopClock(BEGIN), keep=1)):
        await trio.sleep(3601)
        assert site.names == [file_name(BEGIN + HOUR_MS), later]
        await trio.sleep(3600)
        assert site.names == [file_name(BEGIN + 2 * HOUR_MS), later]


async def test_a_clock_that_is_put_right_meanwhile_is_followed(site, jumping):
    clock = LoopClock(BEGIN + 10**12)
    async with running(site.schedule(clock)):
        await trio.sleep(3601)
        assert len(site.names) == 1
        clock._begin_ms -= 10**12
        await trio.sleep(3600)
        assert site.names[0] == file_name(BEGIN + 2 * HOUR_MS)


async def test_what_goes_wrong_is_told_and_the_next_one_is_made(site, jumping, caplog):
    site.directory.write_text("a file in its way")
    async with running(site.schedule(LoopClock(BEGIN))):
        await trio.sleep(3601)
        assert "backups" in (site.backups.kept.error or "")
        assert "no backup was made" in caplog.text
        site.directory.unlink()
        await trio.sleep(3600)
        assert site.backups.kept.error is None
        assert len(site.names) == 1


async def test_one_that_failed_leaves_nothing_behind(site, monkeypatch):
    schedule = site.schedule()

    async def broken():
        yield b"some"
        raise Unavailable("the disk failed")

    monkeypatch.setattr(site.backups, "stream", broken)
    with pytest.raises(Unavailable):
        await schedule._make(BEGIN)
    assert site.names == []


@pytest.mark.parametrize(
    ("config", "named"),
    [({"cron": "61 * * * *"}, "backup.cron"), ({"timezone": "Mars/Base"}, "backup.timezone")],
)
async def test_what_is_no_time_is_told_before_the_hub_starts(site, config, named):
    with pytest.raises(StartupError, match=named):
        site.schedule(**config)


async def test_a_directory_is_meant_from_where_the_hub_was_started(site, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    site.schedule(directory="here")
    assert site.backups.kept.directory == os.fspath(tmp_path / "here")
