"""The one door to the database: whole transactions, on disk before they are answered."""

import os
import sys
import threading
from functools import partial
from pathlib import Path

import apsw
import pytest
import trio
import trio.testing

from cmdop_appliance.errors import NotFound, StartupError
from cmdop_appliance.store import api_keys, settings
from cmdop_appliance.store.engine import DATABASE_FILE, open_store
from cmdop_appliance.store.transaction import Tx, reads, unhurried
from tests.store.units import BOUND, Batch, block, names, put, put_then_fail

# ── whole, and on disk ───────────────────────────────────────────────────────────────────────────


async def test_what_run_returned_is_there_after_reopening(tmp_path):
    async with open_store(tmp_path) as store:
        assert await store.run(put, "kept") == "kept"
    async with open_store(tmp_path) as store:
        assert "kept" in await store.run(names)


async def test_what_run_returned_survives_a_killed_process(tmp_path):
    """The process leaves without a word right after the answer."""
    program = """if True:
        import os, pathlib, sys, trio
        from cmdop_appliance.store import settings
        from cmdop_appliance.store.engine import open_store

        async def serve():
            async with open_store(pathlib.Path(sys.argv[1])) as store:
                await store.run(settings.get_or_set, "kept", "x")
                os._exit(7)

        trio.run(serve)
    """
    with trio.fail_after(BOUND):
        arguments = [sys.executable, "-c", program, str(tmp_path)]
        ended = await trio.run_process(arguments, check=False, cwd=Path(__file__).parents[2])
    assert ended.returncode == 7
    async with open_store(tmp_path) as store:
        assert "kept" in await store.run(names)


@pytest.mark.parametrize("inline", [False, True])
async def test_an_exception_reaches_the_caller_and_leaves_nothing(tmp_path, inline):
    async with open_store(tmp_path, inline=inline) as store:
        with pytest.raises(NotFound, match="on purpose"):
            await store.run(put_then_fail, "half")
        assert await store.run(names) == set()
        await store.run(put, "next")
        assert await store.run(names) == {"next"}


async def test_a_failing_unit_of_a_batch_is_undone_alone(store):
    outcomes = await Batch(store).commit(
        one=partial(put, name="one"),
        bad=partial(put_then_fail, name="bad"),
        again=partial(put, name="blocker"),  # breaks the primary key
        two=partial(put, name="two"),
    )
    assert outcomes["one"] == "one"
    assert outcomes["two"] == "two"
    assert isinstance(outcomes["bad"], NotFound)
    assert isinstance(outcomes["again"], apsw.ConstraintError)
    assert await store.run(names) == {"blocker", "one", "two"}


async def test_a_batch_is_one_commit(store):
    commits = []
    store._writer.set_commit_hook(lambda: bool(commits.append(1)))
    await Batch(store).commit(**{f"u{n}": partial(put, name=f"u{n}") for n in range(20)})
    assert len(commits) == 2  # the blocker's own, and one for all


async def test_what_nobody_waits_for_shares_a_commit_and_holds_up_nothing_else(store, mock_clock):
    commits = []
    store._writer.set_commit_hook(lambda: bool(commits.append(1)))
    put_later = unhurried(partial(put))
    assert await store.run(put_later, "first") == "first"  # nothing was before it
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(store.run, put_later, f"u{number}")
        await trio.testing.wait_all_tasks_blocked()
        assert await store.run(put, "hurried") == "hurried"
        assert (store.queue_depth, len(commits)) == (20, 2)
        mock_clock.jump(1)
    assert len(commits) == 3
    assert await store.run(names) == {"first", "hurried", *(f"u{n}" for n in range(20))}


@pytest.mark.parametrize("first", [True, False])
async def test_who_is_cancelled_before_such_a_commit_is_due_waits_no_longer(
    store, mock_clock, first
):
    put_later = unhurried(partial(put))
    await store.run(put_later, "before")
    async with trio.open_nursery() as others:
        async with trio.open_nursery() as cancelled:
            for nursery in (cancelled, others) if first else (others, cancelled):
                nursery.start_soon(store.run, put_later, f"{nursery is cancelled}")
                await trio.testing.wait_all_tasks_blocked()
            cancelled.cancel_scope.cancel()
        mock_clock.jump(1)
    assert await store.run(names) == {"before", "False"}


async def test_many_concurrent_writers_all_commit_in_turn(store):
    seen: list[int] = []

    def count(tx: Tx) -> int:
        value = int(settings.get_or_set(tx, "count", "0")) + 1
        tx.execute("UPDATE setting SET value = :value WHERE name = 'count'", value=str(value))
        return value

    async def write() -> None:
        seen.append(await store.run(count))

    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(write)
    assert sorted(seen) == list(range(1, 201))


async def test_a_cancelled_caller_waits_for_the_end_and_its_change_is_whole(store):
    inside, leave = threading.Event(), threading.Event()

    async def caller(scope: trio.CancelScope) -> None:
        with scope:
            await store.run(block, inside, leave)
            raised.append("run returned")
            await trio.lowlevel.checkpoint()
            raised.append("not cancelled")

    raised: list[str] = []
    scope = trio.CancelScope()
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller, scope)
            await trio.to_thread.run_sync(inside.wait)
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert not raised  # it waits
            leave.set()
    assert raised == ["run returned"]
    assert await store.run(names) == {"blocker"}


async def test_a_caller_who_is_cancelled_before_changes_nothing(store):
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.run(put, "never")
    assert await store.run(names) == set()


# ── readers ──────────────────────────────────────────────────────────────────────────────────────


async def test_readers_see_the_last_commit_and_do_not_wait_for_a_busy_writer(store):
    inside, leave = threading.Event(), threading.Event()
    await store.run(put, "before")
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run, block, inside, leave)
            await trio.to_thread.run_sync(inside.wait)
            assert await store.run(names) == {"before"}
            leave.set()
    assert await store.run(names) == {"before", "blocker"}


async def test_a_reader_sees_one_moment_from_its_beginning_to_its_end(store):
    read_once, go_on = threading.Event(), threading.Event()

    @reads
    def read_twice(tx: Tx) -> tuple[set[str], set[str]]:
        first = names(tx)
        read_once.set()
        assert go_on.wait(BOUND)
        return first, names(tx)

    async def write_between() -> None:
        await trio.to_thread.run_sync(read_once.wait)
        await store.run(put, "new")
        go_on.set()

    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_between)
            assert await store.run(read_twice) == (set(), set())


async def test_a_reading_function_cannot_write(store):
    with pytest.raises(apsw.ReadOnlyError):
        await store.run(reads(partial(put, name="smuggled")))
    assert await store.run(names) == set()


async def test_a_failing_reader_leaves_its_connection_usable(store):
    @reads
    def fail(tx: Tx) -> None:
        names(tx)
        raise NotFound("on purpose")

    for _ in range(3):
        with pytest.raises(NotFound):
            await store.run(fail)
    assert len(store._readers) == 1
    assert not store._readers[0].in_transaction


async def test_a_reader_that_a_slow_disk_holds_up_waits(store):
    read = reads(lambda tx: tx.value("SELECT 7"))
    await store.run(read)  # which opens a reader
    (reader,) = store._readers
    errors = [apsw.BusyError("database is locked"), apsw.ProtocolError("locking protocol")]

    def trace(*_) -> bool:
        if errors:
            raise errors.pop()
        return True

    reader.set_exec_trace(trace)
    assert await store.run(read) == 7
    assert not errors


async def test_a_reader_that_is_held_up_keeps_nobody_from_stopping(store):
    read = reads(lambda tx: tx.value("SELECT 7"))
    await store.run(read)
    (reader,) = store._readers
    was_asked = threading.Event()

    def trace(*_) -> bool:
        was_asked.set()
        raise apsw.BusyError("database is locked")

    reader.set_exec_trace(trace)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run, read)
        await trio.to_thread.run_sync(was_asked.wait, BOUND)
        nursery.cancel_scope.cancel()
    reader.set_exec_trace(None)


async def test_a_brief_read_does_not_wait_for_long_ones(store):
    inside, leave = threading.Barrier(5), threading.Event()

    @reads
    def dawdle(tx: Tx) -> None:
        names(tx)
        inside.wait(BOUND)
        leave.wait(BOUND)

    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(store.run, dawdle)
            await trio.to_thread.run_sync(inside.wait, BOUND)
            assert await store.run(api_keys.by_hash, "hash", 0) is None
            leave.set()


async def test_there_are_never_more_than_four_readers(store):
    together = threading.Barrier(4)

    @reads
    def meet(tx: Tx) -> None:
        names(tx)
        together.wait(BOUND)

    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(store.run, meet)
    assert len(store._readers) == 4


# ── how it is opened ─────────────────────────────────────────────────────────────────────────────


async def test_every_commit_is_synced_and_foreign_keys_hold(store):
    def pragma(name: str):
        return lambda tx: tx.value(f"PRAGMA {name}")

    assert await store.run(pragma("journal_mode")) == "wal"
    assert await store.run(pragma("synchronous")) == 2  # FULL
    assert await store.run(pragma("foreign_keys")) == 1
    assert await store.run(reads(pragma("query_only"))) == 1


def test_the_sqlite_in_use_has_no_wal_reset_bug():
    assert apsw.sqlite_lib_version() > "3.51.2"


async def test_all_its_files_are_ours_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        async with open_store(tmp_path) as store:
            await store.run(put, "x")
            await store.run(names)
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert len(modes) == 3  # the database, its log and the log's index
    assert set(modes.values()) == {0o600}


async def test_what_is_no_database_is_refused_in_one_line(tmp_path):
    (tmp_path / DATABASE_FILE).write_text("not a database, and longer than its header\n" * 100)
    with pytest.raises(StartupError, match=r"cannot open the store .*cmdop\.db"):
        async with open_store(tmp_path):
            pass


async def test_a_directory_that_is_not_there_is_refused_in_one_line(tmp_path):
    with pytest.raises(StartupError, match="cannot open the store"):
        async with open_store(tmp_path / "nowhere"):
            pass


async def test_no_statement_is_planned_anew_for_other_values(tmp_path):
    async with open_store(tmp_path) as store:
        await store.run(reads(lambda tx: tx.value("SELECT 1")))  # which opens a reader
        for connection in (store._writer, *store._readers):
            assert connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, -1) == 1
        assert store._readers
