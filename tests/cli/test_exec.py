"""`cmdop exec` as a shell sees it, against a hub that answers as the test says."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from cmdop_appliance.cli.exec import OURS, _exit_code, _shell_text, _variables
from cmdop_appliance.cli.failures import Failure
from tests.sdk.scripted_hub import Asked, answer, end, output, scripted_hub, stream

ROOT = Path(__file__).parents[2]
MACHINES = [{"id": "mach_1", "name": "nas", "hostname": "nas", "status": "online"}]


@contextmanager
def _exec(hub, *args, **options):
    with subprocess.Popen(
        [sys.executable, "-m", "cmdop_appliance", "exec", "nas", *args],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "CMDOP_URL": hub.url, "CMDOP_API_KEY": "k"},
        **options,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _hub(*events, cancel=lambda: None):
    """Answers like a hub whose only command writes `events`, an iterable read while streaming."""

    def script(asked: Asked):
        match asked.method, asked.path.removeprefix("/api/v1"):
            case "GET", "/machines":
                return answer(MACHINES)
            case "POST", "/commands/async":
                return answer({"id": "cmd_1", "status": "running"})
            case "DELETE", "/commands/cmd_1":
                cancel()
                return answer({"cancelled": True})
        return stream(*events)

    return scripted_hub(script)


def _body(hub):
    return next(json.loads(asked.body) for asked in hub.asked if asked.method == "POST")


def test_output_and_exit_code_pass_through_unchanged():
    events = [
        output("stdout", b"\x1b[1m\xff\0", "5-0"),
        output("stderr", b"warn\n", "5-5"),
        end(status="failed", exit_code=7),
    ]
    with _hub(*events) as hub, _exec(hub, "--", "sh", "-c", "exit 7") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (7, b"\x1b[1m\xff\0", b"warn\n")
    assert _body(hub) == {"machine_id": "mach_1", "command": "sh -c 'exit 7'"}


def test_output_that_the_hub_did_not_keep_is_told_on_stderr():
    gap = b'event: gap\nid: 9-0\ndata: {"stream":"stdout","from":1,"to":9}\n\n'
    with _hub(output("stdout", b"a", "1-0"), gap, end()) as hub, _exec(hub, "--", "x") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"a", b"[8 bytes of stdout were not kept]\n")


def test_every_option_reaches_the_hub_from_both_sides_of_the_machine():
    args = ["--timeout", "30s", "--cwd", "/srv", "--env", "A=1=2", "--user", "ann", "--stdin"]
    with (
        _hub(end()) as hub,
        _exec(hub, *args, "--", "cat", "--", "-n", stdin=subprocess.PIPE) as process,
    ):
        process.communicate("grün".encode(), timeout=60)
    assert process.returncode == 0
    assert _body(hub) == {
        "machine_id": "mach_1",
        "command": "cat -- -n",
        "timeout": 30_000,
        "cwd": "/srv",
        "env": {"A": "1=2"},
        "user": "ann",
        "stdin": "grün",
    }


def test_detach_prints_only_the_id():
    with _hub() as hub, _exec(hub, "--detach", "--", "make") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"cmd_1\n", b"")


def test_a_reader_that_leaves_cancels_the_command_quietly():
    cancelled = threading.Event()
    chunks = [output("stdout", b"y\n" * 10_000, str(n)) for n in range(100)]
    with _hub(*chunks, end(), cancel=cancelled.set) as hub, _exec(hub, "--", "yes") as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""
    assert cancelled.is_set()


def test_output_that_has_no_room_is_255_and_cancels_the_command():
    cancelled = threading.Event()
    with (
        _hub(output("stdout", b"x", "1-0"), end(), cancel=cancelled.set) as hub,
        Path("/dev/full").open("wb") as full,
        _exec(hub, "--", "make", stdout=full) as process,
    ):
        _, err = process.communicate(timeout=60)
    assert (process.returncode, cancelled.is_set()) == (255, True)
    assert err == b"error: cannot write the output: No space left on device\n"


def _live_hub():
    """A hub whose command writes one line at once and ends only when it is cancelled."""
    cancelled = threading.Event()
    first = stream(output("stdout", b"started\n", "8-0"), whole=False)
    ended = stream(end(status="cancelled", exit_code=143))

    def script(asked: Asked):
        match asked.method, asked.path.removeprefix("/api/v1"):
            case "GET", "/machines":
                return answer(MACHINES)
            case "POST", "/commands/async":
                return answer({"id": "cmd_1", "status": "running"})
            case "DELETE", _:
                cancelled.set()
                return answer({"cancelled": True})
        if "last-event-id" not in asked.headers:
            return first
        assert cancelled.wait(30)
        return ended

    return scripted_hub(script), cancelled


def test_ctrl_c_cancels_the_command_and_waits_for_its_end():
    live, cancelled = _live_hub()
    with live as hub, _exec(hub, "--", "sleep", "1000") as process:
        assert process.stdout.readline() == b"started\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, cancelled.is_set()) == (130, True)
    assert err == b"cancelling; Ctrl-C again leaves it running\n"


def test_in_the_background_of_a_shell_ctrl_c_is_ignored_as_it_was():
    events = [output("stdout", b"started\n", "8-0"), end()]
    go_on = threading.Event()

    def script(asked: Asked):
        match asked.method, asked.path.removeprefix("/api/v1"):
            case "GET", "/machines":
                return answer(MACHINES)
            case "POST", _:
                return answer({"id": "cmd_1", "status": "running"})
        if "last-event-id" not in asked.headers:
            return stream(events[0], whole=False)
        assert go_on.wait(30)
        return stream(events[1])

    ignore = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with scripted_hub(script) as hub, _exec(hub, "--", "sleep", "1") as process:
            signal.signal(signal.SIGINT, ignore)
            assert process.stdout.readline() == b"started\n"
            process.send_signal(signal.SIGINT)
            go_on.set()
            out, err = process.communicate(timeout=60)
    finally:
        signal.signal(signal.SIGINT, ignore)
    assert (process.returncode, out, err) == (0, b"", b"")
    assert "DELETE" not in [asked.method for asked in hub.asked]


def test_a_second_ctrl_c_leaves_the_command_and_names_it():
    stuck = threading.Event()  # the hub never answers the cancel, nor ends the stream

    def script(asked: Asked):
        match asked.method, asked.path.removeprefix("/api/v1"):
            case "GET", "/machines":
                return answer(MACHINES)
            case "POST", "/commands/async":
                return answer({"id": "cmd_1", "status": "running"})
        if asked.method == "GET" and "last-event-id" not in asked.headers:
            return stream(output("stdout", b"started\n", "8-0"), whole=False)
        stuck.wait(30)
        return answer({})

    with scripted_hub(script) as hub, _exec(hub, "--", "sleep", "1000") as process:
        assert process.stdout.readline() == b"started\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline().startswith(b"cancelling")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == b"cmd_1 is left to itself\n"
        stuck.set()


def test_an_offline_machine_is_255_with_the_reason():
    offline = {"code": "session_not_active", "message": "machine nas is not connected"}

    def script(asked: Asked):
        return answer(MACHINES) if asked.method == "GET" else answer(offline, status=409)

    with scripted_hub(script) as hub, _exec(hub, "--", "true") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 255
    assert err == b"error: machine nas is not connected\nhint: cmdop machines ls\n"


@pytest.mark.parametrize(
    ("record", "interrupted", "code"),
    [
        ({"status": "completed", "exit_code": 0}, False, 0),
        ({"status": "failed", "exit_code": 137}, False, 137),
        ({"status": "failed", "exit_code": 7}, True, 7),
        ({"status": "timeout", "exit_code": None}, False, 124),
        ({"status": "cancelled", "exit_code": 143}, True, 130),
        ({"status": "cancelled", "exit_code": 143}, False, 143),
        ({"status": "cancelled", "exit_code": None}, False, 255),
    ],
)
def test_the_end_of_a_command_becomes_an_exit_code(record, interrupted, code):
    assert _exit_code(record, interrupted=interrupted) == code


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        ("failed", {"code": "cwd_missing", "message": "no /srv"}, "could not start: no /srv"),
        ("failed", {"code": "user_denied"}, "could not start: user_denied"),
        ("lost", {"code": "rebooted"}, "is lost: rebooted"),
        ("expired", None, "is expired: no reason is known"),
    ],
)
def test_a_command_without_an_exit_code_is_255_with_its_reason(status, error, said):
    record = {"status": status, "exit_code": None, "error": error}
    with pytest.raises(Failure, match=said) as caught:
        _exit_code(record, interrupted=False)
    assert caught.value.exit_code == OURS


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ((), ("df -h | sort",), "df -h | sort"),
        ((), ("echo", "a b", "$HOME"), "echo 'a b' '$HOME'"),
        (("uptime",), None, "uptime"),
    ],
)
def test_one_word_is_shell_text_and_several_are_one_command(before, after, text):
    assert _shell_text(before, after) == text


@pytest.mark.parametrize(
    ("before", "after"), [((), ()), ((), None), (("git",), ("x",)), ((), ("\udcff",))]
)
def test_a_command_that_is_missing_split_or_not_text_is_refused(before, after):
    with pytest.raises(Failure):
        _shell_text(before, after)


@pytest.mark.parametrize("assignment", ["A", "=1", ""])
def test_a_variable_without_a_name_or_a_value_is_refused(assignment):
    with pytest.raises(Failure, match="NAME=VALUE"):
        _variables((assignment,))
