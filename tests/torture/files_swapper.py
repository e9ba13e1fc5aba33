"""100,000 operations while somebody swaps links into their way: nothing outside is read or changed.

The judge is tests/support/swapper.py; what agent.toml leaves open is all that a call may reach.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from tests.support.swapper import provoke
from tests.torture.parts import Case, Part, Stage

_CASES = 20
_OPERATIONS = 5_000  # of a case


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    total: Counter[tuple[str, str]] = Counter()

    def case(number: int, dice: Random) -> None:
        place = stage.place / str(number)
        place.mkdir(parents=True)
        total.update(provoke(place, _OPERATIONS, dice.getrandbits(32)))

    yield case
    done = sum(count for (_, code), count in total.items() if code == "done")
    stage.say(f"files-swapper: {total.total()} operations, {done} done, the others refused")


# One at a time: the judge counts the descriptors of this process.
FILES_SWAPPER = Part("files-swapper", _CASES, 120.0, _stage, jobs_most=1)
