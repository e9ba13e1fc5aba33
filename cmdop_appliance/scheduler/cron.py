"""Cron rules in a time zone: when they come due, and what they say in words.

croniter expands the fields, and that is all that it does here: 7.0.0 fires a daily rule twice on
the autumn day in a fifth of the zones and hours. How the wall clock goes is read from zoneinfo, and
DST goes by cronie's rule. A rule of fixed times that falls into a gap of the wall clock runs once,
at the first instant after it; where the wall clock shows a time twice, it runs the first time. A
rule with `*` or a step in minute or hour runs in every minute that really occurs.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cmdop_appliance.scheduler import expression, wording
from cmdop_appliance.scheduler.expression import CronError
from cmdop_appliance.scheduler.wall import Fields, WallTimes
from cmdop_appliance.scheduler.zones import LAST_S, SETTLED_S, Span, check_zone, span

__all__ = ["CronError", "Firing", "Rule"]

_RULES: Final = 2048  # that are kept in memory
# What `*` stands for in each field.
_EVERYTHING: Final = tuple(
    map(frozenset, (range(60), range(24), range(1, 32), range(1, 13), range(7)))
)


@dataclass(frozen=True, slots=True)
class Firing:
    """An instant at which a rule comes due, for people."""

    at_ms: int
    local: str  # ISO 8601 with the offset, to the second
    note: str | None  # what the change of an offset does to it


@dataclass(frozen=True, slots=True)
class Rule:
    """A cron expression in a time zone."""

    cron: str  # as it was written
    timezone: str
    _fields: Fields = field(compare=False, repr=False)
    _is_interval: bool = field(compare=False, repr=False)
    _times: WallTimes = field(compare=False, repr=False)

    @classmethod
    def parse(cls, cron: str, timezone: str) -> "Rule":
        """The rule that these say. It costs little to ask again.

        Raises:
            CronError: there is no such expression or zone, or it would never come due.
        """
        return _parsed(cron, timezone)

    @property
    def description(self) -> str:
        """The rule in words: `at 02:30 every day`."""
        return wording.describe(self._fields)

    def next(self, after_ms: int) -> int | None:
        """The first instant after this one, ms since 1970 UTC; None: none before the year 10000."""
        at = after_ms // 1000 + 1
        while at <= LAST_S:
            here = span(self.timezone, at)
            if at == here.start and self._skips(here):
                return at * 1000
            wall = self._times.first_from(max(at + here.offset, self._floor(here)))
            if wall is None:
                return None
            if wall - here.offset < here.end:
                return (wall - here.offset) * 1000
            # Up to there nothing is due, unless the end of this span shows again what was before.
            far = wall - here.offset - SETTLED_S
            at = here.end if here.end - at < SETTLED_S else max(here.end, far)
        return None

    def newest(self, after_ms: int, until_ms: int, most: int) -> tuple[list[int], bool]:
        """The newest instants after `after_ms` and up to `until_ms`, oldest first.

        No more than `most`; True: there are older ones.
        """
        found: list[int] = []
        last = self._last(min(until_ms // 1000, LAST_S))
        while last is not None and last * 1000 > after_ms:
            if len(found) == most:
                return found[::-1], True
            found.append(last * 1000)
            last = self._last(last - 1)
        return found[::-1], False

    def preview(self, after_ms: int, count: int) -> list[Firing]:
        """The first `count` instants after this one, or as many as there are."""
        firings: list[Firing] = []
        while len(firings) < count and (at_ms := self.next(after_ms)) is not None:
            at = at_ms // 1000
            local = wording.local_text(at, span(self.timezone, at).offset)
            firings.append(Firing(at_ms, local, self._note(at)))
            after_ms = at_ms
        return firings

    def _last(self, at: int) -> int | None:
        """The last instant up to `at`, s since 1970; None: none while there are dates."""
        while True:
            here = span(self.timezone, at)
            wall = self._times.last_until(at + here.offset)
            if wall is None:
                return None
            if wall >= self._floor(here):
                return wall - here.offset
            if self._skips(here):
                return here.start
            far = wall - here.offset + SETTLED_S  # as in `next`
            at = here.start - 1 if at - here.start < SETTLED_S else min(here.start - 1, far)

    def _floor(self, here: Span) -> int:
        """The wall time from which on the minutes of a span count."""
        if self._is_interval:
            return here.wall_start
        return max(here.wall_start, here.wall_before)

    def _skips(self, here: Span) -> bool:
        """Whether something falls into the gap before a span, and has to run at its start."""
        return not self._is_interval and self._missing(here) is not None

    def _missing(self, here: Span) -> int | None:
        """The first that falls into the gap before a span."""
        first = self._times.first_from(here.wall_before)
        return first if first is not None and first < here.wall_start else None

    def _note(self, at: int) -> str | None:
        here = span(self.timezone, at)
        wall = at + here.offset
        if self._is_interval and wall < here.wall_before:
            return wording.twice(wall, "this is the second time")
        first = self._missing(here)
        if first is not None and self._is_next_after_gap(here, at):
            last = self._times.last_until(here.wall_start - 1)
            assert last is not None
            return wording.skipped(first, last, None if self._is_interval else wall)
        later = span(self.timezone, min(at + SETTLED_S, LAST_S))
        if not self._is_interval and later.start > at and later.wall_start <= wall:
            return wording.twice(wall, "runs the first time only")
        return None

    def _is_next_after_gap(self, here: Span, at: int) -> bool:
        if not self._is_interval:
            return at == here.start
        return at + here.offset == self._times.first_from(here.wall_start)


@lru_cache(maxsize=_RULES)
def _parsed(cron: str, timezone: str) -> Rule:
    from croniter import croniter  # type: ignore[import-untyped]  # 15 ms, for the first rule

    read = expression.read(cron)
    check_zone(timezone)
    expanded, _ = croniter.expand(read.text)
    minutes, hours, days, months, weekdays = (
        everything if "*" in values else frozenset(values)
        for values, everything in zip(expanded, _EVERYTHING, strict=True)
    )
    fields = Fields(minutes, hours, days, months, weekdays, read.is_either_day)
    if not fields.is_either_day and min(fields.days) > fields.longest_month:
        problem = f"day of month: no month of the rule has a day {min(fields.days)}"
        raise CronError("cron", f"{problem}: write 1 to {fields.longest_month}")
    return Rule(cron, timezone, fields, read.is_interval, WallTimes.of(fields))
