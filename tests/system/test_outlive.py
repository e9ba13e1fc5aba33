"""A command outlives its agent and its hub (semantics.md, 4): kill -9 of each in mid-command."""

import pytest

from tests.support.appliance import wait_for

pytestmark = pytest.mark.slow


BEFORE = "".join(f"before {number}\n" for number in range(1, 2001))
AFTER = "".join(f"after {number}\n" for number in range(1, 2001))


def _started(hub, agent, gate):
    """A command that prints BEFORE, waits for the file `gate`, prints AFTER and exits with 5."""
    command_id = hub.api.start(
        agent.machine_id,
        f"seq -f 'before %.0f' 2000; echo begun >&2; until [ -e {gate} ]; do sleep 0.02; done;"
        " seq -f 'after %.0f' 2000; exit 5",
    )
    path = f"/commands/{command_id}"
    wait_for(lambda: hub.api.get(path)["stderr"] == "begun\n", "the command waits")
    return command_id


def _is_whole(hub, command_id):
    record = hub.api.wait_end(command_id)
    assert (record["status"], record["exit_code"], record["error"]) == ("failed", 5, None)
    assert hub.api.output(command_id).decode() == BEFORE + AFTER
    assert record["stderr"] == "begun\n"


def test_an_agent_that_was_killed_finds_its_command_running(hub, agent, tmp_path):
    gate = tmp_path / "gate"
    command_id = _started(hub, agent, gate)
    keeper, (leader,) = agent.keeper, agent.keeper.children()
    agent.kill()
    agent.rejoin(hub)
    assert agent.keeper == keeper
    assert agent.keeper.children() == [leader]
    assert hub.api.get(f"/commands/{command_id}")["status"] == "running"
    gate.touch()
    _is_whole(hub, command_id)


def test_an_end_while_the_agent_is_dead_is_told_when_it_is_back(hub, agent, tmp_path):
    gate = tmp_path / "gate"
    command_id = _started(hub, agent, gate)
    keeper = agent.keeper
    agent.kill()
    gate.touch()
    wait_for(lambda: not keeper.children(), "the command has ended without its agent")
    agent.rejoin(hub)
    _is_whole(hub, command_id)


def test_a_command_of_a_stopped_agent_runs_on(hub, agent, tmp_path):
    gate = tmp_path / "gate"
    command_id = _started(hub, agent, gate)
    agent.stop()
    assert hub.api.get(f"/commands/{command_id}")["status"] == "running"
    gate.touch()
    agent.rejoin(hub)
    _is_whole(hub, command_id)


def test_a_hub_that_was_killed_learns_the_true_end(hub, agent, tmp_path):
    gate = tmp_path / "gate"
    command_id = _started(hub, agent, gate)
    hub.kill()
    gate.touch()
    hub.start()
    _is_whole(hub, command_id)


def test_a_command_whose_keeper_was_killed_is_lost_and_not_run_again(hub, agent, tmp_path):
    gate, marks = tmp_path / "gate", tmp_path / "marks"
    command_id = hub.api.start(
        agent.machine_id,
        f"echo started >>{marks}; echo begun; until [ -e {gate} ]; do sleep 0.02; done",
    )
    hub.api.wait_output(command_id, "begun")
    agent.keeper.kill()
    record = hub.api.wait_end(command_id)
    assert (record["status"], record["exit_code"]) == ("lost", None)
    assert record["error"]["code"] == "keeper_killed"
    assert record["stdout"] == "begun\n"
    again = hub.api.run(agent.machine_id, f"cat {marks}")  # by the next keeper
    assert again["stdout"] == "started\n"
    gate.touch()
    agent.stop()
    agent.rejoin(hub)
    assert hub.api.get(f"/commands/{command_id}") == record
