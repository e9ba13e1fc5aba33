"""When a rule comes due, found by walking minute after minute: shares no code with the product.

Each minute of UTC is asked for its wall time, and each minute of the wall clock is ticked off as
it is shown or skipped. What a rule does with one that is shown again, or skipped, is semantics.md.
"""

from dataclasses import dataclass
from datetime import date, datetime
from random import Random
from zoneinfo import ZoneInfo

from cmdop_appliance.scheduler.cron import Rule
from cmdop_appliance.scheduler.zones import span
from tests.support.tzif import END, Change

_DAY_MINUTES = 1440
_AROUND_S = 36 * 3600
_MOST_BACKWARDS = 2000  # every minute of three days costs as much as all other rules together
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_NAMES = {
    3: ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    4: ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}

EXPRESSIONS = (
    "30 2 * * *",
    "0 2 * * *",
    "0 3 * * *",
    "0,30 2 * * *",
    "0 2,3 * * *",
    "15 1,2,3 * * *",
    "30 1 * * *",
    "0 1 * * *",
    "45 1 * * *",
    "0 0 * * *",
    "30 0 * * *",
    "59 23 * * *",
    "0 22-23 * * *",
    "0-59 2 * * *",
    "5,25,45 0-4 * * *",
    "30 2 * * sun",
    "29,31 2 * * 7",
    "30 2 * 3,10 *",
    "30 1 * mar,nov sun",
    "0 0 1 * *",
    "0 0 31 * *",
    "30 2 29 2 *",
    "30 2 1-7 * *",
    "0 3 1 * mon",
    "30 1 1-7 * sun",
    "0 0 13 * fri",
    "30 2 */2 * *",
    "30 2 * * */2",
    "30 0 1-15 * */7",
    "0 3 */2 * mon-fri",
    "* * * * *",
    "*/5 * * * *",
    "*/15 9-17 * * 1-5",
    "0 * * * *",
    "30 */2 * * *",
    "*/30 2 * * *",
    "* 2 * * *",
    "*/10 0-3 * * *",
    "1-59/7 1 * * sat,sun",
    "*/20 0 1 * 5-7",
)


@dataclass(frozen=True)
class Minute:
    """A minute of UTC, and what the wall clock does in it. Wall time is in minutes."""

    at: int  # s since 1970
    wall: int
    is_again: bool  # True: the wall clock has shown or skipped it before
    skipped: range  # what it jumped over to get here, for the first time


def walk(zone: str, start: int, end: int) -> list[Minute]:
    """The minutes from `start` to `end`, s since 1970; nothing happened just before."""
    info = ZoneInfo(zone)
    minutes: list[Minute] = []
    done = None  # the last minute of the wall clock that was shown or skipped
    for at in range(start, end, 60):
        shown = datetime.fromtimestamp(at, info)
        wall = shown.toordinal() * _DAY_MINUTES + shown.hour * 60 + shown.minute
        done = wall - 1 if done is None else done
        minutes.append(Minute(at, wall, wall <= done, range(done + 1, wall)))
        done = max(done, wall)
    return minutes


def firings(cron: str, minutes: list[Minute]) -> list[int]:
    """When a rule comes due in these minutes, s since 1970."""
    due = _named(cron, minutes)
    if set("*/") & set("".join(cron.split()[:2])):
        return [minute.at for minute in minutes if minute.wall in due]
    return [
        minute.at
        for minute in minutes
        if (minute.wall in due and not minute.is_again) or not due.isdisjoint(minute.skipped)
    ]


def compare(cron: str, zone: str, minutes: list[Minute]) -> int:
    """Hold the product to it, forwards and backwards; how many firings were compared.

    Raises:
        AssertionError: they differ.
    """
    expected = [at * 1000 for at in firings(cron, minutes)]
    rule = Rule.parse(cron, zone)
    before, last = minutes[0].at * 1000 - 1, minutes[-1].at * 1000
    found = []
    at = before
    while (after := rule.next(at)) is not None and after <= last:
        assert after > at, f"{cron} in {zone}: {after} follows {at}"
        found.append(after)
        at = after
    assert found == expected, f"{cron} in {zone}: {_difference(found, expected)}"
    if len(expected) <= _MOST_BACKWARDS:
        newest = rule.newest(before, last, len(expected) + 1)
        assert newest == (expected, False), f"{cron} in {zone}, backwards"
    return len(found)


def found_changes(zone: str) -> tuple[Change, ...]:
    """The changes of a zone from 1970 to 2100, as the product finds them."""
    found, at = [], 0
    while at < END:
        here = span(zone, at)
        if at == here.start and here.offset != here.offset_before:
            found.append(Change(at, here.offset_before, here.offset))
        at = here.end
    return tuple(found)


def around(at: int) -> tuple[int, int]:
    """A day and a half on both sides of an instant, s since 1970."""
    begin = (at - _AROUND_S) // 60 * 60
    return begin, begin + 2 * _AROUND_S


def draw_expression(dice: Random) -> str:
    """Any expression of the grammar that comes due."""
    fields = []
    for number, (least, most) in enumerate(_RANGES):
        items = [_draw_item(dice, number, least, most) for _ in range(dice.choice((1, 1, 1, 2, 3)))]
        fields.append("*" if dice.random() < 0.3 else ",".join(items))
    return " ".join(fields)


def _draw_item(dice: Random, number: int, least: int, most: int) -> str:
    low = dice.randint(least, min(most, 28))  # every month has it
    high = dice.randint(low, most)
    step = dice.randint(1, high - low + 1)
    names = _NAMES.get(number, [])
    name = names[(low - least) % len(names)] if names else str(low)
    return dice.choice(
        (f"{low}", name, f"{low}-{high}", f"{low}-{high}/{step}", f"*/{dice.randint(1, most)}")
    )


def _named(cron: str, minutes: list[Minute]) -> set[int]:
    """The minutes of the wall clock that the fields name, on the days of these minutes."""
    fields = cron.split()
    minute, hour, day, month, weekday = (
        _values(field, number) for number, field in enumerate(fields)
    )
    times = [60 * h + m for h in hour for m in minute]
    walls = [each.wall for each in minutes]
    named = set()
    for ordinal in range(min(walls) // _DAY_MINUTES, max(walls) // _DAY_MINUTES + 1):
        that = date.fromordinal(ordinal)
        both = (that.day in day, that.isoweekday() in weekday)
        is_day = all(both) if "*" in fields[2] + fields[4] else any(both)
        if that.month in month and is_day:
            named.update(ordinal * _DAY_MINUTES + time for time in times)
    return named


def _values(field: str, number: int) -> set[int]:
    values: set[int] = set()
    least, most = _RANGES[number]
    names = _NAMES.get(number, [])
    for item in field.lower().split(","):
        bounds, _, step = item.partition("/")
        ends = [
            least + names.index(end) if end in names else int(end)
            for end in bounds.split("-")
            if bounds != "*"
        ]
        first, last = (ends[0], ends[-1]) if ends else (least, most)
        values.update(range(first, last + 1, int(step or 1)))
    return {value or 7 for value in values} if number == 4 else values  # Sunday is 7


def _difference(found: list[int], expected: list[int]) -> str:
    more, less = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
    return f"{len(more)} too many {more[:3]}, {len(less)} missing {less[:3]} (ms)"
