"""Logging in to hubs, and the file that keeps their keys."""

import json

import pytest

from cmdop_appliance.cli.contexts import Context, Contexts, config_file, read_contexts
from cmdop_appliance.cli.failures import Failure
from tests.cli.files_cli import cmdop
from tests.sdk.scripted_hub import Asked, answer, http, scripted_hub

ME = {"name": "laptop", "permissions": ["sessions:read"], "hub_version": "0.1.0"}


@pytest.fixture
def environ(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def _login(hub, *args, stdin=b"the-key\n"):
    return cmdop(hub, "login", *args, stdin=stdin)


def test_a_key_that_is_good_is_kept_where_nobody_else_reads_it(environ):
    with scripted_hub(lambda _: answer(ME)) as hub:
        done = _login(hub, f"{hub.url}/", "--name", "home")
    assert (done.returncode, done.stdout) == (0, b"")
    assert hub.asked[0].headers["authorization"] == "Bearer the-key"
    assert b"the-key" not in done.stderr
    assert read_contexts(environ) == Contexts({"home": Context(hub.url, "the-key")}, "home")
    path = config_file(environ)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_key_that_is_not_good_is_not_kept(environ):
    refusal = answer({"code": "unauthorized", "message": "no"}, status=401)
    with scripted_hub(lambda _: refusal) as hub:
        done = _login(hub, hub.url)
    assert done.returncode == 4
    assert b"admin.key" in done.stderr
    assert b"--key" not in done.stderr  # which this command does not have
    assert read_contexts(environ) == Contexts()


def test_the_newest_login_is_used_until_another_is_chosen_or_it_is_forgotten(environ):
    with scripted_hub(lambda _: answer(ME)) as hub:
        for name in ("one", "two"):
            _login(hub, hub.url, "--name", name)
        listed = cmdop(hub, "context", "ls", "-o", "json").stdout
        assert {each["name"]: each["current"] for each in json.loads(listed)} == {
            "one": False,
            "two": True,
        }
        assert b"key" not in listed
        assert cmdop(hub, "context", "use", "one").returncode == 0
        assert read_contexts(environ).current == "one"
        assert cmdop(hub, "logout").returncode == 0
        assert read_contexts(environ).current is None
        assert cmdop(hub, "logout").returncode == 2
        assert cmdop(hub, "context", "rm", "two").returncode == 0
        assert cmdop(hub, "context", "use", "two").returncode == 3
    assert read_contexts(environ) == Contexts()


def test_a_name_is_taken_from_the_address_and_may_not_be_just_anything(environ):
    with scripted_hub(lambda _: answer(ME)) as hub:
        assert _login(hub, hub.url).returncode == 0
        assert _login(hub, hub.url, "--name", "a\nb").returncode == 2
    assert [*read_contexts(environ).known] == ["127.0.0.1"]


@pytest.mark.parametrize("url", ["127.0.0.1:3006", "hub.lan", "http://", "ftp://hub"])
def test_what_is_no_address_is_told_before_the_key_is_asked_for(environ, url):
    with scripted_hub(lambda _: answer(ME)) as hub:
        done = _login(hub, url)
    assert done.returncode == 2
    assert b"the hub's URL must look like http://" in done.stderr
    assert hub.asked == []


@pytest.mark.parametrize(
    "content", ["[", "contexts = 1", "[contexts.a]\nurl = 'x'", "contexts.a = 1", "\0"]
)
def test_a_file_that_somebody_broke_is_named(environ, content):
    path = config_file(environ)
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(Failure, match="it is not what cmdop login writes"):
        read_contexts(environ)


def test_a_file_that_others_may_read_is_warned_of(environ, capsys):
    with scripted_hub(lambda _: answer(ME)) as hub:
        _login(hub, hub.url)
    config_file(environ).chmod(0o644)
    assert read_contexts(environ).current == "127.0.0.1"
    assert "warning: others may read" in capsys.readouterr().err


def test_without_a_home_nothing_is_kept(monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    with scripted_hub(lambda _: answer(ME)) as hub:
        done = _login(hub, hub.url)
    assert done.returncode == 1
    assert b"HOME is not set" in done.stderr


def test_the_status_counts_what_the_key_may_see(environ):
    webhook, schedule = {"id": "wh_1"}, {"enabled": True, "next_run": "2026-01-02T00:00:00Z"}
    lists = {"/webhooks": [webhook], "/schedules": [schedule, {"enabled": False}]}
    totals = {"status=online": 3, "status=offline": 1, "status=dead": 2}

    def script(asked: Asked):
        path = asked.path.removeprefix("/api/v1")
        if path == "/auth/me":
            return answer(ME)
        if path == "/readyz":
            return http(503, b'{"reasons":["the disk is full"]}')
        if path == "/backups":
            return answer({"last_at": None, "error": "no room"})
        if path == "/commands":
            return answer({"code": "forbidden", "message": "no"}, status=403)
        total = next((n for text, n in totals.items() if text in asked.query), 0)
        return answer(lists.get(path, []), meta={"total": total})

    with scripted_hub(script) as hub:
        shown = json.loads(cmdop(hub, "status", "-o", "json").stdout)
    assert shown == {
        "hub": hub.url,
        "found_by": "CMDOP_URL",
        "version": "0.1.0",
        "not_ready": "the disk is full",
        "key": "laptop",
        "machines_online": 3,
        "machines_offline": 1,
        "commands_running": None,
        "commands_waiting": None,
        "schedules_enabled": 1,
        "next_run": "2026-01-02T00:00:00Z",
        "dead_deliveries": 2,
        "last_backup": None,
        "backup_error": "no room",
    }
