"""When a delivery is tried again."""

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
# After the first failed attempt, the second, … (semantics.md, Webhooks 3).
RETRY_S: Final = (
    5,
    5 * _MINUTE_S,
    30 * _MINUTE_S,
    2 * _HOUR_S,
    5 * _HOUR_S,
    10 * _HOUR_S,
    14 * _HOUR_S,
    20 * _HOUR_S,
    24 * _HOUR_S,
)
# So far a delay is off, so that what failed together does not come back together.
_SPREAD: Final = 0.2
# No receiver puts a delivery off for longer (semantics.md, Webhooks 3).
_RETRY_AFTER_MOST_S: Final = 24 * _HOUR_S

_SECONDS: Final = re.compile(r"[0-9]{1,18}")
# RFC 9110 §5.6.7: the form that is sent today, and the two old ones that are still to be read.
_DATES: Final = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")


def next_delay_s(attempts: int, share: float, retry_after_s: float | None) -> float | None:
    """Seconds from a failed attempt, the `attempts`-th from 1, to the next; None: it was the last.

    `share` is uniform in [0, 1). What the receiver asked for makes the delay longer, never shorter.
    """
    if attempts > len(RETRY_S):
        return None
    delay_s = RETRY_S[attempts - 1] * (1 - _SPREAD + 2 * _SPREAD * share)
    return max(delay_s, min(retry_after_s or 0.0, _RETRY_AFTER_MOST_S))


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """Seconds that a Retry-After asks for, at least 0; None: it says nothing that can be read.

    `now_s` is the wall clock, which a date is measured against.
    """
    text = (header or "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    for form in _DATES:
        with suppress(ValueError):
            at = datetime.strptime(text, form).replace(tzinfo=UTC)
            return max(0.0, at.timestamp() - now_s)
    return None
