"""Whether a coding session waits for somebody: it is silent, so it works at nothing."""

from typing import Final

# Seconds after a change of its size in which a program draws its screen anew.
REDRAW_S: Final = 1.0


class Attention:
    """What one session wrote and was typed, as times in seconds; pure."""

    def __init__(self, waiting_s: float) -> None:
        """It waits after `waiting_s` of silence, once it has written anything."""
        self._waiting_s = waiting_s
        self._redrawn_s = float("-inf")
        self.deadline: float | None = None  # when it waits, if nothing happens until then

    def wrote(self, now: float) -> None:
        """The session has written something."""
        if now >= self._redrawn_s:
            self.deadline = now + self._waiting_s

    def typed(self, now: float) -> None:
        """Somebody has typed: whoever does that is not waited for."""
        if self.deadline is not None:
            self.deadline = now + self._waiting_s

    def resized(self, now: float) -> None:
        """The screen has another size; what is written at once only draws it anew."""
        if self.deadline is not None:
            self._redrawn_s = now + REDRAW_S

    def is_waiting(self, now: float) -> bool:
        """True: it waits for somebody."""
        return self.deadline is not None and now >= self.deadline
