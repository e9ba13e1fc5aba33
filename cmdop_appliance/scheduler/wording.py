"""What a rule says, in English, and what the change of an offset does to it."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from cmdop_appliance.scheduler.wall import Fields

_ALL_HOURS: Final = frozenset(range(24))
_MOST_TIMES: Final = 5  # of a day that are told one by one
_MOST_RANGES: Final = 3  # of hours that are told by their ends
_WEEKDAYS: Final = (
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
)
_MONTHS: Final = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def describe(fields: Fields) -> str:
    """`at 03:00 on day 1 of the month and on every Monday`."""
    return f"{_times(fields)}{_days(fields)}"


def skipped(first: int, last: int, runs_at: int | None) -> str:
    """A note: what lies between these, wall time in s since 1970, does not exist.

    Args:
        first: what is due first of it.
        last: what is due last.
        runs_at: what runs in its place; None: nothing does.
    """
    if first == last:
        missing = f"{_clock(first)} does not exist on {_date(first)}"
    else:  # since 1970 no gap has begun on one day and ended on another
        missing = f"{_clock(first)} to {_clock(last)} do not exist on {_date(first)}"
    if runs_at is None:
        return f"{missing}: left out"
    day = "" if _date(runs_at) == _date(first) else f" on {_date(runs_at)}"
    return f"{missing}: runs at {_clock(runs_at)}{day}"


def twice(wall: int, consequence: str) -> str:
    """A note: the wall clock shows this minute, s since 1970, once more on that day."""
    return f"{_clock(wall)} comes twice on {_date(wall)}: {consequence}"


def local_text(at: int, offset: int) -> str:
    """ISO 8601 to the second, with the offset (s east of UTC)."""
    return datetime.fromtimestamp(at, timezone(timedelta(seconds=offset))).isoformat()


def _times(fields: Fields) -> str:
    minutes, hours = sorted(fields.minutes), sorted(fields.hours)
    step = 60 // len(minutes)
    if len(minutes) * len(hours) <= _MOST_TIMES:
        return f"at {_listed([f'{hour:02}:{minute:02}' for hour in hours for minute in minutes])}"
    is_even = fields.minutes == frozenset(range(0, 60, step))  # from :00, in equal parts
    if is_even and len(minutes) > 1:
        every = "every minute" if step == 1 else f"every {step} minutes"
        return every + _within_hours(hours)
    if is_even and fields.hours == _ALL_HOURS:
        return "every hour"
    if is_even and len(runs := _runs(hours)) == 1:
        return f"every hour from {runs[0][0]:02}:00 to {runs[0][1]:02}:00"
    if is_even and fields.hours == frozenset(range(0, 24, 24 // len(hours))):
        return f"every {24 // len(hours)} hours from 00:00"
    past = f"at minute{'s' if len(minutes) > 1 else ''} {_numbers(minutes)}"
    if fields.hours == _ALL_HOURS:
        return f"{past} of every hour"
    return f"{past} of the hour{'s' if len(hours) > 1 else ''} {_numbers(hours)}"


def _within_hours(hours: list[int]) -> str:
    if len(hours) == len(_ALL_HOURS):
        return ""
    runs = _runs(hours)
    if len(runs) > _MOST_RANGES:
        return f" of the hours {_numbers(hours)}"
    return f" {_listed([f'from {first:02}:00 to {last:02}:59' for first, last in runs])}"


def _days(fields: Fields) -> str:
    months = _listed(_spanned(sorted(fields.months), {m: _MONTHS[m - 1] for m in range(1, 13)}))
    is_every_month = len(fields.months) == len(_MONTHS)
    within = "" if is_every_month else f" in {months}"
    days = sorted(fields.days)
    numbers = f" on day{'s' if len(days) > 1 else ''} {_numbers(days)} of "
    by_day = numbers + ("the month" if is_every_month else months)
    is_every_day, is_every_weekday = len(days) == 31, len(fields.weekdays) == 7
    weekdays = sorted(day or 7 for day in fields.weekdays)  # a week begins on Monday
    names = {day: _WEEKDAYS[day] for day in weekdays}
    spans = _spanned(weekdays, names)
    if fields.is_either_day and not is_every_day and not is_every_weekday:
        is_span = len(spans) == 1 < len(weekdays)
        each = f"day from {spans[0]}" if is_span else _listed(list(names.values()))
        return f"{by_day} and on every {each}{within}"
    if fields.is_either_day or (is_every_day and is_every_weekday):
        return within if fields.hours == _ALL_HOURS else f" every day{within}"
    if is_every_day:
        return f" on {'every ' if len(weekdays) == 1 else ''}{_listed(spans)}{within}"
    if is_every_weekday:
        return by_day
    return f"{by_day} when it is {_listed(spans, 'or')}"


def _runs(values: list[int]) -> list[tuple[int, int]]:
    """Sorted values as first and last of what follows without a hole."""
    runs: list[tuple[int, int]] = []
    for value in values:
        if runs and runs[-1][1] == value - 1:
            runs[-1] = (runs[-1][0], value)
        else:
            runs.append((value, value))
    return runs


def _spanned(values: list[int], names: dict[int, str]) -> list[str]:
    texts = []
    for first, last in _runs(values):
        if last - first > 1:
            texts.append(f"{names[first]} to {names[last]}")
        else:
            texts += [names[value] for value in range(first, last + 1)]
    return texts


def _numbers(values: list[int]) -> str:
    return _listed(_spanned(values, {value: str(value) for value in values}))


def _listed(texts: list[str], word: str = "and") -> str:
    if len(texts) == 1:
        return texts[0]
    return f"{', '.join(texts[:-1])} {word} {texts[-1]}"


def _clock(wall: int) -> str:
    return f"{datetime.fromtimestamp(wall, UTC):%H:%M}"


def _date(wall: int) -> str:
    day = datetime.fromtimestamp(wall, UTC)
    return f"{day.day} {_MONTHS[day.month - 1]}"
