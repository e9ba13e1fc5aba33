"""What was answered since the start, by route: counted here, shown by whoever reads it."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

# Upper ends of the classes of duration, seconds. A command that is waited for may take long.
BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Answered(NamedTuple):
    """A kind of answer: the route as the table names it; all empty: there is no such route."""

    plane: str
    method: str
    route: str


UNROUTED: Final = Answered("", "", "")


@dataclass(slots=True)
class Durations:
    """How long answers took, up to their head: how many in each class, and all together."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0


class Requests:
    """Counts answers. As many entries as there are routes, whatever is asked for."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[Answered, int]] = Counter()  # with their HTTP status
        self.durations: dict[Answered, Durations] = {}

    def count(self, what: Answered, status: int, seconds: float) -> None:
        """One more answer."""
        self.answers[what, status] += 1
        durations = self.durations.get(what)
        if durations is None:
            durations = self.durations[what] = Durations()
        durations.counts[bisect_left(BOUNDS_S, seconds)] += 1
        durations.sum_s += seconds
