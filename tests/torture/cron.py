"""40 cron rules, and two drawn ones, around each change of an offset in 2000 to 2037, in each zone.

All of them are judged by a walk from minute to minute. A case has every 500th change, and every
500th zone, of which it holds the whole list of changes to 2100 against what the product finds.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from random import Random

from tests.support.cron_oracle import (
    EXPRESSIONS,
    around,
    compare,
    draw_expression,
    found_changes,
    walk,
)
from tests.support.tzif import changes_between, zones
from tests.torture.parts import Case, Part, Stage

_CASES = 500
_DRAWN = 2
_YEARS = (2000, 2038)  # the last excluded


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    every, changes = zones(), changes_between(*_YEARS)
    names = sum(len(zone.names) for zone in every)
    stage.say(f"cron: {len(changes)} changes; {names} zones, of which {len(every)} differ")
    compared = 0
    with ProcessPoolExecutor(1, get_context("spawn")) as judge:

        def case(number: int, dice: Random) -> None:
            nonlocal compared
            firings, failures = judge.submit(_judge, number, dice.random()).result()
            assert not failures, f"{len(failures)} differ: {failures[0]}"
            compared += firings

        yield case
    stage.say(f"cron: {compared} firings are the same")


def _judge(number: int, seed: float) -> tuple[int, list[str]]:
    """Run one case, in a process of its own: firings compared, and what is wrong."""
    dice, firings, failures = Random(seed), 0, []
    for zone, change in changes_between(*_YEARS)[number::_CASES]:
        minutes = walk(zone, *around(change.at))
        for cron in (*EXPRESSIONS, *(draw_expression(dice) for _ in range(_DRAWN))):
            try:
                firings += compare(cron, zone, minutes)
            except AssertionError as exc:
                failures.append(str(exc))
    failures += [
        f"{zone.names[0]}: other changes were found than its file has"
        for zone in zones()[number::_CASES]
        if found_changes(zone.names[0]) != zone.changes
    ]
    return firings, failures


CRON = Part("cron", _CASES, 30.0, _stage)
