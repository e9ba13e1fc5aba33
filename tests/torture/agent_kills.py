"""kill -9 of the agent in mid-command: the true exit code, every byte, one start."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from tests.torture.asks import judge, new_ask
from tests.torture.parts import Case, Part, Stage
from tests.torture.site import running_site

_COMMANDS = 3  # that run when the agent is killed
_LASTS_S = (0.1, 0.8)
_OUTPUT_BYTES = 200_000
_DEAD_S = (0.0, 0.3)


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    with running_site(stage.place, quick=False) as site:
        machine_id = site.agent.machine_id

        def case(_number: int, dice: Random) -> None:
            asks = [
                new_ask(
                    site.place / "asks",
                    dice,
                    lasts_s=dice.uniform(*_LASTS_S),
                    most_bytes=_OUTPUT_BYTES,
                )
                for _ in range(_COMMANDS)
            ]
            site.asked += asks
            asked = [(site.api.ask(machine_id, ask), ask) for ask in asks]
            time.sleep(dice.uniform(0, _LASTS_S[1]))
            site.agent.kill()
            time.sleep(dice.uniform(*_DEAD_S))
            site.start_agent()
            for command_id, ask in asked:
                judge(site.api, site.api.end_of(command_id), ask)
            site.wait_up()

        yield case


AGENT_KILLS = Part("agent-kills", 200, 10.0, _stage)
