"""What is to be sent is asked for once more before it is, and may not be by then."""

import pytest

from cmdop_appliance.store import outbox, webhooks
from cmdop_appliance.store.engine import open_store
from cmdop_appliance.webhooks.outcomes import to_send
from tests.support import records
from tests.support.records import NOW, REACH, joined


@pytest.fixture
async def store(tmp_path):
    async with open_store(tmp_path) as store:
        yield store


async def sent(store, seq: int, change=None):
    """The webhook, its delivery with this number, and what is to be sent after a change."""
    webhook = records.webhook()
    delivery = records.trial(webhook, seq=seq)
    await store.run(webhooks.insert, webhook)
    await store.run(outbox.insert, delivery)
    if change is not None:
        await store.run(change, webhook, delivery)
    return webhook, delivery, await store.run(to_send, delivery.id)


def disable(tx, webhook, _) -> None:
    webhooks.disable(tx, webhook.id, "why", NOW)


@pytest.mark.parametrize("seq", [0, 1])
async def test_what_is_pending_is_sent_to_the_webhook_as_it_is_now(store, seq):
    def edit(tx, webhook, _) -> None:
        webhooks.edit(tx, webhook, {"url": "https://other.example/"}, NOW)

    _, delivery, (found, webhook, _) = await sent(store, seq, edit)
    assert found == delivery
    assert webhook.url == "https://other.example/"


@pytest.mark.parametrize(
    "change",
    [
        lambda tx, webhook, _: webhooks.delete(tx, REACH, webhook.id),
        lambda tx, _, delivery: outbox.end(tx, delivery, "delivered", NOW),
        lambda tx, _, delivery: tx.execute("DELETE FROM delivery WHERE id = :id", id=delivery.id),
        disable,
    ],
)
async def test_what_is_pending_no_more_is_not_sent(store, change):
    *_, found = await sent(store, 1, change)
    assert found is None


@pytest.mark.parametrize(("preset", "name"), [("ntfy", "nas"), (None, None)])
async def test_for_people_it_has_the_name_that_its_machine_has_now(store, preset, name):
    machine = await joined(store, name="nas")
    webhook = records.webhook(preset=preset)
    await store.run(webhooks.insert, webhook)
    for machine_id, expected in ((machine.id, name), ("mach_gone", None)):
        delivery = records.trial(webhook, seq=1, data={"machine_id": machine_id})
        await store.run(outbox.insert, delivery)
        found = await store.run(to_send, delivery.id)
        assert found.machine_name == expected
    delivery = records.trial(webhook)
    await store.run(outbox.insert, delivery)
    assert (await store.run(to_send, delivery.id)).machine_name is None


async def test_a_test_is_sent_to_a_webhook_that_is_disabled_too(store):
    *_, found = await sent(store, 0, disable)
    assert found is not None
