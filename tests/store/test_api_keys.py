"""API keys: found by their hash alone, and never all gone."""

import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import Conflict, NotFound
from cmdop_appliance.store import api_keys, enrolments, workspaces
from cmdop_appliance.store.api_keys import Use
from cmdop_appliance.store.listing import Paging
from tests.support.records import NOW, REACH, WORKSPACE, api_key, enrolment


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
        await store.run(api_keys.delete, Reach("ws_other"), made.id)
    await store.run(api_keys.delete, REACH, made.id)
    assert await store.run(api_keys.by_hash, "hash", NOW) is None
    with pytest.raises(NotFound):
        await store.run(api_keys.delete, REACH, made.id)


async def test_the_last_admin_key_that_does_not_expire_cannot_go(store):
    last = api_key()
    await store.run(api_keys.insert, last, "last")
    await store.run(api_keys.insert, api_key(expires_ms=NOW + 1), "expires")
    await store.run(api_keys.insert, api_key(scopes=["machines:read"]), "reads")
    await store.run(api_keys.insert, api_key(tags=["a"]), "restricted")
    other = api_key(workspace_id="ws_2", namespace="two")
    await store.run(workspaces.insert, other, "of another workspace")
    with pytest.raises(Conflict, match="last admin key"):
        await store.run(api_keys.delete, REACH, last.id)
    assert await store.run(api_keys.by_hash, "last", NOW) == last
    await store.run(api_keys.insert, api_key(scopes=["machines:read", "admin"]), "another")
    await store.run(api_keys.delete, REACH, last.id)
    assert await store.run(api_keys.by_hash, "last", NOW) is None


async def test_a_page_has_the_keys_of_one_workspace(store):
    keys = [api_key(name=name, created_ms=NOW + n) for n, name in enumerate("ba")]
    for number, key in enumerate(keys):
        await store.run(api_keys.insert, key, str(number))
    assert await store.run(api_keys.count) == 2
    page = await store.run(api_keys.page, REACH, Paging(sort="name"))
    assert [key.name for key in page.items] == ["a", "b"]
    assert (await store.run(api_keys.page, Reach("ws_other"), Paging())).total == 0


TAGS = [[], ["a"], ["b"], ["a", "b"], ["b", "a", "c"], ["A"], ["ab"], ["a_b"], ["axb"]]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ((), TAGS),
        (("a",), [["a"], ["a", "b"], ["b", "a", "c"]]),
        (("a", "b"), [["a", "b"], ["b", "a", "c"]]),
        (("A",), [["A"]]),
        (("a_b",), [["a_b"]]),
        (("c", "d"), []),
    ],
)
async def test_what_a_restricted_key_reaches_carries_all_of_its_tags(store, asked, found):
    reach = Reach(WORKSPACE, asked)
    for number, tags in enumerate(TAGS):
        fields = {"tags": tags, "created_ms": NOW + number}
        await store.run(api_keys.insert, api_key(**fields), f"key-{number}")
        await store.run(enrolments.insert, enrolment(**fields), f"token-{number}")
    for noun in (api_keys, enrolments):
        page = await store.run(noun.page, reach, Paging(sort="created_at"))
        assert [item.tags for item in page.items] == found
        assert page.total == len(found)
        for item in (await store.run(noun.page, REACH, Paging())).items:
            if item.tags in found:
                assert await store.run(noun.get, reach, item.id) == item
            else:
                for fn in (noun.get, noun.delete):
                    with pytest.raises(NotFound):
                        await store.run(fn, reach, item.id)
        assert (await store.run(noun.page, REACH, Paging())).total == len(TAGS)


async def test_the_last_use_is_kept(store):
    made = api_key()
    await store.run(api_keys.insert, made, "hash")
    uses = [Use(made.id, NOW, "192.0.2.7"), Use("key_gone", NOW, "::1")]
    await store.run(api_keys.note_uses, uses)
    found = await store.run(api_keys.get, REACH, made.id)
    assert (found.last_used_ms, found.last_used_ip) == (NOW, "192.0.2.7")
