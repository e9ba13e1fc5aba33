"""Webhooks changed and told again: once, in steps, and never by who may not."""

import pytest
import trio

from cmdop_appliance.addresses import Networks
from cmdop_appliance.auth import Caller
from cmdop_appliance.errors import Conflict, IdempotencyConflict, WebhookNotFound
from cmdop_appliance.store import audit, deliveries, leftovers, outbox, webhooks
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.engine import open_store
from cmdop_appliance.store.listing import Paging
from cmdop_appliance.webhooks import editing
from tests.support import records
from tests.support.clocks import StepClock
from tests.support.records import NOW, REACH, WORKSPACE

CALLER = Caller("key_1", "ci", WORKSPACE, "default", frozenset())
STRANGER = Caller("key_2", "x", WORKSPACE, "default", frozenset(), tags=("db",))
NONE = Networks([])


@pytest.fixture
async def store(tmp_path):
    async with open_store(tmp_path) as store:
        yield store


async def webhook_with(store, number: int, *, are_dead: bool = False):
    """A webhook, and so many of its deliveries: pending, or dead."""
    webhook = records.webhook()
    await store.run(webhooks.insert, webhook)
    told = [records.trial(webhook, seq=seq) for seq in range(1, number + 1)]
    for delivery in told:
        await store.run(outbox.insert, delivery)
        if are_dead:
            await store.run(outbox.end, delivery, "dead", NOW, "why")
    return webhook, told


def change(store, webhook, changes, caller=CALLER):
    return editing.change(store, StepClock(NOW), caller, webhook.id, changes, NONE)


async def again(store, webhook, once, caller=CALLER, now_ms=NOW) -> int:
    entry = Entry.by(caller, now_ms, "webhook.redelivered", webhook.id)
    return await editing.redeliver_between(
        store, caller, webhook.id, (0, None), "dead", once, entry
    )


async def recorded(store) -> list[str]:
    """What the audit log has."""
    page = await store.run(audit.page, WORKSPACE, Paging())
    return [entry.action for entry in page.items]


async def test_one_that_is_enabled_again_waits_until_what_it_was_to_be_told_is_given_up(
    store, monkeypatch
):
    monkeypatch.setattr(leftovers, "AT_ONCE", 2)
    webhook, told = await webhook_with(store, 5)
    await change(store, webhook, {"is_enabled": False})
    after = await change(store, webhook, {"is_enabled": True})
    assert (after.is_enabled, after.pending) == (True, 0)
    for delivery in told:
        found = await store.run(deliveries.find, delivery.id)
        assert (found.status, found.reason) == ("dead", "the webhook was disabled")


async def test_whom_it_does_not_concern_changes_nothing(store):
    webhook, _ = await webhook_with(store, 1)
    await store.run(webhooks.disable, webhook.id, "why", NOW)
    with pytest.raises(WebhookNotFound):
        await change(store, webhook, {"is_enabled": True}, STRANGER)
    assert await store.run(leftovers.has_any, webhook.id)
    with pytest.raises(WebhookNotFound):
        await again(store, webhook, records.once(), STRANGER)
    assert await recorded(store) == []


async def test_of_the_same_request_twice_at_a_time_one_puts_in_line(store):
    webhook, told = await webhook_with(store, 3, are_dead=True)
    numbers = []

    async def ask(salt: bytes) -> None:
        numbers.append(await again(store, webhook, records.once(salt=salt * 32)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, b"a")
        nursery.start_soon(ask, b"b")
    assert numbers == [3, 3]
    assert await recorded(store) == ["webhook.redelivered"]

    delivery = await store.run(deliveries.get, REACH, webhook.id, told[0].id)
    await store.run(outbox.end, delivery, "dead", NOW, "why")
    assert await again(store, webhook, records.once(salt=b"c" * 32)) == 3
    assert (await store.run(deliveries.find, delivery.id)).status == "dead"
    with pytest.raises(IdempotencyConflict):
        await again(store, webhook, records.once(request_hash=b"other" * 4))


async def test_what_is_refused_can_be_asked_for_again(store):
    webhook, _ = await webhook_with(store, 1, are_dead=True)
    await store.run(webhooks.disable, webhook.id, "why", NOW)
    with pytest.raises(Conflict, match="disabled"):
        await again(store, webhook, records.once())
    await change(store, webhook, {"is_enabled": True})
    assert await again(store, webhook, records.once(salt=b"b" * 32)) == 1
