"""Coding sessions on a real machine, by a token: the agents are programs of our own."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.appliance import Agent, Answer, Api, Hub, add_coding_agent, wait_for

# Says how it was called, and ends with 3 when it is told to.
SCRIPT = 'printf "%s\\n" "$@" >args; until [ -e stop ]; do sleep 0.02; done; exit 3'


@pytest.fixture(scope="module")
def api(hub: Hub, place: Path) -> Api:
    for name in ("claude", "codex", "cursor-agent"):
        add_coding_agent(place, name, SCRIPT)
    answer = hub.api.call("POST", "/api/auth", {"accessToken": f"{hub.api.key}:default"})
    return Api(hub.api.url, answer.json["token"])


def spawn(api: Api, machine: Agent, directory: Path, **body: object) -> Answer:
    path = f"/api/machines/{machine.machine_id}/spawn"
    return api.call("POST", path, {"directory": str(directory), **body})


def session(api: Api, session_id: str):
    return api.call("GET", f"/api/sessions/{session_id}").json["session"]


def wait_ended(api: Api, session_id: str):
    def ended():
        found = session(api, session_id)
        return None if found["active"] else found

    return wait_for(ended, f"{session_id} ends")


def words(directory: Path) -> list[str]:
    """How the agent that was started there was called."""
    wait_for(lambda: (directory / "args").exists() and (directory / "args").read_text(), "it runs")
    return (directory / "args").read_text().split()


@pytest.mark.parametrize(
    ("name", "yolo"),
    [
        ("claude", "--dangerously-skip-permissions"),
        ("codex", "--dangerously-bypass-approvals-and-sandbox"),
        ("cursor", "--yolo"),
    ],
)
def test_an_agent_runs_where_and_as_it_was_asked_to_and_ends_with_its_exit_code(
    api, agent, tmp_path, name, yolo
):
    directory = tmp_path / "not" / "there yet"
    answer = spawn(api, agent, directory, agent=name, model="m-1", yolo=True)
    assert answer.json["success"] is True, answer
    session_id = answer.json["sessionId"]
    assert words(directory) == ["--model", "m-1", yolo]
    running = session(api, session_id)
    assert (running["active"], running["metadata"]["flavor"]) == (True, name)
    assert running["metadata"]["path"] == str(directory)
    (directory / "stop").touch()
    ended = wait_ended(api, session_id)
    assert (ended["end"], ended["exitCode"]) == ("exited", 3)


def test_a_session_in_a_worktree_is_ended_on_request_and_told_as_events(hub, api, agent, tmp_path):
    me = ("-c", "user.name=x", "-c", "user.email=x@localhost")
    for args in (("init", tmp_path / "repo"), (*me, "commit", "--allow-empty", "-m", "x")):
        where = ("-C", tmp_path / "repo") if args[0] != "init" else ()
        subprocess.run(["git", *where, *args], check=True, capture_output=True)
    body = {"sessionType": "worktree", "worktreeName": "feature auth"}
    session_id = spawn(api, agent, tmp_path / "repo", **body).json["sessionId"]
    made = session(api, session_id)["metadata"]["worktree"]
    assert made["basePath"] == str(tmp_path / "repo")
    assert Path(made["worktreePath"]).parent == tmp_path / "repo-worktrees"
    assert made["branch"].startswith("cmdop-feature-auth")
    words(Path(made["worktreePath"]))
    assert api.call("DELETE", f"/api/sessions/{session_id}").json == {"ok": True}
    assert wait_ended(api, session_id)["end"] == "cancelled"
    told = []
    for event in hub.api.follow("/events?types=coding_session.*", "0"):
        if event.data["data"]["session_id"] == session_id:
            told.append(event.name)
        if told[-1:] == ["coding_session.ended"]:
            break
    assert told == ["coding_session.started", "coding_session.ended"]


def test_what_the_machine_refuses_has_its_reason_and_leaves_nothing(api, agent, tmp_path):
    for body, reason in (
        ({"agent": "gemini"}, "gemini is not installed on "),
        ({"sessionType": "worktree", "worktreeName": "x"}, "in no git repository"),
    ):
        answer = spawn(api, agent, tmp_path / "new" if "agent" in body else tmp_path, **body)
        assert answer.status == 200
        assert answer.json["success"] is False
        assert reason in answer.json["error"]
        assert not list(tmp_path.iterdir())
    assert "gemini" in json.dumps(api.call("GET", "/api/sessions").json)
