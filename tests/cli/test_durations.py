"""Durations as people write them."""

from datetime import timedelta

import pytest

from cmdop_appliance.cli.durations import milliseconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1ms", 1), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000), ("1d", 86_400_000)],
)
def test_a_number_with_a_unit_is_milliseconds(text, expected):
    assert milliseconds(text) == expected


@pytest.mark.parametrize(
    "text", ["", "30", "s", "-1s", "1.5h", "1h30m", "1 h", "30S", "١s\n", "9" * 5000 + "s"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="such as 500ms, 30s"):
        milliseconds(text)


@pytest.mark.parametrize("text", ["0s", "000d"])
def test_no_time_is_no_duration(text):
    with pytest.raises(ValueError, match="must be greater than 0"):
        milliseconds(text)


def test_a_duration_has_a_longest():
    assert timedelta(milliseconds=milliseconds("3650d")) == timedelta(days=3650)
    for text in ("3651d", "999999999d", "999999999h"):
        with pytest.raises(ValueError, match="must be at most 3650d"):
            milliseconds(text)
