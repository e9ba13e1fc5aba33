"""20,000 requests after our own document, good and bad, as schemathesis makes them up."""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from tests.support.fuzzing import fuzz, fuzzed_hub
from tests.torture.parts import Case, Part, Stage

# A case has at least so many; each has those that cover every rule of every operation.
_EXAMPLES = 5_000
_EACH = 120  # made up at random for one operation, at the most


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    stage.place.mkdir(parents=True)
    with fuzzed_hub(stage.place) as hub:

        def case(_number: int, dice: Random) -> None:
            done = fuzz(hub, stage.place, seed=dice.randrange(2**32), each=_EACH)
            stage.say(f"schemathesis: {done.examples} examples")
            assert done.is_good, done.told
            assert done.examples >= _EXAMPLES, done.told

        yield case


FUZZ = Part("schemathesis", 4, 600.0, _stage)
