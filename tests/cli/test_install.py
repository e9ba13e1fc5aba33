"""`cmdop install` and `cmdop uninstall` as they are typed, below a prefix; and an agent that joins
by what `install` has left."""

import base64
import io
import json
import sys

import pytest

from cmdop_appliance.cli.main import main
from cmdop_appliance.protocol.handshake import SECRET_BYTES, EnrolmentToken
from tests.support.appliance import Agent, ending, wait_for
from tests.support.onefile import onefile

URL = "https://192.0.2.7:3006"
TOKEN = str(EnrolmentToken(bytes(SECRET_BYTES), bytes(32)))


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Runs `cmdop` with the prefix: (its exit code, what it printed and said)."""

    def run(*args, stdin=""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = main([*args, "--prefix", str(tmp_path / "root")])
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def program(tmp_path):
    return f"--program={onefile(tmp_path, '1.0')}"


def joined(tmp_path, hub_key):
    state = tmp_path / "root/var/lib/cmdop-agent"
    state.mkdir(parents=True)
    fields = {"hub_key": base64.b64encode(hub_key).decode()}
    (state / "hub.json").write_text(json.dumps(fields))
    return state


def test_the_token_goes_from_standard_input_to_one_file_and_nowhere_else(run, program, tmp_path):
    words = ("install", "agent", "--hub", URL, "--token", "-", "--name", "nas", program)
    code, out, err = run(*words, stdin=f"{TOKEN}\n")
    assert (code, err) == (0, "")
    assert TOKEN not in out
    holders = {
        path.name
        for path in (tmp_path / "root").rglob("*")
        if path.is_file() and TOKEN in path.read_text()
    }
    assert holders == {"join.json"}
    file = tmp_path / "root/var/lib/cmdop-agent/join.json"
    assert json.loads(file.read_text()) == {
        "hub": URL,
        "token": TOKEN,
        "name": "nas",
        "plain_http": False,
    }


@pytest.mark.parametrize(
    "words", [["--hub", URL], ["--token", TOKEN], [], ["--hub", URL, "--token", ""]]
)
def test_a_machine_that_has_not_joined_needs_hub_and_token(run, program, tmp_path, words):
    code, _, err = run("install", "agent", program, *words)
    assert code == 2
    assert err.startswith("error: this machine has not joined a hub\nhint: --hub URL --token")
    assert not (tmp_path / "root").exists()


def test_a_machine_that_has_joined_needs_neither_and_no_other_hub(run, program, tmp_path):
    state = joined(tmp_path, bytes(32))
    assert run("install", "agent", program)[0] == 0
    assert run("install", "agent", program, "--hub", URL, "--token", TOKEN)[0] == 0
    assert not (state / "join.json").exists()
    other = str(EnrolmentToken(bytes(SECRET_BYTES), b"\1" * 32))
    code, _, err = run("install", "agent", program, "--hub", URL, "--token", other)
    assert code == 2
    assert "has joined the hub with the key" in err
    assert "cmdop uninstall agent --purge" in err


def test_a_checkout_says_where_the_one_file_comes_from(run):
    code, _, err = run("install", "hub")
    assert code == 2
    assert "hint: scripts/build makes it" in err


def test_a_user_who_is_not_there_is_named_before_anything_is_done(capfd, program):
    # --dry-run: whatever this test finds wrong, nothing is done to the machine that it runs on
    words = ["install", "agent", "--user", "no-such-user", "--dry-run", program]
    assert main(words) == 2
    assert 'there is no user "no-such-user"' in capfd.readouterr().err


def test_what_is_not_there_is_uninstalled_with_a_word(run, program, tmp_path):
    assert run("install", "hub", program)[0] == 0
    code, out, err = run("uninstall", "agent", "--yes")
    assert (code, err) == (0, "no agent is installed as a service here\n")
    code, out, err = run("uninstall", "hub", "--dry-run")
    assert (code, err) == (0, "")
    assert (tmp_path / "root/opt/cmdop/current").exists()
    assert run("uninstall", "hub", "--yes") == (0, out, "")
    assert not (tmp_path / "root/opt/cmdop").exists()


def test_a_place_that_cannot_be_written_is_named(run, program, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/etc").touch()
    code, _, err = run("install", "hub", program)
    assert code == 1
    assert err.startswith(f"error: cannot write {tmp_path}/root/etc")


def test_an_agent_joins_by_what_was_left_for_it_which_goes_once_it_has(hub, place):
    agent = Agent(place, "left")
    agent.state_dir.mkdir(mode=0o700)
    left = agent.state_dir / "join.json"
    fields = {"hub": hub.api.url, "token": hub.new_token(), "name": "nas", "plain_http": False}
    left.write_text(json.dumps(fields))
    with ending(agent):
        agent.begin("--join", left)
        agent.wait_connected(hub)
        assert hub.api.get(f"/machines/{agent.machine_id}")["name"] == "nas"
        agent.stop()
        agent.begin("--join", left)
        wait_for(lambda: not left.exists(), "it is gone")
        agent.wait_connected(hub)
