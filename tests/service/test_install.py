"""Installing below a prefix: real files, and a systemctl that only notes what it is told."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from cmdop_appliance.errors import UnusableProgram
from cmdop_appliance.service.folders import Home
from cmdop_appliance.service.install import (
    Steps,
    _do_with_rights,
    install_agent,
    install_hub,
    system_places,
    uninstall,
    user_places,
)
from tests.support.onefile import onefile

USER = "root"
NOBODY = 65534
JOIN = '{"token": "cmdop_enroll_x"}\n'


class Said(list):
    def steps(self, *, is_dry=False):
        return Steps(self.append, is_dry=is_dry)


@pytest.fixture
def said():
    return Said()


@pytest.fixture
def places(tmp_path):
    return system_places(tmp_path / "root")


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What a systemctl was told that is first in the PATH."""
    note, folder = tmp_path / "told", tmp_path / "bin"
    folder.mkdir()
    program = folder / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$@" >>{note}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return lambda: note.read_text().splitlines() if note.exists() else []


def files(root):
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if (path.is_symlink() or not path.is_dir()) and "/versions/" not in str(path)
    }


def test_a_dry_run_says_the_same_and_does_nothing(places, tmp_path, said):
    file = onefile(tmp_path, "1.0")
    install_hub(places, file, None, said.steps(is_dry=True))
    assert not (tmp_path / "root").exists()
    dry = list(said)
    said.clear()
    install_hub(places, file, None, said.steps())
    assert said == dry


def test_hub_and_agent_are_there_and_again_and_removed_without_their_data(places, tmp_path, said):
    file = onefile(tmp_path, "1.0")
    install_hub(places, file, "0.0.0.0:1", said.steps())
    install_agent(places, file, USER, JOIN, said.steps())
    root = tmp_path / "root"
    installed = {
        "opt/cmdop/current",
        "opt/cmdop/hub/current",
        "usr/local/bin/cmdop",
        "etc/cmdop/cmdop.toml",
        "etc/cmdop/agent.toml",
        "etc/systemd/system/cmdop-hub.service",
        "etc/systemd/system/cmdop-agent.service",
        "var/lib/cmdop-agent/join.json",
    }
    assert files(root) == installed
    assert os.access(places.link, os.X_OK)
    assert 'listen = "0.0.0.0:1"' in places.config("hub").read_text()
    for what in ("hub", "agent"):
        assert stat.S_IMODE(places.state(what).stat().st_mode) == 0o700
    join = places.state("agent") / "join.json"
    assert (join.read_text(), stat.S_IMODE(join.stat().st_mode)) == (JOIN, 0o600)

    places.config("hub").write_text("# mine\n")
    said.clear()
    install_hub(places, onefile(tmp_path, "2.0"), "0.0.0.0:2", said.steps())
    assert places.config("hub").read_text() == "# mine\n"
    assert "0.0.0.0:2 is not put there: change `listen` yourself" in said
    assert places.home("hub", "cmdop").current().number == "2.0"
    assert files(root) == installed

    said.clear()
    uninstall(places, "hub", purge=False, steps=said.steps())
    assert f"keep {places.state('hub')}" in said
    gone = {"opt/cmdop/hub/current", "etc/systemd/system/cmdop-hub.service"}
    assert files(root) == installed - gone
    uninstall(places, "agent", purge=False, steps=said.steps())
    kept = {"etc/cmdop/cmdop.toml", "etc/cmdop/agent.toml", "var/lib/cmdop-agent/join.json"}
    assert files(root) == kept
    assert not places.programs.exists()
    for what in ("hub", "agent"):
        uninstall(places, what, purge=True, steps=said.steps())
    assert files(root) == set()
    assert not places.state("hub").exists()


def test_a_hub_does_not_become_of_an_older_program(places, tmp_path, said):
    install_hub(places, onefile(tmp_path, "1.10.0"), None, said.steps())
    with pytest.raises(UnusableProgram, match=r"the hub is 1[.]10[.]0, which came later"):
        install_hub(places, onefile(tmp_path, "1.9.0"), None, said.steps())
    assert places.home("hub", "cmdop").current().number == "1.10.0"
    assert (places.programs / "current").readlink().name.startswith("1.10.0-")
    install_hub(places, onefile(tmp_path, "1.10.1"), None, said.steps())
    assert places.home("hub", "cmdop").current().number == "1.10.1"


def test_the_settings_that_are_written_are_good_ones(places, tmp_path, said):
    from cmdop_appliance.agent.policy import Policy, load_policy
    from cmdop_appliance.config import Config, load_config

    file = onefile(tmp_path, "1.0")
    install_hub(places, file, None, said.steps())
    install_agent(places, file, USER, None, said.steps())
    assert load_policy(places.config("agent"), tmp_path) == Policy()
    assert load_config(places.config("hub")).sessions == Config().sessions
    uncommented = places.config("agent").read_text().replace("\n# exec", "\nexec")
    for key in ("users", "roots"):
        uncommented = uncommented.replace(f"\n# {key} =", f"\n{key} =")
    places.config("agent").write_text(uncommented)
    assert load_policy(places.config("agent"), tmp_path) == Policy()


def test_a_services_user_cannot_change_what_root_runs(places):
    assert places.home("agent", "root").path == places.programs
    assert places.home("hub", "cmdop").path == places.programs / "hub"
    assert places.home("agent", "somebody").path == places.programs / "agent"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another")
def test_what_a_services_user_has_planted_leads_root_nowhere(places, tmp_path, said):
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    install_hub(places, onefile(tmp_path, "1.0"), None, said.steps())
    theirs = places.programs / "agent"
    theirs.mkdir()
    (theirs / "versions").symlink_to(places.programs / "hub/versions")
    os.chown(theirs, NOBODY, NOBODY)
    with pytest.raises(UnusableProgram, match="Permission denied"):
        uninstall(places, "agent", purge=False, steps=said.steps())
    assert Home(places.programs / "hub").versions()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another")
def test_what_is_done_as_a_user_has_their_rights_and_no_terminal():
    def found() -> None:
        raise OSError(f"{os.getresuid()} {os.getgroups()} {os.getsid(0) == os.getpid()}")

    with pytest.raises(UnusableProgram) as caught:
        _do_with_rights(NOBODY, NOBODY, found)
    assert str(caught.value).endswith("(65534, 65534, 65534) [] True")


def test_systemd_is_told_in_order_and_ends_the_commands_of_an_agent_that_goes(
    places, tmp_path, said, told
):
    places = replace(places, has_systemd=True)
    install_agent(places, onefile(tmp_path, "1.0"), USER, None, said.steps())
    unit = "cmdop-agent.service"
    assert told() == ["daemon-reload", f"enable {unit}", f"restart {unit}"]
    said.clear()
    uninstall(places, "agent", purge=False, steps=said.steps())
    assert told()[3:] == ["daemon-reload", f"disable --now {unit}", "daemon-reload"]
    assert said.index("let the machine's commands and terminals end with the agent") == 0
    assert not places.unit("agent").exists()


def test_systemd_that_refuses_is_named_with_what_it_says(places, tmp_path, said, told):
    (tmp_path / "bin/systemctl").write_text("#!/bin/sh\necho no bus >&2\nexit 1\n")
    with pytest.raises(UnusableProgram, match="systemctl daemon-reload: no bus"):
        install_hub(replace(places, has_systemd=True), onefile(tmp_path, "1.0"), None, said.steps())


def test_who_is_not_root_gets_it_all_at_home(tmp_path, said, told):
    home = tmp_path / "home"
    places = replace(user_places({}, home), has_systemd=True)
    install_agent(places, onefile(tmp_path, "1.0"), "whoever", JOIN, said.steps())
    assert files(home) == {
        ".local/bin/cmdop",
        ".local/share/cmdop/current",
        ".local/state/cmdop-agent/join.json",
        ".config/cmdop/agent.toml",
        ".config/systemd/user/cmdop-agent.service",
    }
    assert told()[0] == "--user daemon-reload"
    assert said[-1] == "so that it runs without you, too: loginctl enable-linger"
    elsewhere = user_places({"XDG_STATE_HOME": "/state"}, Path("/h"))
    assert elsewhere.state("hub") == Path("/state/cmdop")


def test_a_program_that_does_not_run_leaves_the_one_that_does(places, tmp_path, said):
    install_hub(places, onefile(tmp_path, "1.0"), None, said.steps())
    before = places.home("hub", "cmdop").current()
    with pytest.raises(UnusableProgram):
        install_hub(places, onefile(tmp_path, "2.0", "exit 1"), None, said.steps())
    assert places.home("hub", "cmdop").current() == before
