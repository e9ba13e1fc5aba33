"""kill -9 of the hub while clients follow: each has every byte once, and then the true end."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

from tests.torture.asks import OUTAGES, PATIENCE_S, Ask, PatientApi, judge, new_ask
from tests.torture.parts import Case, Part, Stage
from tests.torture.site import running_site

_FOLLOWERS = 3
_LASTS_S = (0.3, 1.2)
_OUTPUT_BYTES = 1_000_000
_KILLS = (1, 1, 2)
_RETRY_S = 0.02


class Follower(threading.Thread):
    """A client that reads a command's stream to its end, whatever becomes of the hub."""

    def __init__(self, api: PatientApi, command_id: str) -> None:
        super().__init__(name=f"follower of {command_id}")
        self.joined = {"stdout": b"", "stderr": b""}
        self.end: Any = None
        self.trouble: Exception | None = None
        self._api = api
        self._id = command_id

    def run(self) -> None:
        """Follow until the end, or until something is wrong."""
        try:
            self._follow()
        except Exception as exc:  # noqa: BLE001 - `judge_follower` raises it
            self.trouble = exc

    def _follow(self) -> None:
        give_up = time.monotonic() + PATIENCE_S
        last = None
        while self.end is None:
            assert time.monotonic() < give_up, f"no end of {self._id} after {last}"
            with suppress(*OUTAGES):
                for event in self._api.events(self._id, last):
                    if event.name == "end":
                        self.end = event.data
                        break
                    self.joined[event.name] += event.data
                    here = "-".join(str(len(data)) for data in self.joined.values())
                    assert event.id == here, f"{event.name} after {last} is {event.id}, not {here}"
                    last = event.id
            time.sleep(_RETRY_S)


def judge_follower(follower: Follower, ask: Ask) -> None:
    """Fail unless it has read what the command wrote, and how it ended."""
    follower.join(PATIENCE_S)
    assert not follower.is_alive(), f"{follower.name} hangs"
    if follower.trouble is not None:
        raise follower.trouble
    assert follower.joined == {"stdout": ask.stdout, "stderr": ask.stderr}, follower.name
    assert follower.end["exit_code"] == ask.exit_code, follower.end


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    with running_site(stage.place) as site:

        def case(_number: int, dice: Random) -> None:
            lasts_s = dice.uniform(*_LASTS_S)
            ask = new_ask(site.place / "asks", dice, lasts_s=lasts_s, most_bytes=_OUTPUT_BYTES)
            site.asked.append(ask)
            command_id = site.api.ask(site.agent.machine_id, ask)
            followers = [Follower(site.api, command_id) for _ in range(_FOLLOWERS)]
            for follower in followers:
                follower.start()
            for _ in range(dice.choice(_KILLS)):
                time.sleep(dice.uniform(0, lasts_s))
                site.hub.kill()
                site.start_hub()
            for follower in followers:
                judge_follower(follower, ask)
            judge(site.api, site.api.end_of(command_id), ask)
            site.wait_up()

        yield case


HUB_KILLS_FOLLOWED = Part("hub-kills-followed", 200, 12.0, _stage)
