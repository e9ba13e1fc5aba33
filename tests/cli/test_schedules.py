"""`cmdop schedules`: what it asks the hub for, and what a person reads."""

import json
import re
import time

import pytest

from tests.sdk.scripted_hub import answer, end, output, scripted_hub, stream

ID, OTHER = "sched_01A", "sched_01B"
SCHEDULE = {
    "id": ID,
    "name": "Nightly backup",
    "description": "",
    "machine_id": "mach_1",
    "machine_ids": None,
    "tags": None,
    "command": "true",
    "cron": "30 2 * * *",
    "rule": "at 02:30 every day",
    "timezone": "Europe/Berlin",
    "enabled": True,
    "env": {"A": "1", "B": "2"},
    "notify": {"on_success": True, "on_failure": False},
    "next_run": "2026-03-29T01:00:00Z",
    "last_run": {"at": "2026-03-28T01:30:00Z", "exit_code": 3, "duration": 1500},
    "paused": None,
}
GROUP = {**SCHEDULE, "id": OTHER, "name": "updates", "machine_id": None, "tags": ["web", "eu"]}
MACHINES = [
    {"id": "mach_1", "name": "nas", "hostname": "nas"},
    {"id": "mach_2", "name": "pi", "hostname": "pi"},
]
RUN = {
    "id": "run_1",
    "scheduled_at": "2026-03-28T01:30:00Z",
    "first_scheduled_at": "2026-03-01T01:30:00Z",
    "clock_was_ahead": True,
    "machine_id": "mach_1",
    "command_id": None,
    "status": "skipped",
    "reason": "overlap",
    "message": "cmd_0\x1b[2J is in the way",
    "exit_code": None,
    "duration": None,
}
RAN = {**RUN, "command_id": "cmd_1", "status": "completed", "exit_code": 0, "duration": 1500}
RAN |= dict.fromkeys(("reason", "message", "scheduled_at", "first_scheduled_at"))
RAN |= {"clock_was_ahead": False}
PREVIEW = {
    "description": "at 02:30 every day",
    "next_runs": [
        {
            "utc": "2026-03-29T01:00:00Z",
            "local": "2026-03-29T03:00:00+02:00",
            "note": "02:30 does not exist",
        },
    ],
}
SHOWN = (
    "at 02:30 every day (Europe/Berlin)\n2026-03-29T01:00:00Z\t2026-03-29T03:00:00+02:00\t"
    "2026-03-29T10:00:00+09:00\t02:30 does not exist\n"
)


def _answer(asked, **more):
    """A hub with two schedules and two machines."""
    path = asked.path.removeprefix("/api/v1")
    forbidden = answer({"code": "forbidden", "message": "no machines:read"}, status=403)
    match asked.method, path:
        case "GET", "/schedules":
            return answer([{**SCHEDULE, **more.get("held", {})}, GROUP])
        case "GET", "/machines":
            return answer(MACHINES) if more.get("may_see", True) else forbidden
        case "GET", _ if path.endswith("/history"):
            return answer([RAN, RUN])
        case _ if path.endswith("/preview"):
            return answer({**PREVIEW, "next_runs": more.get("firings", PREVIEW["next_runs"])})
        case "POST", _ if path.endswith("/run"):
            commands = more.get("commands", {"mach_1": "cmd_1"})
            return answer({"command_id": "cmd_1", "status": "running", "commands": commands})
        case "GET", "/commands/cmd_1/stream":
            return stream(output("stdout", b"out\n", "4-0"), end(exit_code=7, status="failed"))
        case "PATCH" | "POST", _:
            return answer({**SCHEDULE, **more.get("made", {})})
    return answer({"deleted": True})


@pytest.fixture
def cmdop(command_line, monkeypatch):
    """Runs `cmdop schedules …` in Tokyo: (its exit code, what it printed, said and asked for)."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("COLUMNS", "80")
    time.tzset()

    def run(*args, **more):
        with scripted_hub(lambda asked: _answer(asked, **more)) as hub:
            return *command_line(hub.url, "k", "schedules", *args), hub.asked

    yield run
    monkeypatch.undo()
    time.tzset()


def _sent(asked):
    """The one change that was asked for: (method, path, body)."""
    (change,) = (a for a in asked if a.method != "GET" and not a.path.endswith("/preview"))
    return change.method, change.path.removeprefix("/api/v1"), json.loads(change.body or "null")


def test_every_option_reaches_the_hub_and_one_word_is_shell_text(cmdop):
    options = ["--cron", "30 2 * * *", "-m", "nas", "--tz", "Europe/Berlin", "--timeout", "5m"]
    options += ["--cwd", "/srv", "--env", "A=1=2", "--user", "ann", "--overlap", "queue"]
    options += ["--misfire", "skip", "--misfire-window", "6h", "--notify-failure", "--disabled"]
    options += ["--description", "d"]
    *_, asked = cmdop("create", "b", *options, "--", "df -h | sort")
    assert _sent(asked) == (
        "POST",
        "/schedules",
        {
            "name": "b",
            "command": "df -h | sort",
            "cron": "30 2 * * *",
            "machine_id": "mach_1",
            "timezone": "Europe/Berlin",
            "timeout": 300_000,
            "cwd": "/srv",
            "env": {"A": "1=2"},
            "user": "ann",
            "overlap": "queue",
            "misfire": "skip",
            "misfire_window": 21_600_000,
            "notify": {"on_failure": True},
            "enabled": False,
            "description": "d",
        },
    )


@pytest.mark.parametrize(
    ("where", "sent"),
    [
        (["-m", "mach_2", "-m", "nas"], {"machine_ids": ["mach_2", "mach_1"]}),
        (["--tags", "web,eu"], {"tags": ["web", "eu"]}),
    ],
)
def test_it_runs_on_several_machines_or_on_a_group(cmdop, where, sent):
    *_, asked = cmdop("create", "b", "--cron", "@daily", *where, "--", "echo", "a b")
    body = {"name": "b", "command": "echo 'a b'", "cron": "@daily", **sent}
    assert _sent(asked)[2] == body


def test_what_was_made_is_told_in_words_and_with_its_times_there_and_here(cmdop):
    create = ["create", "b", "--cron", "@daily", "-m", "nas"]
    code, out, err, _ = cmdop(*create, "--", "true")
    assert (code, err) == (0, "")
    assert out == f"Nightly backup ({ID})\n{SHOWN}"
    made = {"enabled": False, "paused": "the clock is \x1b"}
    _, out, err, _ = cmdop(*create, "--", "true", made=made)
    assert out.startswith(f"Nightly backup ({ID}), paused\n")
    assert err == "note: no schedule is started: the clock is \\x1b\n"
    assert cmdop(*create, "-q", "--", "true")[1] == f"{ID}\n"
    assert json.loads(cmdop(*create, "-o", "json", "--", "true")[1]) == SCHEDULE


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["create", "b", "--cron", "@daily", "-m", "nas"], "no command is given"),
        (["create", "b", "--cron", "@daily", "-m", "nas", "true"], "true"),
        (["create", "b", "--cron", "@daily", "--", "true"], "-m or --tags"),
        (["create", "b", "--cron", "@daily", "-m", "nas", "--tags", "a", "--", "true"], "not both"),
        (["create", "b", "-m", "nas", "--", "true"], "--cron"),
        (["create", "b", "--cron", "@daily", "-m", "nas", "--env", "A", "--", "x"], "NAME=VALUE"),
        (["edit", "updates"], "nothing to change"),
        (["edit", "updates", "--"], "no command is given"),
        (["edit", "updates", "--timeout", "5m", "--unset", "timeout"], "gives: timeout"),
        (["edit", "updates", "--env", "A=1", "--unset", "env"], "gives: env"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_made(cmdop, args, said):
    code, out, err, asked = cmdop(*args)
    assert (code, out) == (2, "")
    assert said in err
    assert all(request.method == "GET" for request in asked)


def test_an_edit_changes_what_is_given_or_takes_it_off(cmdop):
    _, out, _, asked = cmdop("edit", "Nightly", "--no-notify-failure", "--name", "n")
    body = {"name": "n", "notify": {"on_failure": False}}
    assert _sent(asked) == ("PATCH", f"/schedules/{ID}", body)
    assert out == f"Nightly backup ({ID})\n{SHOWN}"
    *_, asked = cmdop("edit", "updates", "--", "uptime")
    assert _sent(asked) == ("PATCH", f"/schedules/{OTHER}", {"command": "uptime"})
    *_, asked = cmdop("edit", "updates", "--unset", "timeout", "--unset", "env")
    assert _sent(asked)[2] == {"timeout": None, "env": {}}


def test_an_edit_adds_variables_to_those_that_there_are(cmdop):
    *_, asked = cmdop("edit", "updates", "--env", "B=3", "--env", "C=4")
    assert _sent(asked)[2] == {"env": {"A": "1", "B": "3", "C": "4"}}


def test_the_options_of_an_edit_claim_no_defaults(cmdop):
    assert cmdop("edit", "--help")[1].count("Default") == 1  # of --output
    assert "--misfire-window 24h" in cmdop("create", "--help")[1]


def test_a_list_tells_where_and_when_each_runs(cmdop, monkeypatch):
    _, out, _, asked = cmdop("ls", "--machine", "nas", "--enabled")
    times = "2026-03-29T01:00:00Z\t2026-03-28T01:30:00Z\t3\t30 2 * * *\tEurope/Berlin"
    assert out.splitlines() == [
        f"Nightly backup\t{times}\tnas\t{ID}",
        f"updates\t{times}\ttag:web,eu\t{OTHER}",
    ]
    (query,) = (request.query for request in asked if request.path.endswith("/schedules"))
    assert query.startswith("machine_id=mach_1&enabled=true&")
    assert "mach_1" in cmdop("ls", may_see=False)[1]
    assert json.loads(cmdop("ls", "-o", "json")[1]) == [SCHEDULE, GROUP]
    assert cmdop("ls", "-o", "name")[1] == f"{ID}\n{OTHER}\n"
    long_id = "sched_" + "0" * 26
    head, line, _ = cmdop("ls", "-o", "table", held={"id": long_id})[1].splitlines()
    assert re.split("  +", head) == [
        *("NAME", "NEXT RUN", "LAST RUN", "EXIT", "CRON", "WHERE"),
    ]
    assert {"Nightly backup", "30 2 * * *", "nas"} <= {*re.split("  +", line)}
    monkeypatch.setenv("COLUMNS", "120")
    assert long_id in cmdop("ls", "-o", "table", held={"id": long_id})[1]


def test_a_history_tells_why_nothing_ran_and_is_harmless_to_a_terminal(cmdop):
    _, out, _, asked = cmdop("history", "updates", "--since", "7d", "-n", "5")
    why = "and all before, from 2026-03-01T01:30:00Z on; cmd_0\\x1b[2J is in the way"
    assert out.splitlines() == [
        "by hand\tcompleted\t0\t1.5 s\tnas\tcmd_1\t-\t-",
        f"2026-03-28T01:30:00Z\tskipped\t-\t-\tnas\t-\toverlap\t{why}; the hub's clock was ahead",
    ]
    (history,) = (request for request in asked if request.path.endswith("/history"))
    assert history.path == f"/api/v1/schedules/{OTHER}/history"
    assert history.query.startswith("since=20")
    assert "limit=5" in history.query
    assert json.loads(cmdop("history", ID, "-o", "json")[1]) == [RAN, RUN]
    assert cmdop("history", ID, "-o", "table")[1].splitlines()[2].endswith("clock was ahead")


@pytest.mark.parametrize(
    ("args", "path", "sent"),
    [
        (["updates", "-n", "9"], f"/schedules/{OTHER}/preview", "count=9"),
        (
            ["0 3 * * *", "-n", "9"],
            "/schedules/preview",
            {"cron": "0 3 * * *", "timezone": "UTC", "count": 9},
        ),
        (
            ["updates", "--tz", "Asia/Tokyo"],
            "/schedules/preview",
            {"cron": "updates", "timezone": "Asia/Tokyo", "count": 5},
        ),
        (["@daily"], "/schedules/preview", {"cron": "@daily", "timezone": "UTC", "count": 5}),
    ],
)
def test_a_preview_is_of_a_schedule_or_of_a_rule(cmdop, args, path, sent):
    code, out, _, asked = cmdop("preview", *args)
    assert (code, out.partition("\n")[2]) == (0, SHOWN.partition("\n")[2])
    last = asked[-1]
    assert last.path == f"/api/v1{path}"
    assert (json.loads(last.body) if last.body else last.query) == sent


BERLIN = {"utc": "2027-03-28T01:00:00.000Z", "local": "2027-03-28T03:00:00+02:00", "note": None}
UTC = {"utc": "2027-03-28T01:00:00.000Z", "local": "2027-03-28T01:00:00+00:00", "note": None}
HERE = {**BERLIN, "local": "2027-03-28T10:00:00+09:00", "note": "n" * 90}


@pytest.mark.parametrize(
    ("firing", "lines"),
    [
        (
            {**BERLIN, "note": "no 02:30"},
            [
                "UTC                LOCAL                    HERE                     NOTE",
                "2027-03-28 01:00Z  2027-03-28 03:00 +02:00  2027-03-28 10:00 +09:00  no 02:30",
            ],
        ),
        (
            UTC,
            [
                "UTC                HERE",
                "2027-03-28 01:00Z  2027-03-28 10:00 +09:00",
            ],
        ),
        (
            HERE,
            [
                "UTC                LOCAL                    NOTE",
                f"2027-03-28 01:00Z  2027-03-28 10:00 +09:00  {'n' * 90}",
            ],
        ),
    ],
)
def test_a_person_reads_instants_to_the_minute_each_but_once_and_every_note_whole(
    cmdop, firing, lines
):
    assert cmdop("preview", "@daily", "-o", "table", firings=[firing])[1].splitlines()[1:] == lines
    _, out, *_ = cmdop("preview", "@daily", firings=[firing])
    assert out.splitlines()[1].split("\t")[:2] == [firing["utc"], firing["local"]]


def test_a_word_that_is_neither_is_looked_up_as_a_schedule(cmdop):
    code, _, err, _ = cmdop("preview", "update")
    assert code == 0
    code, _, err, _ = cmdop("preview", "upgrades")
    assert (code, err.splitlines()[:2]) == (
        3,
        ['error: schedule "upgrades" not found', "did you mean: updates?"],
    )
    code, _, err, _ = cmdop("show", "sched_01")
    assert (code, "fits 2 schedules" in err) == (2, True)


@pytest.mark.parametrize(
    ("verb", "change", "said"),
    [
        ("rm", ("DELETE", f"/schedules/{OTHER}", None), f"removed updates ({OTHER})\n"),
        (
            "pause",
            ("PATCH", f"/schedules/{OTHER}", {"enabled": False}),
            f"paused updates ({OTHER})\n",
        ),
        (
            "resume",
            ("PATCH", f"/schedules/{OTHER}", {"enabled": True}),
            f"resumed updates ({OTHER}): it runs at 2026-03-29T01:00:00Z\n",
        ),
    ],
)
def test_one_word_removes_pauses_and_resumes(cmdop, verb, change, said):
    code, out, err, asked = cmdop(verb, "updates")
    assert (code, out, err) == (0, "", said)
    assert _sent(asked) == change


def test_a_run_by_hand_prints_its_commands_or_ends_as_its_one_command_does(cmdop):
    two = {"mach_1": "cmd_1", "mach_2": "cmd_2"}
    code, out, err, asked = cmdop("run", "updates", commands=two)
    assert (code, out, err) == (0, "cmd_1\ncmd_2\n", "")
    assert _sent(asked)[:2] == ("POST", f"/schedules/{OTHER}/run")
    code, out, *_ = cmdop("run", ID, "--follow")
    assert (code, out) == (7, "out\n")
    listed = {"machine_id": None, "machine_ids": ["mach_1", "mach_2"]}
    for group, held in (("updates", {}), (ID, listed)):
        code, out, err, asked = cmdop("run", group, "--follow", held=held)
        assert (code, out, "nothing is started" in err) == (255, "", True)
        assert {request.method for request in asked} == {"GET"}
    assert cmdop("run", "nothing", "--follow")[0] == 255
    assert cmdop("run", "nothing")[0] == 3
