"""The command line in this process, and in windows of a desk."""

import io
import sys
from dataclasses import dataclass

import pytest

from cmdop_appliance.cli.main import main
from tests.support.appliance import Agent, Hub, ending, running_hub

# Says how it was started, takes a line, and ends.
CODING_AGENT = """#!/bin/sh
echo "$(basename "$0") $* in $(pwd -P)"
read -r answer
echo "told $answer"
exit 4
"""


@pytest.fixture
def command_line(capfd, monkeypatch):
    """Runs `cmdop` with a hub's address and a key: (its exit code, what it printed and said)."""

    def run(url, key, *args, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(["--hub", url, "--key", key, *args])
        return code, *capfd.readouterr()

    return run


@dataclass(frozen=True)
class Desk:
    """A hub with the machine `nas`, for whoever opens windows."""

    hub: Hub
    agent: Agent

    @property
    def environ(self):
        """What `cmdop` must know."""
        return {"CMDOP_URL": self.hub.api.url, "CMDOP_API_KEY": self.hub.api.key}

    def running(self):
        """The terminals that run."""
        return self.hub.api.get("/terminals?status=running")


@pytest.fixture(scope="session")
def office(tmp_path_factory):
    """A `Desk` that tests leave as they found it, but for its terminals; with two coding agents."""
    place = tmp_path_factory.mktemp("desk")
    agent = Agent(place, "nas")
    agent.state_dir.mkdir(mode=0o700)
    (agent.state_dir / "agent.toml").write_text(f'[coding]\npath = ["{place}/programs"]\n')
    (place / "programs").mkdir()
    for name in ("claude", "codex"):
        program = place / "programs" / name
        program.write_text(CODING_AGENT)
        program.chmod(0o755)
    with running_hub(place) as hub, ending(agent):
        agent.join(hub)
        yield Desk(hub, agent)


@pytest.fixture
def desk(office):
    """The `Desk`; what still runs on it at the end of the test is ended."""
    yield office
    for each in office.running():
        office.hub.api.delete(f"/terminals/{each['id']}")
