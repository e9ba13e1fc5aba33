"""The one door to the database: whole transactions, on disk before they are answered."""

import math
import os
import sys
import threading
from functools import partial
from pathlib import Path

import apsw
import pytest
import trio

from cmdop_appliance.errors import NotFound, StartupError, StorageFull, Unavailable
from cmdop_appliance.store import api_keys, engine, settings
from cmdop_appliance.store.engine import DATABASE_FILE, Store, open_store
from cmdop_appliance.store.transaction import Tx, brief, reads
from tests.support.faulty_disk import FaultyDisk, faulty_disk

BOUND = 20  # seconds; nothing here waits for it


@pytest.fixture
def disk():
    with faulty_disk() as disk:
        yield disk
        disk.fails.clear()


def put(tx: Tx, name: str, value: str = "x") -> str:
    tx.execute("INSERT INTO setting (name, value) VALUES (:name, :value)", name=name, value=value)
    return name


def put_then_fail(tx: Tx, name: str) -> None:
    put(tx, name)
    raise NotFound("on purpose")


@reads
def names(tx: Tx) -> set[str]:
    return set(filter(None, (tx.value("SELECT group_concat(name) FROM setting") or "").split(",")))


def block(tx: Tx, inside: threading.Event, leave: threading.Event) -> None:
    """Hold the writer until the test lets go: what comes meanwhile is one batch."""
    put(tx, "blocker")
    inside.set()
    assert leave.wait(BOUND)


class Batch:
    """Units that reach the writer together."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._leave = threading.Event()
        self.outcomes: dict[str, object] = {}

    async def commit(self, **units) -> dict[str, object]:
        """What each unit returned, or the error it got."""
        inside = threading.Event()
        with trio.fail_after(BOUND):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._store.run, block, inside, self._leave)
                await trio.to_thread.run_sync(inside.wait)
                for name, unit in units.items():
                    nursery.start_soon(self._run, name, unit)
                while len(self._store._waiting) < len(units):  # noqa: ASYNC110 - has no event
                    await trio.sleep(0.005)
                self._leave.set()
        return self.outcomes

    async def _run(self, name: str, unit) -> None:
        try:
            self.outcomes[name] = await self._store.run(unit)
        except Exception as exc:  # noqa: BLE001 - that is what the test looks at
            self.outcomes[name] = exc


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


# ── in the event loop ────────────────────────────────────────────────────────────────────────────


@brief
def put_briefly(tx: Tx, name: str) -> int:
    """The thread in which it was put there."""
    put(tx, name)
    return threading.get_ident()


def put_slowly(tx: Tx, name: str) -> int:
    put(tx, name)
    return threading.get_ident()


@pytest.fixture
async def quick(store, monkeypatch):
    """A store whose disk is quick, however busy the machine is, and has been for long enough."""
    monkeypatch.setattr(engine, "_QUICK_S", math.inf)
    for number in range(engine._QUICK_COMMITS):
        assert await store.run(put_briefly, f"warm{number}") == store._thread.ident
    return store


async def fresh(store: Store) -> set[str]:
    return {name for name in await store.run(names) if not name.startswith("warm")}


@pytest.fixture
def held_pass(monkeypatch):
    """The pass of the scheduler in which brief units are gathered lasts until this is set."""
    over = trio.Event()

    async def until_over() -> None:
        with trio.move_on_after(BOUND, shield=True):
            await over.wait()

    monkeypatch.setattr(engine, "cancel_shielded_checkpoint", until_over)
    return over


async def test_while_the_disk_is_quick_the_event_loop_commits_what_is_brief(quick):
    assert await quick.run(put_briefly, "one") == threading.get_ident()
    assert await quick.run(put_slowly, "two") == quick._thread.ident
    assert await quick.run(put_briefly, "three") == threading.get_ident()
    assert await fresh(quick) == {"one", "two", "three"}


async def test_after_one_slow_commit_the_thread_does_all_until_many_were_quick(quick, monkeypatch):
    monkeypatch.setattr(engine, "_QUICK_S", 0)
    assert await quick.run(put_briefly, "slow") == threading.get_ident()
    monkeypatch.setattr(engine, "_QUICK_S", math.inf)
    threads = [await quick.run(put_briefly, f"{n}") for n in range(engine._QUICK_COMMITS + 1)]
    assert set(threads[:-1]) == {quick._thread.ident}
    assert threads[-1] == threading.get_ident()


async def test_only_what_changed_something_is_a_commit_and_tells_how_quick_the_disk_is(store):
    before = store.commits, store.commit_s, store._quick_commits
    for _ in range(engine._QUICK_COMMITS):
        await store.run(lambda tx: tx.execute("DELETE FROM setting WHERE name = 'nothing'"))
        with pytest.raises(NotFound):
            await store.run(put_then_fail, "undone")
    assert (store.commits, store.commit_s, store._quick_commits) == before
    await store.run(put, "one")
    assert store.commits == before[0] + 1
    assert store.commit_s > before[1]


async def test_what_one_pass_of_the_scheduler_brings_is_one_commit(quick):
    commits: list[int] = []
    outcomes: dict[str, int] = {}
    quick._writer.set_commit_hook(lambda: bool(commits.append(1)))

    async def run(name: str) -> None:
        outcomes[name] = await quick.run(put_briefly, name)

    async def fail() -> None:
        with pytest.raises(NotFound):
            await quick.run(brief(put_then_fail), "bad")

    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)  # undone alone
            for number in range(20):
                nursery.start_soon(run, f"u{number}")
    assert len(commits) == 1
    assert set(outcomes.values()) == {threading.get_ident()}
    assert await fresh(quick) == {f"u{number}" for number in range(20)}


async def test_who_is_cancelled_while_units_are_gathered_finds_the_change_whole(quick, held_pass):
    outcomes: dict[str, int] = {}

    async def run(name: str) -> None:
        outcomes[name] = await quick.run(put_briefly, name)

    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            for name in ("one", "two", "three"):
                nursery.start_soon(run, name)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            held_pass.set()
    assert outcomes == dict.fromkeys(("one", "two", "three"), threading.get_ident())
    assert await fresh(quick) == {"one", "two", "three"}


async def test_while_the_thread_has_work_the_event_loop_leaves_the_connection_alone(quick):
    inside, leave = threading.Event(), threading.Event()
    done: list[int] = []

    async def run() -> None:
        done.append(await quick.run(put_briefly, "behind"))

    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(quick.run, block, inside, leave)
            await trio.to_thread.run_sync(inside.wait)
            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            assert not done
            leave.set()
    assert done == [quick._thread.ident]


async def test_what_was_gathered_goes_to_the_thread_if_that_got_work_meanwhile(quick, held_pass):
    inside, leave = threading.Event(), threading.Event()
    done: list[int] = []

    async def run(name: str) -> None:
        done.append(await quick.run(put_briefly, name))

    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "one")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(run, "two")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(quick.run, block, inside, leave)
            await trio.to_thread.run_sync(inside.wait)
            held_pass.set()
            await trio.testing.wait_all_tasks_blocked()
            assert not done
            leave.set()
    assert done == [quick._thread.ident] * 2
    assert await fresh(quick) == {"one", "two", "blocker"}


async def test_brief_and_other_functions_by_the_hundred_never_meet_on_the_connection(quick):
    alone, rounds = threading.Lock(), 100

    def exclusive(tx: Tx, name: str) -> None:
        assert alone.acquire(blocking=False)
        put(tx, name)
        alone.release()

    def exclusive_and_brief(tx: Tx, name: str) -> None:
        exclusive(tx, name)

    async def write(unit, label: str) -> None:
        for number in range(rounds):
            await quick.run(unit, f"{label}{number}")

    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            for label in "abc":
                nursery.start_soon(write, brief(exclusive_and_brief), label)
            nursery.start_soon(write, exclusive, "d")
    assert await fresh(quick) == {f"{label}{n}" for label in "abcd" for n in range(rounds)}
    assert quick._handed == 0


async def test_a_disk_error_in_the_event_loop_ends_the_store(disk, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(engine, "_QUICK_COMMITS", 0)
    async with open_store(tmp_path) as store:
        assert await store.run(put_briefly, "before") == threading.get_ident()
        disk.fails.add("xSync")
        with pytest.raises(Unavailable):
            await store.run(put_briefly, "lost")
        with trio.fail_after(BOUND):
            await store.wait_broken()
        disk.fails.clear()
        for unit in (put_briefly, put_slowly):
            with pytest.raises(Unavailable):
                await store.run(unit, "after")
        assert await store.run(names) == {"before"}


async def test_a_long_log_is_moved_to_the_database_by_the_thread(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_CHECKPOINT_PAGES", 100)
    threads = set()
    for number in range(300):
        threads.add(await quick.run(put_briefly, f"{number}" + "x" * 5000))  # more than a page
    assert threads == {threading.get_ident(), quick._thread.ident}
    (log,) = tmp_path.glob("*-wal")
    assert log.stat().st_size < 200 * 4096


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


# ── a disk that is full ──────────────────────────────────────────────────────────────────────────


def limit_pages(tx: Tx, more: int) -> None:
    pages = tx.value("PRAGMA page_count")
    tx.execute(f"PRAGMA max_page_count = {pages + more}")


@pytest.mark.parametrize("inline", [False, True])
async def test_on_a_full_disk_nothing_is_recorded_and_later_it_works_again(tmp_path, inline):
    async with open_store(tmp_path, inline=inline) as store:
        await store.run(limit_pages, 2)
        with pytest.raises(StorageFull, match="the hub's disk is full"):
            await store.run(put, "big", "x" * 100_000)
        assert await store.run(names) == set()
        await store.run(limit_pages, 1_000_000)
        await store.run(put, "big", "x" * 100_000)
        assert await store.run(names) == {"big"}
        assert not store.is_broken


async def test_on_a_full_disk_every_unit_of_a_batch_is_there_or_was_refused(store):
    await store.run(limit_pages, 4)
    outcomes = await Batch(store).commit(
        small=partial(put, name="small"),
        big=partial(put, name="big", value="x" * 100_000),
        late=partial(put, name="late"),
    )
    await store.run(limit_pages, 1_000_000)
    kept = await store.run(names)
    assert isinstance(outcomes["big"], StorageFull)
    for name, outcome in outcomes.items():
        assert isinstance(outcome, StorageFull) != (outcome == name)
        assert (name in kept) == (outcome == name)


# ── a disk that fails ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("operation", ["xSync", "xWrite"])
async def test_after_a_disk_error_nothing_is_acknowledged_any_more(
    disk: FaultyDisk, tmp_path, operation, inline, caplog
):
    async with open_store(tmp_path, inline=inline) as store:
        await store.run(put, "before")
        disk.fails.add(operation)
        with pytest.raises(Unavailable):
            await store.run(put, "lost")
        with trio.fail_after(BOUND):
            await store.wait_broken()
        assert store.is_broken
        disk.fails.clear()  # an fsync that failed once is never believed again
        with pytest.raises(Unavailable):
            await store.run(put, "after")
        if not inline:
            assert "before" in await store.run(names)
    assert {record.levelname for record in caplog.records} == {"CRITICAL"}


async def test_a_disk_error_refuses_every_unit_of_the_batch(disk, tmp_path, caplog):
    async with open_store(tmp_path) as store:

        def fail_here(tx: Tx) -> None:
            raise apsw.IOError("a page of this unit cannot be read")

        outcomes = await Batch(store).commit(
            one=partial(put, name="one"), bad=fail_here, two=partial(put, name="two")
        )
        assert {type(outcome) for outcome in outcomes.values()} == {Unavailable}
        assert await store.run(names) == {"blocker"}
        assert store.is_broken


async def test_a_reader_that_meets_a_disk_error_ends_the_store_too(disk, tmp_path, caplog):
    async with open_store(tmp_path) as store:

        @reads
        def read(tx: Tx) -> None:
            disk.fails.add("xRead")
            try:
                tx.value("SELECT count(*) FROM command")
            finally:
                disk.fails.clear()

        with pytest.raises(Unavailable):
            await store.run(read)
        with trio.fail_after(BOUND):
            await store.wait_broken()


async def test_no_statement_is_planned_anew_for_other_values(tmp_path):
    async with open_store(tmp_path) as store:
        await store.run(reads(lambda tx: tx.value("SELECT 1")))  # which opens a reader
        for connection in (store._writer, *store._readers):
            assert connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, -1) == 1
        assert store._readers
