"""What is brief is committed in the event loop while the disk is quick, and by the thread else."""

import math
import threading

import pytest
import trio

from cmdop_appliance.errors import NotFound, Unavailable
from cmdop_appliance.store import engine
from cmdop_appliance.store.engine import Store, open_store
from cmdop_appliance.store.transaction import Tx, brief
from tests.store.units import BOUND, block, names, put, put_then_fail


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
    monkeypatch.setattr(quick, "_checkpoint_pages", 100)
    threads = set()
    for number in range(300):
        threads.add(await quick.run(put_briefly, f"{number}" + "x" * 5000))  # more than a page
    assert threads == {threading.get_ident(), quick._thread.ident}
    (log,) = tmp_path.glob("*-wal")
    assert log.stat().st_size < 200 * 4096
