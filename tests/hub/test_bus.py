"""The bus: whoever waits hears something, or is told to look for himself."""

import gc
import weakref

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cmdop_appliance.errors import Unavailable
from cmdop_appliance.hub.bus import SWEEP_S, LocalBus, Request

QUEUE = 256


async def test_everyone_who_listens_gets_every_message_in_order():
    bus = LocalBus()
    with bus.subscribe("a") as one, bus.subscribe("a") as two, bus.subscribe("b") as other:
        for number in range(3):
            bus.publish("a", number)
        bus.publish("b", "b")
        assert [await one.next() for _ in range(3)] == [0, 1, 2]
        assert [await two.next() for _ in range(3)] == [0, 1, 2]
        assert await other.next() == "b"


async def test_what_was_published_before_is_not_heard(autojump_clock: MockClock):
    bus = LocalBus()
    bus.publish("a", 1)
    with bus.subscribe("a") as subscription:
        assert await subscription.next() is None


async def test_who_hears_nothing_is_told_to_look_after_five_seconds(autojump_clock: MockClock):
    with LocalBus().subscribe("a") as subscription:
        for _ in range(3):
            before = trio.current_time()
            assert await subscription.next() is None
            assert trio.current_time() - before == pytest.approx(SWEEP_S)


async def test_who_misses_messages_is_told_once_and_gets_the_others():
    bus = LocalBus()
    with bus.subscribe("a") as subscription:
        for number in range(QUEUE + 10):
            bus.publish("a", number)
        assert await subscription.next() is None
        assert [await subscription.next() for _ in range(QUEUE)] == list(range(QUEUE))
        bus.publish("a", "later")
        assert await subscription.next() == "later"


async def test_a_slow_listener_takes_nothing_from_the_others():
    bus = LocalBus()
    with bus.subscribe("a"), bus.subscribe("a") as awake:
        for number in range(2 * QUEUE):
            bus.publish("a", number)
            assert await awake.next() == number


async def test_stop_wakes_everyone_who_waits_and_everyone_later():
    bus = LocalBus()
    stopped = []

    async def wait(subject: str) -> None:
        with bus.subscribe(subject) as subscription:
            try:
                await subscription.next()
            except Unavailable as exc:
                stopped.append(exc.message)

    with trio.fail_after(SWEEP_S - 1):
        async with trio.open_nursery() as nursery:
            for subject in ("a", "a", "b"):
                nursery.start_soon(wait, subject)
            await wait_all_tasks_blocked()
            bus.stop()
        await wait("a")
    assert stopped == ["the hub is stopping"] * 4
    bus.publish("a", "nobody")  # harmless


async def test_what_was_queued_is_heard_before_the_stop():
    bus = LocalBus()
    with bus.subscribe("a") as subscription:
        bus.publish("a", "last words")
        bus.stop()
        bus.publish("a", "too late")
        assert await subscription.next() == "last words"
        with pytest.raises(Unavailable):
            await subscription.next()


# ── questions ────────────────────────────────────────────────────────────────────────────────────


async def answer(bus: LocalBus, *values: object, task_status) -> None:
    with bus.subscribe("a") as subscription:
        task_status.started()
        request = await subscription.next()
        assert isinstance(request, Request)
        assert request.question == "how?"
        for value in values:
            request.answer(value)


async def test_the_first_answer_counts(nursery):
    bus = LocalBus()

    async def two_answers(task_status) -> None:
        await answer(bus, "so", "or so", task_status=task_status)

    await nursery.start(two_answers)
    assert await bus.request("a", "how?", 1) == "so"


async def test_a_false_answer_is_an_answer(nursery):
    bus = LocalBus()

    async def no(task_status) -> None:
        await answer(bus, False, task_status=task_status)

    await nursery.start(no)
    assert await bus.request("a", "how?", 1) is False


async def test_a_question_that_nobody_hears_has_no_answer_at_once():
    with trio.fail_after(1):
        assert await LocalBus().request("a", "how?", 1000) is None


async def test_a_question_that_nobody_answers_waits_only_so_long(autojump_clock: MockClock):
    bus = LocalBus()
    with bus.subscribe("a"):
        before = trio.current_time()
        assert await bus.request("a", "how?", 3) is None
        assert trio.current_time() - before == pytest.approx(3)


# ── what stays ───────────────────────────────────────────────────────────────────────────────────


async def test_nothing_is_left_of_who_has_gone():
    bus = LocalBus()
    with bus.subscribe("a") as subscription:
        bus.publish("a", "x" * 1000)
        gone = weakref.ref(subscription)
    del subscription
    with pytest.raises(ValueError, match="on purpose"), bus.subscribe("b"):
        raise ValueError("on purpose")
    gc.collect()
    assert gone() is None
    assert not bus._subscriptions


async def test_one_who_leaves_does_not_take_the_others_along():
    bus = LocalBus()
    with bus.subscribe("a") as stays:
        with bus.subscribe("a"):
            pass
        bus.publish("a", 1)
        assert await stays.next() == 1
