"""The deliverer when something is wrong: a receiver that hangs, the store, the hub itself."""

import logging

import pytest
import trio
from trio.testing import Sequencer

from cmdop_appliance.errors import StorageFull, Unavailable
from cmdop_appliance.model import Delivery
from cmdop_appliance.store import outbox
from cmdop_appliance.store.transaction import Tx
from cmdop_appliance.webhooks import deliver, outcomes
from tests.webhooks.office import TAKEN, Office, failed, office, working

_KEY = "whsec_" + "U0VDUkVU" * 4


@pytest.fixture
async def mine(tmp_path) -> Office:
    """With nobody at work yet."""
    async with office(tmp_path) as mine:
        yield mine


async def hang(_) -> None:
    await trio.sleep_forever()


async def test_a_receiver_that_hangs_delays_nobody_but_itself(mine, autojump_clock):
    tarpit, *good = [await mine.hook() for _ in range(9)]
    mine.answer = lambda post: hang(post) if post.url == tarpit.url else TAKEN
    async with working(mine):
        await mine.tell(*(f"s{number}" for number in range(9)))
        begun = trio.current_time()
        posts = await mine.wait_posts(8 + 8 * 9)
        assert trio.current_time() - begun < 1  # of a clock that only waiting moves
        assert {post.url for post in posts} == {each.url for each in (tarpit, *good)}
        assert mine.under_way[tarpit.url] == 8
        assert len([post for post in posts if post.url == tarpit.url]) == 8


async def test_when_all_places_are_taken_the_next_one_goes_to_who_has_the_fewest(
    mine, autojump_clock, monkeypatch
):
    monkeypatch.setattr(deliver, "_PLACES", 16)
    for _ in range(2):
        await mine.hook(events=["machine.online"])
    release = trio.Event()

    async def hang_but_for_the_first(post):
        if post is not mine.posts[0]:
            await trio.sleep_forever()
        await release.wait()
        return TAKEN

    mine.answer = hang_but_for_the_first
    async with working(mine):
        await mine.tell(*(f"s{number}" for number in range(20)))
        await mine.wait_posts(16)
        late = await mine.hook()
        await mine.tell("late")
        await trio.sleep(60)
        assert len(mine.posts) == 16
        release.set()
        posts = await mine.wait_posts(17)
        assert posts[16].url == late.url


async def test_of_those_with_as_many_places_the_one_that_waits_longest_gets_the_next(
    mine, autojump_clock, monkeypatch
):
    monkeypatch.setattr(deliver, "_PLACES", 1)
    kinds = ("machine.offline", "machine.registered", "machine.online")
    hooks = [await mine.hook(events=[kind]) for kind in kinds]
    for kind in kinds:
        await mine.tell("a", kind=kind)
        await trio.sleep(1)
    async with working(mine):
        posts = await mine.wait_posts(3)
    assert [post.url for post in posts] == [each.url for each in hooks]


async def test_a_lost_wake_up_is_found_by_the_sweep(mine, autojump_clock):
    await mine.hook()
    async with working(mine):
        await trio.sleep(1)
        mine.store.listen(lambda _: None)
        begun = trio.current_time()
        await mine.tell("a")
        (post,) = await mine.wait_posts(1)
        assert 0 < post.at_s - begun <= 6


async def test_what_was_cut_off_is_sent_again_after_a_restart(mine, autojump_clock):
    mine.answer = hang
    webhook = await mine.hook()
    async with working(mine):
        await mine.tell("a")
        await mine.wait_posts(1)
    assert not mine.under_way[webhook.url]
    (delivery,) = await mine.told(webhook)
    assert (delivery.status, delivery.tried) == ("pending", 0)
    mine.answer = lambda _: TAKEN
    async with working(mine):
        first, again = await mine.wait_posts(2)
        await trio.sleep(1)
    assert (first.body, first.headers["webhook-id"]) == (again.body, again.headers["webhook-id"])
    (delivery,) = await mine.told(webhook)
    assert (delivery.status, delivery.tried) == ("delivered", 1)


async def test_when_the_hub_stops_nothing_new_is_begun_and_what_ends_is_recorded(
    mine, autojump_clock
):
    order = Sequencer()

    async def slow(_):
        async with order(1):
            return TAKEN

    mine.answer = slow
    webhook = await mine.hook()
    async with trio.open_nursery() as nursery:  # ends when the deliverer does
        nursery.start_soon(mine.deliverer().run)
        await trio.sleep(1)
        async with order(0):
            await mine.tell("a", "a")
            await mine.wait_posts(1)
            mine.bus.stop()
    assert [each.status for each in await mine.told(webhook)] == ["delivered", "pending"]


async def test_a_fault_in_one_delivery_is_its_failure_and_is_logged_without_any_secret(
    mine, autojump_clock, caplog
):
    caplog.set_level(logging.DEBUG)

    def stumble(post):
        if post.subject == "bad":
            raise ValueError(post.url, post.headers, _KEY)
        return TAKEN

    mine.answer = stumble
    url = "https://hooks.example/TOKEN-SECRET?key=TOKEN-SECRET"
    headers = {"Authorization": "Bearer TOKEN-SECRET"}
    webhook = await mine.hook(url=url, secret=_KEY, headers=headers)
    async with working(mine):
        await mine.tell("bad", "good")
        await mine.wait_posts(3)
        await trio.sleep(1)
    bad, good = await mine.told(webhook)
    assert good.status == "delivered"
    assert (bad.status, bad.tried) == ("pending", 2)
    (tried, _) = await mine.tries(bad)
    assert tried.error == "the hub met a fault of its own; its log has it"
    (record, _) = (each for each in caplog.records if each.levelno >= logging.ERROR)
    assert (record.delivery_id, record.error) == (bad.id, "ValueError")
    assert "test_deliver_troubles.py" in record.frames
    for each in caplog.records:
        assert "SECRET" not in str(vars(each))
        assert "U0VDUkVU" not in str(vars(each))


class Failing:
    """A store that does not record outcomes for a while."""

    def __init__(self, mine: Office, *errors: Exception) -> None:
        self._run = mine.store.run
        self._errors = list(errors)
        mine.store.run = self.run  # type: ignore[method-assign]

    async def run(self, fn, *args, **kwargs):
        if fn is outcomes.record and self._errors:
            error = self._errors.pop(0)
            await trio.lowlevel.checkpoint()
            raise error
        return await self._run(fn, *args, **kwargs)


async def test_what_came_of_a_delivery_waits_for_a_store_that_is_full(mine, autojump_clock, caplog):
    webhook = await mine.hook()
    Failing(mine, StorageFull("full"), Unavailable("away"), StorageFull("full"))
    async with working(mine):
        await mine.tell("a", "a")
        await mine.wait_posts(2)
        await trio.sleep(60)
    assert [post.event["seq"] for post in mine.posts] == [1, 2]
    assert [each.tried for each in await mine.told(webhook)] == [1, 1]
    assert {each.message for each in caplog.records if each.levelno >= logging.ERROR} == {
        "what came of a delivery cannot be recorded yet"
    }


async def test_a_fault_in_a_record_ends_that_attempt_alone_and_makes_no_storm(
    mine, autojump_clock, caplog
):
    webhook = await mine.hook()
    Failing(mine, ValueError("SECRET"))
    async with working(mine):
        await mine.tell("a", "b")
        posts = await mine.wait_posts(3)
        await trio.sleep(60)
    assert len(posts) == 3
    assert posts[2].at_s - posts[0].at_s >= 5
    assert {each.status for each in await mine.told(webhook)} == {"delivered"}
    assert "SECRET" not in caplog.text


async def test_a_store_that_cannot_be_read_is_read_again(mine, autojump_clock, caplog):
    webhook = await mine.hook()
    run, errors = mine.store.run, [Unavailable("away"), Unavailable("away")]

    async def unreadable(fn, *args, **kwargs):
        if fn in (outbox.due, outcomes.to_send) and errors:
            raise errors.pop()
        return await run(fn, *args, **kwargs)

    mine.store.run = unreadable  # type: ignore[method-assign]
    async with working(mine):
        await mine.tell("a")
        await mine.wait_posts(1)
        errors.append(Unavailable("away"))
        await mine.tell("b")
        await mine.wait_posts(2)
        await trio.sleep(1)
    assert {each.status for each in await mine.told(webhook)} == {"delivered"}
    assert "webhooks wait for the store" in caplog.text


async def test_what_was_taken_away_before_its_turn_is_no_attempt(mine, autojump_clock):
    webhook = await mine.hook()
    run = mine.store.run

    async def late(fn, *args, **kwargs):
        if fn is outcomes.to_send:
            (delivery,) = await mine.told(webhook)
            await run(outbox.end, delivery, "dead", 1, "why")
        return await run(fn, *args, **kwargs)

    mine.store.run = late  # type: ignore[method-assign]
    async with working(mine):
        await mine.tell("a")
        await trio.sleep(60)
    assert not mine.posts
    assert not mine.attempts
    assert [each.tried for each in await mine.told(webhook)] == [0]


def end(tx: Tx, delivery: Delivery) -> None:
    outbox.end(tx, delivery, "dead", 1, "why")


def drop(tx: Tx, delivery: Delivery) -> None:
    tx.execute("DELETE FROM delivery WHERE id = :id", id=delivery.id)


@pytest.mark.parametrize("take_away", [end, drop])
async def test_what_was_taken_away_while_it_was_under_way_stays_away(
    mine, autojump_clock, take_away
):
    order = Sequencer()

    async def slow(_):
        async with order(1):
            return failed()

    mine.answer = slow
    webhook = await mine.hook()
    async with working(mine):
        await mine.tell("a")
        async with order(0):
            await mine.wait_posts(1)
            (delivery,) = await mine.told(webhook)
            await mine.store.run(take_away, delivery)
        await trio.sleep(60)
    assert len(mine.posts) == 1
    assert [(each.status, each.reason) for each in await mine.told(webhook)] == (
        [("dead", "why")] if take_away is end else []
    )
    assert (await mine.look(webhook)).failing_since_ms is None
