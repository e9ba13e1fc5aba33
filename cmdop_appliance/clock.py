"""Wall-clock time behind one seam. Intervals and deadlines use Trio's clock, never this one."""

import time
from datetime import UTC, datetime
from typing import Protocol


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


def rfc3339(ms: int) -> str:
    """`ms` as UTC text with millisecond precision: 2026-02-14T10:30:00.000Z."""
    seconds, rest = divmod(ms, 1000)
    # Not strftime: it takes as long as the rest of a small answer.
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{rest:03d}Z"
