"""When rules come due: on ordinary days, on those of the year that are not, and backwards."""

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdop_appliance.scheduler.cron import Rule
from tests.support.cron_oracle import draw_expression

DAY_MS = 86_400_000
NOW_MS = 1_780_000_000_000  # 2026-05-28
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]


def ms(text):
    """ISO 8601 in UTC → ms since 1970."""
    return (
        datetime.fromisoformat(text).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    ) // (timedelta(milliseconds=1))


def local(cron, zone, after, count):
    """`05 02:30 +02:00` of the next instants."""
    texts = [firing.local for firing in Rule.parse(cron, zone).preview(ms(after), count)]
    return [f"{text[8:10]} {text[11:16]} {text[19:]}" for text in texts]


# rule, zone, after (UTC), what follows in local time
DAYS_OF_CHANGE = {
    "Berlin, spring: at the first instant after the gap": (
        ("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00"),
        ["28 02:30 +01:00", "29 03:00 +02:00", "30 02:30 +02:00"],
    ),
    "Berlin, autumn: the first time only": (
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00"),
        ["25 02:30 +02:00", "26 02:30 +01:00"],
    ),
    "two in one gap, and one at its end: one run": (
        ("0,30 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00"),
        ["29 03:00 +02:00", "29 03:30 +02:00", "30 02:00 +02:00"],
    ),
    "interval, spring: none of the gap": (
        ("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:00"),
        ["29 01:30 +01:00", "29 03:00 +02:00", "29 03:30 +02:00"],
    ),
    "interval all within the gap: not on that day": (
        ("*/30 2 * * *", "Europe/Berlin", "2026-03-28T12:00"),
        ["30 02:00 +02:00", "30 02:30 +02:00"],
    ),
    "interval, autumn: both times": (
        ("*/30 2 * * *", "Europe/Berlin", "2026-10-24T12:00"),
        ["25 02:00 +02:00", "25 02:30 +02:00", "25 02:00 +01:00", "25 02:30 +01:00"],
    ),
    "interval of one day a week, the second time too": (
        ("1-59/29 1 * * sun", "America/Halifax", "2012-11-04T04:15"),
        ["04 01:30 -03:00", "04 01:59 -03:00", "04 01:01 -04:00", "04 01:30 -04:00"],
    ),
    "New York, spring": (
        ("30 2 * * *", "America/New_York", "2026-03-07T12:00"),
        ["08 03:00 -04:00", "09 02:30 -04:00"],
    ),
    "New York, autumn": (
        ("30 1 * * *", "America/New_York", "2026-10-31T12:00"),
        ["01 01:30 -04:00", "02 01:30 -05:00"],
    ),
    "Lord Howe, spring: half an hour": (
        ("15,45 2 * * *", "Australia/Lord_Howe", "2022-10-01T00:00"),
        ["02 02:30 +11:00", "02 02:45 +11:00", "03 02:15 +11:00"],
    ),
    "Lord Howe, autumn: half an hour": (
        ("15,45 1 * * *", "Australia/Lord_Howe", "2022-04-02T12:00"),
        ["03 01:15 +11:00", "03 01:45 +11:00", "04 01:15 +10:30"],
    ),
    "Apia: a day that was not": (
        ("30 2,14 * * *", "Pacific/Apia", "2011-12-29T13:00"),
        ["29 14:30 -10:00", "31 00:00 +14:00", "31 02:30 +14:00"],
    ),
    "Apia: a rule for that very day": (
        ("0 0 30 12 *", "Pacific/Apia", "2011-12-01T00:00"),
        ["31 00:00 +14:00", "30 00:00 +14:00"],
    ),
    "Casablanca: summer ends for Ramadan": (
        ("30 2 * * *", "Africa/Casablanca", "2023-03-18T12:00"),
        ["19 02:30 +01:00", "20 02:30 +00:00"],
    ),
    "Casablanca: and begins after it": (
        ("30 2 * * *", "Africa/Casablanca", "2023-04-22T12:00"),
        ["23 03:00 +01:00", "24 02:30 +01:00"],
    ),
    "Havana, spring: no midnight": (
        ("0 0 * * *", "America/Havana", "2022-03-12T12:00"),
        ["13 01:00 -04:00", "14 00:00 -04:00"],
    ),
    "Havana, autumn: half past midnight twice": (
        ("30 0 * * *", "America/Havana", "2022-11-05T12:00"),
        ["06 00:30 -04:00", "07 00:30 -05:00"],
    ),
    "Beirut, spring: no midnight": (
        ("@daily", "Asia/Beirut", "2022-03-26T12:00"),
        ["27 01:00 +03:00", "28 00:00 +03:00"],
    ),
    "Beirut, autumn: back into the day before": (
        ("30 23 * * *", "Asia/Beirut", "2022-10-29T12:00"),
        ["29 23:30 +03:00", "30 23:30 +02:00"],
    ),
    "Troll, spring: two hours": (
        ("30 1,2 * * *", "Antarctica/Troll", "2022-03-26T12:00"),
        ["27 03:00 +02:00", "28 01:30 +02:00"],
    ),
    "Troll, autumn: two hours": (
        ("30 1,2 * * *", "Antarctica/Troll", "2022-10-29T12:00"),
        ["30 01:30 +02:00", "30 02:30 +02:00", "31 01:30 +00:00"],
    ),
    "Monrovia, 1972: seconds": (
        ("30 0 * * *", "Africa/Monrovia", "1972-01-05T12:00"),
        ["06 00:30 -00:44:30", "07 00:44 +00:00", "08 00:30 +00:00"],
    ),
}


@pytest.mark.parametrize("name", DAYS_OF_CHANGE)
def test_on_a_day_of_change(name):
    (cron, zone, after), expected = DAYS_OF_CHANGE[name]
    assert local(cron, zone, after, len(expected)) == expected


@pytest.mark.parametrize("name", DAYS_OF_CHANGE)
def test_backwards_it_is_the_same(name):
    (cron, zone, after), expected = DAYS_OF_CHANGE[name]
    rule = Rule.parse(cron, zone)
    instants = [firing.at_ms for firing in rule.preview(ms(after), len(expected))]
    assert rule.newest(ms(after), instants[-1], 99) == (instants, False)


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("0 0 29 2 *", "2095-01-01T00:00", ["2096-02-29", "2104-02-29"]),
        ("0 0 29 2 */7", "2060-03-01T00:00", ["2088-02-29", "2128-02-29"]),
        ("0 0 31 * *", "2026-01-31T00:00", ["2026-03-31", "2026-05-31", "2026-07-31"]),
        ("0 0 13 * fri", "2026-02-12T00:00", ["2026-02-13", "2026-02-20", "2026-02-27"]),
        ("0 0 13 * fri", "2026-03-06T00:00", ["2026-03-13", "2026-03-20"]),
        ("0 0 */12 * fri", "2026-02-12T00:00", ["2026-02-13", "2026-03-13", "2026-05-01"]),
        ("0 0 13 * */5", "2026-01-12T00:00", ["2026-02-13", "2026-03-13", "2026-09-13"]),
        ("0 0 1 jan,dec *", "2026-01-01T00:00", ["2026-12-01", "2027-01-01"]),
    ],
)
def test_a_day_matches_by_both_fields_or_by_either(cron, after, expected):
    firings = Rule.parse(cron, "UTC").preview(ms(after), len(expected))
    assert [firing.local for firing in firings] == [f"{day}T00:00:00+00:00" for day in expected]


def test_the_next_is_strictly_after():
    rule = Rule.parse("* * * * *", "UTC")
    assert rule.next(0) == 60_000
    assert rule.next(59_999) == 60_000
    assert rule.next(60_000) == 120_000
    assert rule.next(-1) == 0


def test_dates_end_in_the_year_9999():
    last = ms("9999-02-28T00:00")
    assert Rule.parse("0 0 29 2 *", "Europe/Berlin").next(last) is None
    assert Rule.parse("0 0 31 12 *", "Europe/Berlin").next(last) is None
    assert Rule.parse("* * * * *", "Asia/Tokyo").next(ms("9999-12-31T00:00")) is None
    assert Rule.parse("* * * * *", "UTC").next(10**18) is None
    assert Rule.parse("0 0 1 1 *", "UTC").newest(0, 10**18, 1) == ([ms("9999-01-01T00:00")], True)
    assert len(Rule.parse("0 0 29 2 *", "UTC").preview(ms("9990-01-01T00:00"), 9)) == 2


def test_a_rule_is_read_once():
    rule = Rule.parse("5 4 * * *", "Asia/Tokyo")
    assert Rule.parse("5 4 * * *", "Asia/Tokyo") is rule
    assert rule != Rule.parse("5 4 * * *", "UTC")
    assert {rule: 1}[Rule.parse("5 4 * * *", "Asia/Tokyo")] == 1


@pytest.mark.parametrize("cron", ["* * * * *", "30 2 * * *", "0 0 1 1 *", "0 0 29 2 *"])
def test_the_newest_of_56_years_are_the_last_of_all(cron):
    rule = Rule.parse(cron, "Europe/Berlin")
    newest, has_older = rule.newest(0, NOW_MS, 10)
    assert len(newest) == 10
    assert has_older
    after = newest[0] - 1
    for instant in newest:
        after = rule.next(after)
        assert after == instant
    assert rule.next(after) > NOW_MS


def test_the_newest_lie_after_the_one_and_up_to_the_other():
    rule = Rule.parse("0 * * * *", "UTC")
    hour = 3_600_000
    assert rule.newest(0, 2 * hour, 5) == ([hour, 2 * hour], False)
    assert rule.newest(0, 2 * hour, 2) == ([hour, 2 * hour], False)
    assert rule.newest(-1, 2 * hour, 2) == ([hour, 2 * hour], True)
    assert rule.newest(0, 2 * hour - 1, 5) == ([hour], False)
    assert rule.newest(hour, hour, 5) == ([], False)


@settings(max_examples=60)
@given(st.randoms(use_true_random=False), st.sampled_from(ZONES), st.integers(0, 4 * NOW_MS))
def test_instants_follow_one_another(dice: Random, zone, after):
    rule = Rule.parse(draw_expression(dice), zone)
    first = rule.next(after)
    assert first > after
    assert rule.next((after + first) // 2) == first
    assert rule.next(first - 1) == first
    second = rule.next(first)
    assert rule.newest(after, second, 3) == ([first, second], False)
    assert rule.newest(after, second, 1) == ([second], True)
    assert rule.newest(first, second - 1, 1) == ([], False)
