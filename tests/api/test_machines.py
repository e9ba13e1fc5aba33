"""GET /machines: what a machine's live session tells stands beside its record."""

import pytest

from cmdop_appliance.api.fields import when
from cmdop_appliance.store import sessions
from tests.api.local_api import LocalApi
from tests.support.live_hub import live_hub
from tests.support.records import NOW, TELEMETRY, connected, joined

LOAD = {
    "at": when(NOW + 5),
    "cpu_percent": 1.5,
    "memory_percent": 50.0,
    "disk_percent": 10.0,
    "network_rx_bytes": 1,
    "network_tx_bytes": 2,
    "uptime_seconds": 3,
}


@pytest.fixture
async def api(tmp_path):
    async with live_hub(tmp_path) as live:
        yield await LocalApi.of(live.hub)


async def live_part(api: LocalApi, machine_id: str) -> tuple[object, ...]:
    """What the session tells; the list says it as the machine's own page does."""
    (listed,) = [each for each in await api.get("/machines") if each["id"] == machine_id]
    detail = await api.get(f"/machines/{machine_id}")
    assert listed.items() <= detail.items()
    return listed["status"], listed["session_status"], listed["grace_until"], listed["load"]


async def test_a_machine_tells_how_its_session_is_and_its_newest_load(api):
    store = api.hub.store
    made, session_id, epoch = await connected(store)
    other = await joined(store)
    assert await live_part(api, made.id) == ("online", "CONNECTED", None, None)
    assert await store.run(sessions.sampled, made.id, epoch, TELEMETRY, NOW + 5, NOW + 5)
    await store.run(sessions.set_background, session_id, epoch, on=True)
    assert await live_part(api, made.id) == ("online", "BACKGROUND", None, LOAD)
    until_ms = NOW + 30_000
    await store.run(sessions.lose, session_id, epoch, now_ms=NOW, grace_until_ms=until_ms)
    assert await live_part(api, made.id) == ("online", "GRACE_PERIOD", when(until_ms), LOAD)
    await store.run(sessions.end_expired, until_ms + 1)
    assert await live_part(api, made.id) == ("offline", None, None, None)
    assert await live_part(api, other.id) == ("offline", None, None, None)
    await store.run(sessions.connect, made, facts=made.facts, ip="::1", now_ms=NOW)
    assert await live_part(api, made.id) == ("offline", None, None, None)  # PENDING


async def test_a_list_of_machines_reads_their_sessions_at_once(api):
    for _ in range(3):
        await connected(api.hub.store)
    seen: list[str] = []
    api.hub.store._writer.exec_trace = lambda _, sql, __: seen.append(sql) or True
    assert len(await api.get("/machines")) == 3
    assert len([sql for sql in seen if "FROM session" in sql]) == 1


async def test_a_changed_machine_is_answered_with_its_session(api):
    made, _, _ = await connected(api.hub.store)
    answer = await api.patch(f"/machines/{made.id}", name="nas")
    assert (answer["name"], answer["session_status"]) == ("nas", "CONNECTED")
