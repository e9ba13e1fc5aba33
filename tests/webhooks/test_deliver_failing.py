"""The deliverer and a receiver that fails: what that costs, when it ends, and what clocks do."""

import pytest
import trio

from cmdop_appliance.hub import bus
from cmdop_appliance.store import outbox, webhooks
from cmdop_appliance.webhooks import deliver
from tests.support.clocks import LoopClock
from tests.webhooks.office import TAKEN, Office, failed, office, working

HOUR_S = 3600
DAY_S = 86_400


class SetClock(LoopClock):
    """A wall clock that somebody sets."""

    ahead_s = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_s * 1000


@pytest.fixture
async def mine(tmp_path) -> Office:
    """With nobody at work yet."""
    async with office(tmp_path, SetClock()) as mine:
        yield mine


@pytest.fixture(autouse=True)
def rare_sweeps(monkeypatch) -> None:
    """Days of a mock clock, and none of the sweeps that find nothing in them."""
    for module in (bus, deliver):
        monkeypatch.setattr(module, "SWEEP_S", DAY_S)


@pytest.mark.parametrize("status", [500, None])
async def test_a_webhook_that_fails_has_one_under_way_and_when_it_succeeds_eight_again(
    mine, autojump_clock, status
):
    async def slow(_):
        await trio.sleep(1)
        return TAKEN if is_up.is_set() else failed(status)

    is_up = trio.Event()
    mine.answer = slow
    webhook = await mine.hook()
    async with working(mine):
        await mine.tell("first")
        await mine.wait_posts(1)
        await trio.sleep(2)
        await mine.tell(*(f"s{number}" for number in range(20)))
        await mine.wait_posts(10)
        assert mine.most[webhook.url] == 1
        is_up.set()
        await mine.wait_posts(21)
        await trio.sleep(2 * HOUR_S)
    assert mine.most[webhook.url] == 8
    assert {each.status for each in await mine.told(webhook)} == {"delivered"}


async def test_what_happens_while_there_is_no_answer_waits_for_the_pause_and_costs_no_attempts(
    mine, autojump_clock
):
    mine.answer = lambda post: failed(None) if post.url == dead.url else TAKEN
    dead, good = await mine.hook(), await mine.hook()
    async with working(mine):
        for number in range(120):
            await mine.tell(f"s{number}")
            await trio.sleep(5)
    posts = [post for post in mine.posts if post.url == dead.url]
    assert 10 < len(posts) < 20  # at 0, 5, 10, 20, 40 and 80 s, and then once a minute
    assert len([post for post in mine.posts if post.url == good.url]) == 120


async def test_a_hub_that_was_off_for_days_disables_nothing_at_the_first_failure(
    mine, autojump_clock
):
    mine.answer = lambda _: failed()
    webhook = await mine.hook()
    async with working(mine):
        await mine.tell("a")
        await mine.wait_posts(1)
        await trio.sleep(1)
    mine.clock.ahead_s += 6 * DAY_S
    async with working(mine):
        await mine.wait_posts(2)
        await trio.sleep(1)
    assert (await mine.look(webhook)).is_enabled
    assert [each.status for each in await mine.told(webhook)] == ["pending"]


async def test_one_failure_after_quiet_weeks_disables_nothing(mine, autojump_clock):
    mine.answer = lambda _: failed()
    webhook = await mine.hook()
    async with working(mine):
        await mine.tell("a")
        await mine.wait_posts(10)
        await trio.sleep(30 * DAY_S)
        await mine.tell("b")
        await mine.wait_posts(11)
        await trio.sleep(1)
        assert (await mine.look(webhook)).is_enabled


async def test_a_new_url_gets_at_once_what_waits_and_has_five_days_of_its_own(mine, autojump_clock):
    mine.answer = lambda _: failed()
    webhook = await mine.hook()
    async with working(mine):
        await mine.tell("a", "a", "a")
        await trio.sleep(5 * DAY_S - HOUR_S)
        before = await mine.look(webhook)
        changes = {"url": "https://new.example/"}
        await mine.store.run(webhooks.edit, before, changes, mine.clock.now_ms())
        number = len(mine.posts)
        begun = trio.current_time()
        post = (await mine.wait_posts(number + 1))[-1]
        assert post.url == "https://new.example/"
        assert post.at_s - begun < 1  # of a clock that only waiting moves
        await trio.sleep(DAY_S)
        assert (await mine.look(webhook)).is_enabled


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_clock_that_is_set_back_holds_nothing_up(mine, autojump_clock, is_restarted):
    mine.clock.ahead_s = 20 * HOUR_S
    mine.answer = lambda _: failed()
    webhook = await mine.hook()
    async with working(mine):
        await mine.tell("a")
        await mine.wait_posts(3)
        await trio.sleep(1)
        if not is_restarted:
            mine.answer = lambda _: TAKEN
            mine.clock.ahead_s = 0
            mine.bus.publish(outbox.SUBJECT, None)
            begun = trio.current_time()
            post = (await mine.wait_posts(4))[3]
            assert post.at_s - begun < 1  # of a clock that only waiting moves
            await trio.sleep(1)
            assert [each.status for each in await mine.told(webhook)] == ["delivered"]
            return
    await mine.tell("b")
    mine.clock.ahead_s = 0
    mine.answer = lambda _: TAKEN
    async with working(mine):
        begun = trio.current_time()
        post = (await mine.wait_posts(4))[3]
    assert post.subject == "b"
    assert post.at_s - begun < 1  # of a clock that only waiting moves
