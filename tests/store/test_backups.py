"""A copy of the database has what stood there at one instant, whatever is written meanwhile."""

import pytest

from cmdop_appliance.errors import StorageFull, Unavailable
from cmdop_appliance.store import backups, commands, integrity, output
from cmdop_appliance.store.backups import Snapshot
from tests.support import records
from tests.support.records import connected, recorded


def finish(snapshot: Snapshot) -> int:
    steps = 0
    while not snapshot.step():
        steps += 1
    return steps


@pytest.fixture
async def filled(store):
    """A machine with a command that runs, and enough rows for many steps."""
    machine, session_id, _ = await connected(store)
    command = await recorded(store, machine.id, session_id)
    await store.run(output.save, command.id, "stdout", 9000, None, max_bytes=1 << 20)
    for _ in range(40):
        ended = await recorded(store, machine.id, session_id)
        await store.run(output.save, ended.id, "stdout", 9, bytes(200_000), max_bytes=1 << 20)
        await store.run(commands.finish, records.ended(ended))
    return machine, session_id, command


async def test_a_copy_has_what_was_there_when_it_was_begun(store, filled, tmp_path):
    machine, session_id, _ = filled
    with Snapshot(tmp_path / "cmdop.db", tmp_path / "copy.db") as snapshot:
        assert not snapshot.step()
        late = await recorded(store, machine.id, session_id)
        assert finish(snapshot) > 1
        assert commands.exists(snapshot.copy, late.id) is False
        assert backups.tables(snapshot.copy)["command"] == 41
        assert backups.lists(snapshot.copy)["commands"] == 41
    assert sorted(path.name for path in tmp_path.glob("copy*")) == ["copy.db"]
    assert (tmp_path / "copy.db").stat().st_mode & 0o077 == 0
    with backups.opened(tmp_path / "copy.db") as copy:
        assert integrity.faults(copy) == []
        assert backups.tables(copy)["command"] == 41


async def test_writers_go_on_while_a_copy_is_made(store, filled, tmp_path):
    machine, session_id, _ = filled
    with Snapshot(tmp_path / "cmdop.db", tmp_path / "copy.db") as snapshot:
        while not snapshot.step():
            late = await recorded(store, machine.id, session_id)
    assert await store.run(commands.exists, late.id)


async def test_the_files_that_grow_are_known_from_the_same_instant(store, filled, tmp_path):
    _, _, command = filled
    with Snapshot(tmp_path / "cmdop.db", tmp_path / "copy.db") as snapshot:
        await store.run(output.save, command.id, "stdout", 10_000, None, max_bytes=1 << 20)
        (stream,) = snapshot.live
        assert (stream.command_id, stream.stored_bytes) == (command.id, 9000)
        assert snapshot.stored_now(stream) == 10_000
        finish(snapshot)
        assert backups.streams(snapshot.copy, ("", "")) == [stream]
        assert backups.streams(snapshot.copy, (command.id, "stdout")) == []
        backups.cut(snapshot.copy, stream, 5)
    with backups.opened(tmp_path / "copy.db") as copy:
        assert backups.streams(copy, ("", ""))[0].stored_bytes == 5


def test_what_is_wrong_with_a_database_is_told_in_our_words(tmp_path):
    (tmp_path / "no.db").write_bytes(b"no database" * 100)

    def copy() -> None:
        with backups.failures():
            Snapshot(tmp_path / "no.db", tmp_path / "copy.db")

    def fill() -> None:
        with backups.failures(), backups.opened(tmp_path / "full.db") as tx:
            tx.execute("PRAGMA max_page_count = 1")
            tx.execute("CREATE TABLE t (a)")

    with pytest.raises(Unavailable, match="cannot be copied"):
        copy()
    with pytest.raises(StorageFull):
        fill()
