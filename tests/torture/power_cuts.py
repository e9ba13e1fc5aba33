"""Power cuts under the store, in the torture's own count: see cmdop_appliance/selftest."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import trio

from cmdop_appliance.selftest.power import power_disk
from cmdop_appliance.selftest.power_cuts import PowerCuts
from tests.torture.parts import Case, Part, Stage


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    logging.getLogger("cmdop.store").setLevel(logging.CRITICAL + 1)  # each cut is its last word
    with power_disk() as disk:
        cuts = PowerCuts(disk, stage.place / "store")

        def case(_number: int, dice: Random) -> None:
            trio.run(cuts.cut, dice)

        yield case
        stage.say(f"power-cuts: {cuts.acknowledged} records acknowledged, all there, all whole")


# One stage: SQLite has one disk that every database is opened on.
POWER_CUTS = Part("power-cuts", 10_000, 1.0, _stage, jobs_most=1)
