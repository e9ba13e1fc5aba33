"""Sessions: every transition there is, and that an older connection makes none."""

import msgspec
import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import SessionNotFound
from cmdop_appliance.model import Machine, Session
from cmdop_appliance.store import sessions
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.listing import Paging
from cmdop_appliance.store.transaction import reads
from tests.support.records import FACTS, NOW, REACH, TELEMETRY, connected, joined

GRACE = 30_000


async def status(store: Store, session_id: str) -> str:
    return (await store.run(sessions.get, REACH, session_id)).status


async def connect(store: Store, machine: Machine, now_ms: int = NOW) -> tuple[str, int]:
    return await store.run(sessions.connect, machine, facts=FACTS, ip="::1", now_ms=now_ms)


async def lose(store: Store, session_id: str, epoch: int, now_ms: int = NOW) -> None:
    await store.run(sessions.lose, session_id, epoch, now_ms=now_ms, grace_until_ms=now_ms + GRACE)


async def snapshot(store: Store, session_id: str) -> list[object]:
    """The whole row, fences included."""

    @reads
    def read(tx):
        row = tx._connection.execute("SELECT * FROM session WHERE id = :id", {"id": session_id})
        return list(row)

    return await store.run(read)


async def current_of(store: Store, machine: Machine) -> list[Session]:
    page = await store.run(
        sessions.page,
        REACH,
        Paging(),
        status=None,
        machine_id=machine.id,
        machine_hostname=None,
    )
    return [one for one in page.items if one.status not in ("DISCONNECTED", "ERROR")]


async def test_a_session_begins_pending_and_is_connected_when_the_agent_is_ready(store):
    machine = await joined(store)
    session_id, epoch = await connect(store, machine)
    assert await status(store, session_id) == "PENDING"
    assert await store.run(sessions.live_of, REACH, machine.id) is None
    assert await store.run(sessions.ready, session_id, epoch, NOW + 1)
    session = await store.run(sessions.get, REACH, session_id)
    assert session.status == "CONNECTED"
    assert session.connected_ms == session.last_heartbeat_ms == NOW + 1
    assert await store.run(sessions.live_of, REACH, machine.id) == session


async def test_a_lost_link_is_a_grace_period_and_then_the_end(store):
    machine, session_id, epoch = await connected(store)
    await lose(store, session_id, epoch)
    assert await status(store, session_id) == "GRACE_PERIOD"
    assert (await store.run(sessions.live_of, REACH, machine.id)).id == session_id
    assert await store.run(sessions.end_expired, NOW + GRACE) == 0
    assert await store.run(sessions.end_expired, NOW + GRACE + 1) == 1
    assert await status(store, session_id) == "DISCONNECTED"
    assert await store.run(sessions.live_of, REACH, machine.id) is None


async def test_a_link_that_was_lost_before_it_was_ready_has_no_grace(store):
    machine = await joined(store)
    session_id, epoch = await connect(store, machine)
    await lose(store, session_id, epoch)
    assert await status(store, session_id) == "DISCONNECTED"


async def test_a_goodbye_needs_no_grace(store):
    _, session_id, epoch = await connected(store)
    await store.run(sessions.end, session_id, epoch, NOW)
    assert await status(store, session_id) == "DISCONNECTED"


async def test_a_connection_that_breaks_the_protocol_ends_in_error_and_the_next_one_is_new(store):
    machine, session_id, epoch = await connected(store)
    await store.run(sessions.fail, session_id, epoch, NOW)
    assert await status(store, session_id) == "ERROR"
    assert await store.run(sessions.live_of, REACH, machine.id) is None
    again, _ = await connect(store, machine)
    assert again != session_id


async def test_what_is_no_more_has_no_session_whatever_connection_has_it(store):
    machine, session_id, _ = await connected(store)
    _, other, _ = await connected(store)
    await connect(store, machine)
    await store.run(sessions.end_of, machine.id, NOW)
    await store.run(sessions.end_of, machine.id, NOW)
    assert await status(store, session_id) == "DISCONNECTED"
    assert await status(store, other) == "CONNECTED"


async def test_a_machine_that_is_back_within_its_grace_keeps_its_session(store):
    machine, session_id, epoch = await connected(store)
    await lose(store, session_id, epoch)
    again, newer = await connect(store, machine, NOW + GRACE)
    assert again == session_id
    assert newer > epoch
    assert await status(store, session_id) == "GRACE_PERIOD"  # until it is ready
    assert await store.run(sessions.ready, session_id, newer, NOW + GRACE)
    session = await store.run(sessions.get, REACH, session_id)
    assert session.status == "CONNECTED"
    assert session.connected_ms == NOW  # it is the same session
    assert await store.run(sessions.end_expired, NOW + 10 * GRACE) == 0


async def test_a_machine_that_is_back_after_its_grace_gets_a_new_session(store):
    machine, session_id, epoch = await connected(store)
    await lose(store, session_id, epoch)
    again, _ = await connect(store, machine, NOW + GRACE + 1)
    assert again != session_id
    assert await status(store, session_id) == "DISCONNECTED"
    assert [one.id for one in await current_of(store, machine)] == [again]


async def test_a_machine_that_never_gets_ready_cannot_stretch_its_grace(store):
    machine, session_id, epoch = await connected(store)
    await lose(store, session_id, epoch)
    for attempt in range(3):
        _, epoch = await connect(store, machine, NOW + attempt)
        await lose(store, session_id, epoch, NOW + attempt)
    assert await store.run(sessions.end_expired, NOW + GRACE + 1) == 1


async def test_a_connection_that_takes_over_keeps_the_session(store):
    machine, session_id, _ = await connected(store)
    again, epoch = await connect(store, machine)
    assert again == session_id
    assert await status(store, session_id) == "CONNECTED"
    await lose(store, session_id, epoch)
    assert await status(store, session_id) == "GRACE_PERIOD"


async def test_an_older_connection_changes_nothing(store):
    machine, session_id, old = await connected(store)
    await connect(store, machine)
    before = await snapshot(store, session_id)
    assert not await store.run(sessions.ready, session_id, old, NOW + 9)
    assert not await store.run(sessions.heartbeat, session_id, old, NOW + 9)
    assert not await store.run(sessions.sampled, machine.id, old, TELEMETRY, NOW + 9, NOW + 9)
    assert not await store.run(sessions.set_background, session_id, old, on=True)
    await lose(store, session_id, old, NOW + 9)
    await store.run(sessions.end, session_id, old, NOW + 9)
    await store.run(sessions.fail, session_id, old, NOW + 9)
    assert await snapshot(store, session_id) == before


async def test_what_is_over_stays_over(store):
    machine, session_id, epoch = await connected(store)
    await store.run(sessions.end, session_id, epoch, NOW)
    before = await snapshot(store, session_id)
    assert not await store.run(sessions.ready, session_id, epoch, NOW + 9)
    assert not await store.run(sessions.heartbeat, session_id, epoch, NOW + 9)
    assert not await store.run(sessions.sampled, machine.id, epoch, TELEMETRY, NOW + 9, NOW + 9)
    assert not await store.run(sessions.set_background, session_id, epoch, on=True)
    await lose(store, session_id, epoch, NOW + 9)
    await store.run(sessions.end, session_id, epoch, NOW + 9)
    await store.run(sessions.fail, session_id, epoch, NOW + 9)
    await store.run(sessions.end_expired, NOW + 10 * GRACE)
    await store.run(sessions.recover, now_ms=NOW + 9, grace_until_ms=NOW + 9)
    assert await snapshot(store, session_id) == before


async def test_the_same_change_again_changes_nothing(store):
    _, session_id, epoch = await connected(store)
    await lose(store, session_id, epoch, NOW)
    before = await snapshot(store, session_id)
    await lose(store, session_id, epoch, NOW + 9)
    assert await snapshot(store, session_id) == before
    await store.run(sessions.end_expired, NOW + GRACE + 1)
    before = await snapshot(store, session_id)
    assert await store.run(sessions.end_expired, NOW + GRACE + 2) == 0
    assert await snapshot(store, session_id) == before


async def test_a_machine_has_one_current_session_whatever_happens(store):
    machine = await joined(store)
    now_ms = NOW
    for step in range(60):
        now_ms += 7_000
        session_id, epoch = await connect(store, machine, now_ms)
        if step % 2:
            await store.run(sessions.ready, session_id, epoch, now_ms)
        if step % 3:
            await lose(store, session_id, epoch, now_ms)
        if step % 5 == 0:
            await store.run(sessions.end_expired, now_ms)
        if step % 7 == 0:
            now_ms += GRACE
        assert len(await current_of(store, machine)) <= 1


async def test_after_a_hub_start_no_session_is_connected_and_each_may_come_back(store):
    connected_machine, one, _ = await connected(store)
    lost_machine, two, epoch = await connected(store)
    await lose(store, two, epoch)
    pending_machine = await joined(store)
    three, _ = await connect(store, pending_machine)
    start = NOW + 3 * GRACE  # long after the grace that ran when the hub stopped
    await store.run(sessions.recover, now_ms=start, grace_until_ms=start + GRACE)
    found = [await status(store, session_id) for session_id in (one, two, three)]
    assert found == ["GRACE_PERIOD", "GRACE_PERIOD", "DISCONNECTED"]
    assert (await connect(store, connected_machine, start + GRACE))[0] == one
    assert (await connect(store, lost_machine, start + GRACE))[0] == two


async def test_a_session_keeps_its_last_sample(store):
    machine, session_id, epoch = await connected(store)
    busy = msgspec.structs.replace(TELEMETRY, cpu_percent=99)
    for telemetry, at_ms in ((TELEMETRY, NOW + 5), (busy, NOW + 9), (TELEMETRY, NOW + 8)):
        now_ms = NOW + 10
        assert await store.run(sessions.sampled, machine.id, epoch, telemetry, at_ms, now_ms)
    session = await store.run(sessions.get, REACH, session_id)
    assert (session.telemetry, session.sampled_ms) == (busy, NOW + 9)
    assert session.last_heartbeat_ms == NOW
    await lose(store, session_id, epoch)
    away = await store.run(sessions.get, REACH, session_id)
    assert (away.status, away.telemetry, away.sampled_ms) == ("GRACE_PERIOD", busy, NOW + 9)


async def test_a_sample_from_long_before_a_session_is_not_its_own(store):
    machine, session_id, epoch = await connected(store)
    for before_ms, kept in ((60_000, None), (59_999, NOW - 59_999)):
        at_ms = NOW - before_ms
        assert await store.run(sessions.sampled, machine.id, epoch, TELEMETRY, at_ms, NOW)
        assert (await store.run(sessions.get, REACH, session_id)).sampled_ms == kept


async def test_a_last_sample_of_the_future_gives_way_once_the_clock_is_set_back(store):
    machine, session_id, epoch = await connected(store)
    later = NOW + 3_600_000
    assert await store.run(sessions.sampled, machine.id, epoch, TELEMETRY, later, later)
    assert await store.run(sessions.sampled, machine.id, epoch, TELEMETRY, NOW, NOW)
    assert (await store.run(sessions.get, REACH, session_id)).sampled_ms == NOW


async def test_only_a_connected_session_goes_to_the_background_and_comes_back(store):
    machine, session_id, epoch = await connected(store)
    for on, changed, after in (
        (False, False, "CONNECTED"),
        (True, True, "BACKGROUND"),
        (True, False, "BACKGROUND"),
        (False, True, "CONNECTED"),
        (True, True, "BACKGROUND"),
    ):
        assert await store.run(sessions.set_background, session_id, epoch, on=on) is changed
        assert await status(store, session_id) == after
    await lose(store, session_id, epoch)
    for on in (True, False):
        assert not await store.run(sessions.set_background, session_id, epoch, on=on)
        assert await status(store, session_id) == "GRACE_PERIOD"
    _, epoch = await connect(store, machine)
    assert await store.run(sessions.ready, session_id, epoch, NOW + 1)
    assert await status(store, session_id) == "CONNECTED"


async def test_a_session_of_another_workspace_is_not_found(store):
    _, session_id, _ = await connected(store)
    with pytest.raises(SessionNotFound):
        await store.run(sessions.get, Reach("ws_other"), session_id)
