"""Time zones, as spans of one offset from UTC between the instants where a zone changes it.

zoneinfo tells the offset at an instant; the instants of change are found by asking it often enough.
"""

from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from cmdop_appliance.scheduler.expression import CronError

_DAY_S: Final = 86_400
# Wall clocks are never further apart than this, nor does any zone change twice within it: what
# a change did to the wall clock is over by then.
SETTLED_S: Final = 2 * _DAY_S
# 9999-12-29 UTC: what there are dates for, in every zone and on the days around.
LAST_S: Final = 253_402_041_600

# Since 1900 no zone has kept an offset for less than 3.9 days, nor since 1970 for less than 6.9.
_PROBE_S: Final = 3 * _DAY_S
_BLOCK_S: Final = 60 * _DAY_S  # whose changes are found, and kept, together
_BLOCKS: Final = 4096  # about 2 MB
_PSEUDO_NAMES: Final = {"Factory", "localtime"}  # zoneinfo itself leaves the others out
_MOST_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds since 1970 UTC, between which the zone has one offset.

    One that begins where no change is was cut there, and begins as if nothing had happened.
    """

    start: int
    end: int  # excluded
    offset: int  # seconds east of UTC
    offset_before: int  # until `start`

    @property
    def wall_before(self) -> int:
        """What the wall clock would show at `start` without the change, s since 1970."""
        return self.start + self.offset_before

    @property
    def wall_start(self) -> int:
        """What the wall clock shows at `start`, s since 1970."""
        return self.start + self.offset


def check_zone(name: str) -> None:
    """Return if there is such a zone.

    Raises:
        CronError: there is none; it may suggest another.
    """
    if name not in _names():
        raise CronError("timezone", _unknown(name))


def span(zone: str, at: int) -> Span:
    """The span of a known zone that holds `at`, s since 1970; not after `LAST_S`.

    Every change of the two days before and up to `at` has its own span.
    """
    return next(found for found in _spans(zone, at // _BLOCK_S) if at < found.end)


@lru_cache(maxsize=_BLOCKS)
def _spans(zone: str, block: int) -> tuple[Span, ...]:
    """Those of a block, and of the time before it in which a change may still matter."""
    info = ZoneInfo(zone)

    def offset(at: int) -> int:
        delta = datetime.fromtimestamp(at, info).utcoffset()
        assert delta is not None
        return delta.days * _DAY_S + delta.seconds

    last = min((block + 1) * _BLOCK_S - 1, LAST_S)
    start = at = block * _BLOCK_S - SETTLED_S
    before = now = offset(start)
    found = []
    while at < last:
        probe = min(at + _PROBE_S, last)
        if offset(probe) == now:
            at = probe
            continue
        while probe - at > 1:  # the offset is `now` at `at`, and another at `probe`
            middle = (at + probe) // 2
            if offset(middle) == now:
                at = middle
            else:
                probe = middle
        found.append(Span(start, probe, now, before))
        start, before, now = probe, now, offset(probe)
        at = probe
    found.append(Span(start, last + 1, now, before))
    return tuple(found)


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    return frozenset(available_timezones() - _PSEUDO_NAMES)


def _unknown(name: str) -> str:
    if len(name) > _MOST_CHARS:
        return f"{len(name)} characters are no time zone: write a name such as Europe/Berlin or UTC"
    by_letters = {known.lower(): known for known in sorted(_names())}
    near = get_close_matches(name.lower(), by_letters, n=1)
    remedy = by_letters[near[0]] if near else "a name such as Europe/Berlin or UTC"
    return f"{name!a} is not a known time zone: write {remedy}"
