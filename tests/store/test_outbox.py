"""The outbox: an event enters it with what it tells of, and leaves it in order."""

import pytest

from cmdop_appliance.model import Delivery, Webhook
from cmdop_appliance.store import deliveries, events, outbox, webhooks
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.outbox import Due
from cmdop_appliance.store.transaction import Tx
from tests.support import records
from tests.support.records import NOW, REACH, WORKSPACE, joined

HOUR = 3_600_000


async def hook(store: Store, **fields) -> Webhook:
    made = records.webhook(**fields)
    await store.run(webhooks.insert, made)
    return made


def tell(tx: Tx, subject: str = "mach_1", kind="machine.online", **more) -> None:
    """Something happens."""
    plain = {"subject": subject, "data": {"about": subject}, "now_ms": NOW}
    events.append(tx, WORKSPACE, kind, **plain | more)


def all_of(tx: Tx, webhook: Webhook) -> list[Delivery]:
    return tx.all(
        Delivery, "SELECT * FROM delivery WHERE webhook_id = :id ORDER BY seq", id=webhook.id
    )


async def told(store: Store, webhook: Webhook) -> list[Delivery]:
    return await store.run(all_of, webhook)


async def due(store: Store, now_ms: int = NOW, most: int = 16) -> Due:
    return await store.run(outbox.due, now_ms, most)


async def subjects(store: Store, now_ms: int = NOW, most: int = 16) -> list[str]:
    """What is due, by its subject."""
    return [head.subject for head in (await due(store, now_ms, most)).heads]


async def end(store: Store, delivery: Delivery, status="delivered") -> None:
    reason = "why" if status == "dead" else None
    await store.run(outbox.end, delivery, status, NOW, reason)


# ── entered ──────────────────────────────────────────────────────────────────────────────────────


async def test_an_event_is_entered_for_each_webhook_that_hears_it(store):
    every, mine = await hook(store), await hook(store, events=["machine.online"])
    others = await hook(store, events=["machine.offline", "command.completed"])
    silent = await hook(store, is_enabled=False)
    await store.run(tell)
    (event,) = await store.run(events.after, REACH, 0, 10)
    for webhook in (every, mine):
        (delivery,) = await told(store, webhook)
        assert (delivery.event_id, delivery.type) == (event.id, "machine.online")
        assert (delivery.subject, delivery.data) == (event.subject, event.data)
        assert (delivery.status, delivery.created_ms) == ("pending", event.created_ms)
    assert not await told(store, others)
    assert not await told(store, silent)


async def test_what_is_undone_leaves_neither_an_event_nor_a_delivery(store):
    webhook = await hook(store)

    def fail(tx: Tx) -> None:
        tell(tx)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await store.run(fail)
    assert not await told(store, webhook)
    await store.run(tell)
    assert [each.seq for each in await told(store, webhook)] == [1]


async def test_a_webhook_counts_what_it_hears_and_nothing_else(store):
    webhook = await hook(store, events=["machine.offline"])
    for kind in ("machine.offline", "machine.online", "machine.offline"):
        await store.run(tell, kind=kind)
    assert [(each.seq, each.type) for each in await told(store, webhook)] == [
        (1, "machine.offline"),
        (2, "machine.offline"),
    ]


async def test_a_webhook_with_tags_hears_of_machines_that_carry_them_all(store):
    webhook = await hook(store, tags=["prod", "web"])
    heard = await joined(store, tags=["web", "blue", "prod"])
    for tags in (["prod"], ["production", "web"], []):
        other = await joined(store, tags=tags)
        await store.run(tell, other.id, machine_id=other.id)
    await store.run(tell, "sched_1")  # of no machine at all
    await store.run(tell, heard.id, machine_id=heard.id)
    assert [each.subject for each in await told(store, webhook)] == [heard.id]


async def test_a_webhook_of_another_workspace_hears_nothing(store):
    def other(tx: Tx) -> None:
        tx.execute("INSERT INTO workspace (id, namespace, created_ms) VALUES ('ws_2', 'two', 1)")

    await store.run(other)
    webhook = await hook(store, workspace_id="ws_2")
    await store.run(tell)
    assert not await told(store, webhook)


async def test_of_too_many_deliveries_only_those_that_were_delivered_make_room(store, monkeypatch):
    monkeypatch.setattr(outbox, "KEPT_MOST", 2)
    webhook = await hook(store)
    await store.run(outbox.insert, records.trial(webhook))
    for subject in ("waits", "dead", "taken", "taken", "taken"):
        await store.run(tell, subject)
        last = (await told(store, webhook))[-1]
        if subject != "waits":
            await end(store, last, "dead" if subject == "dead" else "delivered")
    kept = [(each.seq, each.status) for each in await told(store, webhook)]
    recent = [(4, "delivered"), (5, "delivered")]
    assert kept == [(0, "pending"), (1, "pending"), (2, "dead"), *recent]


# ── in line ──────────────────────────────────────────────────────────────────────────────────────


async def test_of_one_subject_the_first_alone_is_due_until_it_has_ended(store):
    webhook = await hook(store)
    for subject in ("a", "a", "b", "a"):
        await store.run(tell, subject)
    first, second, other, third = await told(store, webhook)
    assert {head.id for head in (await due(store)).heads} == {first.id, other.id}
    await end(store, first)
    assert {head.id for head in (await due(store)).heads} == {second.id, other.id}
    await end(store, second, "dead")
    assert {head.id for head in (await due(store)).heads} == {third.id, other.id}
    await end(store, third)
    assert {head.id for head in (await due(store)).heads} == {other.id}


async def test_what_is_put_off_comes_due_at_its_time_and_holds_up_its_subject_alone(store):
    webhook = await hook(store)
    for subject in ("a", "a", "b"):
        await store.run(tell, subject)
    first = (await told(store, webhook))[0]
    await store.run(outbox.put_off, first, NOW + HOUR)
    assert await subjects(store) == ["b"]
    assert (await due(store)).next_ms == NOW + HOUR
    assert await subjects(store, NOW + HOUR - 1) == ["b"]
    assert await subjects(store, NOW + HOUR) == ["b", "a"]
    assert (await due(store, NOW + HOUR)).next_ms is None


async def test_at_the_start_a_time_that_only_a_wrong_clock_can_have_set_is_now(store):
    webhook = await hook(store)
    for subject in ("a", "b"):
        await store.run(tell, subject)
    await store.run(tell, "never tried", now_ms=NOW + HOUR)
    at_most, beyond, _ = await told(store, webhook)
    for each in (at_most, beyond):
        await store.run(outbox.attempted, each.id, **records.attempt())
    await store.run(outbox.put_off, at_most, NOW + 29 * HOUR)  # more than 24 h and 20 %
    await store.run(outbox.put_off, beyond, NOW + 29 * HOUR + 1)
    assert await subjects(store) == []
    await store.run(outbox.mend, NOW)
    assert sorted(await subjects(store)) == ["b", "never tried"]
    assert (await due(store)).next_ms == NOW + 29 * HOUR


async def test_a_webhook_that_gave_no_answer_has_a_pause_that_grows_to_a_minute(store):
    webhook, _ = await hook(store), await store.run(tell)
    fail = (webhooks.failed, webhook.id)
    for now_ms, pause_ms in ((NOW, 1000), (NOW + 9000, 9000), (NOW + HOUR, 60_000)):
        await store.run(*fail, now_ms, is_silent=True)
        found = await due(store, now_ms)
        assert (found.heads, found.next_ms) == ([], now_ms + pause_ms)
        (head,) = (await due(store, now_ms + pause_ms)).heads
        assert head.is_failing
    back_ms = NOW - 1  # … by that clock the pause is longer than any
    await store.run(tell, "b", now_ms=back_ms)
    assert await subjects(store, back_ms) == ["b"]
    await store.run(*fail, NOW + HOUR, is_silent=False)
    assert await subjects(store, NOW + HOUR) == ["b", "mach_1"]


async def test_a_test_has_no_pause_and_what_succeeds_has_none(store):
    webhook, _ = await hook(store), await store.run(tell)
    await store.run(webhooks.failed, webhook.id, NOW, is_silent=True)
    test = records.trial(webhook)
    await store.run(outbox.insert, test)
    assert await subjects(store) == [test.id]
    await store.run(webhooks.succeeded, webhook.id, NOW)
    assert await subjects(store) == [test.id, "mach_1"]
    assert {head.is_failing for head in (await due(store)).heads} == {False}


async def test_of_each_webhook_those_that_are_due_longest_come_first(store):
    hooks = [await hook(store) for _ in range(3)]
    for number in range(5):
        await store.run(tell, f"s{number}", now_ms=NOW - number)
    heads = (await due(store, most=2)).heads
    assert {head.webhook_id for head in heads} == {each.id for each in hooks}
    assert [head.subject for head in heads] == ["s4", "s3"] * 3


@pytest.mark.parametrize("is_enabled", [True, False])
async def test_a_test_is_due_beside_what_waits_and_for_a_webhook_that_is_disabled(
    store, is_enabled
):
    webhook = await hook(store, is_enabled=is_enabled)
    await store.run(tell, "a", now_ms=NOW - 1)
    test = records.trial(webhook)
    await store.run(outbox.insert, test)
    heads = (await due(store, most=1)).heads
    found = [(head.subject, head.is_test) for head in heads]
    assert found == [(test.id, True)] + [("a", False)] * is_enabled


async def test_what_is_pending_for_a_webhook_that_is_disabled_is_not_due(store):
    webhook = await hook(store)
    await store.run(tell)
    await store.run(webhooks.disable, webhook.id, "why", NOW)
    assert await subjects(store) == []


# ── attempts ─────────────────────────────────────────────────────────────────────────────────────


async def test_attempts_are_numbered_and_the_newest_ten_are_kept(store):
    webhook = await hook(store)
    await store.run(tell)
    (delivery,) = await told(store, webhook)
    for number in range(12):
        attempt = records.attempt(at_ms=NOW + number)
        after = await store.run(outbox.attempted, delivery.id, **attempt)
        assert (after.attempts, after.tried) == (number + 1, number + 1)
    kept = (await store.run(deliveries.get, REACH, webhook.id, delivery.id)).tries
    assert [each.number for each in kept] == list(range(12, 2, -1))
    assert [each.at_ms for each in kept] == [NOW + number for number in range(11, 1, -1)]


async def test_an_attempt_of_what_is_gone_is_none(store):
    assert await store.run(outbox.attempted, "dlv_x", **records.attempt()) is None


async def test_an_end_comes_once_and_is_told_to_who_waits_for_it(store):
    webhook = await hook(store)
    await store.run(tell)
    (delivery,) = await told(store, webhook)
    woken = []
    store.listen(woken.append)
    await end(store, delivery, "dead")
    assert outbox.subject_of(delivery.id) in woken
    woken.clear()
    await end(store, delivery, "delivered")
    assert (await told(store, webhook))[0].status == "dead"
    assert not woken


# ── sent again ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", ["delivered", "dead", "pending"])
async def test_what_is_sent_again_begins_anew_with_the_same_event(store, status):
    webhook = await hook(store)
    await store.run(tell)
    (before,) = await told(store, webhook)
    await store.run(outbox.attempted, before.id, **records.attempt())
    await store.run(outbox.put_off, before, NOW + HOUR)
    if status != "pending":
        await end(store, before, status)
    assert await store.run(outbox.redeliver, webhook.id, [before.id], NOW + 1) == 1
    (after,) = await told(store, webhook)
    assert (after.status, after.attempts, after.next_attempt_ms) == ("pending", 0, NOW + 1)
    assert (after.reason, after.ended_ms, after.tried) == (None, None, 1)
    assert (after.id, after.event_id, after.seq) == (before.id, before.event_id, before.seq)


async def test_what_is_sent_again_goes_before_later_ones_of_its_subject(store):
    webhook = await hook(store)
    for _ in range(3):
        await store.run(tell, "a")
    first, second, third = await told(store, webhook)
    await end(store, first, "dead")
    await store.run(outbox.redeliver, webhook.id, [first.id], NOW)
    assert [head.id for head in (await due(store)).heads] == [first.id]
    # What was under way then, and fails now, does not come in front again.
    await store.run(outbox.put_off, second, NOW)
    assert [head.id for head in (await due(store)).heads] == [first.id]
    await end(store, first)
    await end(store, second)
    await store.run(outbox.redeliver, webhook.id, [second.id, first.id], NOW)
    for delivery in (first, second, third):
        assert [head.id for head in (await due(store)).heads] == [delivery.id]
        await end(store, delivery)


async def test_what_is_sent_again_waits_behind_earlier_ones_of_its_subject(store):
    webhook = await hook(store)
    for _ in range(2):
        await store.run(tell, "a")
    first, second = await told(store, webhook)
    await end(store, second, "dead")
    await store.run(outbox.redeliver, webhook.id, [second.id], NOW)
    assert [head.id for head in (await due(store)).heads] == [first.id]
    await end(store, first)
    assert [head.id for head in (await due(store)).heads] == [second.id]


async def test_only_what_a_webhook_was_told_is_sent_to_it_again(store):
    mine, other = await hook(store), await hook(store)
    await store.run(tell)
    (delivery,) = await told(store, other)
    await end(store, delivery)
    assert await store.run(outbox.redeliver, mine.id, [delivery.id, "dlv_x"], NOW) == 0
    assert (await told(store, other))[0].status == "delivered"
