"""`cmdop webhooks`: what it asks the hub for, what a person reads, and where no token may stand."""

import json
import re

import pytest

from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.webhook_settings import expand
from cmdop_appliance.model import EVENT_TYPES
from tests.sdk.scripted_hub import answer, scripted_hub

URL = "https://ntfy.example/topic"
WEBHOOK = {
    "id": "hook_1",
    "url": URL,
    "events": ["command.failed"],
    "enabled": True,
    "description": "",
    "preset": None,
    "header_names": [],
    "disabled_reason": None,
    "failing_since": None,
    "last_success_at": None,
    "pending": 0,
}
ATTEMPT = {
    "number": 1,
    "at": "2026-02-14T10:30:00Z",
    "duration": 120,
    "response_status": 500,
    "error": "it answered 500",
    "response_excerpt": "no\x1b",
}
SILENT = {**ATTEMPT, "number": 2, "response_status": None, "error": "no answer"}
SILENT |= {"response_excerpt": None}
DELIVERY = {
    "id": "dlv_1",
    "event": "command.failed",
    "subject": "cmd_1",
    "status": "dead",
    "reason": "exhausted",
    "attempt_count": 2,
    "next_attempt_at": None,
    "created_at": "2026-02-14T10:30:00Z",
    "attempts": [ATTEMPT, SILENT],
}


def _answer(asked, fields):
    record, delivery = {**WEBHOOK, **fields}, {**DELIVERY, **fields}
    path = asked.path.removeprefix("/api/v1/webhooks")
    match asked.method, path:
        case "GET", "":
            return answer([record, *fields.get("others", ())])
        case "POST", "":
            return answer({**record, "secret": "whsec_s"}, status=201)
        case "GET", _ if path.endswith("/deliveries"):
            return answer([delivery])
        case "POST", "/hook_1/redeliver":
            return answer({"redelivered": 3})
        case "POST", _:
            return answer(delivery)
        case "DELETE", _:
            return answer({"deleted": True})
    return answer(record)


@pytest.fixture
def cmdop(command_line, monkeypatch):
    """Runs `cmdop webhooks …`: (its exit code, what it printed, what it said, what it asked)."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*args, stdin=b"", **fields):
        with scripted_hub(lambda asked: _answer(asked, fields)) as hub:
            return *command_line(hub.url, "k", "webhooks", *args, stdin=stdin), hub.asked

    return run


def _sent(asked):
    """The one change that was asked for: (method, path, body)."""
    (change,) = (a for a in asked if a.method != "GET")
    path = change.path.removeprefix("/api/v1/webhooks")
    return change.method, path, json.loads(change.body or "null")


def test_every_option_reaches_the_hub_and_no_token_need_stand_in_the_command_line(cmdop, tmp_path):
    (tmp_path / "headers").write_text("Authorization: Bearer a:b\n\nX-Two:2\n")
    (tmp_path / "secret").write_text("my secret\n")
    files = ["--header-file", str(tmp_path / "headers"), "--secret-file", str(tmp_path / "secret")]
    options = ["--preset", "ntfy", "--header", "X-One: 1", "--description", "d", "--disabled"]
    *_, asked = cmdop("create", "-", "--events", "a.b,*", *options, *files, stdin=b"http://x/t\n")
    body = {
        "url": "http://x/t",
        "events": ["a.b", "*"],
        "preset": "ntfy",
        "headers": {"X-One": "1", "Authorization": "Bearer a:b", "X-Two": "2"},
        "secret": "my secret",
        "description": "d",
        "enabled": False,
    }
    assert _sent(asked) == ("POST", "", body)
    *_, asked = cmdop("create", URL, "--events", "*", "--header-file", "-", stdin=b"A: b")
    assert _sent(asked)[2] == {"url": URL, "events": ["*"], "headers": {"A": "b"}}


def test_the_secret_is_shown_once_and_said_so(cmdop):
    code, out, err, _ = cmdop("create", URL, "--events", "*")
    assert (code, "secret\twhsec_s\n" in out) == (0, True)
    assert err.startswith("keep the secret now: it is not shown again\nto verify a request, ")
    assert err.endswith("X-Cmdop-Signature with sha256=<hex of HMAC-SHA256(secret, body)>\n")
    assert cmdop("create", URL, "--events", "*", "-q")[1:3] == ("whsec_s\n", "")
    assert cmdop("create", URL, "--events", "*", "-o", "name")[1:3] == ("hook_1\n", "")
    _, out, err, _ = cmdop("create", URL, "--events", "*", preset="ntfy")
    assert err == ""


@pytest.mark.parametrize(
    ("args", "stdin", "said"),
    [
        (["create", URL], b"", "--events"),
        (["create", URL, "--events", ","], b"", "no name is given"),
        (["create", URL, "--events", "nothing.*"], b"", ", command.*, "),
        (["create", "-", "--events", "*"], b"\n", "standard input has no URL"),
        (["create", "-", "--events", "*"], b"\xff", "standard input has bytes that are not UTF-8"),
        (["create", URL, "--events", "*", "--header", "t0ken"], b"", "a header needs its name"),
        (["create", URL, "--events", "*", "--header-file", "-"], b"t0ken:", "a header needs"),
        (["create", URL, "--events", "*", "--secret-file", "-"], b" \n", "has no secret"),
        (["create", URL, "--events", "*", "--secret-file", "-"], b"t" * 70_000, "is larger"),
        (["create", URL, "--events", "*", "--secret-file", "/no/such"], b"", "/no/such"),
        (["edit", "hook_1"], b"", "nothing to change"),
        (["edit", "hook_1", "--preset", "ntfy", "--unset", "preset"], b"", "gives: preset"),
        (["edit", "h", "--header", "A: b", "--unset", "headers"], b"", "gives: headers"),
        (["deliveries", "hook_1", "--event", "command.*"], b"", "one event, such as"),
        (["redeliver", "hook_1"], b"", "a DELIVERY or --since"),
        (["redeliver", "hook_1", "dlv_1", "--since", "1h"], b"", "a DELIVERY or --since"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_not_repeated(cmdop, args, stdin, said):
    code, out, err, asked = cmdop(*args, stdin=stdin)
    assert (code, out, asked) == (2, "", [])
    assert said in err
    assert "t0ken" not in err


def test_a_family_is_all_of_its_events_that_there_are():
    family = [kind for kind in EVENT_TYPES if kind.startswith("schedule.")]
    assert expand(["schedule.*", "schedule.failed", "new.event", "*"]) == [
        *family,
        "new.event",
        "*",
    ]
    with pytest.raises(Failure):
        expand(["sched.*"])


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "ok"),
        ({"failing_since": "2026-01-01T00:00:00Z"}, "failing since 2026-01-01T00:00:00Z"),
        ({"enabled": False}, "paused"),
        ({"enabled": False, "disabled_reason": "gone\x1b"}, "disabled: gone\\x1b"),
    ],
)
def test_a_list_tells_how_each_is(cmdop, fields, state):
    _, out, _, _ = cmdop("ls", **fields)
    assert out == f"hook_1\t{state}\t0\t-\t-\t{URL}\tcommand.failed\n"
    assert json.loads(cmdop("ls", "-o", "json", **fields)[1]) == [{**WEBHOOK, **fields}]
    long = {**fields, "id": "hook_" + "0" * 26, "events": ["command.completed"] * 30}
    head, line = cmdop("ls", "-o", "table", **long)[1].splitlines()
    assert head.split() == ["ID", "STATE", "PENDING", "RECEIVER"]
    assert line.split() == [long["id"], re.split("[ :]", state)[0], "0", URL]
    assert "phone" in cmdop("ls", "-o", "table", **long, description="phone")[1]


def test_one_is_named_by_its_id_or_by_a_description_that_no_other_has(cmdop):
    other = {**WEBHOOK, "id": "hook_2", "description": "pager"}
    *_, asked = cmdop("resume", "phone", description="phone", others=[other])
    assert _sent(asked)[1] == "/hook_1"
    code, _, err, asked = cmdop("resume", "pager", description="pager", others=[other])
    said = 'error: "pager" fits 2 webhooks: pager (hook_1), pager (hook_2)\nhint: use the id\n'
    assert (code, err, len(asked)) == (2, said, 1)
    code, _, err, _ = cmdop("resume", "phon", others=[other])
    assert (code, err) == (3, 'error: webhook "phon" not found\nhint: cmdop webhooks ls\n')


def test_it_is_changed_paused_resumed_and_removed(cmdop):
    code, out, _, asked = cmdop(
        "edit", "hook_1", "--url", "-", "--events", "a.b", stdin=b"http://x"
    )
    assert (code, "id\thook_1\n" in out) == (0, True)
    assert _sent(asked) == ("PATCH", "/hook_1", {"url": "http://x", "events": ["a.b"]})
    *_, asked = cmdop("edit", "hook_1", "--unset", "preset", "--unset", "headers")
    assert _sent(asked)[2] == {"preset": None, "headers": {}}
    *_, asked = cmdop("pause", "hook_1")
    assert _sent(asked) == ("PATCH", "/hook_1", {"enabled": False})
    *_, asked = cmdop("resume", "hook_1")
    assert _sent(asked) == ("PATCH", "/hook_1", {"enabled": True})
    _, _, err, asked = cmdop("rm", "hook_1", description="phone")
    assert (_sent(asked)[:2], err) == (("DELETE", "/hook_1"), "removed hook_1 (phone)\n")


def test_a_test_ends_as_its_delivery_did(cmdop):
    code, out, _, asked = cmdop("test", "hook_1")
    assert _sent(asked)[:2] == ("POST", "/hook_1/test")
    assert (code, out) == (1, "it answered 500 (120 ms): no\\x1b\nno answer (120 ms)\n")
    done = {**ATTEMPT, "response_status": 204, "error": None, "response_excerpt": None}
    code, out, _, _ = cmdop("test", "hook_1", status="delivered", attempts=[done])
    assert (code, out) == (0, "HTTP 204 (120 ms)\n")


def test_deliveries_are_listed_with_their_attempts_if_asked(cmdop):
    filters = ["--status", "dead", "--event", "a.b", "--since", "2h", "-n", "5"]
    _, out, _, (_, asked) = cmdop("deliveries", "hook_1", *filters)
    line = "dlv_1\tdead\tcommand.failed\tcmd_1\t2\t2026-02-14T10:30:00Z\t-\texhausted\n"
    assert out == line
    assert asked.query.startswith("status=dead&event=a.b&since=20")
    assert "limit=5" in asked.query
    assert cmdop("deliveries", "hook_1", "-v")[1].splitlines() == [
        "dlv_1  command.failed  cmd_1  dead: exhausted",
        "  1. 2026-02-14T10:30:00Z  it answered 500 (120 ms): no\\x1b",
        "  2. 2026-02-14T10:30:00Z  no answer (120 ms)",
    ]
    long = {"id": "dlv_" + "0" * 26, "event": "schedule.completed", "subject": "cmd_" + "0" * 26}
    head, line = cmdop("deliveries", long["id"], "-o", "table", **long)[1].splitlines()
    assert head.split()[:4] == ["ID", "STATUS", "EVENT", "CREATED"]
    assert len(line) <= 80
    assert "schedule.completed" in line


def test_one_delivery_or_all_of_some_time_are_put_in_line_again(cmdop):
    code, out, _, asked = cmdop("redeliver", "hook_1", "dlv_1", "-o", "name")
    assert (code, out) == (0, "dlv_1\n")
    assert _sent(asked)[:2] == ("POST", "/hook_1/deliveries/dlv_1/redeliver")
    for status in ("pending", "delivered", "dead"):
        _, out, err, asked = cmdop("redeliver", "hook_1", "--since", "2h", "--status", status)
        assert (out, err) == ("redelivered\t3\n", "")
        body = _sent(asked)[2]
        assert (body.keys(), body["status"]) == ({"since", "status"}, status)
