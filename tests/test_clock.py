"""Times as text."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.clock import LEAP_S, STEADY_S, LeapWatch, SystemClock, rfc3339


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_771_065_000_007, "2026-02-14T10:30:00.007Z"),
        (999, "1970-01-01T00:00:00.999Z"),
    ],
)
def test_a_time_is_utc_with_three_digits(ms: int, text: str):
    assert rfc3339(ms) == text


@given(st.integers(0, 4_102_444_800_000))
def test_a_time_survives_its_text(ms: int):
    assert round(datetime.fromisoformat(rfc3339(ms)).timestamp() * 1000) == ms


def test_the_system_clock_counts_milliseconds():
    before = datetime.now().timestamp() * 1000  # noqa: DTZ005 - an instant, whatever the zone
    assert 0 <= SystemClock().now_ms() - int(before) < 60_000


@pytest.mark.parametrize("leap_s", [LEAP_S + 1, -LEAP_S - 1, 10 * 365 * 86_400])
def test_a_clock_that_leapt_is_trusted_when_it_has_been_steady_for_a_while(leap_s: float):
    watch = LeapWatch()

    def is_steady(at_s: float, leap_s: float = 0) -> bool:
        return watch.is_steady(round((1_700_000_000 + at_s + leap_s) * 1000), 50 + at_s)

    assert not is_steady(0)
    assert not is_steady(STEADY_S - 1)
    assert is_steady(STEADY_S)
    assert is_steady(1000, LEAP_S - 1)  # it was set right
    assert not is_steady(1001, leap_s)
    assert not is_steady(1002)
    assert not is_steady(1001 + STEADY_S)
    assert is_steady(1002 + STEADY_S)
    assert not is_steady(2000, leap_s)
    assert is_steady(2000 + STEADY_S, leap_s)  # it must be right
