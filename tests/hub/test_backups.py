"""A backup has every byte that its database names, whatever goes on while it is made."""

import errno
import os
import shutil
import threading
from contextlib import aclosing

import pytest
import trio

from cmdop_appliance import archives
from cmdop_appliance.clock import SystemClock
from cmdop_appliance.errors import BackupRunning, StorageFull
from cmdop_appliance.hub import backups as module
from cmdop_appliance.hub.backups import SCRATCH, Backups
from cmdop_appliance.hub.live_stream import HEAD_BYTES
from cmdop_appliance.hub.output import Outputs
from cmdop_appliance.store import commands
from cmdop_appliance.store import output as rows
from cmdop_appliance.store.engine import open_store
from tests.hub.outputs import MAX_BYTES, TRUTH, end, everything
from tests.support import records
from tests.support.live_hub import BOUND
from tests.support.records import REACH


@pytest.fixture
def backups(command, tmp_path):
    _, _, outputs = command
    return Backups(outputs, SystemClock(), tmp_path, 0)


async def taken(backups: Backups, tmp_path):
    """The folder of a backup that was taken and unpacked."""
    file, folder = tmp_path / "backup", tmp_path / "unpacked"
    with file.open("wb") as to:
        async with aclosing(backups.stream()) as pieces:
            async for piece in pieces:
                to.write(piece)
    folder.mkdir()
    archives.unpack(file, folder)
    assert not (tmp_path / SCRATCH).exists()
    return folder


async def test_small_and_large_output_is_in_it_of_what_runs_and_of_what_has_ended(
    command, backups, tmp_path
):
    _, command_id, outputs = command
    outputs.live(command_id)["stdout"].append(0, TRUTH[:50_000])
    outputs.live(command_id)["stderr"].append(0, b"small")
    await outputs.flush()
    folder = await taken(backups, tmp_path)
    outputs.live(command_id)["stdout"].append(50_000, TRUTH[50_000:])
    async with open_store(folder, inline=True) as again:
        found = Outputs(again, folder / "output", MAX_BYTES)
        assert await everything(found, command_id) == TRUTH[:50_000]
        assert await everything(found, command_id, "stderr") == b"small"


async def test_what_is_written_after_its_instant_is_not_in_it(command, backups, tmp_path):
    store, command_id, outputs = command
    outputs.live(command_id)["stdout"].append(0, TRUTH[:20_000])
    await outputs.flush()
    file = tmp_path / "backup"
    with file.open("wb") as to:
        async with aclosing(backups.stream()) as pieces:
            to.write(await anext(pieces))
            outputs.live(command_id)["stdout"].append(20_000, TRUTH[20_000:])
            await end(store, outputs, command_id)
            async for piece in pieces:
                to.write(piece)
    (tmp_path / "unpacked").mkdir()
    archives.unpack(file, tmp_path / "unpacked")
    (copy,) = (tmp_path / "unpacked/output").rglob("cmd_*")
    assert copy.read_bytes() == TRUTH[:20_000]


async def test_files_stay_while_it_is_made_though_their_output_is_forgotten(
    command, backups, tmp_path
):
    store, command_id, outputs = command
    outputs.live(command_id)["stdout"].append(0, TRUTH)
    await end(store, outputs, command_id)
    path = outputs.path_of(command_id, "stdout")
    async with aclosing(backups.stream()) as pieces:
        await anext(pieces)
        await store.run(rows.forget, command_id)
        await outputs.delete_leftovers()
        assert path.exists()
    await outputs.delete_leftovers()
    assert not path.exists()


async def test_of_an_output_that_overtakes_its_copy_the_head_is_kept(
    command, backups, tmp_path, monkeypatch
):
    store, command_id, outputs = command
    stream = outputs.live(command_id)["stdout"]
    for offset in range(0, 4 * MAX_BYTES, 64_000):
        stream.append(offset, bytes(64_000))
        stream.safe = stream.size
    await store.run(rows.save, command_id, "stdout", stream.size, None, max_bytes=MAX_BYTES)
    monkeypatch.setattr(module, "OUTPUT_BYTES", 2 * MAX_BYTES)  # so much may be under way
    folder = await taken(backups, tmp_path)
    async with open_store(folder, inline=True) as again:
        row = (await again.run(rows.of_command, command_id))["stdout"]
        assert row.stored_bytes == HEAD_BYTES


async def test_what_is_beside_the_database_is_in_it_but_for_what_is_of_the_moment(
    backups, tmp_path
):
    for name in ("recordings/session_01ARZ3NDEKTSV4RRFFQ69G5FAV.rec", "tls/key.pem", "dl/cmdop-x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    for name in (".cmdop.new", "cmdop-x (1)", "x" * 97):  # no backup has such a name
        (tmp_path / "dl" / name).touch()
    (tmp_path / "admin.key").write_text("key")
    (tmp_path / "hub.json").touch()
    (tmp_path / "local-agent").mkdir()
    folder = await taken(backups, tmp_path)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {
        *("recordings/session_01ARZ3NDEKTSV4RRFFQ69G5FAV.rec", "tls/key.pem", "dl/cmdop-x"),
        *("admin.key", "cmdop.db"),
    }
    assert {path.stat().st_mode & 0o077 for path in folder.rglob("*")} == {0}


@pytest.mark.parametrize("has_ended", [False, True])
async def test_a_file_that_is_missing_keeps_nobody_from_the_rest(
    command, backups, tmp_path, has_ended
):
    store, command_id, outputs = command
    outputs.live(command_id)["stdout"].append(0, TRUTH)
    await end(store, outputs, command_id)
    if has_ended:
        ended = await store.run(commands.get, REACH, command_id)
        await store.run(commands.finish, records.ended(ended))
    outputs.path_of(command_id, "stdout").unlink()
    folder = await taken(backups, tmp_path)
    assert not list(folder.glob("output"))


async def test_one_is_made_at_a_time(backups, tmp_path):
    async with aclosing(backups.stream()) as first:
        await anext(first)
        with pytest.raises(BackupRunning):
            await anext(backups.stream())
    await taken(backups, tmp_path)


async def test_the_next_begins_only_when_one_that_was_broken_off_has_tidied_up(
    backups, tmp_path, monkeypatch, nursery
):
    tidying, may_go_on = threading.Event(), threading.Event()

    def slowly(place, **options) -> None:
        if tidied:
            tidying.set()
            may_go_on.wait(BOUND)
        shutil_rmtree(place, **options)

    shutil_rmtree, tidied = shutil.rmtree, []
    monkeypatch.setattr(module.shutil, "rmtree", slowly)
    pieces = backups.stream()
    await anext(pieces)
    tidied.append(True)
    nursery.start_soon(pieces.aclose)
    await trio.to_thread.run_sync(tidying.wait, BOUND)
    with pytest.raises(BackupRunning):
        await anext(backups.stream())
    may_go_on.set()


async def test_without_room_nothing_is_begun(command, tmp_path):
    _, _, outputs = command
    short = Backups(outputs, SystemClock(), tmp_path, shutil.disk_usage(tmp_path).free)
    with pytest.raises(StorageFull) as caught:
        await anext(short.stream())
    assert caught.value.details["needed_bytes"] > caught.value.details["free_bytes"] - 10**9
    assert not (tmp_path / SCRATCH).exists()


async def test_a_backup_gives_way_to_what_makes_room_on_a_full_disk(command, backups, tmp_path):
    _, _, outputs = command
    async with aclosing(backups.stream()) as pieces:
        await anext(pieces)
        outputs.is_held = True
        with pytest.raises(StorageFull):
            await anext(pieces)
    assert not (tmp_path / SCRATCH).exists()


async def test_what_a_crash_left_of_one_goes_when_the_hub_starts(command, tmp_path):
    _, _, outputs = command
    (tmp_path / SCRATCH).mkdir()
    (tmp_path / SCRATCH / "cmdop.db").touch()
    Backups(outputs, SystemClock(), tmp_path, 0)
    assert not (tmp_path / SCRATCH).exists()


async def test_a_disk_that_is_full_meanwhile_is_told(backups, tmp_path, monkeypatch):
    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cmdop_appliance.store.backups.os.fdatasync", full)
    with pytest.raises(StorageFull):
        async for _ in backups.stream():
            pass
    assert not (tmp_path / SCRATCH).exists()
