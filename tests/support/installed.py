"""Programs that are installed as cmdop is, a folder for each version, and run the checkout."""

import base64
import shlex
import sys
from pathlib import Path
from typing import Any

from cmdop_appliance.identity import Identity
from cmdop_appliance.service.folders import Home, Version
from tests.support.appliance import Agent, Hub, wait_for
from tests.support.onefile import onefile
from tests.support.releases import OWN, make_bundle

OLD, NEW = "1.0.0", "99.0.0"
MAKER = Identity(b"m" * 32)
PUBLIC = base64.b64encode(MAKER.public_key).decode()
KEYS = f'[upgrade]\nkeys = ["{PUBLIC}"]\n'
MAIN = Path(__file__).with_name("installed_main.py")
# What sh does before an agent of the program begins: nothing out of the ordinary …
WELL = ":"
CRASHES = "echo no such file >&2; exit 7"
HANGS = "exec sleep 1000"
# … or it runs, and looks for its hub where none is.
CONNECTS_NEVER = 'set -- "$@" --hub http://127.0.0.1:9'
# Python that a program runs first. It has a later schema: an older program refuses the store.
MIGRATES = """
from cmdop_appliance.store import migrate
known = migrate._scripts()
migrate._scripts = lambda: {**known, 9000: "CREATE TABLE later (id TEXT PRIMARY KEY);\\n"}
"""
_HUB_DOES = """
if {is_trial} == ("CMDOP_TRIAL" in os.environ) and sys.argv[1:2] == ["serve"]:
    do_at({where!r}, {when!r}, lambda: {does}, {marker!r})
"""


def hub_does(does: str, where: str, when: str, marker: Path, *, is_trial: bool = False) -> str:
    """Python that has a hub do something once, "before" or "after" it calls `module:name`."""
    return _HUB_DOES.format(
        does=does, where=where, when=when, marker=str(marker), is_trial=is_trial
    )


def program(place: Path, number: str, agent: str = WELL, first: str = "") -> Path:
    """A one-file program of this version.

    `agent` is what sh does before it is an agent, `first` the Python that it runs first.
    """
    place.mkdir(parents=True, exist_ok=True)
    run = shlex.join([sys.executable, "-I", str(MAIN), number, first])
    does = f"""\
[ "$1" != version ] || exec echo cmdop {number}
if [ "$1" = agent ]; then
    {agent}
fi
exec {run} "$0" "$@\""""
    return onefile(place, number, does)


def installed(home: Path, file: Path) -> Version:
    """The version of a one-file program, installed and current."""
    place = Home(home)
    version = place.add(file)
    place.switch(version)
    return version


class Installed:
    """An agent of the old version that runs from a home of its own, as a service."""

    def __init__(self, agent: Agent, hub: Hub, place: Path) -> None:
        self.agent = agent
        self.home = Home(place / "home")
        self.hub = hub
        self.old = installed(self.home.path, program(place / "old", OLD))
        self._place = place

    @property
    def current(self) -> Version:
        version = self.home.current()
        assert version is not None
        return version

    def join(self, policy: str = KEYS, **variables: str) -> None:
        """Start it; `policy` is what its agent.toml says of upgrades."""
        agent = self.agent
        agent.state_dir.mkdir()
        (agent.state_dir / "agent.toml").write_text(f'[files]\nroots = ["{self._place}"]\n{policy}')
        agent.program = [str(self.old.program)]
        agent.variables = variables
        agent.join(self.hub)

    def restart(self) -> None:
        """As its service manager does it when it has died."""
        self.agent.program = [str(self.current.program)]
        self.agent.variables = {}
        self.agent.begin()

    def upgrade(self, agent: str = WELL, maker: Identity = MAKER) -> str:
        """Have the hub upgrade this machine to a program whose agent does this; the id."""
        content = program(self._place / "new", NEW, agent).read_bytes()
        bundle = make_bundle(self._place / "bundle", maker, {OWN: content}, version=NEW)
        path = f"/upgrades/bundle?machine_ids={self.agent.machine_id}"
        headers = {"Content-Type": "application/octet-stream"}
        return str(self.hub.api.call("PUT", path, bundle, headers=headers).data["id"])

    def wait_done(self, upgrade_id: str) -> dict[str, Any]:
        """What became of it here."""

        def done() -> dict[str, Any] | None:
            (row,) = self.hub.api.get(f"/upgrades/{upgrade_id}/machines") or [{"state": "waiting"}]
            is_done = row["state"] in ("healthy", "refused", "failed", "rolled_back")
            return row if is_done else None

        found = wait_for(done, f"{upgrade_id} is done")
        assert found is not None
        return found

    def runs(self, number: str) -> bool:
        """Whether the agent that is connected is of this version."""
        path = f"/machines/{self.agent.machine_id}"
        return self.hub.api.get(path)["agent_version"] == number
