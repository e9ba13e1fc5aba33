"""Durations as people write them."""

import pytest

from cmdop_appliance.cli.durations import milliseconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1ms", 1), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000), ("1d", 86_400_000)],
)
def test_a_number_with_a_unit_is_milliseconds(text, expected):
    assert milliseconds(text) == expected


@pytest.mark.parametrize(
    "text", ["", "30", "s", "0s", "-1s", "1.5h", "1h30m", "1 h", "30S", "١s\n", "9" * 5000 + "s"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="such as 500ms, 30s"):
        milliseconds(text)
