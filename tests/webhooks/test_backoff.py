"""When a delivery is tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.webhooks.backoff import RETRY_S, next_delay_s, retry_after_s

DAY_S = 86_400
NOW_S = 1_771_065_000.0  # 2026-02-14T10:30:00Z


def test_the_retries_are_those_that_are_promised():
    delays = [next_delay_s(attempts, 0.5, None) for attempts in range(1, 11)]
    assert delays == [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400, None]


@pytest.mark.parametrize(("share", "factor"), [(0.0, 0.8), (0.25, 0.9), (0.75, 1.1)])
def test_they_are_spread_by_a_fifth_to_both_sides(share, factor):
    assert next_delay_s(4, share, None) == pytest.approx(7200 * factor)


@pytest.mark.parametrize(
    ("asked_s", "delay_s"),
    [(None, 5), (0, 5), (4, 5), (6, 6), (3600, 3600), (DAY_S, DAY_S), (DAY_S + 1, DAY_S)],
)
def test_a_receiver_may_ask_for_more_time_up_to_a_day_and_never_for_less(asked_s, delay_s):
    assert next_delay_s(1, 0.5, asked_s) == delay_s


@given(
    attempts=st.integers(1, 20),
    share=st.floats(0, 1, exclude_max=True),
    asked_s=st.none() | st.floats(0, 1e12),
)
def test_every_delay_is_within_its_bounds(attempts, share, asked_s):
    delay_s = next_delay_s(attempts, share, asked_s)
    if attempts > len(RETRY_S):
        assert delay_s is None
    else:
        table_s = RETRY_S[attempts - 1]
        assert table_s * 0.8 * 0.999 <= delay_s
        assert delay_s <= max(table_s * 1.2, min(asked_s or 0, DAY_S))
        assert delay_s >= min(asked_s or 0, DAY_S)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("99999999999", 99_999_999_999),
        ("Sat, 14 Feb 2026 10:32:00 GMT", 120),
        ("Saturday, 14-Feb-26 10:32:00 GMT", 120),
        ("Sat Feb 14 10:32:00 2026", 120),
        ("Sat, 14 Feb 2026 10:00:00 GMT", 0),  # it is over
    ],
)
def test_retry_after_is_seconds_or_a_date(header, seconds):
    assert retry_after_s(header, NOW_S) == seconds


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "-1",
        "+1",
        "1.5",
        "1e3",
        "0x10",
        "１２０",
        "9" * 5000,
        "soon",
        "Sat, 14 Feb 2026",
        "Sat, 31 Feb 2026 10:32:00 GMT",
        "Sat, 14 Feb 2026 10:32:00 CET",
        "Sat, 14 Feb 20260 10:32:00 GMT",
    ],
)
def test_nonsense_in_retry_after_asks_for_nothing(header):
    assert retry_after_s(header, NOW_S) is None


@given(st.text(), st.floats(0, 1e11))
def test_no_header_breaks_the_reader(header, now_s):
    asked_s = retry_after_s(header, now_s)
    assert asked_s is None or asked_s >= 0
