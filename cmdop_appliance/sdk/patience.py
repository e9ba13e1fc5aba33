# Made from sdk/aio/patience.py by scripts/fix: change it there.
"""Which failures pass by themselves, and how long that is waited for."""

import http
import random
from typing import Final

from cmdop_appliance.sdk import waiting
from cmdop_appliance.sdk.errors import Away, CmdopError, Conflict, ServerError

# Pauses between attempts are drawn from 0 to this, which doubles: "full jitter", so that the many
# callers of a hub do not come back at the same moment.
_PAUSE_FIRST_S: Final = 0.1
_PAUSE_MAX_S: Final = 5.0


STOPPING: Final = http.HTTPStatus.SERVICE_UNAVAILABLE  # the hub's own word for it
_COMING_BACK: Final = frozenset({"GRACE_PERIOD", "PENDING"})  # session states (contract, 2)


class Patience:
    """The pauses between attempts at one thing, until it has been waited for long enough."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        """The hub has shown that it is there."""
        self._left_s = self._seconds
        self._longest_s = _PAUSE_FIRST_S

    def pause(self, error: CmdopError, waited_s: float = 0) -> None:
        """Sleep before the next attempt; `waited_s`: how long the last one was waited for.

        Raises:
            CmdopError: `error`, for there shall be no other attempt.
        """
        pause_s = random.uniform(0, self._longest_s)  # noqa: S311 - no secret
        self._longest_s = min(2 * self._longest_s, _PAUSE_MAX_S)
        self._left_s -= pause_s + waited_s
        if self._left_s < 0:
            raise error
        waiting.sleep(pause_s)


def is_passing(error: CmdopError, *, was_there: bool) -> bool:
    """True: the hub restarts, or the machine's agent has not found it again.

    `was_there`: hub and machine have answered before, or an attempt failed in a way that passes.
    """
    match error:
        case Away():
            return True
        case ServerError():
            return error.status == STOPPING
        case Conflict():
            return was_there and error.details.get("current_status") in _COMING_BACK
    return False
