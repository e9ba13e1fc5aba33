"""The deliverer: each event arrives, in order and again and again, or is dead in the end."""

from itertools import pairwise

import pytest
import trio

from cmdop_appliance.hub import bus
from cmdop_appliance.store import events, leftovers, outbox, webhooks
from cmdop_appliance.webhooks import deliver
from cmdop_appliance.webhooks.backoff import RETRY_S
from tests.support.clocks import LoopClock
from tests.support.records import REACH, WORKSPACE, joined
from tests.webhooks.office import TAKEN, Office, failed, office, working

HOUR_S = 3600
DAY_S = 86_400


@pytest.fixture
async def mine(tmp_path) -> Office:
    """With nobody at work yet."""
    async with office(tmp_path) as mine:
        yield mine


@pytest.fixture
def rare_sweeps(monkeypatch) -> None:
    """Days of a mock clock, and none of the sweeps that find nothing in them."""
    for module in (bus, deliver):
        monkeypatch.setattr(module, "SWEEP_S", DAY_S)


# ── again and again ──────────────────────────────────────────────────────────────────────────────


async def test_a_failed_delivery_is_tried_again_by_the_table_and_then_dead(
    mine, autojump_clock, rare_sweeps
):
    mine.answer = lambda _: failed()
    webhook = await mine.hook()
    async with working(mine):
        await mine.tell("a")
        posts = await mine.wait_posts(len(RETRY_S) + 1)
        await trio.sleep(30 * HOUR_S)
    assert len(posts) == len(RETRY_S) + 1
    gaps = [later.at_s - post.at_s for post, later in pairwise(posts)]
    assert gaps == pytest.approx(RETRY_S, abs=0.1)
    assert len({post.body for post in posts}) == 1
    assert {post.headers["webhook-id"] for post in posts} == {posts[0].event["id"]}
    (delivery,) = await mine.told(webhook)
    assert (delivery.status, delivery.reason) == ("dead", "10 attempts failed")
    tries = await mine.tries(delivery)
    assert [each.number for each in tries] == list(range(10, 0, -1))
    assert {(each.response_status, each.error) for each in tries} == {(500, "it answered 500")}
    stamps = [int(post.headers["webhook-timestamp"]) for post in posts]
    assert stamps == [each.at_ms // 1000 for each in reversed(tries)]
    assert mine.attempts == {"failed": 10}


async def test_what_is_said_is_what_the_contract_shows(mine, autojump_clock):
    webhook = await mine.hook(headers={"X-Token": "t"})
    async with working(mine):
        await mine.tell("a", "b")
        first, second = sorted(await mine.wait_posts(2), key=lambda post: post.subject)
    assert set(first.event) == {"id", "type", "timestamp", "seq", "data"}
    assert (first.event["type"], first.event["data"]) == ("machine.online", {"subject": "a"})
    assert [post.event["seq"] for post in (first, second)] == [1, 2]
    (event, _) = await mine.store.run(events.after, REACH, 0, 10)
    assert first.event["id"] == event.id
    assert first.event["timestamp"].endswith("Z")
    assert first.url == webhook.url
    assert first.headers["X-Token"] == "t"
    assert first.headers["Content-Type"] == "application/json"
    assert {"webhook-signature", "webhook-timestamp", "X-Cmdop-Signature"} <= set(first.headers)


async def test_for_people_it_has_the_name_of_the_machine_and_for_programs_what_happened(
    mine, autojump_clock
):
    machine = await joined(mine.store, name="nas")
    for preset in ("gotify", None):
        await mine.hook(preset=preset)
    data = {"machine_id": machine.id}
    plain = {"subject": machine.id, "data": data, "now_ms": mine.clock.now_ms()}
    async with working(mine):
        await mine.store.run(events.append, WORKSPACE, "machine.offline", **plain)
        posts = [post.event for post in await mine.wait_posts(2)]
    (message,) = (post["message"] for post in posts if "message" in post)
    (event,) = (post for post in posts if "data" in post)
    assert "machine: nas" in message
    assert (event["data"], set(event)) == (data, {"id", "type", "timestamp", "seq", "data"})


async def test_what_happens_is_sent_at_once_and_so_is_what_is_sent_again(mine, autojump_clock):
    webhook = await mine.hook()
    async with working(mine):
        await trio.sleep(1)
        begun = trio.current_time()
        await mine.tell("a")
        await mine.wait_posts(1)
        await trio.sleep(1)
        (delivery,) = await mine.told(webhook)
        await mine.store.run(outbox.redeliver, webhook.id, [delivery.id], mine.clock.now_ms())
        first, again = await mine.wait_posts(2)
    assert first.at_s - begun < 0.1  # of a clock that only waiting moves
    assert again.at_s - begun < 1.1


async def test_retry_after_makes_it_later_and_never_sooner(mine, autojump_clock):
    answers = [failed(503, retry_after_s=HOUR_S), failed(503, retry_after_s=1), TAKEN]
    mine.answer = lambda _: answers.pop(0)
    await mine.hook()
    async with working(mine):
        await mine.tell("a")
        posts = await mine.wait_posts(3)
    assert posts[1].at_s - posts[0].at_s == pytest.approx(HOUR_S, abs=0.1)
    assert posts[2].at_s - posts[1].at_s == pytest.approx(RETRY_S[1], abs=0.1)


async def test_what_is_sent_again_by_hand_has_the_same_id_and_all_its_attempts(
    mine, autojump_clock, rare_sweeps
):
    mine.answer = lambda _: failed()
    webhook = await mine.hook()
    async with working(mine):
        await mine.tell("a")
        await mine.wait_posts(10)
        await trio.sleep(1)
        (delivery,) = await mine.told(webhook)
        now_ms = mine.clock.now_ms()
        await mine.store.run(outbox.redeliver, webhook.id, [delivery.id], now_ms)
        posts = await mine.wait_posts(12)
        mine.answer = lambda _: TAKEN
        await mine.wait_posts(13)
        await trio.sleep(1)
    assert posts[11].at_s - posts[10].at_s == pytest.approx(RETRY_S[0], abs=0.1)
    assert len({(post.headers["webhook-id"], post.body) for post in posts}) == 1
    (delivery,) = await mine.told(webhook)
    assert (delivery.status, delivery.attempts, delivery.tried) == ("delivered", 3, 13)


# ── in order ─────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_about_one_subject_comes_in_order_however_much_of_it_fails(
    mine, autojump_clock
):
    mine.answer = lambda post: TAKEN if len(mine.posts) % 3 == 0 else failed()
    webhook = await mine.hook()
    async with working(mine):
        await mine.tell("a", "a", "a")
        posts = await mine.wait_posts(9)
        await trio.sleep(1)
    assert [post.event["seq"] for post in posts] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert {each.status for each in await mine.told(webhook)} == {"delivered"}
    assert mine.most[webhook.url] == 1


async def test_a_subject_that_fails_holds_up_no_other(mine, autojump_clock):
    mine.answer = lambda post: failed() if post.subject == "a" else TAKEN
    webhook = await mine.hook()
    async with working(mine):
        await mine.tell("a", "b", "a", "c")
        posts = await mine.wait_posts(3)
        assert sorted(post.subject for post in posts) == ["a", "b", "c"]
        await trio.sleep(1)
    first, *others = await mine.told(webhook)
    assert [each.status for each in others] == ["delivered", "pending", "delivered"]
    assert first.next_attempt_ms is not None
    assert others[1].next_attempt_ms is None


async def test_eight_of_a_webhook_are_under_way_at_a_time(mine, autojump_clock):
    release = trio.Event()

    async def wait(_):
        await release.wait()
        return TAKEN

    mine.answer = wait
    webhook = await mine.hook()
    async with working(mine):
        await mine.tell(*(f"s{number}" for number in range(20)))
        await mine.wait_posts(8)
        await trio.sleep(10)
        assert len(mine.posts) == 8
        release.set()
        await mine.wait_posts(20)
        await trio.sleep(1)
    assert mine.most[webhook.url] == 8
    assert sorted(post.event["seq"] for post in mine.posts) == list(range(1, 21))


# ── who is sent nothing more ─────────────────────────────────────────────────────────────────────


async def test_a_receiver_that_is_gone_is_sent_nothing_more_and_others_hear_of_it(
    mine, autojump_clock
):
    webhook, witness = await mine.hook(), await mine.hook()
    mine.answer = lambda post: failed(410) if post.url == webhook.url else TAKEN
    async with working(mine):
        await mine.tell("a", "a")
        await mine.wait_posts(4)
        await trio.sleep(10)
        await mine.tell("b")
        await trio.sleep(HOUR_S)
    heard = [post.event for post in mine.posts if post.url == witness.url]
    (disabled,) = (event for event in heard if event["type"] == "webhook.disabled")
    assert len(heard) == 4
    reason = "its receiver answered 410 Gone"
    assert disabled["data"] == {"webhook_id": webhook.id, "description": "", "reason": reason}
    assert len([post for post in mine.posts if post.url == webhook.url]) == 1
    found = await mine.look(webhook)
    assert (found.is_enabled, found.disabled_reason) == (False, reason)
    assert [(each.status, each.reason) for each in await mine.told(webhook)] == [
        ("dead", "the webhook was disabled")
    ] * 2


async def test_a_receiver_that_takes_nothing_for_five_days_is_sent_nothing_more(
    mine, autojump_clock, rare_sweeps
):
    mine.answer = lambda _: failed()
    webhook = await mine.hook()
    async with working(mine):
        await mine.tell("a", "a", "a", "a")
        await trio.sleep(5 * DAY_S - HOUR_S)
        assert (await mine.look(webhook)).is_enabled
        await trio.sleep(2 * DAY_S)
        found = await mine.look(webhook)
        number = len(mine.posts)
        await trio.sleep(2 * DAY_S)
    assert (found.is_enabled, found.disabled_reason) == (
        False,
        "its receiver took nothing for 5 days",
    )
    assert len(mine.posts) == number
    assert {each.status for each in await mine.told(webhook)} == {"dead"}


async def test_a_receiver_that_takes_something_now_and_then_is_not_disabled(
    mine, autojump_clock, rare_sweeps
):
    mine.answer = lambda post: TAKEN if post.subject == "good" else failed()
    webhook = await mine.hook()
    async with working(mine):
        for _ in range(10):
            await mine.tell("bad", "good")
            await trio.sleep(DAY_S)
        found = await mine.look(webhook)
    assert found.is_enabled
    assert found.succeeded_ms is not None


async def test_a_clock_that_leaps_disables_nothing(tmp_path, autojump_clock, rare_sweeps):
    class LeapingClock(LoopClock):
        ahead_ms = 0

        def now_ms(self) -> int:
            return super().now_ms() + self.ahead_ms

    clock = LeapingClock()
    async with office(tmp_path, clock) as mine:
        mine.answer = lambda _: failed()
        webhook = await mine.hook()
        async with working(mine):
            await mine.tell("a")
            await mine.wait_posts(2)
        async with working(mine):
            await trio.sleep(1)
            clock.ahead_ms = 10 * DAY_S * 1000
            mine.bus.publish(outbox.SUBJECT, None)
            await mine.wait_posts(4)
            await trio.sleep(1)
            found = await mine.look(webhook)
            assert found.is_enabled
            assert found.failing_since_ms > clock.now_ms() - HOUR_S * 1000


async def test_a_webhook_that_is_disabled_hears_nothing_until_it_is_enabled(mine, autojump_clock):
    webhook = await mine.hook(is_enabled=False)
    async with working(mine):
        await mine.tell("a")
        await trio.sleep(60)
        assert not mine.posts
        await mine.store.run(webhooks.edit, webhook, {"is_enabled": True}, mine.clock.now_ms())
        await mine.tell("b")
        (post,) = await mine.wait_posts(1)
        await trio.sleep(60)
    assert post.subject == "b"
    assert len(mine.posts) == 1


async def test_what_waits_for_a_webhook_that_is_deleted_is_not_sent_and_soon_gone(
    mine, autojump_clock, monkeypatch
):
    monkeypatch.setattr(leftovers, "AT_ONCE", 1)
    mine.answer = lambda _: failed()
    webhook = await mine.hook()
    async with working(mine):
        await mine.tell("a", *["b"] * 20)
        await mine.wait_posts(2)
        await mine.store.run(webhooks.delete, REACH, webhook.id)
        await trio.sleep(10)
    assert len(mine.posts) == 2
    assert not await mine.told(webhook)
    assert await mine.store.run(leftovers.first) is None


# ── tests ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("is_enabled", [True, False])
@pytest.mark.parametrize("answer", [failed(), failed(410), TAKEN])
async def test_a_test_is_sent_once_and_changes_nothing(mine, autojump_clock, is_enabled, answer):
    mine.answer = lambda _: answer
    webhook = await mine.hook(is_enabled=is_enabled)
    async with working(mine):
        await mine.test(webhook)
        (post,) = await mine.wait_posts(1)
        await trio.sleep(HOUR_S)
    assert len(mine.posts) == 1
    assert (post.event["type"], post.event["seq"]) == ("webhook.test", 0)
    (delivery,) = await mine.told(webhook)
    dead = ("dead", "1 attempt failed")
    assert (delivery.status, delivery.reason) == (dead if answer.error else ("delivered", None))
    assert await mine.look(webhook) == webhook


async def test_a_test_goes_out_beside_a_webhook_all_of_whose_places_are_taken(mine, autojump_clock):
    async def hang(post):
        if post.event["type"] != "webhook.test":
            await trio.sleep_forever()
        return TAKEN

    mine.answer = hang
    webhook = await mine.hook()
    async with working(mine):
        await mine.tell(*(f"s{number}" for number in range(20)))
        await mine.wait_posts(8)
        test = await mine.test(webhook)
        posts = await mine.wait_posts(9)
        assert posts[8].event["id"] == test.event_id
