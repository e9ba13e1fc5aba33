"""`cmdop commands follow`, and the ends of commands as exit codes."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.follow import OURS, TIMED_OUT, exit_code
from tests.sdk.scripted_hub import Answer, answer, end, output, scripted_hub, stream

ROOT = Path(__file__).parents[2]


@contextmanager
def _following(hub, *args):
    with subprocess.Popen(
        [sys.executable, "-m", "cmdop_appliance", "commands", "follow", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "CMDOP_URL": hub.url, "CMDOP_API_KEY": "k"},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _followed(*events):
    """(exit code, stdout, stderr) of following a command with these events, and what was asked."""
    with scripted_hub(lambda _: stream(*events)) as hub, _following(hub, "cmd_1") as process:
        out, err = process.communicate(timeout=60)
    return (process.returncode, out, err), hub.asked


def test_output_and_exit_code_are_those_of_the_command():
    events = [
        output("stdout", b"\x1b[1m\xff\0", "5-0"),
        output("stderr", b"warn\n", "5-5"),
        end(status="failed", exit_code=7),
    ]
    done, asked = _followed(*events)
    assert done == (7, b"\x1b[1m\xff\0", b"warn\n")
    assert [(request.method, request.path) for request in asked] == [
        ("GET", "/api/v1/commands/cmd_1/stream")
    ]


@pytest.mark.parametrize(
    ("record", "code", "said"),
    [
        ({"status": "timeout"}, 124, "the command ran into its timeout"),
        (
            {"status": "lost", "error": {"code": "rebooted", "message": "\x1b[2Jthe machine"}},
            255,
            "the command is lost: \\x1b[2Jthe machine",
        ),
    ],
)
def test_an_end_without_an_exit_code_is_one_line_on_stderr(record, code, said):
    done, _ = _followed(output("stdout", b"so far", "6-0"), end(exit_code=None, **record))
    assert done == (code, b"so far", f"error: {said}\n".encode())


def test_a_command_that_the_hub_does_not_know_is_255():
    gone = answer({"code": "command_not_found", "message": "Command not found"}, status=404)
    with scripted_hub(lambda _: gone) as hub, _following(hub, "cmd_1") as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (
        255,
        b"error: Command not found\nhint: cmdop commands ls\n",
    )


def test_a_wrong_use_is_255_and_not_the_exit_code_of_a_command():
    with scripted_hub(lambda _: answer({})) as hub, _following(hub) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 255
    assert b"missing argument" in err.lower()


def test_ctrl_c_ends_the_view_and_not_the_command():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    event = output("stdout", b"up\n", "3-0")
    runs_on = Answer(head + b"%x\r\n%b\r\n" % (len(event), event))
    with scripted_hub(lambda _: runs_on) as hub, _following(hub, "cmd_1") as process:
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b"cmd_1 is left to itself; see: cmdop commands follow cmd_1\n"
    assert [request.method for request in hub.asked] == ["GET"]


def test_a_reader_that_leaves_ends_the_view_and_not_the_command():
    chunks = [output("stdout", b"y\n" * 10_000, str(number)) for number in range(100)]
    with scripted_hub(lambda _: stream(*chunks)) as hub, _following(hub, "cmd_1") as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""
    assert {request.method for request in hub.asked} == {"GET"}


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"status": "completed", "exit_code": 0}, 0),
        ({"status": "failed", "exit_code": 137}, 137),
    ],
)
def test_an_exit_code_is_passed_on(record, code):
    assert exit_code(record) == code


@pytest.mark.parametrize(
    ("status", "error", "code", "said"),
    [
        ("timeout", None, TIMED_OUT, "ran into its timeout"),
        ("failed", {"code": "cwd_missing", "message": "no /srv"}, OURS, "could not start: no /srv"),
        ("failed", {"code": "user_denied"}, OURS, "could not start: user_denied"),
        ("failed", None, OURS, "could not start: no reason is known"),
        ("lost", {"code": "rebooted"}, OURS, "is lost: rebooted"),
        ("expired", None, OURS, "expired: it did not come to its turn in time"),
        ("expired", {"code": "x", "message": "when its turn came"}, OURS, "expired: when its turn"),
        ("skipped", {"code": "x", "message": "batch stopped"}, OURS, "skipped: batch stopped"),
        ("cancelled", None, OURS, "was cancelled$"),
        ("cancelled", {"code": "superseded", "message": "by another"}, OURS, "cancelled: by anoth"),
        ("new", None, OURS, "is new$"),
    ],
)
def test_an_end_without_an_exit_code_is_told_with_its_reason(status, error, code, said):
    with pytest.raises(Failure, match=said) as caught:
        exit_code({"status": status, "exit_code": None, "error": error, "session_id": "sess_1"})
    assert caught.value.exit_code == code


def test_a_command_that_was_never_sent_expired_because_its_machine_was_away():
    record = {"status": "expired", "exit_code": None, "error": None, "session_id": None}
    with pytest.raises(Failure, match="expired: its machine was not there in time"):
        exit_code(record)
