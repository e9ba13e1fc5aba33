"""The audit log: it only grows, and whatever is done to it shows."""

import hashlib
import json

import apsw
import pytest
import trio

from cmdop_appliance.auth import Caller
from cmdop_appliance.errors import NotFound
from cmdop_appliance.protocol.messages import AuditHead
from cmdop_appliance.store import api_keys, audit, machines, settings
from cmdop_appliance.store.audit import START, Entry
from cmdop_appliance.store.engine import DATABASE_FILE, open_store
from cmdop_appliance.store.listing import Paging
from cmdop_appliance.store.transaction import brief
from tests.support import records
from tests.support.records import NOW, WORKSPACE

CALLER = Caller("key_1", "ci", WORKSPACE, "default", frozenset())
ENTRIES = 7
# One more like the seventh, with its hash.
PLANT = (
    "INSERT INTO audit SELECT {}, at_ms, workspace_id, actor, api_key_id, action, target,"
    " outcome, details_json, hash FROM audit WHERE seq = 7"
)


def entry(number: int = 0, **fields) -> Entry:
    plain = Entry.by(CALLER, NOW + number, "command.accepted", f"cmd_{number}", machine_id="mach_1")
    return Entry(
        **{name: fields.get(name, getattr(plain, name)) for name in plain.__struct_fields__}
    )


def fill(tx, entries: int = ENTRIES) -> None:
    for number in range(entries):
        audit.append(tx, entry(number))


def tamper(path, *statements: str) -> None:
    """What root does with the file, past the triggers."""
    connection = apsw.Connection(str(path / DATABASE_FILE))
    for (name,) in connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
    ).fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    connection.close()


async def tampered(path, *statements: str) -> audit.Walk:
    """How far the log can be followed once these were run on a log of seven entries."""
    async with open_store(path, inline=True) as store:
        await store.run(fill)
    tamper(path, *statements)
    async with open_store(path, inline=True) as store:
        return await store.run(audit.walk, START, 100)


# ── it only grows ────────────────────────────────────────────────────────────────────────────────


async def test_entries_are_numbered_without_a_gap_and_read_as_they_were_written(store):
    await store.run(fill)
    page = await store.run(audit.page, WORKSPACE, Paging())
    assert [each.seq for each in page.items] == [7, 6, 5, 4, 3, 2, 1]
    newest = page.items[0]
    assert (newest.at_ms, newest.actor, newest.api_key_id) == (NOW + 6, "ci@default", "key_1")
    assert (newest.action, newest.target, newest.outcome) == ("command.accepted", "cmd_6", "ok")
    assert newest.details == {"machine_id": "mach_1"}
    assert newest.hash == (await store.run(audit.head)).hash


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE audit SET actor = 'nobody' WHERE seq = 3",
        "UPDATE audit SET seq = 8 WHERE seq = 7",
        "DELETE FROM audit WHERE seq = 7",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE seq = 3",
        PLANT.format(9),
        PLANT.format(7),
        PLANT.format(0),
        PLANT.format(-1),
    ],
)
async def test_nothing_but_the_next_entry_is_written(store, sql):
    await store.run(fill)
    before = await store.run(audit.page, WORKSPACE, Paging())
    with pytest.raises(apsw.ConstraintError, match="audit log"):
        await store.run(lambda tx: tx.execute(sql))
    assert await store.run(audit.page, WORKSPACE, Paging()) == before


async def test_the_hash_is_the_one_that_is_documented(store):
    await store.run(audit.append, entry(actor='zoë "z"\n', details={"name": "ü", "n": 1}))
    columns = [1, NOW, WORKSPACE, 'zoë "z"\n', "key_1", "command.accepted", "cmd_0", "ok"]
    columns.append('{"name":"ü","n":1}')
    text = json.dumps(columns, ensure_ascii=False, separators=(",", ":")).encode()
    expected = hashlib.sha256(b"cmdop audit 1\0" + bytes(32) + text).digest()
    assert await store.run(audit.head) == AuditHead(seq=1, hash=expected)


async def test_entries_of_one_commit_are_chained_in_order(tmp_path):
    async with open_store(tmp_path) as store, trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(store.run, fill if number % 2 else brief(fill), 2)
    async with open_store(tmp_path, inline=True) as store:
        walk = await store.run(audit.walk, START, 1000)
    assert (walk.entries, walk.is_broken, walk.is_over) == (100, False, True)


# ── with the change that it tells of ─────────────────────────────────────────────────────────────


async def test_a_change_and_its_entry_are_recorded_together(store):
    recording = entry().recording(settings.get_or_set)
    assert await store.run(recording, "name", "value") == "value"
    assert (await store.run(audit.head)).seq == 1


async def test_a_change_that_fails_leaves_no_entry(store):
    with pytest.raises(NotFound):
        await store.run(entry().recording(api_keys.delete), CALLER.reach, "key_none")
    assert await store.run(audit.head) == START


async def test_a_request_that_comes_again_is_recorded_once(store):
    for _ in range(2):
        key = records.api_key()
        insert = entry(target=key.id).recording(api_keys.insert)
        made = await store.run(insert, key, "hash", records.once())
    assert made.made_id != key.id
    assert (await store.run(audit.head)).seq == 1


def test_a_brief_change_stays_brief():
    assert entry().recording(brief(lambda _: None)).brief
    assert not hasattr(entry().recording(lambda _: None), "brief")


# ── whatever is done to it shows ─────────────────────────────────────────────────────────────────


async def test_a_whole_log_is_followed_to_its_end_in_any_pieces(store):
    await store.run(fill)
    head = await store.run(audit.head)
    for most in (1, 2, 3, 7, 100):
        last, entries = START, 0
        while True:
            walk = await store.run(audit.walk, last, most)
            assert not walk.is_broken
            last, entries = walk.head, entries + walk.entries
            if walk.is_over:
                break
        assert (last, entries) == (head, ENTRIES)


@pytest.mark.parametrize(
    "change",
    [
        "at_ms = at_ms + 1",
        "workspace_id = 'ws_other'",
        "actor = 'nobody@default'",
        "api_key_id = NULL",
        "api_key_id = 'key_2'",
        "action = 'command.cancelled'",
        "target = 'cmd_9'",
        "outcome = 'refused'",
        'details_json = \'{"machine_id":"mach_2"}\'',
        'details_json = \'{"machine_id": "mach_1"}\'',
        "hash = (SELECT hash FROM audit WHERE seq = 4)",
        "hash = zeroblob(32)",
        "seq = 100",
        # What is not even of its type.
        "at_ms = 'soon'",
        "actor = x'ff'",
        "actor = CAST(x'ff' AS TEXT)",
        "hash = 'text'",
        "details_json = 7",
    ],
)
async def test_a_changed_column_is_found(tmp_path, change):
    walk = await tampered(tmp_path, f"UPDATE audit SET {change} WHERE seq = 5")
    assert (walk.head.seq, walk.entries, walk.is_broken) == (4, 4, True)


async def test_every_column_is_covered_by_the_test_above(store):
    columns = await store.run(
        lambda tx: tx.value("SELECT count(*) FROM pragma_table_info('audit')")
    )
    assert columns == 10


async def test_swapped_entries_are_found(tmp_path):
    columns = "at_ms, workspace_id, actor, api_key_id, action, target, outcome, details_json, hash"
    other = f"SELECT {columns} FROM kept WHERE kept.seq = 7 - audit.seq"
    walk = await tampered(
        tmp_path,
        "CREATE TABLE kept AS SELECT * FROM audit",
        f"UPDATE audit SET ({columns}) = ({other}) WHERE seq IN (3, 4)",
    )
    assert (walk.head.seq, walk.is_broken) == (2, True)


@pytest.mark.parametrize("gone", [1, 4, 6])
async def test_an_entry_that_was_taken_out_is_found(tmp_path, gone):
    walk = await tampered(tmp_path, f"DELETE FROM audit WHERE seq = {gone}")
    assert (walk.head.seq, walk.is_broken) == (gone - 1, True)


async def test_an_entry_that_was_taken_out_is_found_though_the_rest_moved_up(tmp_path):
    walk = await tampered(
        tmp_path,
        "DELETE FROM audit WHERE seq = 4",
        "UPDATE audit SET seq = seq + 1000 WHERE seq > 4",
        "UPDATE audit SET seq = seq - 1001 WHERE seq > 1000",
    )
    assert (walk.head.seq, walk.is_broken) == (3, True)


async def test_a_gap_is_found_though_the_hashes_were_made_anew(store):
    await store.run(fill)
    last = await store.run(audit.head)
    columns = [9, NOW, WORKSPACE, "a", None, "b", "c", "ok", "{}"]
    digest = audit._hash(last.hash, columns)

    def plant(tx) -> None:
        tx.execute("DROP TRIGGER audit_only_appends")
        tx.execute(
            "INSERT INTO audit VALUES (9, :now_ms, :workspace, 'a', NULL, 'b', 'c', 'ok', '{}',"
            " :hash)",
            now_ms=NOW,
            workspace=WORKSPACE,
            hash=digest,
        )

    await store.run(plant)
    walk = await store.run(audit.walk, START, 100)
    assert (walk.head, walk.is_broken) == (last, True)


async def test_a_planted_entry_is_found(tmp_path):
    walk = await tampered(tmp_path, PLANT.format(8))
    assert (walk.head.seq, walk.is_broken) == (7, True)


@pytest.mark.parametrize("seq", ["0", "-1", "-0.5", "-1e300", "NULL"])
async def test_an_entry_that_was_planted_below_the_first_is_found_and_not_shown(tmp_path, seq):
    walk = await tampered(
        tmp_path,
        "CREATE TABLE other AS SELECT * FROM audit",
        "DROP TABLE audit",
        "ALTER TABLE other RENAME TO audit",
        PLANT.format(seq),
    )
    assert (walk.head, walk.entries, walk.is_broken) == (START, 0, True)
    async with open_store(tmp_path, inline=True) as store:
        page = await store.run(audit.page, WORKSPACE, Paging())
    assert [each.seq for each in page.items] == [7, 6, 5, 4, 3, 2, 1]


async def test_no_entry_is_planted_below_the_first_where_only_the_triggers_are_gone(tmp_path):
    for seq in ("0", "-1", "NULL"):
        with pytest.raises(apsw.ConstraintError):
            await tampered(tmp_path, PLANT.format(seq))


# ── and a cut tail shows to those who remember it ────────────────────────────────────────────────


async def test_a_cut_tail_is_found_by_who_remembers_it(tmp_path):
    async with open_store(tmp_path, inline=True) as store:
        await store.run(fill)
        machine = await records.joined(store)
        head = await store.run(audit.head)
        assert await store.run(audit.holds, head)
        assert not await store.run(audit.is_news, machine.id, head)
        await store.run(audit.testify, machine.id, head, NOW)
        assert [each.is_agreeing for each in await store.run(audit.witnesses, WORKSPACE)] == [True]
    tamper(tmp_path, "DELETE FROM audit WHERE seq > 5")
    async with open_store(tmp_path, inline=True) as store:
        walk = await store.run(audit.walk, START, 100)
        assert (walk.head.seq, walk.is_broken, walk.is_over) == (5, False, True)
        assert not await store.run(audit.holds, head)
        (witness,) = await store.run(audit.witnesses, WORKSPACE)
        assert (witness.machine_id, witness.seq, witness.seen_ms) == (machine.id, 7, NOW)
        assert not witness.is_agreeing
        await store.run(fill, 5)  # what grows again is another log
        assert not await store.run(audit.holds, head)
        (witness,) = await store.run(audit.witnesses, WORKSPACE)
        assert not witness.is_agreeing


async def test_a_machine_is_not_made_to_forget_what_it_has_told(store):
    await store.run(fill)
    machine = await records.joined(store)
    newest = await store.run(audit.head)
    other = AuditHead(seq=newest.seq + 1, hash=b"x" * 32)
    await store.run(audit.testify, machine.id, other, NOW)
    await store.run(audit.testify, machine.id, newest, NOW + 1)
    (witness,) = await store.run(audit.witnesses, WORKSPACE)
    assert (witness.seq, witness.hash, witness.seen_ms) == (other.seq, other.hash, NOW)


async def test_a_contradiction_is_news_once(store):
    await store.run(fill)
    machine = await records.joined(store)
    for told in (AuditHead(seq=3, hash=b"x" * 32), AuditHead(seq=99, hash=b"x" * 32)):
        assert await store.run(audit.is_news, machine.id, told)
        await store.run(audit.testify, machine.id, told, NOW)
        assert not await store.run(audit.is_news, machine.id, told)


async def test_who_was_removed_is_no_witness(store):
    machine = await records.joined(store)
    await store.run(audit.testify, machine.id, AuditHead(seq=9, hash=b"x" * 32), NOW)
    await store.run(machines.remove, CALLER.reach, machine.id, NOW)
    assert await store.run(audit.witnesses, WORKSPACE) == []


async def test_contradictions_on_record_are_counted(store):
    await store.run(fill)
    await store.run(audit.append, Entry.by_hub(NOW, audit.CONTRADICTED, "mach_1"))
    assert (await store.run(audit.walk, START, 100)).contradictions == 1


# ── read ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_workspace_sees_its_own_entries_by_each_filter(store):
    await store.run(fill, 3)
    await store.run(audit.append, entry(7, workspace_id="ws_other"))
    await store.run(audit.append, entry(8, action="api_key.revoked", actor="a@b", target="key_9"))
    await store.run(audit.append, entry(9).refused())

    async def seqs(**filters) -> list[int]:
        page = await store.run(audit.page, WORKSPACE, Paging(20, 0, "created_at"), **filters)
        assert page.total == len(page.items)
        return [each.seq for each in page.items]

    assert await seqs() == [1, 2, 3, 5, 6]
    assert await seqs(action="api_key.revoked") == [5]
    assert await seqs(actor="a@b") == [5]
    assert await seqs(target="cmd_1") == [2]
    assert await seqs(outcome="refused") == [6]
    assert await seqs(since_ms=NOW + 2) == [3, 5, 6]
    assert await seqs(outcome="ok", since_ms=NOW + 2, action="command.accepted") == [3]
