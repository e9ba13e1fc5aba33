"""An agent that its hub upgrades: what runs is not disturbed, and what is no good is taken back.

The programs are small ones that run the checkout as another version; the hub is of the new one.
"""

import sys

import psutil
import pytest

from tests.support.appliance import stopped_agent, stopped_hub, wait_for
from tests.support.installed import (
    CONNECTS_NEVER,
    CRASHES,
    HANGS,
    KEYS,
    MAIN,
    NEW,
    OLD,
    Installed,
)
from tests.support.typist import typist

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    place = tmp_path_factory.mktemp("hub")
    with stopped_hub(place) as hub:
        hub.program = [sys.executable, "-I", str(MAIN), NEW, "", str(place / "cmdop")]
        hub.start(config=KEYS)
        yield hub


@pytest.fixture
def machine(hub, tmp_path):
    with stopped_agent(tmp_path, "machine") as agent:
        yield Installed(agent, hub, tmp_path)


def wait_status(hub, upgrade_id: str, status: str) -> None:
    path = f"/upgrades/{upgrade_id}"
    wait_for(lambda: hub.api.get(path)["status"] == status, f"{upgrade_id} is {status}")


def test_an_agent_becomes_the_new_release_and_what_runs_is_not_disturbed(hub, machine, tmp_path):
    agent, gate = machine.agent, tmp_path / "gate"
    machine.join()
    pid, keeper = agent.pid, agent.keeper
    session_id = agent.wait_connected(hub)
    command_id = hub.api.start(
        agent.machine_id,
        f"seq 1000; until [ -e {gate} ]; do sleep 0.02; done; seq 1001 2000; exit 5",
    )
    terminal = hub.api.post(f"/machines/{agent.machine_id}/terminals", argv=["cat"])
    with typist(hub.api, terminal["id"]) as person:
        person.type("before\r")
        person.wait_screen("before\nbefore")
        hub.api.wait_output(command_id, "1000\n")
        runs = set(keeper.children())
        assert len(runs) == 2

        assert machine.wait_done(machine.upgrade())["state"] == "healthy"

        assert machine.runs(NEW)
        assert machine.current.number == NEW
        assert (agent.is_running, agent.pid, agent.keeper) == (True, pid, keeper)
        assert set(keeper.children()) == runs
        assert agent.wait_connected(hub) == session_id
        gate.touch()
        record = hub.api.wait_end(command_id)
        assert (record["exit_code"], record["error"]) == (5, None)
        assert hub.api.output(command_id).split() == [b"%d" % n for n in range(1, 2001)]
        person.type("after\r")
        person.wait_screen("after\nafter")
        person.type("\x04")
        assert person.wait_end()["exit_code"] == 0


@pytest.mark.parametrize(
    ("does", "code", "reason"),
    [
        (CRASHES, "exited", "exit code 7; it said 'no such file'"),
        pytest.param(HANGS, "silent", "not connected within 2 s", marks=pytest.mark.long),
        pytest.param(CONNECTS_NEVER, "silent", "not connected within 2 s", marks=pytest.mark.long),
    ],
)
def test_a_release_that_is_no_good_is_taken_back(hub, machine, does, code, reason):
    agent = machine.agent
    machine.join(TEST_PATIENCE_S="60" if code == "exited" else "2")
    pid, keeper = agent.pid, agent.keeper
    command_id = hub.api.start(agent.machine_id, "sleep 2; exit 3")
    wait_for(keeper.children, "the command runs")
    upgrade_id = machine.upgrade(does)
    row = machine.wait_done(upgrade_id)
    assert (row["state"], row["code"]) == ("rolled_back", code)
    assert reason in row["reason"]
    wait_status(hub, upgrade_id, "failed")
    assert machine.runs(OLD)
    assert machine.current == machine.old
    assert (agent.is_running, agent.pid, agent.keeper) == (True, pid, keeper)
    assert hub.api.wait_end(command_id)["exit_code"] == 3
    assert psutil.Process(pid).children() == [keeper]


def test_a_release_that_only_the_hub_trusts_is_refused_before_anything_is_fetched(hub, machine):
    machine.join(policy="")
    row = machine.wait_done(machine.upgrade())
    assert (row["state"], row["code"]) == ("refused", "bundle_refused")
    assert machine.home.versions() == [machine.old]


@pytest.mark.long
@pytest.mark.parametrize(
    ("point", "state"),
    [
        (f"{OLD} after agent.upgrade:fetch", "healthy"),
        (f"{OLD} after service.folders:Home.add", "healthy"),
        (f"{OLD} before agent.upgrade:keep", "healthy"),
        (f"{OLD} after agent.upgrade:keep", "rolled_back"),
        (f"{OLD} after agent.trial:_start", "rolled_back"),
        (f"{OLD} before service.folders:Home.switch", "rolled_back"),
        (f"{OLD} after service.folders:Home.switch", "healthy"),
        (f"{OLD} before agent.main:become", "healthy"),
    ],
)
def test_wherever_the_old_agent_is_killed_a_whole_one_comes_back(hub, machine, point, state):
    agent = machine.agent
    machine.join(TEST_KILL=point)
    keeper = agent.keeper
    command_id = hub.api.start(agent.machine_id, "sleep 2; exit 3")
    wait_for(keeper.children, "the command runs")
    upgrade_id = machine.upgrade()
    agent.wait_exit()
    wait_for(lambda: not agent.leftovers(), "the new agent has died with it")
    machine.restart()
    row = machine.wait_done(upgrade_id)
    assert row["state"] == state
    if state == "rolled_back":
        assert row["code"] == "interrupted"
    assert machine.runs(NEW if state == "healthy" else OLD)
    assert agent.keeper == keeper
    assert hub.api.wait_end(command_id)["exit_code"] == 3


@pytest.mark.long
@pytest.mark.parametrize(
    "point",
    [
        f"{NEW} before agent.main:Journal",
        f"{NEW} before agent.upgrade:Upgrades.met",
        f"{NEW} before agent.session:HubSession._shake_hands",
    ],
)
def test_wherever_the_new_agent_is_killed_the_old_one_goes_on(hub, machine, point):
    machine.join(TEST_KILL=point)
    row = machine.wait_done(machine.upgrade())
    assert (row["state"], row["code"]) == ("rolled_back", "exited")
    assert "signal 9" in row["reason"]
    assert machine.runs(OLD)
    assert machine.current == machine.old


@pytest.mark.long
def test_a_hub_that_is_killed_goes_on_with_the_upgrade(hub, machine):
    machine.join()
    upgrade_id = machine.upgrade()
    hub.kill()
    hub.start(config=KEYS)
    assert machine.wait_done(upgrade_id)["state"] == "healthy"
    assert machine.runs(NEW)
    wait_status(hub, upgrade_id, "completed")
