"""Sessions of real agents: the grace period, goodbye, removal, clones; contract.md §2 and §3."""

import shutil

import trio

from cmdop_appliance.protocol.messages import Bye, Heartbeat
from cmdop_appliance.store import sessions
from tests.support.appliance import (
    PATIENCE_S,
    running_agent,
    running_hub,
    stopped_agent,
    wait_for,
)
from tests.support.live_hub import ScriptedAgent, live_hub
from tests.support.records import REACH

SHORT_GRACE_MS = 1500


def _status(hub, session_id):
    return hub.api.get(f"/sessions/{session_id}")["status"]


def _wait_status(hub, session_id, status):
    wait_for(lambda: _status(hub, session_id) == status, f"the session is {status}")


def _refusal(hub, machine_id):
    """The details of the error when a command is sent to a machine that is away."""
    answer = hub.api.call("POST", "/commands", {"machine_id": machine_id, "command": "true"})
    assert answer.status == 409
    assert answer.error["code"] == "session_not_active"
    return answer.error["details"]


def test_an_agent_that_is_back_within_the_grace_keeps_its_session(hub, place):
    with running_agent(hub, place, "kept") as agent:
        machine_id = agent.machine_id
        session_id = agent.wait_connected(hub)
        agent.kill()
        _wait_status(hub, session_id, "GRACE_PERIOD")
        assert _refusal(hub, machine_id) == {
            "current_status": "GRACE_PERIOD",
            "machine_id": machine_id,
        }
        live = hub.api.get(f"/machines/{machine_id}/session")
        assert (live["session_id"], live["status"]) == (session_id, "GRACE_PERIOD")
        agent.rejoin(hub)
        assert agent.wait_connected(hub) == session_id
        assert hub.api.run(machine_id, "echo back")["stdout"] == "back\n"


def test_after_the_grace_a_session_is_over_and_the_next_is_another(tmp_path):
    config = f"[sessions]\ngrace_ms = {SHORT_GRACE_MS}\n"
    with (
        running_hub(tmp_path, config=config) as hub,
        running_agent(hub, tmp_path, "gone") as agent,
    ):
        machine_id = agent.machine_id
        first = agent.wait_connected(hub)
        agent.kill()
        _wait_status(hub, first, "DISCONNECTED")
        assert _refusal(hub, machine_id)["current_status"] == "DISCONNECTED"
        answer = hub.api.call("GET", f"/machines/{machine_id}/session")
        assert answer.status == 404
        assert answer.error["code"] == "session_not_found"
        assert answer.error["message"] == "No active session for this machine"
        assert hub.api.get(f"/machines/{machine_id}")["status"] == "offline"
        agent.rejoin(hub)
        assert agent.wait_connected(hub) != first
        assert _status(hub, first) == "DISCONNECTED"
        assert hub.api.get(f"/machines/{machine_id}")["status"] == "online"


def test_an_agent_that_says_goodbye_has_no_grace(hub, place):
    with running_agent(hub, place, "polite") as agent:
        machine_id = agent.machine_id
        first = agent.wait_connected(hub)
        agent.stop()
        _wait_status(hub, first, "DISCONNECTED")
        assert _refusal(hub, machine_id)["current_status"] == "DISCONNECTED"
        agent.rejoin(hub)
        assert agent.wait_connected(hub) != first


async def test_a_goodbye_counts_when_nothing_can_be_answered_any_more(tmp_path):
    """An agent sends its last heartbeat and its goodbye, and is gone before the answer."""
    async with live_hub(tmp_path) as live:
        agent = ScriptedAgent(live)
        link = await agent.join()
        link.hub_end.agent_hears.close()
        await link.say(Heartbeat())
        await link.say(Bye())
        with trio.fail_after(PATIENCE_S):
            await link.over.wait()
        session = await live.hub.store.run(sessions.get, REACH, link.session_id)
        assert session.status == "DISCONNECTED"


def test_a_session_keeps_its_id_over_a_restart_of_the_hub(hub, place):
    with running_agent(hub, place, "steady") as agent:
        session_id = agent.wait_connected(hub)
        hub.stop()
        hub.start()
        assert _status(hub, session_id) in ("GRACE_PERIOD", "CONNECTED")
        assert agent.wait_connected(hub) == session_id


def test_removing_a_machine_ends_its_agent_and_its_name_can_join_anew(hub, place):
    with stopped_agent(place, "removed") as agent:
        agent.join(hub)
        machine_id = agent.machine_id
        session_id = agent.wait_connected(hub)
        assert hub.api.run(machine_id, "true")["exit_code"] == 0
        running = hub.api.start(machine_id, "echo begun; sleep 300")
        events = hub.api.events(running)
        assert next(events).data == b"begun\n"

        assert hub.api.delete(f"/machines/{machine_id}") == {"deleted": True}
        assert agent.wait_exit() == 3
        assert "removed" in agent.log.read_text().splitlines()[-1]
        (end,) = events
        assert end.data["status"] == "lost"
        assert end.data["error"]["code"] == "machine_removed"
        for path in ("", "/session", "/commands"):
            answer = hub.api.call("GET", f"/machines/{machine_id}{path}")
            assert answer.status == 404
            assert answer.error["code"] == "machine_not_found"
        assert hub.api.call("DELETE", f"/machines/{machine_id}").status == 404
        assert machine_id not in [m["id"] for m in hub.api.get("/machines?limit=100")]
        assert _status(hub, session_id) == "DISCONNECTED"
        answer = hub.api.call("POST", "/commands", {"machine_id": machine_id, "command": "true"})
        assert answer.error["code"] == "machine_not_found"

        agent.join(hub)
        assert agent.machine_id != machine_id
        joined = hub.api.get(f"/machines/{agent.machine_id}")
        assert (joined["name"], joined["status"]) == ("removed", "online")
        assert hub.api.get(f"/machines/{agent.machine_id}/commands") == []
        assert agent.wait_connected(hub) != session_id


def test_a_machine_removed_while_its_agent_is_away_ends_it_when_it_comes(hub, place):
    with stopped_agent(place, "late") as agent:
        agent.join(hub)
        agent.stop()
        hub.api.delete(f"/machines/{agent.machine_id}")
        agent.begin()
        assert agent.wait_exit() == 3


def test_a_clone_is_refused_and_flagged_and_the_first_goes_on(hub, place):
    with running_agent(hub, place, "original") as original, stopped_agent(place, "clone") as clone:
        machine_id = original.machine_id
        session_id = original.wait_connected(hub)
        clone.state_dir.mkdir()
        for name in ("machine.key", "hub.json"):
            shutil.copy(original.state_dir / name, clone.state_dir / name)
        assert hub.api.get(f"/machines/{machine_id}")["clone_seen_at"] is None
        clone.begin()

        def is_flagged():
            return hub.api.get(f"/machines/{machine_id}")["clone_seen_at"]

        wait_for(is_flagged, "the clone is flagged")
        wait_for(lambda: "a clone?" in clone.log.read_text(), "the clone is told")
        assert clone.is_running  # it keeps trying: it may be the one that is meant
        assert original.wait_connected(hub) == session_id
        assert " connection lost " not in original.log.read_text()
        record = hub.api.run(machine_id, f"ls {original.state_dir}")
        assert record["exit_code"] == 0
        assert record["session_id"] == session_id
        children = clone.keeper.children()
        assert children == []  # none of the machine's commands ran there


def test_a_whole_copy_of_a_state_directory_is_a_clone_too(hub, place):
    with running_agent(hub, place, "imaged") as original, stopped_agent(place, "image") as copy:
        assert hub.api.run(original.machine_id, "echo kept")["stdout"] == "kept\n"
        shutil.copytree(
            original.state_dir,
            copy.state_dir,
            ignore=shutil.ignore_patterns("*.sock", "*.lock", "output"),
        )
        copy.begin()

        def is_flagged():
            return hub.api.get(f"/machines/{original.machine_id}")["clone_seen_at"]

        wait_for(is_flagged, "the copy is flagged")
        assert hub.api.run(original.machine_id, "echo still")["stdout"] == "still\n"


def test_a_second_agent_on_a_state_directory_is_refused(hub, place):
    with running_agent(hub, place, "lonely") as agent, stopped_agent(place, "second") as second:
        second.state_dir = agent.state_dir
        second.begin()
        assert second.wait_exit() == 2
        (error, hint) = second.log.read_text().splitlines()
        assert error == (f"error: an agent runs already on {agent.state_dir}: process {agent.pid}")
        assert hint.startswith("hint: ")
        second.state_dir = place / "second"


def test_histories_name_the_commands_of_a_machine_and_of_a_session(hub, place):
    with running_agent(hub, place, "history") as agent:
        machine_id = agent.machine_id
        first_session = agent.wait_connected(hub)
        first = hub.api.run(machine_id, "echo one")
        agent.stop()
        agent.rejoin(hub)
        second_session = agent.wait_connected(hub)
        second = hub.api.run(machine_id, "exit 2")

        lines = hub.api.get(f"/machines/{machine_id}/commands")
        assert [line["id"] for line in lines] == [second["id"], first["id"]]
        assert lines[0] == {
            "id": second["id"],
            "command": "exit 2",
            "exit_code": 2,
            "duration": second["duration"],
            "executed_at": second["started_at"],
        }
        for session_id, command in ((first_session, first), (second_session, second)):
            assert command["session_id"] == session_id
            assert hub.api.get(f"/sessions/{session_id}/history") == [
                {
                    "command_id": command["id"],
                    "command": command["command"],
                    "exit_code": command["exit_code"],
                    "executed_at": command["started_at"],
                    "user_email": "admin@default",
                }
            ]
        path = f"/machines/{machine_id}/commands?since="
        assert hub.api.get(path + second["created_at"]) == lines[:1]
        assert hub.api.get(path + first["created_at"]) == lines
        assert hub.api.get(path + "2999-01-01T00:00:00Z") == []
        assert [s["session_id"] for s in hub.api.get(f"/sessions?machine_id={machine_id}")] == [
            second_session,
            first_session,
        ]


def test_a_session_shows_the_last_sample_of_its_machine(hub, place):
    with running_agent(hub, place, "measured") as agent:
        session_id = agent.wait_connected(hub)
        detail = wait_for(
            lambda: (d := hub.api.get(f"/sessions/{session_id}"))["telemetry"] and d,
            "there is a sample",
        )
        assert set(detail["telemetry"]) == {"cpu_percent", "memory_percent", "disk_percent"}
        assert all(0 <= percent <= 100 for percent in detail["telemetry"].values())
        answer = hub.api.call("GET", f"/sessions/{session_id}/metrics")
        metrics = answer.data
        assert metrics["uptime_seconds"] > 0
        assert metrics["network_rx_bytes"] > 0
        assert metrics["timestamp"] <= answer.json["meta"]["timestamp"]

        agent.kill()
        _wait_status(hub, session_id, "GRACE_PERIOD")
        away = hub.api.get(f"/sessions/{session_id}/metrics")
        assert away["timestamp"] >= metrics["timestamp"]  # the last one, with its own time
        agent.rejoin(hub)
        agent.stop()
        _wait_status(hub, session_id, "DISCONNECTED")
        answer = hub.api.call("GET", f"/sessions/{session_id}/metrics")
        assert (answer.status, answer.error["code"]) == (409, "session_not_active")
        assert answer.error["details"] == {"current_status": "DISCONNECTED"}
