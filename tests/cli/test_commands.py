"""`cmdop commands`: what a person must know beside a status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sdk.scripted_hub import Asked, answer, scripted_hub

ROOT = Path(__file__).parents[2]
RECORD = {
    "id": "cmd_1",
    "session_id": "sess_1",
    "command": "true",
    "status": "running",
    "exit_code": None,
    "error": None,
    "cancel_requested": False,
    "late": False,
    "unknown_to_hub": False,
    "stale_since": None,
    "started_at": "2026-01-01T00:00:00Z",
    "finished_at": None,
}
AWAY = {"stale_since": "2026-01-01T10:00:00Z"}
ENDED = {"finished_at": "2026-01-01T00:00:00Z"}


def _cmdop(record, *args):
    def script(asked: Asked):
        if asked.method == "DELETE":
            return answer({"cancelled": True})
        return answer([record] if asked.path.endswith("/commands") else record)

    with scripted_hub(script) as hub:
        return subprocess.run(
            [sys.executable, "-m", "cmdop_appliance", "commands", *args],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "CMDOP_URL": hub.url, "CMDOP_API_KEY": "k"},
            timeout=60,
            check=True,
        )


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({}, "-"),
        ({"status": "pending", "session_id": None}, "not sent yet"),
        (AWAY, "no word since 2026-01-01T10:00:00Z"),
        ({**AWAY, "cancel_requested": True}, "cancelling,no word since 2026-01-01T10:00:00Z"),
        ({**ENDED, "cancel_requested": True, "late": True}, "late"),
        ({**ENDED, "session_id": None, "error": {"code": "\x1b[2J"}}, "\\x1b[2J"),
        ({"unknown_to_hub": True}, "unknown to the hub"),
    ],
)
def test_a_list_notes_what_the_status_does_not_say(fields, note):
    done = _cmdop({**RECORD, **fields}, "ls")
    assert done.stdout.rstrip("\n").split("\t")[4:] == [note, "true"]


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_programs_get_the_hubs_own_records(form):
    shown = json.loads(_cmdop(RECORD, "ls", "-o", form).stdout)
    assert shown in (RECORD, [RECORD])


@pytest.mark.parametrize("verb", ["show", "get"])
def test_one_command_is_shown_with_all_its_fields(verb):
    record = {**RECORD, "queue": True, "late": True, "serial_key": "a\x1bb", **AWAY}
    lines = _cmdop(record, verb, "cmd_1").stdout.splitlines()
    assert {"queue\ttrue", "late\ttrue", "serial_key\ta\\x1bb"} < set(lines)
    assert "stale_since\t2026-01-01T10:00:00Z" in lines


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "cancelling cmd_1\n"),
        (AWAY, "cancelling cmd_1: its machine is away and hears of it when it is back\n"),
        ({**ENDED, "status": "cancelled"}, "cmd_1 is cancelled\n"),
    ],
)
def test_a_cancel_says_what_came_of_it(fields, said):
    assert _cmdop({**RECORD, **fields}, "cancel", "cmd_1").stderr == said
