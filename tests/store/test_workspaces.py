"""Workspaces: made whole, once, and never by halves."""

import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import Conflict
from cmdop_appliance.store import api_keys, workspaces
from cmdop_appliance.store.listing import Paging
from tests.support.records import NOW, api_key, once

OTHER = {"workspace_id": "ws_2", "namespace": "two", "created_ms": NOW}


async def namespaces(store, sort="created_at"):
    page = await store.run(workspaces.page, Paging(sort=sort))
    assert page.total == len(page.items)
    return [workspace.namespace for workspace in page.items]


async def test_a_workspace_is_made_with_its_first_key(store):
    key = api_key(**OTHER)
    await store.run(workspaces.insert, key, "hash")
    assert await store.run(api_keys.by_hash, "hash", NOW) == key
    assert await store.run(api_keys.get, Reach("ws_2"), key.id) == key
    assert await namespaces(store) == ["default", "two"]
    assert await namespaces(store, "-namespace") == ["two", "default"]


@pytest.mark.parametrize("first_ms", [None, NOW - 5])
async def test_the_workspace_of_the_schema_is_as_old_as_its_first_key(store, first_ms):
    if first_ms is not None:
        await store.run(api_keys.insert, api_key(created_ms=first_ms), "hash")
    for now_ms in (NOW, NOW + 1):
        await store.run(workspaces.set_created, now_ms)
    (workspace,) = (await store.run(workspaces.page, Paging(sort="created_at"))).items
    assert workspace.created_ms == (first_ms or NOW)


@pytest.mark.parametrize("namespace", ["default", "two"])
async def test_a_namespace_that_is_taken_leaves_nothing_behind(store, namespace):
    await store.run(workspaces.insert, api_key(**OTHER), "first")
    again = api_key(workspace_id="ws_3", namespace=namespace)
    request = once()
    for _ in range(2):
        with pytest.raises(Conflict):
            await store.run(workspaces.insert, again, "second", request)
    assert await namespaces(store) == ["default", "two"]
    assert await store.run(api_keys.by_hash, "second", NOW) is None


async def test_the_same_request_makes_one_workspace(store):
    first, second = api_key(**OTHER), api_key(**{**OTHER, "workspace_id": "ws_3"})
    made = await store.run(workspaces.insert, first, "first", once())
    again = await store.run(workspaces.insert, second, "second", once())
    assert made == again
    assert again.made_id == first.id
    assert await namespaces(store) == ["default", "two"]
