"""Deliveries: found again for a while, and cleared away with their webhook."""

import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import DeliveryNotFound, WebhookNotFound
from cmdop_appliance.model import Delivery, Webhook
from cmdop_appliance.store import deliveries, leftovers, outbox, webhooks
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.listing import Paging
from cmdop_appliance.store.transaction import Tx
from tests.support import records
from tests.support.records import NOW, REACH

DAY = 86_400_000


@pytest.fixture
async def webhook(store) -> Webhook:
    return await inserted(store)


async def inserted(store: Store, **fields) -> Webhook:
    made = records.webhook(**fields)
    await store.run(webhooks.insert, made)
    return made


async def delivery(store: Store, webhook: Webhook, seq: int = 1, **fields) -> Delivery:
    """A pending one, of a subject of its own."""
    made = records.trial(webhook, seq=seq, type="machine.online", **fields)
    await store.run(outbox.insert, made)
    return made


async def ended(store: Store, of: Delivery, status="dead", now_ms: int = NOW) -> None:
    await store.run(outbox.attempted, of.id, **records.attempt())
    await store.run(outbox.end, of, status, now_ms, "why" if status == "dead" else None)


def count(tx: Tx, table: str) -> int:
    return int(tx.value(f"SELECT count(*) FROM {table}"))


async def status_of(store: Store, of: Delivery) -> tuple[str, str | None]:
    found = await store.run(deliveries.get, REACH, of.webhook_id, of.id)
    return found.status, found.reason


async def test_a_delivery_is_found_by_its_own_webhook_only(store, webhook):
    made = await delivery(store, webhook)
    assert await store.run(deliveries.get, REACH, webhook.id, made.id) == made
    other = await inserted(store)
    for webhook_id, delivery_id in ((other.id, made.id), (webhook.id, "dlv_x")):
        with pytest.raises(DeliveryNotFound):
            await store.run(deliveries.get, REACH, webhook_id, delivery_id)


async def test_who_does_not_reach_a_webhook_does_not_find_its_deliveries(store, webhook):
    made = await delivery(store, webhook)
    few = Reach(REACH.workspace_id, ("prod",))
    for look, asked in ((deliveries.get, made.id), (deliveries.page, Paging())):
        with pytest.raises(WebhookNotFound):
            await store.run(look, few, webhook.id, asked)


async def test_each_of_a_page_has_its_own_attempts_the_newest_first(store, webhook):
    made = [await delivery(store, webhook, seq) for seq in range(1, 4)]
    for each, number in zip(made, (2, 0, 1), strict=True):
        for _ in range(number):
            await store.run(outbox.attempted, each.id, **records.attempt())
    page = await store.run(deliveries.page, REACH, webhook.id, Paging())
    tries = {each.id: [tried.number for tried in each.tries] for each in page.items}
    assert tries == {made[0].id: [2, 1], made[1].id: [], made[2].id: [1]}
    found = await store.run(deliveries.get, REACH, webhook.id, made[0].id)
    assert [each.number for each in found.tries] == [2, 1]
    assert {each.delivery_id for each in found.tries} == {made[0].id}


async def test_a_page_has_what_was_asked_for_the_newest_first(store, webhook):
    await delivery(store, await inserted(store))
    made = [await delivery(store, webhook, seq, created_ms=NOW + seq) for seq in range(1, 5)]
    await ended(store, made[1])

    async def found(**filters) -> list[int]:
        page = await store.run(deliveries.page, REACH, webhook.id, Paging(), **filters)
        assert page.total == len(page.items)
        return [each.seq for each in page.items]

    assert await found() == [4, 3, 2, 1]
    assert await found(status="dead") == [2]
    assert await found(since_ms=NOW + 3) == [4, 3]
    assert await found(kind="machine.online", since_ms=NOW + 4) == [4]
    assert await found(kind="machine.offline") == []


async def test_a_span_of_time_has_its_first_instant_and_not_its_last_and_no_tests(store, webhook):
    made = [await delivery(store, webhook, seq, created_ms=NOW + seq) for seq in range(5)]
    for each in made:
        await ended(store, each)
    ids = [each.id for each in made]
    between = (deliveries.between, webhook.id)
    assert await store.run(*between, NOW + 2, NOW + 4, "dead") == ids[2:4]
    assert await store.run(*between, NOW, None, "dead") == ids[1:]
    assert await store.run(*between, NOW, None, "delivered") == []


async def test_what_was_delivered_is_kept_for_a_week_and_what_is_dead_for_thirty_days(
    store, webhook
):
    for seq, status in enumerate(("delivered", "dead"), 1):
        await ended(store, await delivery(store, webhook, seq), status)
    await delivery(store, webhook, 3)  # what waits, waits
    for age, kept in ((7 * DAY, 3), (7 * DAY + 1, 2), (30 * DAY, 2), (30 * DAY + 1, 1)):
        await store.run(deliveries.forget, NOW + age)
        assert await store.run(count, "delivery") == kept
        assert await store.run(count, "attempt") == kept - 1


async def test_what_is_left_of_a_deleted_webhook_goes_in_parts(store, webhook, monkeypatch):
    monkeypatch.setattr(leftovers, "AT_ONCE", 2)
    other = await inserted(store)
    await delivery(store, other)
    for seq in range(5):
        made = await delivery(store, webhook, seq)
        await store.run(outbox.attempted, made.id, **records.attempt())
    await store.run(webhooks.delete, REACH, webhook.id)
    assert (await store.run(outbox.due, NOW, 10)).heads[0].webhook_id == other.id
    for left in (3, 1, 0):
        assert await store.run(leftovers.first) == webhook.id
        assert await store.run(leftovers.clear_away, webhook.id, NOW) == bool(left)
        assert await store.run(count, "delivery") == 1 + left
        assert await store.run(count, "attempt") == left
    assert await store.run(leftovers.first) is None
    assert not await store.run(leftovers.clear_away, webhook.id, NOW)
    assert await store.run(count, "delivery") == 1


async def test_what_waited_for_a_webhook_that_is_disabled_is_dead_in_parts(
    store, webhook, monkeypatch
):
    monkeypatch.setattr(leftovers, "AT_ONCE", 2)
    test, *waiting = [await delivery(store, webhook, seq) for seq in range(4)]
    over = await delivery(store, webhook, 4)
    await ended(store, over, "delivered")
    await store.run(webhooks.disable, webhook.id, "why", NOW)
    for is_more in (True, False):
        assert await store.run(leftovers.clear_away, webhook.id, NOW) == is_more
    assert await store.run(leftovers.first) is None
    for each in waiting:
        assert await status_of(store, each) == ("dead", "the webhook was disabled")
    assert await status_of(store, test) == ("pending", None)
    assert await status_of(store, over) == ("delivered", None)


async def test_a_webhook_that_is_enabled_again_begins_without_what_waited(store, webhook):
    made = [await delivery(store, webhook, seq) for seq in range(1, 4)]
    disabled = await store.run(webhooks.edit, webhook, {"is_enabled": False}, NOW)
    assert not await store.run(leftovers.clear_away, webhook.id, NOW)
    await store.run(webhooks.edit, disabled, {"is_enabled": True}, NOW)
    assert await store.run(leftovers.first) is None
    for each in made:
        assert (await status_of(store, each))[0] == "dead"
    later = await delivery(store, webhook, 4)
    for changes in ({"is_enabled": True}, {"description": "other"}):
        await store.run(webhooks.edit, webhook, changes, NOW)
        assert not await store.run(leftovers.clear_away, webhook.id, NOW)
        assert await status_of(store, later) == ("pending", None)
