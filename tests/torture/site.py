"""A hub and an agent that come back whenever they fall, as a service manager would have it."""

import random
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support import quick_hub
from tests.support.appliance import Agent, Hub, ending, stopped_agent, wait_for
from tests.support.fault_proxy import FaultProxy, Faults, running_proxy
from tests.support.quick_hub import FileClock
from tests.support.stepped import Steps
from tests.torture.asks import PATIENCE_S, Ask, PatientApi

STEPPED = (sys.executable, "-m", "tests.support.stepped")
# How soon an agent tries again; the product's own pace would make a torture mostly waiting.
_RETRY_MOST_S = "0.1"
_LOOK_S = 0.005
# What no log of ours may have in it, whatever fell: a fault is not a bug.
_TROUBLE = ("Traceback", '"level": "error"', '"level": "critical"')


class Site:
    """One hub, its one agent, and what was asked of them."""

    def __init__(self, place: Path, hub: Hub, agent: Agent, config: str) -> None:
        self.place = place
        self.hub = hub
        self.agent = agent
        self.steps = Steps(place / "steps.json")
        self.asked: list[Ask] = []
        self.expected: str | None = None  # a message in a log that is no trouble in this case
        self._config = config

    @property
    def api(self) -> PatientApi:
        """The hub's API by the admin key."""
        api = self.hub.api
        return PatientApi(api.url, api.key)

    def start_hub(self) -> None:
        """Start it again; nobody waits until it is ready."""
        self.hub.begin(config=self._config)

    def start_agent(self) -> None:
        """Start it again; nobody waits until it is connected."""
        self.agent.begin()

    @contextmanager
    def revived(self) -> Iterator[None]:
        """Within, whoever has fallen is started again at once."""
        over = threading.Event()

        def revive() -> None:
            while not over.wait(_LOOK_S):
                if not self.hub.is_running:
                    self.start_hub()
                if not self.agent.is_running:
                    self.start_agent()

        thread = threading.Thread(target=revive, name="service manager")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def wait_up(self) -> None:
        """Return when both run and are connected."""
        machine = f"/machines/{self.agent.machine_id}/session"

        def connected() -> bool:
            answer = self.api.call("GET", machine)
            return answer.status == 200 and answer.data["status"] == "CONNECTED"

        wait_for(connected, "hub and agent are back", PATIENCE_S)

    def wait_reconnected(self, before: int) -> None:
        """Return when both are back, after a fall before which `agent.connections` was `before`.

        A hub may not have noticed yet that its agent, or the link, is gone.
        """
        wait_for(lambda: self.agent.connections > before, "the agent is back", PATIENCE_S)
        self.wait_up()

    def check_end(self) -> None:
        """Nothing ran again after it was judged, and nothing broke that nobody expected."""
        for ask in self.asked:
            assert ask.starts <= 1, f"{ask.tag} was started {ask.starts} times in the end"
        for log in (self.hub.log, self.agent.log):
            lines = log.read_text(errors="replace").splitlines()
            if self.expected is not None:
                lines = [line for line in lines if self.expected not in line]
            text = "\n".join(lines)
            for trouble in _TROUBLE:
                assert trouble not in text, f"{log}: {text[text.index(trouble) :][:2000]}"


@contextmanager
def running_site(
    place: Path,
    *,
    config: str = "",
    stepped: bool = False,
    quick: bool = True,
    clock: FileClock | None = None,
) -> Iterator[Site]:
    """A hub with a connected agent; `stepped`: both fall as `site.steps` says.

    With a `clock` the hub has the time from there, and its steps are those of `quick_hub`.
    """
    with _begun(place, config, stepped=stepped, quick=quick, clock=clock) as site:
        site.agent.join(site.hub)
        yield site


@contextmanager
def running_site_behind_proxy(
    place: Path, seed: str, config: str = ""
) -> Iterator[tuple[Site, FaultProxy]]:
    """A site whose agent reaches its hub through a proxy, which has no faults so far."""
    with (
        _begun(place, config, stepped=False, quick=True) as site,
        running_proxy(site.hub.address, seed) as proxy,
    ):
        site.agent.join(site.hub, url=proxy.url)
        yield site, proxy
        proxy.faults = Faults()  # for the goodbye
        site.agent.stop()


@contextmanager
def _begun(
    place: Path, config: str, *, stepped: bool, quick: bool, clock: FileClock | None = None
) -> Iterator[Site]:
    place.mkdir(parents=True, exist_ok=True)
    hub = Hub(place, f"127.0.0.1:{_free_port()}")
    with ExitStack() as stack:
        stack.enter_context(ending(hub))
        agent = stack.enter_context(stopped_agent(place, "agent"))
        site = Site(place, hub, agent, config)
        if quick or stepped:
            agent.program = STEPPED
            agent.variables["RETRY_MOST_S"] = _RETRY_MOST_S
        if stepped:
            hub.program = STEPPED
            hub.variables["STEPS"] = agent.variables["STEPS"] = str(site.steps.path)
        if clock is not None:
            hub.program = quick_hub.PROGRAM
            hub.variables |= {"STEPS": str(site.steps.path), "CLOCK": str(clock.path)}
        hub.start(config=config)
        yield site
        site.check_end()


def _free_port() -> int:
    """A port below those that the kernel gives to clients: it stays free while a hub is dead."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(low // 2, low)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
