"""Wall-clock time behind one seam. Intervals and deadlines use Trio's clock, never this one."""

import math
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Protocol

# So far the wall clock may be set without being suspected: more than people and NTP correct.
LEAP_S: Final = 3600.0
# A clock that was set wrong is set right within this, if anybody watches it.
STEADY_S: Final = 600.0


class Clock(Protocol):
    """Tells the wall-clock time, for records and schedules only: it may jump by any amount."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1_000_000


class LeapWatch:
    """Tells whether the wall clock is to be trusted with what makes things too old to keep.

    Not at first, nor for a while after it leapt: it may leap back.
    """

    def __init__(self) -> None:
        self._ahead_s = math.inf  # of the monotonic clock, since it leapt
        self._leapt_s = 0.0  # when, by the monotonic clock

    def is_steady(self, now_ms: int, monotonic_s: float) -> bool:
        """Whether the wall clock has gone as the monotonic one for `STEADY_S`; ask often."""
        ahead_s = now_ms / 1000 - monotonic_s
        if abs(ahead_s - self._ahead_s) > LEAP_S:
            self._ahead_s, self._leapt_s = ahead_s, monotonic_s
        return monotonic_s - self._leapt_s >= STEADY_S


def rfc3339(ms: int) -> str:
    """`ms` as UTC text with millisecond precision: 2026-02-14T10:30:00.000Z."""
    seconds, rest = divmod(ms, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=64)  # an answer has several times, of the same second or so
def _second(seconds: int) -> str:
    # Not strftime: it takes as long as the rest of a small answer.
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
