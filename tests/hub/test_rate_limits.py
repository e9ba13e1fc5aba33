"""Rate limits: so many requests of a key in a minute, by a clock that does not jump."""

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.errors import RateLimited
from cmdop_appliance.hub.rate_limits import Quota, RateLimits


async def test_without_a_limit_nothing_is_counted():
    limits = RateLimits(0)
    assert limits.count("key_1") is None
    assert not limits._windows


async def test_each_key_has_so_many_requests_in_a_minute(autojump_clock: MockClock):
    limits = RateLimits(2)
    assert limits.count("key_1") == Quota(2, 1, 60, is_exceeded=False)
    await trio.sleep(9.5)
    assert limits.count("key_1") == Quota(2, 0, 51, is_exceeded=False)
    assert limits.count("key_1") == Quota(2, 0, 51, is_exceeded=True)
    assert limits.count("key_2") == Quota(2, 1, 60, is_exceeded=False)
    await trio.sleep(50.5)
    assert limits.count("key_1") == Quota(2, 1, 60, is_exceeded=False)
    assert limits.count("key_2") == Quota(2, 0, 10, is_exceeded=False)


async def test_a_request_beyond_the_limit_is_told_when_to_come_back(autojump_clock: MockClock):
    limits = RateLimits(1)
    quota = limits.count("key_1")
    quota.require()
    await trio.sleep(0.1)
    with pytest.raises(RateLimited) as caught:
        limits.count("key_1").require()
    assert caught.value.details == {"retry_after": 60}


async def test_only_keys_of_the_last_minute_take_memory(autojump_clock: MockClock):
    limits = RateLimits(10)
    for number in range(100):
        limits.count(f"key_{number}")
        await trio.sleep(1)
    assert len(limits._windows) <= 60
    limits.count("key_0")
    await trio.sleep(60)
    limits.count("key_x")
    assert list(limits._windows) == ["key_x"]
