"""Webhooks: made, changed and disabled, within reach."""

import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import Conflict, WebhookNotFound
from cmdop_appliance.model import Webhook
from cmdop_appliance.store import deliveries, events, leftovers, outbox, webhooks
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.listing import Paging
from cmdop_appliance.store.transaction import Tx
from tests.support import records
from tests.support.records import NOW, REACH, WORKSPACE

HOUR = 3_600_000
WEB = Reach(WORKSPACE, ("prod", "web"))


async def inserted(store: Store, **fields) -> Webhook:
    made = records.webhook(**fields)
    await store.run(webhooks.insert, made)
    return made


async def found(store: Store, webhook: Webhook) -> Webhook:
    return await store.run(webhooks.get, REACH, webhook.id)


async def test_a_webhook_is_as_it_was_made(store):
    made = await inserted(store, headers={"X-Token": "t"}, preset="ntfy", tags=["a"])
    assert await found(store, made) == made


async def test_a_key_with_tags_knows_of_webhooks_that_carry_them(store):
    mine = await inserted(store, tags=["web", "blue", "prod"])
    for fields in ({}, {"tags": ["prod"]}, {"tags": ["production", "web"]}):
        other = await inserted(store, **fields)
        for look in (webhooks.get, webhooks.delete):
            with pytest.raises(WebhookNotFound):
                await store.run(look, WEB, other.id)
    assert (await store.run(webhooks.get, WEB, mine.id)).id == mine.id
    page = await store.run(webhooks.page, WEB, Paging())
    assert ([each.id for each in page.items], page.total) == ([mine.id], 1)
    with pytest.raises(WebhookNotFound):
        await store.run(webhooks.get, Reach("ws_other"), mine.id)


async def test_a_page_counts_what_waits_and_may_have_only_those_that_are_enabled(store):
    one, two = await inserted(store), await inserted(store, is_enabled=False)
    for seq in range(3):
        trial = records.trial(one, seq=seq)
        await store.run(outbox.insert, trial)
    await store.run(outbox.end, trial, "delivered", NOW)
    for is_enabled, ids in ((True, {one.id}), (False, {two.id}), (None, {one.id, two.id})):
        page = await store.run(webhooks.page, REACH, Paging(), is_enabled=is_enabled)
        assert {each.id for each in page.items} == ids
        assert {each.pending for each in page.items if each.id == one.id} <= {2}
    assert (await store.run(webhooks.counted, one)).pending == 2


async def test_a_workspace_has_a_hundred_webhooks_and_no_more(store, monkeypatch):
    def other(tx: Tx) -> None:
        tx.execute("INSERT INTO workspace (id, namespace, created_ms) VALUES ('ws_2', 'two', 1)")

    monkeypatch.setattr(webhooks, "MOST", 2)
    await store.run(other)
    first, _ = [await inserted(store) for _ in range(2)]
    with pytest.raises(Conflict, match="has 2 webhooks") as caught:
        await inserted(store)
    assert caught.value.details == {"limit": 2}
    await inserted(store, workspace_id="ws_2")
    await store.run(webhooks.delete, REACH, first.id)
    await inserted(store)


async def test_what_is_changed_is_changed_and_nothing_else(store):
    made = await inserted(store)
    changes = {"url": "https://other.example/", "events": ["machine.online"], "secret": "12345678"}
    more = {"preset": "slack", "headers": {"a": "b"}, "description": "text", "is_enabled": False}
    after = await store.run(webhooks.edit, made, changes | more, NOW + 1)
    assert after == await found(store, made)
    for name in Webhook.__struct_fields__:
        expected = {**changes, **more, "updated_ms": NOW + 1}.get(name, getattr(made, name))
        assert getattr(after, name) == expected, name
    assert await store.run(webhooks.edit, after, {"url": after.url}, NOW + 2) == after


async def test_a_webhook_that_is_enabled_begins_anew(store):
    made = await inserted(store)
    await store.run(webhooks.failed, made.id, NOW, is_silent=False)
    await store.run(webhooks.disable, made.id, "why", NOW)
    before = await found(store, made)
    assert (before.is_enabled, before.disabled_reason, before.failing_since_ms) == (
        False,
        "why",
        NOW,
    )
    with pytest.raises(Conflict, match="being given up"):
        await store.run(webhooks.edit, before, {"is_enabled": True}, NOW + 1)
    await store.run(leftovers.clear_away, made.id, NOW)
    after = await store.run(webhooks.edit, before, {"is_enabled": True}, NOW + 1)
    assert after == await found(store, made)
    assert (after.is_enabled, after.disabled_reason, after.failing_since_ms) == (True, None, None)


async def test_it_fails_since_the_first_failure_after_a_success(store):
    made = await inserted(store)
    for now_ms in (NOW, NOW + 1):
        assert await store.run(webhooks.failed, made.id, now_ms, is_silent=False) == NOW
    await store.run(webhooks.succeeded, made.id, NOW + 2)
    webhook = await found(store, made)
    assert (webhook.failing_since_ms, webhook.succeeded_ms) == (None, NOW + 2)
    assert await store.run(webhooks.failed, made.id, NOW + 3, is_silent=False) == NOW + 3
    assert (await found(store, made)).succeeded_ms == NOW + 2


async def test_after_a_long_time_without_attempts_and_a_clock_set_back_it_fails_anew(store):
    made = await inserted(store)
    for now_ms, since_ms in (
        (NOW, NOW),
        (NOW + 30 * HOUR, NOW),  # the longest delay is 28.8 h
        (NOW + 60 * HOUR, NOW),
        (NOW + 90 * HOUR + 1, NOW + 90 * HOUR + 1),
        (NOW - HOUR, NOW - HOUR),
    ):
        assert await store.run(webhooks.failed, made.id, now_ms, is_silent=True) == since_ms


@pytest.mark.parametrize(
    "change",
    [{"url": "https://b.example/"}, {"secret": "12345678"}, {"headers": {}}, {"preset": "ntfy"}],
)
async def test_a_webhook_with_a_new_way_has_not_failed_and_is_sent_at_once_what_was_put_off(
    store, change, monkeypatch
):
    monkeypatch.setattr(leftovers, "AT_ONCE", 2)
    made = await inserted(store, headers={"a": "b"})
    other = await inserted(store)
    for subject in ("a", "b", "c", "c"):
        plain = {"subject": subject, "data": {}, "now_ms": NOW}
        await store.run(events.append, WORKSPACE, "machine.online", **plain)
    waiting = (await store.run(deliveries.page, REACH, made.id, Paging())).items
    for each in waiting:
        await store.run(outbox.put_off, each, NOW + HOUR)
    await store.run(webhooks.failed, made.id, NOW, is_silent=True)
    failing = await found(store, made)
    for same in ({"description": "text"}, {"url": made.url}):
        after = await store.run(webhooks.edit, failing, same, NOW)
        assert after.failing_since_ms == NOW
        assert not await store.run(leftovers.clear_away, made.id, NOW)
    pages = (await store.run(deliveries.page, REACH, made.id, Paging())).items
    assert {each.next_attempt_ms for each in pages} == {None, NOW + HOUR}
    after = await store.run(webhooks.edit, failing, change, NOW + 1)
    assert after == await found(store, made)
    assert after.failing_since_ms is None
    for is_more in (True, False):
        assert (await store.run(outbox.due, NOW + 1, 10)).leftover == made.id
        assert await store.run(leftovers.clear_away, made.id, NOW + 1) == is_more
    heads = (await store.run(outbox.due, NOW + 1, 10)).heads
    due = [head.subject for head in heads if head.webhook_id == made.id]
    assert sorted(due) == ["a", "b", "c"]
    assert not await store.run(leftovers.has_any, other.id)


async def test_that_it_is_disabled_is_told_once_to_those_who_hear_it(store):
    made, other = await inserted(store, description="to the pager"), await inserted(store)
    for _ in range(2):
        await store.run(webhooks.disable, made.id, "why", NOW)
    (event,) = await store.run(events.after, REACH, 0, 10)
    assert (event.type, event.subject) == ("webhook.disabled", made.id)
    assert event.data == {"webhook_id": made.id, "description": "to the pager", "reason": "why"}
    assert (await store.run(deliveries.page, REACH, made.id, Paging())).total == 0
    (delivery,) = (await store.run(deliveries.page, REACH, other.id, Paging())).items
    assert delivery.event_id == event.id


async def test_what_is_gone_is_not_spoken_of(store):
    assert await store.run(webhooks.failed, "hook_x", NOW, is_silent=True) is None
    await store.run(webhooks.disable, "hook_x", "why", NOW)
    assert await store.run(webhooks.find, "hook_x") is None
    assert await store.run(events.last_seq, WORKSPACE) == 0
