"""`cmdop auth` and `cmdop workspaces` against a hub, all of it real."""

import json
import subprocess
import sys

import pytest

from tests.support.appliance import BASE_ENVIRONMENT, Api


@pytest.fixture
def cmdop(hub):
    """Runs the command line with the admin key, or another one."""

    def run(*args: str, key: str = hub.api.key) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cmdop_appliance", *args],
            capture_output=True,
            text=True,
            env={**BASE_ENVIRONMENT, "CMDOP_URL": hub.api.url, "CMDOP_API_KEY": key},
            timeout=60,
            check=False,
        )

    return run


def test_a_key_is_made_as_it_was_asked_for(hub, cmdop):
    asked = ["--scopes", "machines:read, sessions:read", "--tags", "web,eu"]
    made = cmdop("auth", "create-key", "ci", "-q", *asked, "--expires-in-days", "3")
    assert (made.returncode, made.stderr) == (0, "")
    me = Api(hub.api.url, made.stdout.strip()).get("/auth/me")
    assert (me["name"], me["permissions"]) == ("ci", ["machines:read", "sessions:read"])
    assert me["tags"] == ["web", "eu"]
    assert me["expires_at"] is not None


def test_a_key_of_which_nothing_is_said_may_do_everything_but_admin(hub, cmdop):
    key = cmdop("auth", "create-key", "-q").stdout.strip()
    me = Api(hub.api.url, key).get("/auth/me")
    assert "admin" not in me["permissions"]
    assert len(me["permissions"]) == 11
    assert (me["tags"], me["expires_at"]) == ([], None)


def test_the_secret_is_shown_once_and_said_so(hub, cmdop):
    made = cmdop("auth", "create-key", "once")
    assert "cmdop_apikey_" in made.stdout
    assert made.stderr == "keep the key now: it is not shown again\n"
    listed = cmdop("auth", "list-keys", "-o", "json").stdout
    (row,) = (row for row in json.loads(listed) if row["name"] == "once")
    assert "key" not in row
    assert row["last_used_at"] is None
    assert json.loads(cmdop("auth", "create-key", "-o", "json").stdout)["key"]
    table = cmdop("auth", "list-keys", "-o", "table").stdout
    assert table.split("\n")[0].split()[:3] == ["ID", "NAME", "LAST"]


def test_a_scope_that_there_is_not_is_named(cmdop):
    wrong = cmdop("auth", "create-key", "--scopes", "machines:read,root")
    assert wrong.returncode == 2
    assert "'root' is not one of" in wrong.stderr


def test_a_restricted_key_is_told_why_it_cannot_make_a_wider_one(cmdop):
    key = cmdop("auth", "create-key", "-q", "--scopes", "admin", "--tags", "web").stdout.strip()
    refused = cmdop("auth", "create-key", "--tags", "eu", key=key)
    assert refused.returncode == 4
    assert "restricted to web" in refused.stderr


def test_what_an_observer_may_do_about_it_is_told(hub, agent, cmdop):
    scopes = "machines:read,sessions:read,commands:execute"
    key = cmdop("auth", "create-key", "-q", "--scopes", scopes).stdout.strip()
    session = hub.api.get(f"/machines/{agent.machine_id}/session")["session_id"]
    Api(hub.api.url, key).post(f"/sessions/{session}/attach", mode="observer")
    refused = cmdop("exec", agent.machine_id, "--", "true", key=key)
    assert refused.returncode == 255
    assert refused.stderr.splitlines()[1:] == ["hint: detach, or attach as an operator"]


def test_status_says_who_and_where(hub, cmdop):
    shown = cmdop("auth", "status")
    lines = dict(line.split("\t") for line in shown.stdout.splitlines())
    assert lines["hub"] == hub.api.url
    assert lines["found_by"] == "CMDOP_URL"
    assert lines["workspace"] == "default (ws_default)"
    assert lines["email"] == "admin@default"
    plain = json.loads(cmdop("auth", "status", "-o", "json").stdout)
    assert plain == hub.api.get("/auth/me")


def test_a_workspace_is_added_and_listed(hub, cmdop):
    key = cmdop("workspaces", "add", "acme", "-q").stdout.strip()
    assert Api(hub.api.url, key).get("/auth/me")["workspace"]["namespace"] == "acme"
    listed = cmdop("workspaces", "ls", "-o", "name").stdout.split()
    assert {"default", "acme"} <= set(listed)
    again = cmdop("workspaces", "add", "acme")
    assert again.returncode == 1
    assert again.stderr.startswith("error: there is a workspace of this namespace")
    assert cmdop("workspaces", "ls", key=key).returncode == 4
    other = cmdop("workspaces", "add", "other")
    assert other.stdout.startswith("cmdop_apikey_")
    third = cmdop("workspaces", "add", "third", "-o", "json")
    assert json.loads(third.stdout)["api_key"]["key"]
    assert "it is not shown again" in other.stderr
