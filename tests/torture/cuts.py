"""Commands over a link that is cut every 1 to 500 ms: every byte, one start, the true end."""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from tests.support.fault_proxy import Faults
from tests.torture.asks import judge, new_ask
from tests.torture.parts import Case, Part, Stage
from tests.torture.site import running_site_behind_proxy

_CUT_AFTER_S = (0.001, 0.5)
_LASTS_S = (0.0, 0.5)
_OUTPUT_BYTES = 300_000
_SIDE_BY_SIDE = 8


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    with running_site_behind_proxy(stage.place, stage.seed) as (site, proxy):
        machine_id = site.agent.machine_id
        proxy.faults = Faults(cut_after_s=_CUT_AFTER_S)
        proxy.cut()  # the connection from before has no faults

        def case(_number: int, dice: Random) -> None:
            lasts_s = dice.uniform(*_LASTS_S)
            ask = new_ask(site.place / "asks", dice, lasts_s=lasts_s, most_bytes=_OUTPUT_BYTES)
            site.asked.append(ask)
            command_id = site.api.ask(machine_id, ask)
            judge(site.api, site.api.end_of(command_id), ask)

        yield case
        stage.say(f"cuts: {proxy.cuts} cuts of {proxy.connections} connections")


CUTS = Part("cuts", 1000, 5.0, _stage, lanes=_SIDE_BY_SIDE)
