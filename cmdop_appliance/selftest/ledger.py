"""What was tried, what held, and what did not."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from cmdop_appliance.sdk import CmdopError


class BrokenPromiseError(Exception):
    """A promise was not kept, in words for whoever runs the test."""


@dataclass(slots=True)
class Part:
    """One kind of trouble, and how often it was made."""

    name: str
    cases: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    kept: str = ""  # what stood through all of it

    @contextmanager
    def judging(self) -> Iterator[None]:
        """What breaks a promise within ends it, and counts; the time counts as well."""
        begun = time.monotonic()
        try:
            yield
        except (BrokenPromiseError, CmdopError) as exc:
            self.failures.append(str(exc))
        except trio.TooSlowError:
            self.failures.append("it hangs")
        finally:
            self.seconds += time.monotonic() - begun

    def repeat(self, case: Callable[[], None], for_s: float) -> None:
        """Try a case again and again for so long, at least once, and until one fails.

        Raises: whatever the case does.
        """
        until = time.monotonic() + for_s
        while self.cases == 0 or time.monotonic() < until:
            self.cases += 1
            case()
