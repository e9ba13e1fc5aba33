"""The sweep: what it cleans up, when it had better not, and what a full disk leaves of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.clock import STEADY_S
from cmdop_appliance.errors import StorageFull
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.hub.sweep import sweep_forever
from cmdop_appliance.hub.terminals import OPEN_S
from cmdop_appliance.store import events, idempotency, metrics, sessions, terminals
from cmdop_appliance.store.metrics import QUARTERS_KEPT_MS
from cmdop_appliance.store.transaction import Tx
from tests.support import records
from tests.support.clocks import LoopClock
from tests.support.full_disk import fill
from tests.support.live_hub import BOUND, live_hub
from tests.support.records import REACH, connected, once, samples

TABLES = ("event", "idempotency", "metric", "terminal")


class LeapingClock(LoopClock):
    """A wall clock that somebody sets."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


@asynccontextmanager
async def swept_hub(path: Path, clock: LeapingClock) -> AsyncIterator[Hub]:
    async with live_hub(path, clock=clock) as live, trio.open_nursery() as nursery:
        nursery.start_soon(sweep_forever, live.hub)
        yield live.hub
        nursery.cancel_scope.cancel()


def kept(tx: Tx) -> list[str]:
    return [name for name in TABLES if tx.value(f"SELECT count(*) FROM {name}")]


def end_one(tx: Tx, machine_id: str, now_ms: int) -> None:
    terminal = records.terminal(machine_id)
    terminals.insert(tx, terminal)
    terminals.end(tx, terminal, "exited", ended_ms=now_ms, now_ms=now_ms)


def status_of(tx: Tx, session_id: str) -> str:
    return sessions.get(tx, REACH, session_id).status


async def test_what_is_kept_no_longer_goes_unless_the_clock_only_leapt_for_a_moment(
    tmp_path, autojump_clock: MockClock
):
    clock = LeapingClock()
    async with swept_hub(tmp_path, clock) as hub:
        machine, _, epoch = await connected(hub.store, now_ms=clock.now_ms())
        await trio.sleep(2 * STEADY_S)
        await hub.store.run(metrics.record, machine.id, epoch, samples(1), clock.now_ms())
        await hub.store.run(idempotency.claim, once(now_ms=clock.now_ms()), "cmd_1")
        await hub.store.run(end_one, machine.id, clock.now_ms())
        assert await hub.store.run(kept) == list(TABLES)
        clock.ahead_ms = 2 * QUARTERS_KEPT_MS
        await trio.sleep(3)
        clock.ahead_ms = 0
        await trio.sleep(2 * STEADY_S)
        assert await hub.store.run(kept) == list(TABLES)
        clock.ahead_ms = 2 * QUARTERS_KEPT_MS
        await trio.sleep(STEADY_S + 3)
        assert await hub.store.run(kept) == []


async def test_a_terminal_that_no_machine_opens_is_given_up(tmp_path, autojump_clock: MockClock):
    clock = LeapingClock()
    async with swept_hub(tmp_path, clock) as hub:
        machine, _, _ = await connected(hub.store, now_ms=clock.now_ms())
        terminal = records.terminal(machine.id, created_ms=clock.now_ms())
        await hub.store.run(terminals.insert, terminal)
        await trio.sleep(OPEN_S + 2)
        ended = await hub.store.run(terminals.find, terminal.id)
        assert (ended.end, ended.code) == ("failed", "no_answer")


async def test_a_full_disk_does_not_keep_the_sweep_from_making_room(
    tmp_path, autojump_clock: MockClock
):
    clock = LeapingClock()
    async with live_hub(tmp_path, clock=clock) as live:
        store, now_ms = live.hub.store, clock.now_ms()
        _, session_id, epoch = await connected(store, now_ms=now_ms)
        await store.run(sessions.lose, session_id, epoch, now_ms=now_ms, grace_until_ms=now_ms)
        await fill(store, now_ms)
        clock.ahead_ms = events.KEPT_MS + 1
        with pytest.raises(StorageFull):
            await store.run(sessions.end_expired, clock.now_ms())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sweep_forever, live.hub)
            with trio.fail_after(STEADY_S + BOUND):
                while await store.run(status_of, session_id) != "DISCONNECTED":  # noqa: ASYNC110
                    await trio.sleep(1)
            nursery.cancel_scope.cancel()
