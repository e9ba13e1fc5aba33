"""`cmdop run`: who is meant, what is asked of the hub, what is shown, and the exit code."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.cli.files_cli import cmdop
from tests.cli.window import window
from tests.sdk.scripted_hub import Asked, answer, scripted_hub

ROOT = Path(__file__).parents[2]
OFFLINE = {"error": {"code": "session_not_active", "message": "Session is not in CONNECTED state"}}


def _machine(name, *tags):
    return {"id": f"mach_{name}", "name": name, "hostname": name, "status": "online", "tags": tags}


MACHINES = [_machine("web-2", "web"), _machine("web-1", "web", "blue"), _machine("nas")]


def _command(name, **fields):
    """A command of the machine of that name, which has ended unless `fields` say otherwise."""
    record = {
        "id": f"cmd_{name}",
        "machine_id": f"mach_{name}",
        "batch_id": "batch_1",
        "status": "completed",
        "exit_code": 0,
        "error": None,
        "stale_since": None,
        "started_at": "2026-01-01T00:00:00Z",
        "finished_at": "2026-01-01T00:00:01Z",
        "stdout": "hello\n",
        "stderr": "",
    }
    return record | fields


RUNNING = {"status": "running", "exit_code": None, "finished_at": None}


def _hub(commands, refused=(), machines=MACHINES):
    """A hub that records these commands for whatever is asked, and refuses the others."""

    def script(asked: Asked):
        match asked.method, asked.path.removeprefix("/api/v1"):
            case "GET", "/machines":
                return answer(machines)
            case "POST", "/commands/batch" | "/commands/batch/batch_0/resume":
                recorded = {each["machine_id"]: {**each, **RUNNING} for each in commands}
                return answer(recorded | {f"mach_{name}": OFFLINE for name in refused})
            case "GET", "/commands":
                return answer(commands)
        wanted = asked.path.rpartition("/")[2]
        return answer(next(each for each in commands if each["id"] == wanted))

    return scripted_hub(script)


def _asked(hub):
    return next(json.loads(asked.body) for asked in hub.asked if asked.method == "POST")


@pytest.mark.parametrize(
    ("targets", "meant"),
    [
        (["tag:web"], ["web-1", "web-2"]),
        (["tag:web,blue"], ["web-1"]),
        (["web-*", "web-1", "n"], ["nas", "web-1", "web-2"]),
        (["@all"], ["nas", "web-1", "web-2"]),
    ],
)
def test_selectors_name_machines_once_each_by_name(targets, meant):
    args = [arg for target in targets for arg in ("-t", target)]
    with _hub([_command(name) for name in meant]) as hub:
        done = cmdop(hub, "run", *args, "--", "uptime")
    assert _asked(hub)["machine_ids"] == [f"mach_{name}" for name in meant]
    assert done.returncode == 0


def test_a_dry_run_shows_the_machines_and_asks_for_nothing():
    with _hub([]) as hub:
        done = cmdop(hub, "run", "-t", "tag:web", "--dry-run", "--", "uptime")
    assert [line.split(b"\t")[0] for line in done.stdout.splitlines()] == [b"web-1", b"web-2"]
    assert [asked.method for asked in hub.asked] == ["GET"]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--", "x"], 2, "-t"),
        (["-t", "nas"], 2, "no command is given"),
        (["-t", "tag:", "--", "x"], 2, "no tag is given"),
        (["-t", "tag:none", "--", "x"], 3, "no machine fits"),
        (["-t", "sna", "--", "x"], 3, "did you mean: nas?"),
        (["-t", "nas", "--parallel", "0", "--", "x"], 2, "a share such as 25%"),
        (["-t", "nas", "--queue-timeout", "1h", "--", "x"], 2, "--queue-timeout needs --queue"),
    ],
)
def test_what_is_not_meant_is_refused_before_anything_runs(args, code, said):
    with _hub([]) as hub:
        done = cmdop(hub, "run", *args)
    assert (done.returncode, done.stdout) == (code, b"")
    assert said in done.stderr.decode()
    assert all(asked.method == "GET" for asked in hub.asked)


def test_every_option_reaches_the_hub():
    args = ["--parallel", "25%", "--fail-after", "1", "--canary", "--timeout", "30s", "--cwd", "/"]
    args += ["--env", "A=1", "--user", "ann", "--queue", "--queue-timeout", "2h"]
    with _hub([_command("nas")]) as hub:
        cmdop(hub, "run", "-t", "nas", *args, "--", "echo", "a b")
    assert _asked(hub) == {
        "machine_ids": ["mach_nas"],
        "command": "echo 'a b'",
        "concurrency": "25%",
        "max_errors": 0,
        "canary": 1,
        "timeout": 30_000,
        "cwd": "/",
        "env": {"A": "1"},
        "user": "ann",
        "queue": True,
        "queue_timeout": 7_200_000,
    }


FAILED = {"status": "failed", "exit_code": 3}
DEAD = {"exit_code": None}


@pytest.mark.parametrize(
    ("nas", "rule", "code", "said"),
    [
        ({}, "any", 0, "3 completed"),
        (FAILED, "any", 1, "=== 1 machine: nas: exit 3"),
        (FAILED, "max", 3, "2 completed, 1 failed"),
        ({**DEAD, "status": "timeout"}, "max", 124, "nas: timeout"),
        ({**DEAD, "status": "skipped"}, "max", 255, "nas: skipped"),
        (
            {**DEAD, "status": "failed", "error": {"code": "x", "message": "no directory /x"}},
            *("any", 1, "nas: failed: no directory /x"),
        ),
        (None, "any", 1, "nas: not connected"),
        (None, "max", 255, "2 completed, 1 not connected (batch_1)"),
    ],
)
def test_the_exit_code_says_whether_all_succeeded(nas, rule, code, said):
    commands = [_command("web-1"), _command("web-2")]
    refused = ["nas"] if nas is None else []
    if nas is not None:
        commands.append(_command("nas", **nas))
    with _hub(commands, refused) as hub:
        done = cmdop(hub, "run", "-t", "@all", "--exit", rule, "--", "x")
    assert done.returncode == code
    assert said.encode() in done.stdout + done.stderr


def test_when_no_machine_is_connected_that_is_an_exit_code_of_its_own():
    with _hub([], ["nas"]) as hub:
        done = cmdop(hub, "run", "-t", "nas", "--", "x")
    assert (done.returncode, done.stdout) == (6, b"=== 1 machine: nas: not connected\n")


def test_what_was_written_to_stderr_follows_and_what_the_hub_holds_back_is_told():
    fields = {"stdout": "a", "stdout_truncated": True, "stdout_bytes": 9, "stderr": "e\n"}
    with _hub([_command("nas", **fields)]) as hub:
        done = cmdop(hub, "run", "-t", "nas", "--", "x")
    shown = ["=== 1 machine: nas", "a", "[9 bytes: the middle is not shown]", "[stderr]", "e"]
    assert done.stdout.decode().splitlines() == shown


def test_unfolded_each_line_stands_behind_its_machine_on_its_own_stream():
    commands = [_command("nas", **FAILED, stderr="no\n"), _command("web-1", stdout="a\nb\n")]
    with _hub(commands) as hub:
        done = cmdop(hub, "run", "-t", "@all", "--no-fold", "--", "x")
    assert done.stdout == b"nas: hello\nweb-1: a\nweb-1: b\n"
    assert done.stderr.startswith(b"nas: no\nnas: [exit 3]\n")


def test_what_is_skipped_is_told_with_what_runs_it():
    skipped = _command("nas", **DEAD, status="skipped")
    with _hub([_command("web-1"), skipped]) as hub:
        done = cmdop(hub, "run", "-t", "@all", "--", "x")
    assert done.stderr.decode().splitlines()[-1].endswith("cmdop commands resume batch_1")


def test_a_batch_is_resumed_and_shown_as_one_that_was_run():
    gone = _command("gone", **FAILED, stdout="no\n")  # its machine was removed meanwhile
    with _hub([_command("nas"), gone], ["web-1"]) as hub:
        done = cmdop(hub, "commands", "resume", "batch_0", "--exit", "max")
    assert "POST" in [asked.method for asked in hub.asked]
    assert done.stdout.decode().splitlines() == [
        "=== 1 machine: nas",
        "hello",
        "=== 1 machine: mach_gone: exit 3",
        "no",
        "=== 1 machine: web-1: not connected",
    ]
    assert done.stderr.endswith(b"(batch_1)\n")
    assert done.returncode == 255


def test_programs_get_the_hubs_own_records():
    command = _command("nas")
    with _hub([command], ["web-1"]) as hub:
        whole = cmdop(hub, "run", "-t", "@all", "-o", "json", "--", "x")
        lines = cmdop(hub, "run", "-t", "@all", "-o", "jsonl", "--", "x")
    assert json.loads(whole.stdout) == {"mach_nas": command, "mach_web-1": OFFLINE}
    records = [json.loads(line) for line in lines.stdout.splitlines()]
    assert records == [{"machine_id": "mach_web-1", **OFFLINE}, command]


@pytest.mark.parametrize(
    ("count", "command", "typed", "runs"),
    [
        (2, "reboot", "n\n", False),
        (2, "reboot", "y\n", True),
        (2, "uptime", "", True),
        (1, "reboot", "", True),
        (11, "uptime", "y\n", False),
        (11, "uptime", "11\n", True),
    ],
)
def test_whoever_sits_at_a_terminal_is_asked_before_many_machines_or_what_they_may_regret(
    count, command, typed, runs
):
    machines = [_machine(f"m{number}") for number in range(count)]
    with _hub([_command("m0")], machines=machines) as hub:
        variables = {"CMDOP_URL": hub.url, "CMDOP_API_KEY": "k"}
        with window("run", "-t", "@all", "--", command, **variables) as one:
            one.type(typed)
            assert one.wait_exit() == (0 if runs else 1), one.text
            one.wait("completed" if runs else "nothing was done")
    assert ("POST" in [asked.method for asked in hub.asked]) is runs


def test_a_first_interrupt_cancels_what_waits_and_then_what_runs():
    waits = _command("web-1", **RUNNING | {"status": "pending", "started_at": None})
    commands = {each["id"]: each for each in [_command("nas", **RUNNING), waits]}
    cancelled, looked = [], threading.Event()

    def script(asked: Asked):
        name = asked.path.rpartition("/")[2]
        if asked.method == "DELETE":
            cancelled.append(name)
            ended = {"status": "cancelled", "finished_at": "2026-01-01T00:00:01Z"}
            commands[name] = commands[name] | ended
            return answer({"cancelled": True})
        if name == "machines":
            return answer(MACHINES)
        if name == "batch":
            return answer({each["machine_id"]: each for each in commands.values()})
        looked.set()
        return answer(commands[name] if name in commands else [*commands.values()])

    with (
        scripted_hub(script) as hub,
        subprocess.Popen(
            [sys.executable, "-m", "cmdop_appliance", "run", "-t", "@all", "--", "x"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "CMDOP_URL": hub.url, "CMDOP_API_KEY": "k"},
        ) as process,
    ):
        assert looked.wait(30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert cancelled == ["cmd_web-1", "cmd_nas"]
    assert process.returncode == 130
    assert b"=== 2 machines: nas, web-1: cancelled" in out
    assert b"cancelling; Ctrl-C again leaves it running" in err
