"""Numbered migrations: all that is missing, once, or nothing."""

import pytest

from cmdop_appliance.errors import StartupError
from cmdop_appliance.store import migrate
from cmdop_appliance.store.engine import DATABASE_FILE, open_store
from cmdop_appliance.store.transaction import Tx, reads

SECOND = "CREATE TABLE second (id TEXT PRIMARY KEY);\nINSERT INTO second (id) VALUES ('kept');\n"


@reads
def schema(tx: Tx) -> str:
    return tx.value("SELECT group_concat(sql, ';') FROM sqlite_schema ORDER BY name")


@reads
def applied(tx: Tx) -> str:
    return tx.value("SELECT group_concat(number) FROM migration")


@pytest.fixture
def scripts(monkeypatch):
    """The known scripts, to be changed."""
    known = migrate._scripts()
    monkeypatch.setattr(migrate, "_scripts", lambda: known)
    return known


def test_scripts_are_numbered_without_a_gap():
    assert sorted(migrate._scripts()) == list(range(1, len(migrate._scripts()) + 1))


async def test_a_new_store_has_the_latest_schema_and_reopening_applies_nothing(tmp_path):
    for _ in range(2):
        async with open_store(tmp_path) as store:
            assert await store.run(applied) == ",".join(map(str, sorted(migrate._scripts())))


async def test_what_is_missing_is_applied_once_and_data_stays(tmp_path, scripts):
    async with open_store(tmp_path) as store:
        await store.run(lambda tx: tx.execute("INSERT INTO setting VALUES ('old', '1')"))
    number = max(scripts) + 1
    scripts[number] = SECOND
    for _ in range(2):
        async with open_store(tmp_path) as store:
            assert await store.run(applied) == ",".join(map(str, range(1, number + 1)))
            assert await store.run(reads(lambda tx: tx.value("SELECT id FROM second"))) == "kept"
            assert await store.run(reads(lambda tx: tx.value("SELECT name FROM setting"))) == "old"


@pytest.mark.parametrize("bad", ["CREATE TABLE nonsense", "INSERT INTO second VALUES ('kept')"])
async def test_a_migration_that_fails_half_way_leaves_the_old_schema_whole(tmp_path, scripts, bad):
    async with open_store(tmp_path) as store:
        before, numbers = await store.run(schema), await store.run(applied)
    number = max(scripts) + 1
    scripts[number] = SECOND
    scripts[number + 1] = f"ALTER TABLE setting ADD COLUMN more TEXT;\n{bad};\n"
    with pytest.raises(Exception, match=r"incomplete input|UNIQUE constraint"):
        async with open_store(tmp_path):
            pytest.fail("opened with a broken schema")
    del scripts[number], scripts[number + 1]
    async with open_store(tmp_path) as store:
        assert await store.run(schema) == before
        assert await store.run(applied) == numbers


async def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path, scripts):
    scripts[2] = SECOND
    async with open_store(tmp_path):
        pass
    del scripts[2]
    before = (tmp_path / DATABASE_FILE).read_bytes()
    with pytest.raises(StartupError) as caught:
        async with open_store(tmp_path):
            pytest.fail("opened a newer store")
    assert caught.value.message == "the store is at schema 2, this program knows 1"
    assert "newer" in caught.value.hint
    assert (tmp_path / DATABASE_FILE).read_bytes() == before
