"""Events: one for each transition, numbered without a gap, kept for a while."""

import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.model import Event
from cmdop_appliance.store import events, sessions
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.transaction import Tx
from tests.support.records import FACTS, NOW, REACH, WORKSPACE, connected, joined

GRACE = 30_000


async def told(store: Store, reach: Reach = REACH, seq: int = 0) -> list[Event]:
    return await store.run(events.after, reach, seq, 100)


async def kinds(store: Store, subject: str) -> list[str]:
    return [event.type for event in await told(store) if event.subject == subject]


def append(tx: Tx, now_ms: int = NOW, machine_id: str | None = None) -> None:
    events.append(
        tx,
        WORKSPACE,
        "machine.registered",
        subject="mach",
        data={"a": 1},
        now_ms=now_ms,
        machine_id=machine_id,
    )


async def test_events_are_numbered_in_the_order_of_their_commits_without_a_gap(store):
    assert await store.run(events.last_seq, WORKSPACE) == 0
    for number in range(1, 4):
        await store.run(append, NOW + number)
        assert await store.run(events.last_seq, WORKSPACE) == number
    found = await told(store)
    assert [event.seq for event in found] == [1, 2, 3]
    assert [event.created_ms for event in found] == [NOW + 1, NOW + 2, NOW + 3]
    assert len({event.id for event in found}) == 3
    assert found[0].data == {"a": 1}
    assert [event.seq for event in await told(store, seq=2)] == [3]
    assert [event.seq for event in await store.run(events.after, REACH, 0, 2)] == [1, 2]


async def test_what_is_undone_leaves_no_event_and_takes_no_number(store):
    def fail(tx: Tx) -> None:
        append(tx)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await store.run(fail)
    await store.run(append)
    assert [event.seq for event in await told(store)] == [1]


async def test_an_event_is_in_reach_of_who_may_know_of_its_machine(store):
    web, *_ = await connected(store, tags=["prod", "web"])
    db, *_ = await connected(store, tags=["prod", "db"])
    await store.run(append)  # of no machine at all

    async def within(*tags: str) -> set[str | None]:
        found = await told(store, Reach(WORKSPACE, tags))
        assert [event.seq for event in found] == [*range(1, len(found) + 1)]
        return {event.machine_id for event in found if event.is_within}

    assert await within() == {web.id, db.id, None}
    assert await within("prod") == {web.id, db.id}
    assert await within("prod", "web") == {web.id}
    assert await within("web", "db") == set()
    assert await told(store, Reach("ws_other")) == []


async def test_old_events_are_dropped_and_their_numbers_are_not_given_again(store):
    await store.run(append, NOW)
    await store.run(append, NOW + 1)
    await store.run(events.forget, NOW + events.KEPT_MS)
    assert [event.seq for event in await told(store)] == [1, 2]
    await store.run(events.forget, NOW + 1 + events.KEPT_MS)
    assert [event.seq for event in await told(store)] == [2]
    await store.run(append, NOW + 2)
    assert [event.seq for event in await told(store)] == [2, 3]


# ── of sessions ──────────────────────────────────────────────────────────────────────────────────


async def test_of_too_many_events_the_newest_are_kept(store, monkeypatch):
    monkeypatch.setattr(events, "KEPT_MOST", 3)
    for _ in range(10):
        await store.run(append)
    assert [event.seq for event in await told(store)] == [8, 9, 10]


async def test_who_waits_is_woken_after_the_commit_and_not_before_it_or_without_one(store):
    woken = []
    store.listen(woken.append)

    def look(tx: Tx) -> list[str]:
        append(tx)
        return list(woken)

    def fail(tx: Tx) -> None:
        append(tx)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await store.run(fail)
    assert woken == []
    assert await store.run(look) == []
    assert woken == [events.subject_of(WORKSPACE)]


async def connect(store: Store, machine, now_ms: int = NOW) -> tuple[str, int]:
    return await store.run(sessions.connect, machine, facts=FACTS, ip="::1", now_ms=now_ms)


async def lose(store: Store, session_id: str, epoch: int) -> None:
    await store.run(sessions.lose, session_id, epoch, now_ms=NOW, grace_until_ms=NOW + GRACE)


async def test_each_transition_of_a_session_is_told_once(store):
    machine = await joined(store)
    session_id, epoch = await connect(store, machine)
    for _ in range(2):
        await store.run(sessions.ready, session_id, epoch, NOW)
    for _ in range(2):
        await lose(store, session_id, epoch)
    _, epoch = await connect(store, machine)
    await store.run(sessions.ready, session_id, epoch, NOW)
    await lose(store, session_id, epoch)
    for _ in range(2):
        await store.run(sessions.end_expired, NOW + GRACE + 1)
    assert await kinds(store, session_id) == [
        "session.created",
        "session.connected",
        "session.grace_period",
        "session.connected",
        "session.grace_period",
        "session.disconnected",
    ]
    assert await kinds(store, machine.id) == ["machine.online", "machine.offline"]


@pytest.mark.parametrize("end", [sessions.end, sessions.fail])
async def test_the_end_of_a_session_is_told_with_its_status(store, end):
    _, session_id, epoch = await connected(store)
    for _ in range(2):
        await store.run(end, session_id, epoch, NOW)
    last = [event for event in await told(store) if event.subject == session_id][-1]
    status = (await store.run(sessions.get, REACH, session_id)).status
    assert (last.type, last.data["status"]) == ("session.disconnected", status)
    assert (await kinds(store, session_id)).count("session.disconnected") == 1


async def test_a_machine_that_never_was_ready_was_never_online(store):
    machine = await joined(store)
    session_id, epoch = await connect(store, machine)
    await lose(store, session_id, epoch)
    assert await kinds(store, session_id) == ["session.created", "session.disconnected"]
    assert await kinds(store, machine.id) == []


async def test_a_connection_that_takes_over_is_no_transition(store):
    machine, session_id, _ = await connected(store)
    before = await told(store)
    _, epoch = await connect(store, machine)
    await store.run(sessions.ready, session_id, epoch, NOW)
    assert await told(store) == before


async def test_a_hub_start_tells_what_it_found(store):
    _, one, _ = await connected(store)
    _, two, epoch = await connected(store)
    await lose(store, two, epoch)
    three, _ = await connect(store, await joined(store))
    for _ in range(2):
        await store.run(sessions.recover, now_ms=NOW, grace_until_ms=NOW + GRACE)
    assert (await kinds(store, one))[-1] == "session.grace_period"
    assert (await kinds(store, two)).count("session.grace_period") == 1
    assert (await kinds(store, one)).count("session.grace_period") == 1
    assert await kinds(store, three) == ["session.created", "session.disconnected"]
