"""Which expressions are taken, what they name, and why others are refused."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.scheduler import expression
from cmdop_appliance.scheduler.cron import CronError, Rule

DAY_MS = 86_400_000
SUNDAY_MS = 3 * DAY_MS  # 1970-01-04

REFUSED = [
    ("", "0 fields where five are needed: write minute, hour, day of month, month and day of"),
    ("5", "1 field where five are needed: write minute,"),
    ("* * * *", "4 fields where five are needed: write minute,"),
    ("0 * * * * *", "6 fields where five are needed; seconds and years have no field: write "),
    ("0 0 * * * * 2027", "7 fields where five are needed; seconds and years"),
    ("* " * 200, "400 characters: write at most 256"),
    ("@reboot", "@reboot is not a time: write five fields, or @daily"),
    ("@fortnightly", "'@fortnightly' is not known: write one of @yearly, @annually, @monthly"),
    ("@DAILY", "'@DAILY' is not known: write one of"),
    ("60 * * * *", "minute: 60 is out of range: write 0 to 59"),
    ("* 24 * * *", "hour: 24 is out of range: write 0 to 23"),
    ("* * 0 * *", "day of month: 0 is out of range: write 1 to 31"),
    ("* * * 13 *", "month: 13 is out of range: write 1 to 12"),
    ("* * * * 8", "day of week: 8 is out of range: write 0 to 7"),
    ("0-60 * * * *", "minute: 60 is out of range: write 0 to 59"),
    ("5/15 * * * *", "minute: '5/15' has a step without a range: write 5-59/15 or 5"),
    ("* * * * 1/2", "day of week: '1/2' has a step without a range: write 1-6/2 or 1"),
    ("*/0 * * * *", "minute: step 0 of '*/0' does not fit its 60 values: write a step of 1 to 60"),
    ("*/61 * * * *", "minute: step 61 of '*/61' does not fit its 60 values: write a step of 1 to"),
    ("* * * * */8", "day of week: step 8 of '*/8' does not fit its 7 values: write a step of 1"),
    ("* 9-17/10 * * *", "hour: step 10 of '9-17/10' does not fit its 9 values"),
    ("* 22-2 * * *", "hour: '22-2' runs backwards: write 22-23,0-2"),
    ("* * * * fri-mon", "day of week: 'fri-mon' runs backwards: write 5-6,0-1"),
    ("* * * * fri-sun", "day of week: 'fri-sun' runs backwards: write 5-7"),
    ("1,,2 * * * *", "minute: '1,,2' has an empty item: write one value between two commas"),
    ("* * , * *", "day of month: ',' has an empty item"),
    ("* * L * *", "day of month: 'L' is not understood: write 1 to 31, a range such as 1-5, * or"),
    ("* * * foo *", "month: 'foo' is not understood: write 1 to 12 or jan to dec, a range such"),
    ("* * * * monday", "day of week: 'monday' is not understood: write 0 to 7 or sun to sat, a"),
    *(
        (f"* * {item} * *", "day of month: ")
        for item in ("15W", "LW", "?", "1#2", "H", "R", "1~9", "-1", "1-", "-", "1-2-3", "*-3")
    ),
    *(
        (f"{item} * * * *", "minute: ")
        for item in ("H(0-9)", "*5", "**", "5-*", "*/", "*/*", "*/-2", "jan", "+5", "1.5", "0x5")
    ),
    ("* * * * 1#2", "day of week: '1#2' is not understood"),
    ("* * * * L5", "day of week: 'L5' is not understood"),
    ("٣ * * * *", r"minute: '\u0663' is not understood"),
    ("*/２ * * * *", r"minute: '*/\uff12' is not understood"),
    ("5\n * * * *", r"minute: '5\n' is not understood"),
    ("* * * * *\n", r"day of week: '*\n' is not understood"),
    ("*\u00a0* * * * *", "minute: '*\\xa0*' is not understood"),
    ("1" * 200 + " * * * *", f"minute: '{'1' * 40}...' is not understood"),
    ("*/" + "1" * 200 + " * * * *", f"minute: '*/{'1' * 38}...' is not understood"),
    ("0 0 30 2 *", "day of month: no month of the rule has a day 30: write 1 to 29"),
    ("0 0 31 4,jun *", "day of month: no month of the rule has a day 31: write 1 to 30"),
    ("0 0 31 2 */2", "day of month: no month of the rule has a day 31: write 1 to 29"),
]


@pytest.mark.parametrize(("cron", "reason"), REFUSED)
def test_a_refusal_names_the_field_what_was_found_and_what_to_write(cron, reason):
    with pytest.raises(CronError) as refusal:
        Rule.parse(cron, "UTC")
    assert str(refusal.value).startswith(reason)
    assert ": write " in str(refusal.value)
    assert refusal.value.field == "cron"


def test_a_refusal_shows_little_of_what_was_written():
    with pytest.raises(CronError) as refusal:
        Rule.parse("x" * 240 + " * * * *", "UTC")
    assert "'" + "x" * 40 + "...' is not understood" in str(refusal.value)


@given(st.text(alphabet=" \t\n*/,-@0123456789abcdefLW#?٣", max_size=40) | st.text(max_size=300))
def test_any_text_is_read_or_refused(text):
    with suppress(CronError):
        Rule.parse(text, "UTC")


@pytest.mark.parametrize(
    ("cron", "same"),
    [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
        ("\t 0  3\t* * *  ", "0 3 * * *"),
        ("00 03 * 01 *", "0 3 * 1 *"),
        ("0 3 * jan,Mar-MAY SUN", "0 3 * 1,3-5 0"),
        ("30-30 5-5/1 * * 3-3", "30 5 * * 3"),
        ("0 3 * * 7", "0 3 * * 0"),
        ("0 3 * * 7-7", "0 3 * * 0"),
        ("0 3 * * 0-7", "0 3 * * *"),
        ("0 3 * * mon-7", "0 3 * * *"),
        ("*/60 * * * *", "0 * * * *"),
        ("1,*/30,1 * * * *", "0,1,30 * * * *"),
    ],
)
def test_two_ways_to_write_the_same(cron, same):
    one, other = Rule.parse(cron, "UTC"), Rule.parse(same, "UTC")
    assert one._times == other._times


def test_every_range_of_weekdays_names_what_vixie_says():
    for low in range(8):
        for high in range(low, 8):
            for step in range(1, high - low + 2):
                rule = Rule.parse(f"0 0 * * {low}-{high}/{step}", "UTC")
                week, _ = rule.newest(SUNDAY_MS - 1, SUNDAY_MS + 6 * DAY_MS, 9)
                named = {(at - SUNDAY_MS) // DAY_MS for at in week}
                assert named == {day % 7 for day in range(low, high + 1, step)}


@pytest.mark.parametrize(
    ("cron", "is_interval", "is_either_day"),
    [
        ("30 2 * * *", False, False),
        ("0,30 2-4 1 * 1", False, True),
        ("* 2 * * *", True, False),
        ("5 * * * *", True, False),
        ("0-30/10 2 * * *", True, False),
        ("30 2-6/2 * * *", True, False),
        ("1,*/30 2 * * *", True, False),
        ("30 2 */2 * 1", False, False),
        ("30 2 1 * */2", False, False),
        ("30 2 1,*/5 * 1", False, False),
        ("30 2 1-31 * 1", False, True),
        ("30 2 1-31/2 */2 1", False, True),
    ],
)
def test_a_star_makes_an_interval_or_wants_both_days(cron, is_interval, is_either_day):
    read = expression.read(cron)
    assert (read.is_interval, read.is_either_day) == (is_interval, is_either_day)
