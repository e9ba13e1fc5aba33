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

from tests.sdk.scripted_hub import Answer, Asked, answer, end, output, scripted_hub, stream

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
    args = ["--timeout", "30s", "--cwd", "/srv", "--env", "A=1=2", "--user", "ann", "--stdin", "-t"]
    args += ["--queue", "--queue-timeout", "2h", "--serial-key", "apt", "--supersede-key", "up"]
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
        "pty": True,
        "queue": True,
        "queue_timeout": 7_200_000,
        "serial_key": "apt",
        "supersede_key": "up",
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


def _live_hub(**record):
    """A hub whose command writes one line at once and ends, like this, when it is cancelled."""
    cancelled = threading.Event()
    first = stream(output("stdout", b"started\n", "8-0"), whole=False)
    ended = stream(end(**record))

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


@pytest.mark.parametrize(
    ("record", "code"),
    [({"status": "cancelled", "exit_code": None}, 130), ({"status": "failed", "exit_code": 7}, 7)],
)
def test_ctrl_c_cancels_the_command_and_waits_for_its_end(record, code):
    live, cancelled = _live_hub(**record)
    with live as hub, _exec(hub, "--", "sleep", "1000") as process:
        assert process.stdout.readline() == b"started\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, cancelled.is_set()) == (code, True)
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
        left = b"cmd_1 is left to itself; see: cmdop commands follow cmd_1\n"
        assert process.stderr.read() == left
        stuck.set()


def _queueing_hub(record):
    """A hub whose machine is away: its command waits until it is cancelled."""
    cancelled = threading.Event()

    def script(asked: Asked):
        match asked.method, asked.path.removeprefix("/api/v1"):
            case "GET", "/machines":
                return answer(MACHINES)
            case "POST", "/commands/async":
                return answer({"id": "cmd_1", "status": "pending"})
            case "GET", "/commands/cmd_1":
                return answer({"id": "cmd_1", "status": "pending", **record})
            case "DELETE", "/commands/cmd_1":
                cancelled.set()
                return answer({"cancelled": True})
        if "session_id" in record and record["session_id"] is None:
            assert cancelled.wait(30)
        return stream(end(status="cancelled", exit_code=None))

    return scripted_hub(script)


def test_a_command_that_waits_for_its_machine_says_so_and_ctrl_c_cancels_it():
    with _queueing_hub({"session_id": None}) as hub, _exec(hub, "--queue", "--", "x") as process:
        said = process.stderr.readline()
        assert said == b"nas is away: cmd_1 waits for it; Ctrl-C cancels it\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"cancelling; Ctrl-C again leaves it running\n")


def test_a_command_that_its_machine_has_already_is_not_said_to_wait():
    with _queueing_hub({"session_id": "s"}) as hub, _exec(hub, "--queue", "--", "x") as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (255, b"error: the command was cancelled\n")


def test_ctrl_c_before_the_hub_has_answered_says_what_is_unknown():
    asked_to_start = threading.Event()

    def script(asked: Asked):
        if asked.method == "GET":
            return answer(MACHINES)
        asked_to_start.set()
        return Answer(b"")

    with scripted_hub(script) as hub, _exec(hub, "--", "true") as process:
        assert asked_to_start.wait(30)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith(b"the hub has not answered; if the command was recorded: cmdop commands")


def test_a_queue_timeout_without_a_queue_is_refused():
    with _hub() as hub, _exec(hub, "--queue-timeout", "1s", "--", "true") as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (255, b"error: --queue-timeout needs --queue\n")
    assert hub.asked == []


def test_an_offline_machine_is_255_with_the_reason():
    offline = {
        "code": "session_not_active",
        "message": "Session is not in CONNECTED state",
        "details": {"current_status": "GRACE_PERIOD", "machine_id": "mach_1"},
    }

    def script(asked: Asked):
        return answer(MACHINES) if asked.method == "GET" else answer(offline, status=409)

    with scripted_hub(script) as hub, _exec(hub, "--", "true") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 255
    assert err == b"error: nas is not connected (GRACE_PERIOD)\nhint: --queue waits for it\n"
