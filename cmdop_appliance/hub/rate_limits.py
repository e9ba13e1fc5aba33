"""How many requests an API key may make in a minute."""

from dataclasses import dataclass
from math import ceil
from typing import Final

import trio

from cmdop_appliance.errors import RateLimited

_WINDOW_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Quota:
    """Where a key stands after a request."""

    limit: int  # requests in a window
    remaining: int
    reset_s: int  # until the next window begins
    is_exceeded: bool

    def require(self) -> None:
        """Pass, if the request was within the limit.

        Raises:
            RateLimited: it was not.
        """
        if self.is_exceeded:
            raise RateLimited("Rate limit exceeded", self.reset_s)


class RateLimits:
    """Counts by key; a key's window begins with its first request after the last one."""

    def __init__(self, requests_per_minute: int) -> None:
        """0: there is no limit."""
        self._limit = requests_per_minute
        # By key: the window's end in Trio's time, and its requests; those that end first in front.
        self._windows: dict[str, tuple[float, int]] = {}

    def count(self, key_id: str) -> Quota | None:
        """Count a request. None: there is no limit."""
        if not self._limit:
            return None
        now = trio.current_time()
        end, used = self._windows.get(key_id, (now, 0))
        if end <= now:
            self._forget(now)
            end, used = now + _WINDOW_S, 0
        self._windows[key_id] = (end, used + 1)
        return Quota(
            limit=self._limit,
            remaining=max(0, self._limit - used - 1),
            reset_s=ceil(end - now),
            is_exceeded=used >= self._limit,
        )

    def _forget(self, now: float) -> None:
        """Drop the windows that are over, so that only keys of the last minute take memory."""
        while self._windows and (oldest := next(iter(self._windows.items())))[1][0] <= now:
            del self._windows[oldest[0]]
