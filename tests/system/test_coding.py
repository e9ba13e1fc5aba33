"""AI coding agents, spawned through HAPI on a real machine: pretended ones, which say how they were
started. The real ones: scripts/torture --only coding-agents.
"""

import subprocess
from pathlib import Path

import pytest

from tests.support.appliance import Agent, Hub, ending, running_hub, wait_for
from tests.support.typist import typist

FLAGS = {
    "claude": ("claude", "--model", "--dangerously-skip-permissions"),
    "codex": ("codex", "--model", "--dangerously-bypass-approvals-and-sandbox"),
    "cursor": ("cursor-agent", "--model", "--yolo"),
    "gemini": ("gemini", "--model", "--yolo"),
}
# Says who it is, takes one line, and ends with the number in it.
SCRIPT = (
    '#!/bin/sh\necho "$(basename "$0") in $(pwd) with [$*]"\nprintf "> "\nread -r n\nexit "$n"\n'
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    place = tmp_path_factory.mktemp("coding")
    programs = place / "programs"
    programs.mkdir()
    for name in ("claude", "codex", "cursor-agent", "gemini", "opencode"):
        (programs / name).write_text(SCRIPT)
        (programs / name).chmod(0o755)
    agent = Agent(place, "box")
    agent.state_dir.mkdir(mode=0o700)
    policy = f'[files]\nroots = ["{place}"]\n[coding]\npath = ["{programs}"]\nwaiting_ms = 500\n'
    (agent.state_dir / "agent.toml").write_text(policy)
    with running_hub(place) as hub, ending(agent):
        agent.join(hub)
        yield hub, agent, place


def spawn(hub: Hub, machine: Agent, **body: object) -> dict[str, object]:
    path = f"/api/machines/{machine.machine_id}/spawn"
    answer = hub.api.call("POST", path, body)
    assert answer.status == 200, answer
    spawned: dict[str, object] = answer.json
    return spawned


def session(hub: Hub, session_id: object) -> dict[str, object]:
    found: dict[str, object] = hub.api.call("GET", f"/api/sessions/{session_id}").json["session"]
    return found


@pytest.mark.parametrize("flavour", sorted(FLAGS))
def test_a_flavour_is_started_as_promised_and_ends_with_its_exit_code(site, flavour):
    hub, agent, place = site
    directory = place / "projects" / flavour
    spawned = spawn(hub, agent, directory=str(directory), agent=flavour, model="m-1", yolo=True)
    assert spawned["success"] is True, spawned
    name, model, yolo = FLAGS[flavour]
    with typist(hub.api, str(spawned["sessionId"]), cols=200) as person:
        person.wait_screen(f"{name} in {directory} with [{model} m-1 {yolo}]")
        person.type("3\r")
        assert person.wait_end()["exit_code"] == 3
    ended = session(hub, spawned["sessionId"])
    assert (ended["active"], ended["exitCode"]) == (False, 3)


def test_a_session_says_when_it_waits_for_somebody(site):
    hub, agent, place = site
    spawned = spawn(hub, agent, directory=str(place))
    session_id = spawned["sessionId"]
    wait_for(lambda: session(hub, session_id)["waiting"], "it waits")
    events = hub.api.follow("/events?types=coding_session.waiting", "0")
    assert next(events).data["data"]["session_id"] == session_id
    events.close()
    assert hub.api.call("DELETE", f"/api/sessions/{session_id}").status == 200
    wait_for(lambda: not session(hub, session_id)["active"], "it has ended")


def test_a_worktree_session_runs_in_its_own_tree_and_a_failed_one_leaves_nothing(site):
    hub, agent, place = site
    repository = place / "repo"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(repository)]
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    listed = [*git, "worktree", "list", "--porcelain"]
    asked = {
        "directory": str(repository),
        "sessionType": "worktree",
        "worktreeName": "Feature auth",
    }
    spawned = spawn(hub, agent, **asked)
    assert spawned["success"] is True, spawned
    tree = place / "repo-worktrees" / "feature-auth"
    with typist(hub.api, str(spawned["sessionId"]), cols=200) as person:
        person.wait_screen(f"claude in {tree} with []")
        person.type("0\r")
        person.wait_end()
    before = subprocess.run(listed, capture_output=True, check=True).stdout
    assert str(tree).encode() in before
    broken = place / "programs" / "gemini"
    broken.write_text("#!/nowhere/at/all\n")  # found, and cannot be started
    refused = spawn(hub, agent, **{**asked, "worktreeName": "other", "agent": "gemini"})
    broken.write_text(SCRIPT)
    assert refused["success"] is False, refused
    assert subprocess.run(listed, capture_output=True, check=True).stdout == before
    assert not (place / "repo-worktrees" / "other").exists()


def test_what_is_not_installed_is_said_with_where_it_was_looked_for(site):
    hub, agent, place = site
    (place / "programs" / "gemini").rename(place / "programs" / "away")
    try:
        refused = spawn(hub, agent, directory=str(place), agent="gemini")
    finally:
        (place / "programs" / "away").rename(place / "programs" / "gemini")
    assert refused["success"] is False
    assert "gemini is not installed on" in str(refused["message"])
    assert str(Path(place / "programs")) in str(refused["message"])
