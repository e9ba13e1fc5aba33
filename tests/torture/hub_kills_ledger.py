"""kill -9 of the hub under load: what it acknowledged is there once, by a ledger kept outside."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from tests.support.appliance import wait_for
from tests.torture.asks import PATIENCE_S, Ask, PatientApi, judge, new_ask
from tests.torture.parts import Case, Part, Stage
from tests.torture.site import Site, running_site

_CLIENTS = 6
_UNDER_WAY = (1, 4)  # commands of one client
_LASTS_S = (0.0, 0.2)
_OUTPUT_BYTES = 20_000
_UP_S = (0.0, 1.0)  # of the hub, between its first answer and its next death
_PAGE = 100


class Client(threading.Thread):
    """Asks, writes down what the hub has acknowledged, and judges it whatever happens meanwhile."""

    def __init__(self, site: Site, seed: str, stop: threading.Event) -> None:
        super().__init__(name=f"client {seed}")
        self.ledger: dict[str, Ask] = {}  # by the id that the hub gave
        self.trouble: Exception | None = None
        self._site = site
        self._dice = Random(seed)
        self._stop_asking = stop

    def run(self) -> None:
        """Ask until told to stop; what was asked is judged."""
        try:
            while not self._stop_asking.is_set():
                self._ask_some()
        except Exception as exc:  # noqa: BLE001 - the next case raises it
            self.trouble = exc

    def _ask_some(self) -> None:
        api, folder = self._site.api, self._site.place / "asks"
        new = {}
        for _ in range(self._dice.randint(*_UNDER_WAY)):
            lasts_s = self._dice.uniform(*_LASTS_S)
            ask = new_ask(folder, self._dice, lasts_s=lasts_s, most_bytes=_OUTPUT_BYTES)
            command_id = api.ask(self._site.agent.machine_id, ask)
            assert command_id not in self.ledger, f"{command_id} answers two keys"
            self.ledger[command_id] = new[command_id] = ask
        for command_id, ask in new.items():
            judge(api, api.end_of(command_id), ask)


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    stop = threading.Event()
    with running_site(stage.place) as site:
        clients = [Client(site, f"{stage.seed}/{number}", stop) for number in range(_CLIENTS)]

        def raise_trouble() -> None:
            for client in clients:
                if client.trouble is not None:
                    raise client.trouble

        def case(_number: int, dice: Random) -> None:
            wait_for(lambda: site.api.call("GET", "/auth/me").status == 200, "the hub", PATIENCE_S)
            time.sleep(dice.uniform(*_UP_S))
            site.hub.kill()
            site.start_hub()
            raise_trouble()

        for client in clients:
            client.start()
        try:
            yield case
        finally:
            stop.set()
            for client in clients:
                client.join()
        raise_trouble()
        asked = {ask.command: ask for client in clients for ask in client.ledger.values()}
        _judge_nothing_else(site.api, asked)
        stage.say(f"hub-kills-ledger: {len(asked)} commands acknowledged, all judged")


def _judge_nothing_else(api: PatientApi, asked: dict[str, Ask]) -> None:
    """Fail if the hub holds a command that nobody asked for, or one twice."""
    held: list[str] = []
    while page := api.get(f"/commands?limit={_PAGE}&offset={len(held)}&sort=created_at"):
        held += [record["command"] for record in page]
    assert len(held) == len(set(held)), "a command is there twice"
    unknown = set(held) - set(asked)
    assert not unknown, f"{len(unknown)} commands that nobody asked for, such as {unknown.pop()}"
    for ask in asked.values():
        assert ask.starts == 1, f"{ask.tag} was started {ask.starts} times"


HUB_KILLS_LEDGER = Part("hub-kills-ledger", 500, 8.0, _stage)
