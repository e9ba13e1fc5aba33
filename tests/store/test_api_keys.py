"""API keys: found by their hash alone, and never all gone."""

import pytest

from cmdop_appliance.errors import Conflict, NotFound
from cmdop_appliance.store import api_keys
from cmdop_appliance.store.listing import Paging
from tests.support.records import NOW, WORKSPACE, api_key


async def test_a_key_is_found_by_its_hash_until_it_expires(store):
    forever, brief = api_key(), api_key(expires_ms=NOW + 1)
    await store.run(api_keys.insert, forever, "one")
    await store.run(api_keys.insert, brief, "two")
    assert await store.run(api_keys.by_hash, "one", 2**60) == forever
    assert await store.run(api_keys.by_hash, "two", NOW) == brief
    assert await store.run(api_keys.by_hash, "two", NOW + 1) is None
    assert await store.run(api_keys.by_hash, "three", NOW) is None


async def test_a_revoked_key_is_not_found(store):
    admin, made = api_key(), api_key(scopes=["machines:read"])
    await store.run(api_keys.insert, admin, "admin")
    await store.run(api_keys.insert, made, "hash")
    with pytest.raises(NotFound):
        await store.run(api_keys.delete, "ws_other", made.id)
    await store.run(api_keys.delete, WORKSPACE, made.id)
    assert await store.run(api_keys.by_hash, "hash", NOW) is None
    with pytest.raises(NotFound):
        await store.run(api_keys.delete, WORKSPACE, made.id)


async def test_the_last_admin_key_that_does_not_expire_cannot_go(store):
    last = api_key()
    await store.run(api_keys.insert, last, "last")
    await store.run(api_keys.insert, api_key(expires_ms=NOW + 1), "expires")
    await store.run(api_keys.insert, api_key(scopes=["machines:read"]), "reads")
    with pytest.raises(Conflict, match="last admin key"):
        await store.run(api_keys.delete, WORKSPACE, last.id)
    assert await store.run(api_keys.by_hash, "last", NOW) == last
    await store.run(api_keys.insert, api_key(scopes=["machines:read", "admin"]), "another")
    await store.run(api_keys.delete, WORKSPACE, last.id)
    assert await store.run(api_keys.by_hash, "last", NOW) is None


async def test_a_page_has_the_keys_of_one_workspace(store):
    keys = [api_key(name=name, created_ms=NOW + n) for n, name in enumerate("ba")]
    for number, key in enumerate(keys):
        await store.run(api_keys.insert, key, str(number))
    assert await store.run(api_keys.count) == 2
    page = await store.run(api_keys.page, WORKSPACE, Paging(sort="name"))
    assert [key.name for key in page.items] == ["a", "b"]
    assert (await store.run(api_keys.page, "ws_other", Paging())).total == 0
