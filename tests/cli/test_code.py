"""`cmdop code`: an AI coding agent in the window of a person."""

import subprocess

import pytest

from tests.cli.window import window
from tests.sdk.scripted_hub import answer, scripted_hub


@pytest.fixture
def code(desk):
    """Opens a window with `cmdop code nas …`."""

    def opened(*args):
        return window("code", "nas", *args, cols=200, **desk.environ)

    return opened


def test_an_agent_is_started_where_it_is_wanted_and_typed_to(desk, code, tmp_path):
    place = tmp_path / "new"
    with code(str(place), "--agent", "codex", "--model", "m 1", "--yolo") as one:
        flags = "--model m 1 --dangerously-bypass-approvals-and-sandbox"
        one.wait(f"\ncodex {flags} in {place}")
        one.type("\x1d")
        assert one.wait_exit() == 0
        one.wait("which runs on: cmdop sessions attach codex-")
    with window("sessions", "attach", "codex-", cols=200, **desk.environ) as one:
        one.wait(f"in {place}")
        one.type("yes\r")
        assert one.wait_exit() == 4
        one.wait("told yes\ncodex-")


def test_a_worktree_is_named_and_what_the_machine_refuses_is_said(code, tmp_path):
    place = tmp_path / "repo"
    place.mkdir()
    with code(str(place), "--worktree", "try") as one:
        assert one.wait_exit() == 255
        one.wait(lambda text: text.startswith("error: ") and "git" in text)
    git = ["git", "-C", str(place), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    with code(str(place), "--worktree", "try") as one:
        one.wait(f"in {tmp_path}/repo-worktrees/try, on the new branch cmdop-try\n")
        one.wait(f"\nclaude  in {tmp_path}/repo-worktrees/try")
        one.type("\r")
        assert one.wait_exit() == 4


def test_detached_it_only_says_its_id(desk, code, command_line, tmp_path):
    at = (desk.hub.api.url, desk.hub.api.key)
    done = command_line(*at, "code", "nas", str(tmp_path), "--detach")
    (running,) = desk.running()
    assert done == (0, f"{running['id']}\n", "")
    assert (running["agent"], running["directory"]) == ("claude", str(tmp_path))


HINT = "hint: is it up, and does its agent run? there: cmdop agent status\n"


def test_a_machine_that_is_offline_is_said_at_once(command_line):
    machines = [{"id": "mach_1", "name": "nas", "hostname": "nas", "status": "offline"}]
    with scripted_hub(lambda _: answer(machines)) as hub:
        done = command_line(hub.url, "k", "code", "nas", "/srv", "--detach")
    assert done == (255, "", "error: nas is not connected\n" + HINT)
    assert [asked.method for asked in hub.asked] == ["GET"]
