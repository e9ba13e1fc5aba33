"""Uses: noted to a minute or better, and told once."""

import trio
from trio.testing import MockClock

from cmdop_appliance.hub.uses import Uses
from cmdop_appliance.store.api_keys import Use
from tests.support.clocks import LoopClock

HERE, ELSEWHERE = "192.0.2.7", "2001:db8::1"


async def test_what_is_used_again_within_a_minute_is_told_once(autojump_clock: MockClock):
    clock = LoopClock()
    uses = Uses(clock)
    begun = clock.now_ms()
    uses.note("key_1", HERE)
    assert uses.take() == [Use("key_1", begun, HERE)]
    await trio.sleep(59)
    uses.note("key_1", ELSEWHERE)
    assert uses.take() == []
    await trio.sleep(1)
    uses.note("key_1")
    assert uses.take() == [Use("key_1", begun + 60_000, None)]


async def test_uses_of_long_ago_take_no_memory(autojump_clock: MockClock):
    uses = Uses(LoopClock())
    for number in range(3):
        uses.note(f"key_{number}", HERE)
    await trio.sleep(60)
    uses.note("key_9", HERE)
    assert len(uses._noted) == 1


async def test_what_ends_unless_it_is_used_is_noted_ten_times_in_that_time(
    autojump_clock: MockClock,
):
    clock = LoopClock()
    uses = Uses(clock, idle_ms=60_000)
    for _ in range(3):
        uses.note("sign_1", HERE)
        assert uses.take() == [Use("sign_1", clock.now_ms(), HERE)]
        await trio.sleep(3)
        uses.note("sign_1", HERE)
        assert uses.take() == []
        await trio.sleep(3)
