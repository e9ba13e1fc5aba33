"""Numbered migrations: all that is missing, once, or nothing."""

import signal
import subprocess
import sys

import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import StartupError
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.messages import Spec
from cmdop_appliance.store import commands, machines, migrate, output, sessions
from cmdop_appliance.store.engine import DATABASE_FILE, open_store
from cmdop_appliance.store.listing import Paging
from cmdop_appliance.store.transaction import Tx, reads, to_json
from tests.support.records import REACH, WORKSPACE, connected, machine

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


KILLED = """
import os, signal, sys, trio
from pathlib import Path
from cmdop_appliance.store import migrate
from cmdop_appliance.store.engine import open_store
scripts, apply = migrate._scripts(), migrate.to_latest
scripts[max(scripts) + 1] = "CREATE TABLE half (id TEXT);\\nSELECT die('x');\\n"
migrate._scripts = lambda: scripts
def to_latest(tx):
    tx.define("die", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    apply(tx)
migrate.to_latest = to_latest
async def main():
    async with open_store(Path(sys.argv[1])):
        pass
trio.run(main)
"""


async def test_kill_9_in_the_middle_of_a_migration_leaves_the_old_schema_whole(tmp_path):
    async with open_store(tmp_path) as store:
        before, numbers = await store.run(schema), await store.run(applied)
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    async with open_store(tmp_path) as store:
        assert await store.run(schema) == before
        assert await store.run(applied) == numbers


async def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path, scripts):
    known = max(scripts)
    scripts[known + 1] = SECOND
    async with open_store(tmp_path):
        pass
    del scripts[known + 1]
    before = (tmp_path / DATABASE_FILE).read_bytes()
    with pytest.raises(StartupError) as caught:
        async with open_store(tmp_path):
            pytest.fail("opened a newer store")
    assert caught.value.message == f"the store is at schema {known + 1}, this program knows {known}"
    assert "newer" in caught.value.hint
    assert (tmp_path / DATABASE_FILE).read_bytes() == before


# ── what a store of an older version holds ───────────────────────────────────────────────────────

ENDS = ("pending", "running", "completed", "failed", "cancelled", "timeout", "lost", "expired")


def write_schema_2(tx: Tx) -> dict[str, str]:
    """A machine, its session, and a command of each status with its output; status → id."""
    one, session_id = machine(tags=["b", "a"]), new_id("sess")
    tx.execute(
        "INSERT INTO machine VALUES (:id, :workspace, 'web-1', :key, 'enr', :tags, 'web-1', :facts,"
        " '::1', 1, 10, 20, NULL, NULL)",
        id=one.id,
        workspace=WORKSPACE,
        key=one.public_key,
        tags=to_json(one.tags),
        facts=to_json(one.facts),
    )
    tx.execute(
        "INSERT INTO session (id, workspace_id, machine_id, machine_hostname, status, epoch,"
        " created_ms, connected_ms, last_heartbeat_ms)"
        " VALUES (:id, :workspace, :machine, 'web-1', 'CONNECTED', 1, 10, 20, 30)",
        id=session_id,
        workspace=WORKSPACE,
        machine=one.id,
    )
    made = {}
    for status in ENDS:
        made[status] = new_id("cmd")
        tx.execute(
            "INSERT INTO command VALUES (:id, :workspace, :machine, :session, 'echo ''1', :spec,"
            " :hash, :status, 'ci@default', 10, 20, 1, 30, 40, :finished_ms, 60, 7, 'SIGHUP',"
            " 'code', 'message', 3, 70000, :stdout, :stderr)",
            id=made[status],
            workspace=WORKSPACE,
            machine=one.id,
            session=session_id,
            spec=to_json(Spec(argv=["true"], env={"A": "1"}, serial_key=status)),
            hash=b"h" * 32,
            status=status,
            finished_ms=None if status in ("pending", "running") else 50,
            stdout=b"o" * 32,
            stderr=b"e" * 32,
        )
        output.save(tx, made[status], "stdout", 3, b"one", max_bytes=1 << 21)
        output.save(tx, made[status], "stderr", 70000, None, max_bytes=1 << 22)
    return made


async def test_a_store_of_schema_2_is_upgraded_whole(tmp_path, scripts):
    later = {number: scripts.pop(number) for number in list(scripts) if number > 2}
    async with open_store(tmp_path) as store:
        made = await store.run(write_schema_2)
    scripts.update(later)
    for _ in range(2):
        async with open_store(tmp_path) as store:
            page = await store.run(commands.page, REACH, Paging())
            assert {each.status: each.id for each in page.items} == made
            assert page.total == len(ENDS)
            (one,) = {each.machine_id for each in page.items}
            session = await store.run(sessions.live_of, REACH, one)
            few = Reach(WORKSPACE, ("a", "b"))
            assert (await store.run(machines.get, few, one)).tags == ["b", "a"]
            for command in page.items:
                assert command.session_id == session.id
                key = command.status
                assert command.spec == Spec(argv=["true"], env={"A": "1"}, serial_key=key)
                line = await store.run(commands.newest_of, REACH, one, 10, serial_key=key)
                assert [each.id for each in line] == [command.id]
                assert (command.command, command.operator) == ("echo '1", "ci@default")
                assert (command.created_ms, command.start_until_ms) == (10, 20)
                assert (command.is_bounded, command.cancel_requested_ms) == (True, 30)
                assert (command.started_ms, command.duration_ms, command.exit_code) == (40, 60, 7)
                assert command.finished_ms == (None if command.status in ENDS[:2] else 50)
                assert (command.signal, command.error_code) == ("SIGHUP", "code")
                assert (command.error_message, command.spec_hash) == ("message", b"h" * 32)
                assert (command.stdout_bytes, command.stderr_bytes) == (3, 70000)
                assert (command.stdout_sha256, command.stderr_sha256) == (b"o" * 32, b"e" * 32)
                assert not command.is_queued | command.is_held | command.is_late
                assert not command.is_unknown_to_hub
                assert (command.batch_id, command.supersede_key) == (None, None)
                streams = await store.run(output.of_command, command.id)
                small, large = streams["stdout"], streams["stderr"]
                assert (small.content, small.stored_bytes, small.max_bytes) == (b"one", 3, 1 << 21)
                assert (large.content, large.stored_bytes, large.max_bytes) == (
                    None,
                    70000,
                    1 << 22,
                )
            assert {each.id for each in await store.run(commands.open_on, one)} == {
                made["pending"],
                made["running"],
            }


async def test_after_an_upgrade_an_output_still_needs_its_command(tmp_path, scripts):
    later = {number: scripts.pop(number) for number in list(scripts) if number > 2}
    async with open_store(tmp_path) as store:
        made = await store.run(write_schema_2)
    scripts.update(later)
    async with open_store(tmp_path) as store:
        await store.run(output.save, made["running"], "stdout", 6, b"onetwo", max_bytes=1 << 21)
        with pytest.raises(Exception, match="FOREIGN KEY"):
            await store.run(output.save, "cmd_x", "stdout", 3, b"one", max_bytes=1 << 21)
        with pytest.raises(Exception, match="FOREIGN KEY"):
            await store.run(
                lambda tx: tx.execute("DELETE FROM command WHERE id = :id", id=made["lost"])
            )


async def test_an_upgraded_store_and_a_new_one_have_the_same_schema(tmp_path, scripts):
    later = {number: scripts.pop(number) for number in list(scripts) if number > 2}
    (tmp_path / "old").mkdir()
    async with open_store(tmp_path / "old") as store:
        await store.run(write_schema_2)
    scripts.update(later)
    schemas = []
    for name in ("old", "new"):
        (tmp_path / name).mkdir(exist_ok=True)
        async with open_store(tmp_path / name) as store:
            schemas.append(await store.run(schema))
            await connected(store)
    assert schemas[0] == schemas[1]
    assert "command_3" not in schemas[0]
    assert "output_3" not in schemas[0]


async def test_after_an_upgrade_a_machine_is_found_by_its_own_name_in_any_script(tmp_path, scripts):
    later = {number: scripts.pop(number) for number in list(scripts) if number > 2}
    async with open_store(tmp_path) as store:
        await store.run(write_schema_2)
        await store.run(lambda tx: tx.execute("UPDATE machine SET name = 'BÜRO-Straße ΑΘΗΝΑ'"))
    scripts.update(later)
    async with open_store(tmp_path) as store:
        for search in ("BÜRO-Straße", "büro-STRASSE", "αθηνα", "web-1"):
            page = await store.run(machines.page, REACH, Paging(), search=search)
            assert [each.name for each in page.items] == ["BÜRO-Straße ΑΘΗΝΑ"]
