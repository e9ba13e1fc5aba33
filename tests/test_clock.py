"""Times as text."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.clock import SystemClock, rfc3339


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
