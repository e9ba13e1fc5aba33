"""A backup becomes a data directory that is whole, or none; and a hub that is only counted."""

import socket
from contextlib import aclosing

import pytest
import trio

from cmdop_appliance import archives, restoring
from cmdop_appliance.clock import SystemClock
from cmdop_appliance.errors import BackupDamaged, StartupError
from cmdop_appliance.hub.backups import Backups
from cmdop_appliance.hub.output import Outputs
from cmdop_appliance.model import ApiKey
from cmdop_appliance.store import audit, backups, commands, migrate, restored, workspaces
from cmdop_appliance.store import output as rows
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.directory import claim
from cmdop_appliance.store.engine import open_store
from tests.support import records
from tests.support.records import NOW, REACH, connected, recorded


async def _fill(data_dir) -> None:
    """A hub with two workspaces, a command that has ended and one that waits."""
    async with open_store(data_dir, inline=True) as store:
        machine, session_id, _ = await connected(store)
        command = await recorded(store, machine.id, session_id)
        await store.run(rows.save, command.id, "stdout", 4, b"line", max_bytes=1 << 20)
        await store.run(commands.finish, records.ended(command))
        await recorded(store, machine.id, None)
        key: ApiKey = records.api_key(workspace_id="ws_2", namespace="two")
        await store.run(workspaces.insert, key, "hash")
        await store.run(audit.append, Entry.by_hub(NOW, "hub.started"))
        (data_dir / "admin.key").write_text("key")
        outputs = Outputs(store, data_dir / "output", 1 << 22)
        made = Backups(outputs, SystemClock(), data_dir, 0)
        with (data_dir / "backup").open("wb") as to:
            async with aclosing(made.stream()) as pieces:
                async for piece in pieces:
                    to.write(piece)


@pytest.fixture(scope="module")
def backup(tmp_path_factory):
    place = tmp_path_factory.mktemp("hub")
    trio.run(_fill, place)
    return place / "backup"


def repacked(backup, tmp_path, change, head=None):
    """The backup with another database, or another head, and a right end."""
    folder = tmp_path / "folder"
    folder.mkdir()
    found = archives.unpack(backup, folder)
    with backups.opened(folder / "cmdop.db") as tx:
        change(tx)
    data = (folder / "cmdop.db").read_bytes()
    packer = archives.Packer(NOW)
    packed = packer.head(head or found)
    packed += packer.begin("cmdop.db", len(data)) + packer.add(data) + packer.end()
    (tmp_path / "changed").write_bytes(packed)
    return tmp_path / "changed"


def test_a_restored_directory_has_what_was_backed_up_and_knows_that_it_is_one(backup, tmp_path):
    place = tmp_path / "data"
    head = restoring.restore(backup, place)
    assert head.lists["commands"] == 2
    assert {path.name for path in place.iterdir()} == {"admin.key", "cmdop.db", "hub.lock"}
    assert {path.stat().st_mode & 0o077 for path in (place, *place.rglob("*"))} == {0}

    async def look() -> None:
        async with open_store(place, inline=True) as store:
            assert await store.run(restored.until_ms) > NOW
            (ended, *_) = await store.run(
                lambda tx: tx.all(commands.Command, "SELECT * FROM command")
            )
            held = await store.run(rows.of_command, ended.id)
            assert held["stdout"].content == b"line"
            assert await store.run(commands.get, REACH, ended.id) == ended

    trio.run(look)


def test_an_empty_directory_is_good_enough(backup, tmp_path):
    restoring.restore(backup, tmp_path)
    assert (tmp_path / "cmdop.db").exists()


def test_a_directory_that_holds_anything_is_left_as_it_is(backup, tmp_path):
    (tmp_path / "notes").touch()
    with pytest.raises(StartupError, match="not empty"):
        restoring.restore(backup, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_a_directory_that_somebody_else_has_just_taken_is_left_to_them(backup, tmp_path):
    with claim(tmp_path / "data"), pytest.raises(StartupError, match="in use by the hub"):
        restoring.restore(backup, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["hub.lock"]
    restoring.restore(backup, tmp_path / "data")


@pytest.mark.parametrize("cut", [0, 100, -20])
def test_of_a_backup_that_is_not_whole_nothing_is_left(backup, tmp_path, cut):
    (tmp_path / "cut").write_bytes(backup.read_bytes()[:cut])
    with pytest.raises(BackupDamaged):
        restoring.restore(tmp_path / "cut", tmp_path / "data")
    assert not (tmp_path / "data").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(BackupDamaged):
        restoring.restore(tmp_path / "cut", tmp_path / "there")
    assert not any((tmp_path / "there").iterdir())


def test_no_hub_starts_where_a_restore_was_cut_off(backup, tmp_path, monkeypatch):
    def killed(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(restoring, "_move", killed)
    monkeypatch.setattr(restoring, "_clear", lambda _: None)
    (tmp_path / "data").mkdir()
    with pytest.raises(SystemExit):
        restoring.restore(backup, tmp_path / "data")
    assert not (tmp_path / "data/cmdop.db").exists()
    with pytest.raises(StartupError, match="cut off"), claim(tmp_path / "data"):
        pass


def test_a_database_that_is_not_the_one_that_was_counted_is_found(backup, tmp_path):
    changed = repacked(backup, tmp_path, lambda tx: tx.execute("DELETE FROM output"))
    for look in (restoring.verify, lambda file: restoring.restore(file, tmp_path / "data")):
        with pytest.raises(BackupDamaged, match="'output': 0"):
            look(changed)


def test_a_backup_of_a_newer_version_is_refused(backup, tmp_path):
    newer = max(migrate._scripts()) + 1
    head = archives.read_head(backup)
    head.tables["migration"] += 1

    def change(tx) -> None:
        tx.execute("INSERT INTO migration VALUES (:number)", number=newer)

    changed = repacked(backup, tmp_path, change, head)
    with pytest.raises(StartupError, match=f"schema {newer}"):
        restoring.verify(changed)
    with pytest.raises(StartupError, match=f"schema {newer}"):
        restoring.restore(changed, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_hub_from_it_counts_what_was_counted_of_every_workspace_and_leaves_nothing(
    backup, tmp_path
):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = backup.read_bytes()
    found = restoring.verify(backup, scratch)
    assert found.lists == {
        "machines": 1,
        "commands": 2,
        "sessions": 1,
        "schedules": 0,
        "webhooks": 0,
    }
    assert found.audit_entries == 1
    assert not any(scratch.iterdir())
    assert backup.read_bytes() == before


def test_a_hub_that_counts_otherwise_is_told(backup, tmp_path):
    head = archives.read_head(backup)
    head.lists["machines"] += 1
    changed = repacked(backup, tmp_path, lambda _: None, head)
    with pytest.raises(BackupDamaged, match="'machines': 1"):
        restoring.verify(changed)


def test_the_hub_that_is_only_counted_takes_no_agent(backup, monkeypatch):
    answers = []

    def look(port, keys, head):
        with socket.create_connection(("127.0.0.1", port)) as agent:
            agent.sendall(
                b"GET /agent HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            answers.append(agent.recv(100))
        return count(port, keys, head)

    count = restoring._count
    monkeypatch.setattr(restoring, "_count", look)
    restoring.verify(backup)
    assert answers == [b""]
