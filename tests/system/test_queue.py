"""Commands that wait for their machine, and batches in waves, with real hubs and agents."""

import pytest

from tests.support.appliance import running_agent, stopped_hub, wait_for

pytestmark = pytest.mark.slow

SWEPT = "[commands]\nlost_after_ms = 1000\n\n[sessions]\ngrace_ms = 0\n"


@pytest.fixture(scope="module")
def agent(hub, place):
    with running_agent(hub, place, "one") as agent:
        yield agent


@pytest.fixture(scope="module")
def other(hub, place):
    with running_agent(hub, place, "two") as agent:
        yield agent


@pytest.fixture
def both(hub, agent, other):
    """The ids of two machines that are connected, whatever a test before did to the hub."""
    for each in (agent, other):
        each.wait_connected(hub)
    return [agent.machine_id, other.machine_id]


@pytest.fixture
def away(hub, agent):
    """The id of a machine whose agent has stopped; it is back after the test."""
    agent.stop()
    yield agent.machine_id
    if not agent.is_running:
        agent.rejoin(hub)


def queued(hub, machine_id, command, **fields):
    """The id of a command that waits for its machine."""
    begun = hub.api.post(
        "/commands/async", machine_id=machine_id, command=command, queue=True, **fields
    )
    assert begun["status"] == "pending"
    return begun["id"]


def test_without_queue_an_offline_machine_is_a_conflict_and_the_key_stays_free(hub, agent, away):
    body = {"machine_id": away, "command": "echo once"}
    headers = {"Idempotency-Key": "offline"}
    for path in ("/commands", "/commands/async"):
        answer = hub.api.call("POST", path, body, headers=headers)
        assert (answer.status, answer.error["code"]) == (409, "session_not_active")
        assert answer.error["details"] == {"current_status": "DISCONNECTED", "machine_id": away}
    agent.rejoin(hub)
    answer = hub.api.call("POST", "/commands", body, headers=headers)
    assert answer.data["stdout"] == "once\n"


def test_what_waits_is_seen_and_runs_once_when_its_machine_is_back(hub, agent, away, tmp_path):
    marks = tmp_path / "marks"
    command_id = queued(hub, away, f"echo mark >>{marks}")
    (listed,) = hub.api.get(f"/commands?status=pending&machine_id={away}")
    assert (listed["id"], listed["queue"], listed["session_id"]) == (command_id, True, None)
    assert listed["stale_since"] is None
    agent.rejoin(hub)
    record = hub.api.wait_end(command_id)
    assert (record["status"], record["exit_code"]) == ("completed", 0)
    assert record["session_id"] == agent.wait_connected(hub)
    agent.stop()
    agent.rejoin(hub)
    assert marks.read_text() == "mark\n"


def test_a_dead_hub_keeps_what_waits(hub, agent, away, tmp_path):
    marks = tmp_path / "marks"
    command_id = queued(hub, away, f"echo mark >>{marks}")
    hub.kill()
    agent.begin()  # it is there before the hub is
    hub.start()
    assert hub.api.wait_end(command_id)["status"] == "completed"
    assert marks.read_text() == "mark\n"


def test_what_was_cancelled_or_came_too_late_never_runs(hub, agent, away, tmp_path):
    marks = tmp_path / "marks"
    cancelled = queued(hub, away, f"echo cancelled >>{marks}")
    assert hub.api.delete(f"/commands/{cancelled}") == {"cancelled": True}
    record = hub.api.get(f"/commands/{cancelled}")
    assert (record["status"], record["cancel_requested"]) == ("cancelled", True)
    late = queued(hub, away, f"echo late >>{marks}", queue_timeout=1)
    assert hub.api.wait_end(late)["status"] == "expired"
    agent.rejoin(hub)
    assert hub.api.run(away, "true")["status"] == "completed"
    assert not marks.exists()
    again = hub.api.call("DELETE", f"/commands/{late}")
    assert (again.status, again.error["details"]) == (409, {"status": "expired"})


def test_ten_upgrades_become_one(hub, agent, away, tmp_path):
    marks = tmp_path / "marks"
    ids = [queued(hub, away, f"echo {n} >>{marks}", supersede_key="upgrade") for n in range(10)]
    neighbour = queued(hub, away, "true", supersede_key="other")
    for command_id in ids[:-1]:
        record = hub.api.get(f"/commands/{command_id}")
        assert (record["status"], record["error"]["code"]) == ("cancelled", "superseded")
    agent.rejoin(hub)
    assert hub.api.wait_end(ids[-1])["status"] == "completed"
    assert hub.api.wait_end(neighbour)["status"] == "completed"
    assert marks.read_text() == "9\n"


def test_who_waits_for_a_machine_that_stays_away_gets_a_pending_record(hub, agent, away):
    record = hub.api.run(away, "true", queue=True, timeout=300)
    assert (record["status"], record["exit_code"], record["finished_at"]) == ("pending", None, None)
    agent.rejoin(hub)
    assert hub.api.wait_end(record["id"])["status"] == "completed"


def test_since_when_nothing_is_known_of_a_running_command(hub, agent, tmp_path):
    gate = tmp_path / "gate"
    command_id = hub.api.start(
        agent.machine_id, f"echo begun; until [ -e {gate} ]; do sleep 0.02; done"
    )
    hub.api.wait_output(command_id, "begun")
    path = f"/commands/{command_id}"
    assert hub.api.get(path)["stale_since"] is None
    agent.kill()
    stale = wait_for(lambda: hub.api.get(path)["stale_since"], "the machine is missed")
    assert stale == hub.api.get(f"/machines/{agent.machine_id}")["last_seen"]
    agent.rejoin(hub)
    assert hub.api.get(path)["stale_since"] is None
    gate.touch()
    assert hub.api.wait_end(command_id)["stale_since"] is None


# ── batches ──────────────────────────────────────────────────────────────────────────────────────


def test_a_failed_canary_skips_the_rest_which_one_call_resumes(hub, both, tmp_path):
    marks, (_, other) = tmp_path / "marks", both
    command = f"echo mark >>{marks}; [ $(wc -l <{marks}) -ge 2 ]"  # only the first time fails
    batch = hub.api.post("/commands/batch", machine_ids=both, command=command, canary=True)
    assert [batch[each]["status"] for each in both] == ["failed", "skipped"]
    skipped = batch[other]
    assert skipped["error"]["code"] == "batch_stopped"
    assert marks.read_text() == "mark\n"
    path = f"/commands/batch/{skipped['batch_id']}"
    assert hub.api.get(path) == batch
    resumed = hub.api.post(f"{path}/resume")
    assert set(resumed) == {other}
    assert resumed[other]["status"] == "completed"
    assert hub.api.get(path) == batch
    whole = f"/commands/batch/{resumed[other]['batch_id']}/resume"
    answer = hub.api.call("POST", whole)
    assert (answer.status, answer.error["code"]) == (409, "conflict")


def test_waves_go_on_after_the_hub_was_killed(hub, both, tmp_path):
    gate = tmp_path / "gate"
    batch = hub.api.call(
        "POST",
        "/commands/batch?wait=false",
        {
            "machine_ids": both,
            "command": f"until [ -e {gate} ]; do sleep 0.02; done",
            "concurrency": "50%",
        },
    ).data
    first, second = (batch[each] for each in both)
    assert (first["status"], second["status"]) == ("pending", "pending")
    assert (first["session_id"] is None, second["session_id"] is None) == (False, True)
    path = f"/commands/{first['id']}"
    wait_for(lambda: hub.api.get(path)["status"] == "running", "the first runs")
    assert hub.api.get(path)["timeout"] is None  # nobody waits for it
    hub.kill()
    gate.touch()
    hub.start()
    for command in (first, second):
        record = hub.api.wait_end(command["id"])
        assert (record["status"], record["batch_id"]) == ("completed", first["batch_id"])


# ── silence ──────────────────────────────────────────────────────────────────────────────────────


def test_what_silence_lost_is_corrected_when_the_machine_returns(tmp_path):
    gate = tmp_path / "gate"
    with stopped_hub(tmp_path) as hub:
        hub.start(config=SWEPT)
        with running_agent(hub, tmp_path, "target") as agent:
            command_id = hub.api.start(
                agent.machine_id,
                f"echo begun; until [ -e {gate} ]; do sleep 0.02; done; echo over; exit 3",
            )
            hub.api.wait_output(command_id, "begun")
            agent.stop()
            lost = hub.api.wait_end(command_id)
            assert (lost["status"], lost["error"]["code"]) == ("lost", "silent")
            assert (lost["exit_code"], lost["late"]) == (None, False)
            agent.rejoin(hub)
            running = hub.api.get(f"/commands/{command_id}")
            assert (running["status"], running["late"], running["error"]) == ("running", True, None)
            gate.touch()
            ended = hub.api.wait_end(command_id)
            assert (ended["status"], ended["exit_code"], ended["late"]) == ("failed", 3, True)
            assert ended["stdout"] == "begun\nover\n"
