"""Sign-ins in the store: who finds them, who ends them, and that they end with their key."""

import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import NotFound, Unauthorized
from cmdop_appliance.store import api_keys, sign_ins
from cmdop_appliance.store.listing import Paging
from tests.support.records import NOW, REACH, api_key, sign_in


@pytest.fixture
async def key(store):
    key = api_key(tags=["a"])
    await store.run(api_keys.insert, api_key(), "admin")
    await store.run(api_keys.insert, key, "key")
    return key


async def test_one_is_found_by_its_hash_until_it_ends(store, key):
    made = sign_in(key, ends_ms=NOW + 1)
    await store.run(sign_ins.insert, made, "hash")
    assert await store.run(sign_ins.by_hash, "hash", NOW) == (made, key)
    assert await store.run(sign_ins.is_good, made.id, NOW)
    assert await store.run(sign_ins.by_hash, "hash", NOW + 1) is None
    assert not await store.run(sign_ins.is_good, made.id, NOW + 1)
    assert await store.run(sign_ins.by_hash, "other", NOW) is None


async def test_a_use_puts_its_end_off_but_not_beyond_the_latest(store, key):
    made = sign_in(key, ends_ms=NOW + 10, expires_ms=NOW + 100)
    await store.run(sign_ins.insert, made, "hash")
    for at_ms, address, ends_ms, ip in (
        (NOW + 5, "::1", NOW + 65, "::1"),
        (NOW + 50, None, NOW + 100, "::1"),
    ):
        uses = [api_keys.Use(made.id, at_ms, address), api_keys.Use("sign_gone", NOW, "::1")]
        await store.run(sign_ins.note_uses, uses, 60)
        found = await store.run(sign_ins.by_id, made.id)
        assert (found.last_seen_ms, found.ends_ms, found.ip) == (at_ms, ends_ms, ip)


async def test_all_of_a_key_end_with_it(store, key):
    await store.run(sign_ins.insert, sign_in(key), "hash")
    await store.run(api_keys.delete, REACH, key.id)
    assert await store.run(sign_ins.by_hash, "hash", NOW) is None
    assert await store.run(lambda tx: tx.value("SELECT count(*) FROM sign_in")) == 0


async def test_a_key_that_is_not_there_has_none(store, key):
    with pytest.raises(Unauthorized):
        await store.run(sign_ins.insert, sign_in(api_key()), "hash")


async def test_one_ends_for_another_whose_key_is_not_the_same(store, key):
    other = api_key()
    await store.run(api_keys.insert, other, "other")
    first, second = sign_in(key), sign_in(other)
    await store.run(sign_ins.insert, first, "first")
    await store.run(sign_ins.insert, second, "second", first.id)
    assert await store.run(sign_ins.by_hash, "first", NOW) is None
    assert await store.run(sign_ins.by_hash, "second", NOW) == (second, other)


@pytest.mark.parametrize(
    ("reach", "is_of_the_key"),
    [(Reach("ws_other"), None), (Reach(REACH.workspace_id, ("b",)), None), (REACH, False)],
)
async def test_who_does_not_reach_the_key_finds_none_and_ends_none(
    store, key, reach, is_of_the_key
):
    made = sign_in(key)
    await store.run(sign_ins.insert, made, "hash")
    own = None if is_of_the_key is None else "key_other"
    assert (await store.run(sign_ins.page, reach, Paging(), api_key_id=own)).total == 0
    with pytest.raises(NotFound):
        await store.run(sign_ins.delete, reach, made.id, own)
    assert await store.run(sign_ins.is_good, made.id, NOW)
    mine = Reach(REACH.workspace_id, ("a",))
    assert (await store.run(sign_ins.page, mine, Paging(), api_key_id=key.id)).items == [made]
    await store.run(sign_ins.delete, mine, made.id, key.id)
    assert not await store.run(sign_ins.is_good, made.id, NOW)


async def test_those_that_have_ended_are_dropped(store, key):
    ended, going_on = sign_in(key, ends_ms=NOW), sign_in(key, ends_ms=NOW + 1)
    await store.run(sign_ins.insert, ended, "ended")
    await store.run(sign_ins.insert, going_on, "going on")
    await store.run(sign_ins.forget, NOW)
    assert (await store.run(sign_ins.page, REACH, Paging())).items == [going_on]
