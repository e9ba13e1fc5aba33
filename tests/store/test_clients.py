"""Clients: who is attached to a session, and whether they may do more than look."""

import msgspec
import pytest

from cmdop_appliance.errors import ClientNotFound, Conflict, Forbidden
from cmdop_appliance.store import clients, sessions
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.listing import Paging
from tests.support.records import NOW, REACH, client, connected

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
