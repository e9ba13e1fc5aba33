"""Which minutes of a wall clock a rule names, wherever that clock hangs.

Wall time is counted in seconds since 1970 as the clock shows them, without any zone.
"""

from calendar import monthrange
from dataclasses import dataclass
from datetime import date
from typing import Final, Self

_DAY_S: Final = 86_400
_MINUTE_S: Final = 60
_EPOCH: Final = date(1970, 1, 1).toordinal()
_YEARS: Final = (1, 9999)  # what there are dates for


@dataclass(frozen=True, slots=True)
class Fields:
    """The values of the five fields."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0: Sunday
    is_either_day: bool  # True: day of month or day of week is enough; False: both have to match

    @property
    def longest_month(self) -> int:
        """How many days the longest of the months has, in some year."""
        return max(29 if month == 2 else monthrange(2001, month)[1] for month in self.months)


@dataclass(frozen=True, slots=True)
class WallTimes:
    """The same as bits, to be searched. Bit n stands for the value n."""

    times: int  # minutes of the day
    months: int
    days: tuple[int, ...]  # of a month, by the weekday of its first

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """What these fields name."""
        days = []
        for first in range(7):
            by_weekday = {day for day in range(1, 32) if (first + day - 1) % 7 in fields.weekdays}
            either = fields.days | by_weekday if fields.is_either_day else fields.days & by_weekday
            days.append(_bits(either))
        times = {60 * hour + minute for hour in fields.hours for minute in fields.minutes}
        return cls(_bits(times), _bits(fields.months), tuple(days))

    def first_from(self, wall: int) -> int | None:
        """The first minute that begins at `wall` or later; None: none while there are dates."""
        day, second = divmod(wall, _DAY_S)
        found = self._first_day(day)
        if found == day:
            minute = -(-second // _MINUTE_S)
            if later := self.times >> minute:
                return day * _DAY_S + (minute + _lowest(later)) * _MINUTE_S
            found = self._first_day(day + 1)
        return None if found is None else found * _DAY_S + _lowest(self.times) * _MINUTE_S

    def last_until(self, wall: int) -> int | None:
        """The last minute that begins at `wall` or before; None: none while there are dates."""
        day, second = divmod(wall, _DAY_S)
        found = self._last_day(day)
        if found == day:
            if earlier := _up_to(self.times, second // _MINUTE_S):
                return day * _DAY_S + _highest(earlier) * _MINUTE_S
            found = self._last_day(day - 1)
        return None if found is None else found * _DAY_S + _highest(self.times) * _MINUTE_S

    def _first_day(self, day: int) -> int | None:
        start = date.fromordinal(_EPOCH + day)
        year, month, least = start.year, start.month, start.day
        while year <= _YEARS[1]:
            if days := self._days(year, month) >> least:
                return date(year, month, least + _lowest(days)).toordinal() - _EPOCH
            year, month, least = year + month // 12, month % 12 + 1, 0
        return None

    def _last_day(self, day: int) -> int | None:
        start = date.fromordinal(_EPOCH + day)
        year, month, most = start.year, start.month, start.day
        while year >= _YEARS[0]:
            if days := _up_to(self._days(year, month), most):
                return date(year, month, _highest(days)).toordinal() - _EPOCH
            year, month, most = year - (month == 1), (month - 2) % 12 + 1, 31
        return None

    def _days(self, year: int, month: int) -> int:
        if not self.months >> month & 1:
            return 0
        monday, length = monthrange(year, month)
        return _up_to(self.days[(monday + 1) % 7], length)


def _bits(values: set[int] | frozenset[int]) -> int:
    return sum(1 << value for value in values)


def _up_to(bits: int, most: int) -> int:
    return bits & ((2 << most) - 1)


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _highest(bits: int) -> int:
    return bits.bit_length() - 1
