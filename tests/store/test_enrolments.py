"""Enrolment tokens: so often, so long, and no more."""

import pytest
import trio

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import NotFound
from cmdop_appliance.store import enrolments
from cmdop_appliance.store.listing import Paging
from tests.support.records import NOW, REACH, WORKSPACE, enrolment


async def use_at_once(store, times: int) -> int:
    """How many of so many uses at the same time are granted."""
    granted = []

    async def use() -> None:
        granted.append(await store.run(enrolments.use, "hash", NOW) is not None)

    async with trio.open_nursery() as nursery:
        for _ in range(times):
            nursery.start_soon(use)
    return sum(granted)


@pytest.mark.parametrize("max_uses", [1, 3])
async def test_of_fifty_uses_at_once_only_so_many_are_granted(store, max_uses):
    await store.run(enrolments.insert, enrolment(max_uses=max_uses), "hash")
    assert await use_at_once(store, 50) == max_uses
    page = await store.run(enrolments.page, REACH, Paging())
    assert [token.uses for token in page.items] == [max_uses]


async def test_a_use_gives_what_the_token_brings(store):
    made = enrolment(tags=["a", "b"])
    await store.run(enrolments.insert, made, "hash")
    used = await store.run(enrolments.use, "hash", NOW)
    assert (used.id, used.workspace_id, used.tags, used.uses) == (
        made.id,
        WORKSPACE,
        ["a", "b"],
        1,
    )


async def test_an_expired_token_is_good_for_nothing(store):
    await store.run(enrolments.insert, enrolment(expires_ms=NOW + 1), "hash")
    assert await store.run(enrolments.use, "hash", NOW + 1) is None
    assert await store.run(enrolments.use, "hash", NOW) is not None


async def test_a_revoked_or_unknown_token_is_good_for_nothing(store):
    made = enrolment()
    await store.run(enrolments.insert, made, "hash")
    with pytest.raises(NotFound):
        await store.run(enrolments.delete, Reach("ws_other"), made.id)
    await store.run(enrolments.delete, REACH, made.id)
    assert await store.run(enrolments.use, "hash", NOW) is None
    assert await store.run(enrolments.use, "other", NOW) is None
    with pytest.raises(NotFound):
        await store.run(enrolments.delete, REACH, made.id)
