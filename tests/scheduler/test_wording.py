"""What rules say in words, and the notes beside the instants of a preview."""

from datetime import datetime
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdop_appliance.scheduler.cron import Rule
from tests.support.cron_oracle import draw_expression

DESCRIBED = {
    "30 2 * * *": "at 02:30 every day",
    "@daily": "at 00:00 every day",
    "@hourly": "every hour",
    "@weekly": "at 00:00 on every Sunday",
    "@monthly": "at 00:00 on day 1 of the month",
    "@yearly": "at 00:00 on day 1 of January",
    "* * * * *": "every minute",
    "*/15 * * * *": "every 15 minutes",
    "0-59/15 0-23 1-31 1-12 0-6": "every 15 minutes",
    "*/15 9-17 * * 1-5": "every 15 minutes from 09:00 to 17:59 on Monday to Friday",
    "* 9-11,13,20-23 * * *": (
        "every minute from 09:00 to 11:59, from 13:00 to 13:59 and from 20:00 to 23:59 every day"
    ),
    "*/10 1,3,5,7 * * *": "every 10 minutes of the hours 1, 3, 5 and 7 every day",
    "*/7 * * * *": "at minutes 0, 7, 14, 21, 28, 35, 42, 49 and 56 of every hour",
    "5 * * * *": "at minute 5 of every hour",
    "5 * 1 * *": "at minute 5 of every hour on day 1 of the month",
    "0-29 * * * *": "at minutes 0 to 29 of every hour",
    "0,30 2,14 * * *": "at 02:00, 02:30, 14:00 and 14:30 every day",
    "*/30 2 * * *": "at 02:00 and 02:30 every day",
    "0 9-17 * * *": "every hour from 09:00 to 17:00 every day",
    "0 */4 * * *": "every 4 hours from 00:00 every day",
    "30 0-10/2 * * *": "at minute 30 of the hours 0, 2, 4, 6, 8 and 10 every day",
    "5,10 3-5 * * sat": "at minutes 5 and 10 of the hours 3 to 5 on every Saturday",
    "1-7 3 * * *": "at minutes 1 to 7 of the hour 3 every day",
    "0 3 1 * mon": "at 03:00 on day 1 of the month and on every Monday",
    "0 3 1,15 * sat,sun": "at 03:00 on days 1 and 15 of the month and on every Saturday and Sunday",
    "0 3 1 * mon-fri": "at 03:00 on day 1 of the month and on every day from Monday to Friday",
    "0 3 1 * mon-wed,fri": (
        "at 03:00 on day 1 of the month and on every Monday, Tuesday, Wednesday and Friday"
    ),
    "0 3 13 1,6-9 fri": (
        "at 03:00 on day 13 of January and June to September"
        " and on every Friday in January and June to September"
    ),
    "0 3 1-7 * */7": "at 03:00 on days 1 to 7 of the month when it is Sunday",
    "0 3 */15 * 6,7": "at 03:00 on days 1, 16 and 31 of the month when it is Saturday or Sunday",
    "0 3 1-31 * mon": "at 03:00 every day",
    "0 3 1 * 0-7": "at 03:00 every day",
    "0 3 */1 * mon": "at 03:00 on every Monday",
    "0 3 1-7 * */1": "at 03:00 on days 1 to 7 of the month",
    "0 3 * jan *": "at 03:00 every day in January",
    "* * * 1-3 *": "every minute in January to March",
    "0 0 * * fri-6,7": "at 00:00 on Friday to Sunday",
    "0 0 * 2 7": "at 00:00 on every Sunday in February",
}


@pytest.mark.parametrize("cron", DESCRIBED)
def test_a_rule_in_words(cron):
    assert Rule.parse(cron, "UTC").description == DESCRIBED[cron]


@settings(max_examples=150)
@given(st.randoms(use_true_random=False), st.integers(0, 4))
def test_rules_that_differ_in_what_they_name_differ_in_words(dice: Random, number):
    one, other = (draw_expression(dice).split() for _ in range(2))
    other = [*one[:number], other[number], *one[number + 1 :]]
    rules = [Rule.parse(" ".join(fields), "UTC") for fields in (one, other)]
    if rules[0]._times != rules[1]._times:
        assert rules[0].description != rules[1].description


# rule, zone, after (UTC), the notes that follow
NOTES = [
    (
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00+00:00"),
        ["02:30 does not exist on 29 March: runs at 03:00", None],
    ),
    (
        ("0,20,40 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00+00:00"),
        ["02:00 to 02:40 do not exist on 29 March: runs at 03:00", None],
    ),
    (
        ("30 2 * * *", "Pacific/Apia", "2011-12-29T13:00+00:00"),
        ["02:30 does not exist on 30 December: runs at 00:00 on 31 December", None],
    ),
    (
        ("15,45 23 * * *", "America/Scoresbysund", "2026-03-28T23:50+00:00"),
        ["23:15 to 23:45 do not exist on 28 March: runs at 00:00 on 29 March", None],
    ),
    (
        ("30 1 * * *", "Europe/London", "2026-10-24T12:00+00:00"),
        ["01:30 comes twice on 25 October: runs the first time only", None],
    ),
    (
        ("*/30 * * * *", "Europe/London", "2026-10-24T23:30+00:00"),
        [
            None,
            None,
            "01:00 comes twice on 25 October: this is the second time",
            "01:30 comes twice on 25 October: this is the second time",
            None,
        ],
    ),
    (
        ("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:15+00:00"),
        [None, "02:00 to 02:30 do not exist on 29 March: left out", None],
    ),
    (
        ("1-59/40 * * * *", "Europe/Berlin", "2026-03-29T00:00+00:00"),
        [None, None, "02:01 to 02:41 do not exist on 29 March: left out", None],
    ),
    (("30 12 * * *", "Europe/Berlin", "2026-03-28T00:00+00:00"), [None, None, None]),
]


@pytest.mark.parametrize(("case", "notes"), NOTES)
def test_a_note_tells_what_the_change_does(case, notes):
    cron, zone, after = case
    after_ms = int(datetime.fromisoformat(after).timestamp()) * 1000
    firings = Rule.parse(cron, zone).preview(after_ms, len(notes))
    assert [firing.note for firing in firings] == notes
