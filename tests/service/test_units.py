"""The units, as systemd reads them."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from cmdop_appliance.agent.main import EXIT_REMOVED
from cmdop_appliance.server import HUNG_S
from cmdop_appliance.service.install import AGENT_USER, HUB_USER, system_places, user_places
from cmdop_appliance.service.units import agent_unit, hub_unit

DOCUMENT = Path(__file__).parents[2] / "docs/install.md"


def settings(unit):
    return dict(re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE))


def units(home=Path("/opt/cmdop")):
    for user in ("cmdop", None):
        yield hub_unit(home, home / "cmdop.toml", home / "data", user)
        yield agent_unit(home, home / "agent.toml", home / "state", user)


def test_an_agent_that_is_stopped_spares_its_commands_and_one_that_was_removed_stays_away():
    unit = settings(agent_unit(Path("/h"), Path("/c"), Path("/s"), "root"))
    assert unit["KillMode"] == "process"
    assert unit["RestartPreventExitStatus"] == str(EXIT_REMOVED)
    assert unit["User"] == "root"  # without it systemd sets no HOME
    assert unit["StateDirectory"] == "s"


def test_nobody_is_killed_because_a_disk_hangs_for_as_long_as_the_hub_bears_it():
    """It may be the event loop that waits for the disk, just before it would have said so."""
    assert all(int(settings(unit)["WatchdogSec"]) / 2 >= HUNG_S for unit in units())


def test_nobody_but_the_program_itself_speaks_for_it():
    assert {settings(unit)["NotifyAccess"] for unit in units()} == {"main"}


@pytest.mark.parametrize("place", ["/opt/cmdop", "/home/a b/100%"])
def test_systemd_understands_every_line(tmp_path, place):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    home = tmp_path / place[1:]
    (home / "current").mkdir(parents=True)
    shutil.copy("/bin/true", home / "current/cmdop")
    for number, unit in enumerate(units(home)):
        file = tmp_path / f"unit-{number}.service"
        file.write_text(unit)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", file],
            capture_output=True,
            text=True,
            check=False,
        )
        said = [line for line in done.stderr.splitlines() if file.name in line]
        assert not said, said


def test_the_document_shows_the_units_as_they_are_made():
    places = system_places(None)
    hub = hub_unit(
        places.home("hub", HUB_USER).path, places.config("hub"), places.state("hub"), HUB_USER
    )
    agent = agent_unit(
        places.home("agent", AGENT_USER).path,
        places.config("agent"),
        places.state("agent"),
        AGENT_USER,
    )
    shown = re.findall(r"```ini\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert shown == [hub, agent]


def test_a_path_with_spaces_is_one_word():
    home = user_places({}, Path("/home/a b")).home("hub", "a b")
    unit = settings(hub_unit(home.path, Path("/c"), Path("/d e"), None))
    assert shlex.split(unit["ExecStart"])[0] == "/home/a b/.local/share/cmdop/current/cmdop"
    assert unit["WorkingDirectory"] == "/d e"


def test_what_systemd_takes_for_more_than_itself_is_no_more_than_itself():
    odd = Path('/o"d $HOME \\ %n')
    unit = settings(hub_unit(Path("/opt/%n"), odd, odd, "cmdop"))
    assert unit["ExecStart"].startswith("/opt/%%n/current/cmdop serve --config ")
    assert unit["ExecStart"].count('"/o\\"d $$HOME \\\\ %%n"') == 2
    # Only command lines know variables (systemd.exec(5), systemd.service(5)).
    assert unit["Environment"] == '"TMPDIR=/o\\"d $HOME \\\\ %%n"'
