"""Clients: who is attached to a session, and whether they may do more than look."""

import msgspec
import pytest

from cmdop_appliance.errors import ClientNotFound, Conflict, Forbidden
from cmdop_appliance.hub import presence
from cmdop_appliance.store import api_keys, clients, events, sessions
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.listing import Paging
from tests.support import records
from tests.support.records import NOW, REACH, WORKSPACE, client, connected

KEY, OTHER_KEY = "key_1", "key_2"


async def attached(store: Store, session_id: str, **fields):
    key = fields.pop("api_key_id", KEY)
    return await store.run(clients.attach, client(session_id, key, **fields))


async def counted(store: Store) -> dict[str, int]:
    page = await store.run(
        sessions.page, REACH, Paging(), status=None, machine_id=None, machine_hostname=None
    )
    return {session.id: session.attached_clients for session in page.items}


async def test_clients_are_those_of_one_session_in_the_order_they_came(store):
    _, session_id, _ = await connected(store)
    _, other, _ = await connected(store)
    late = await attached(store, session_id, attached_ms=NOW + 2)
    early = await attached(store, session_id, attached_ms=NOW + 1)
    assert await store.run(clients.of_session, session_id) == [early, late]
    assert await store.run(clients.of_session, other) == []
    assert await store.run(clients.find, session_id, late.id) == late
    assert await store.run(clients.find, other, late.id) is None
    assert await counted(store) == {session_id: 2, other: 0}


async def test_the_same_client_again_changes_its_mode_and_no_more(store):
    _, session_id, _ = await connected(store)
    first = await attached(store, session_id, mode="observer")
    again = client(session_id, KEY, id=first.id, mode="operator", attached_ms=NOW + 9)
    changed = msgspec.structs.replace(first, mode="operator")
    assert await store.run(clients.attach, again) == changed
    assert await store.run(clients.of_session, session_id) == [changed]


async def test_a_key_has_so_many_clients_in_one_session(store):
    _, session_id, _ = await connected(store)
    _, other, _ = await connected(store)
    mine = [await attached(store, session_id) for _ in range(16)]
    with pytest.raises(Conflict, match=r"with 16 clients") as caught:
        await attached(store, session_id)
    assert "detach one" in caught.value.hint
    await attached(store, session_id, id=mine[0].id, mode="observer")  # one of them, changed
    await attached(store, session_id, api_key_id=OTHER_KEY)
    await attached(store, other)
    await store.run(clients.detach, session_id, mine[0].id, KEY)
    await attached(store, session_id)


async def test_a_client_is_nobody_elses(store):
    _, session_id, _ = await connected(store)
    mine = await attached(store, session_id, mode="observer")
    with pytest.raises(Conflict):
        await store.run(clients.attach, client(session_id, OTHER_KEY, id=mine.id, mode="operator"))
    with pytest.raises(ClientNotFound):
        await store.run(clients.detach, session_id, mine.id, OTHER_KEY)
    assert await store.run(clients.of_session, session_id) == [mine]
    assert await store.run(clients.detach, session_id, mine.id, KEY) == mine
    with pytest.raises(ClientNotFound):
        await store.run(clients.detach, session_id, mine.id, KEY)


async def test_whoever_may_detach_anybody_names_no_key(store):
    _, session_id, _ = await connected(store)
    theirs = await attached(store, session_id, api_key_id=OTHER_KEY)
    assert await store.run(clients.detach, session_id, theirs.id, None) == theirs
    with pytest.raises(ClientNotFound):
        await store.run(clients.detach, session_id, theirs.id, None)


async def may_act(store: Store, machine_id: str, key: str = KEY) -> bool:
    try:
        await store.run(clients.require_operator, key, machine_id)
    except Forbidden:
        return False
    return True


async def test_a_key_that_only_observes_a_machine_may_not_act_on_it(store):
    machine, session_id, _ = await connected(store)
    elsewhere, _, _ = await connected(store)
    assert await may_act(store, machine.id)
    observer = await attached(store, session_id, mode="observer")
    assert not await may_act(store, machine.id)
    assert await may_act(store, machine.id, OTHER_KEY)
    assert await may_act(store, elsewhere.id)
    operator = await attached(store, session_id, mode="operator")
    assert await may_act(store, machine.id)
    await store.run(clients.detach, session_id, operator.id, KEY)
    assert not await may_act(store, machine.id)
    await store.run(clients.detach, session_id, observer.id, KEY)
    assert await may_act(store, machine.id)


@pytest.mark.parametrize("end", [sessions.end, sessions.fail])
async def test_a_session_that_is_over_has_no_clients(store, end):
    machine, session_id, epoch = await connected(store)
    await attached(store, session_id, mode="observer")
    await store.run(end, session_id, epoch, NOW)
    assert await store.run(clients.of_session, session_id) == []
    assert await may_act(store, machine.id)


async def test_a_grace_period_keeps_the_clients(store):
    machine, session_id, epoch = await connected(store)
    await attached(store, session_id, mode="observer")
    await store.run(sessions.lose, session_id, epoch, now_ms=NOW, grace_until_ms=NOW + 1)
    await store.run(sessions.recover, now_ms=NOW, grace_until_ms=NOW + 1)
    assert not await may_act(store, machine.id)
    await store.run(sessions.end_expired, NOW + 2)
    assert await store.run(clients.of_session, session_id) == []


async def test_clients_leave_with_their_key_and_with_their_session_and_an_event_says_so(store):
    _, session_id, epoch = await connected(store)
    good = records.api_key()
    expired = records.api_key(expires_ms=NOW)
    await store.run(api_keys.insert, good, "good")
    await store.run(api_keys.insert, expired, "expired")
    stays = await attached(store, session_id, api_key_id=good.id)
    late = await attached(store, session_id, api_key_id=expired.id)
    revoked = await attached(store, session_id, api_key_id="key_revoked")
    before = await store.run(events.last_seq, WORKSPACE)
    for _ in range(2):
        await store.run(presence.detach_keyless, NOW)
    assert await store.run(clients.of_session, session_id) == [stays]
    await store.run(sessions.end, session_id, epoch, NOW)
    told = [
        (event.type, event.data.get("client_id"))
        for event in await store.run(events.after, REACH, before, 100)
    ]
    assert sorted(told[:2]) == sorted(
        ("session.client_detached", client.id) for client in (late, revoked)
    )
    assert told[2:] == [
        ("session.client_detached", stays.id),
        ("session.disconnected", None),
        ("machine.offline", None),
    ]
