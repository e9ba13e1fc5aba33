"""Clocks that a test turns."""

import trio


class StepClock:
    """The wall clock as the test sets it."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms


class LoopClock:
    """A wall clock that moves with Trio's, so that a mock clock turns both."""

    def __init__(self, begin_ms: int = 1_700_000_000_000) -> None:
        self._begin_ms = begin_ms

    def now_ms(self) -> int:
        return self._begin_ms + round(trio.current_time() * 1000)
