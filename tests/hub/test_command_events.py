"""Events of commands: told when the hub learns of them, with the times that their machine tells."""

import pytest

from cmdop_appliance.clock import rfc3339
from cmdop_appliance.hub import lifecycle
from cmdop_appliance.store import events
from cmdop_appliance.store.engine import open_store
from tests.support.live_hub import finished
from tests.support.records import NOW, REACH, connected, recorded

_DAY_MS = 86_400_000


@pytest.fixture
async def store(tmp_path):
    async with open_store(tmp_path) as store:
        yield store


async def ended(store, now_ms: int):
    """A command of which the hub hears at `now_ms` that it has run a moment after it was made."""
    machine, session_id, epoch = await connected(store)
    command = await recorded(store, machine.id, session_id)
    message = finished(command.id, b"", b"", started_ms=NOW + 5, duration_ms=7)
    held = {"stdout": 0, "stderr": 0}
    await store.run(lifecycle.finished, machine.id, epoch, [(message, held)], [], now_ms)
    return [
        event
        for event in await store.run(events.after, REACH, 0, 100)
        if event.subject == command.id
    ]


async def test_a_start_and_an_end_are_told_in_order_with_the_times_of_the_machine(store):
    begun, end = await ended(store, NOW + 1000)
    assert (begun.type, end.type) == ("command.started", "command.completed")
    assert begun.created_ms == end.created_ms == NOW + 1000
    assert begun.data["started_at"] == end.data["started_at"] == rfc3339(NOW + 5)
    assert (begun.data["finished_at"], end.data["finished_at"]) == (None, rfc3339(NOW + 12))


async def test_an_end_that_is_heard_of_late_is_kept_as_long_as_others(store):
    late_ms = NOW + 9 * _DAY_MS
    told = await ended(store, late_ms)
    await store.run(events.forget, late_ms)
    kept = await store.run(events.after, REACH, 0, 100)
    assert [event.seq for event in kept][-2:] == [event.seq for event in told]
