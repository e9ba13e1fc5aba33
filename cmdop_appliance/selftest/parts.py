"""The kinds of trouble that `cmdop selftest` makes, one after the other."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import trio

from cmdop_appliance.selftest.fills import Fills, full_disk
from cmdop_appliance.selftest.kills import Kills
from cmdop_appliance.selftest.ledger import Part
from cmdop_appliance.selftest.power import power_disk
from cmdop_appliance.selftest.power_cuts import PowerCuts
from cmdop_appliance.selftest.site import running_site


def run_all(folder: Path, for_s: float, dice: Random) -> Iterator[Part]:
    """Each part as it is done, after about `for_s` in all; what failed leaves its files."""
    for name, share, run in _PARTS:
        part = Part(name)
        with part.judging():
            run(part, folder, for_s * share, dice)
        yield part


def _cut_power(part: Part, folder: Path, for_s: float, dice: Random) -> None:
    with power_disk() as disk:
        cuts = PowerCuts(disk, folder / "power" / "store")
        part.repeat(lambda: trio.run(cuts.cut, dice), for_s)
        part.kept = f"{cuts.acknowledged} acknowledged records"


def _fill_disk(part: Part, folder: Path, for_s: float, dice: Random) -> None:
    with full_disk() as disk:
        fills = Fills(disk, folder / "full" / "store")
        part.repeat(lambda: trio.run(fills.fill, dice), for_s)
        part.kept = f"{fills.acknowledged} acknowledged records"


def _kill(part: Part, folder: Path, for_s: float, dice: Random) -> None:
    with running_site(folder / "kills") as (site, client):
        kills = Kills(site, client)
        part.repeat(partial(kills.kill, dice), for_s)
        part.kept = f"{kills.commands} commands, each run once"


_Run = Callable[[Part, Path, float, Random], None]
_PARTS: Final[tuple[tuple[str, float, _Run], ...]] = (  # with its share of the time
    ("power cuts", 0.3, _cut_power),
    ("full disk", 0.1, _fill_disk),
    ("kills", 0.6, _kill),
)
