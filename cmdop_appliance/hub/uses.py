"""When keys and sign-ins were used: to a minute or better, and written together."""

from typing import Final

import trio

from cmdop_appliance.clock import Clock
from cmdop_appliance.store.api_keys import Use

# For people, who look for what is unused, this is often enough.
_USE_S: Final = 60.0
# Whatever ends when it is not used is noted so many times in the time that it has.
_TIMES: Final = 10


class Uses:
    """Remembers uses until somebody writes them."""

    def __init__(self, clock: Clock, idle_ms: int | None = None) -> None:
        """`idle_ms`: what is not used for so long ends; None: it does not."""
        self._clock = clock
        self._every_s = _USE_S if idle_ms is None else min(_USE_S, idle_ms / 1000 / _TIMES)
        self._noted: dict[str, float] = {}  # by id, when its use was noted last; oldest first
        self._uses: dict[str, Use] = {}  # by id: what is to be written

    def note(self, used_id: str, address: str | None = None) -> None:
        """It was used just now, by somebody at `address`; None: where it was before."""
        now = trio.current_time()
        if self._noted.get(used_id, -self._every_s) > now - self._every_s:
            return
        self._noted.pop(used_id, None)
        self._noted[used_id] = now
        self._uses[used_id] = Use(used_id, self._clock.now_ms(), address)
        while self._noted[oldest := next(iter(self._noted))] <= now - self._every_s:
            del self._noted[oldest]

    def take(self) -> list[Use]:
        """What is to be written now."""
        uses, self._uses = list(self._uses.values()), {}
        return uses
