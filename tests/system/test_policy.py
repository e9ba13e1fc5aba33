"""agent.toml and windows through the whole product: what the host denies, no hub can have."""

import json
import os

from cmdop_appliance.local_agent import STATE_FOLDER
from tests.support.appliance import (
    cmdop,
    running_hub,
    stopped_agent,
    wait_for,
)
from tests.support.machine_files import MachineFiles


def _cmdop(place, *args):
    done = cmdop(*args, place=place)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _notices(hub):
    lines = [json.loads(line) for line in hub.log.read_text().splitlines() if "notice" in line]
    return [(line["machine_id"], line["event"], line["level"]) for line in lines]


def test_a_machine_without_exec_runs_nothing_but_in_a_window(tmp_path):
    with running_hub(tmp_path) as hub, stopped_agent(tmp_path, "guarded") as agent:
        agent.state_dir.mkdir()
        file = agent.state_dir / "agent.toml"
        file.write_text("[commands]\nexec = false\n")
        file.chmod(0o600)
        agent.join(hub)

        denied = hub.api.run(agent.machine_id, "touch marker", cwd=str(tmp_path))
        assert (denied["status"], denied["exit_code"]) == ("failed", None)
        assert denied["error"]["code"] == "policy_denied"
        assert "commands.exec" in denied["error"]["message"]
        assert not (tmp_path / "marker").exists()

        _cmdop(tmp_path, "agent", "grant", "exec", "5m", "--state-dir", agent.state_dir)
        assert hub.api.run(agent.machine_id, "echo in")["stdout"] == "in\n"
        gate = f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"
        begun = hub.api.start(agent.machine_id, gate)
        wait_for(lambda: hub.api.get(f"/commands/{begun}")["started_at"], "it runs")
        _cmdop(tmp_path, "agent", "revoke", "exec", "--state-dir", agent.state_dir)
        assert hub.api.run(agent.machine_id, "true")["error"]["code"] == "policy_denied"
        (tmp_path / "go").touch()
        assert hub.api.wait_end(begun)["exit_code"] == 0

        told = [(agent.machine_id, f"grant.{what}", "warning") for what in ("opened", "closed")]
        wait_for(lambda: _notices(hub) == told, "the hub has logged both notices")


def test_the_local_agent_obeys_the_file_in_its_directory(tmp_path):
    state_dir = tmp_path / "data" / STATE_FOLDER
    state_dir.mkdir(parents=True, mode=0o700)
    (tmp_path / "data").chmod(0o700)
    file = state_dir / "agent.toml"
    file.write_text("[commands]\nusers = []\n")
    file.chmod(0o600)
    with running_hub(tmp_path, "--local-agent") as hub:
        machines = wait_for(lambda: hub.api.get("/machines?status=online"), "its own machine")
        (machine,) = machines
        denied = hub.api.run(machine["id"], "true", user="nobody")
        assert denied["error"]["code"] == "user_denied"
        assert "commands.users" in denied["error"]["message"]
        assert hub.api.run(machine["id"], "id -u")["stdout"] == f"{os.geteuid()}\n"


def test_the_file_that_an_agent_was_given_is_changed_by_no_hub(tmp_path):
    config = tmp_path / "policy.toml"
    config.write_text("[files]\n")
    config.chmod(0o600)
    with running_hub(tmp_path) as hub, stopped_agent(tmp_path, "given") as agent:
        agent.begin(
            "--config", config, CMDOP_SERVER_URL=hub.api.url, CMDOP_JOIN_KEY=hub.new_token()
        )
        agent.wait_connected(hub)
        files = MachineFiles(hub.api, agent.machine_id)
        for answer in (files.upload(config, b""), files.call("DELETE", "", config)):
            assert (answer.status, answer.error["code"]) == (403, "path_not_allowed")
        assert files.download(config).body == b"[files]\n"
    assert config.read_text() == "[files]\n"
