"""`cmdop audit`: what it asks for, and how it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sdk.scripted_hub import Asked, answer, scripted_hub

ROOT = Path(__file__).parents[2]
ENTRY = {
    "seq": 7,
    "at": "2026-01-01T00:00:00.000Z",
    "actor": "ci@default",
    "action": "grant.opened",
    "target": "mach_1",
    "outcome": "ok",
    "details": {"notice": "\x1b[2J"},
    "hash": "00" * 32,
}
PROOF = {
    "ok": True,
    "entries": 7,
    "head": {"seq": 7, "hash": "ab" * 32},
    "first_bad": None,
    "given_agrees": None,
    "contradictions": 0,
    "witnesses": [
        {"machine_id": "mach_1", "seq": 7, "agrees": True, "seen_at": "2026-01-01T00:00:00Z"}
    ],
}
WITNESS = {"machine_id": "mach_2", "seq": 9, "agrees": False, "seen_at": "2026-01-01T00:00:00Z"}


def cmdop(result, *args):
    """The end of `cmdop audit …`, and what the hub was asked."""
    asked: list[Asked] = []

    def script(request: Asked):
        asked.append(request)
        return answer(result)

    with scripted_hub(script) as hub:
        done = subprocess.run(
            [sys.executable, "-m", "cmdop_appliance", "audit", *args],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "CMDOP_URL": hub.url, "CMDOP_API_KEY": "k"},
            timeout=60,
            check=False,
        )
    return done, asked


def test_entries_are_shown_a_line_each_and_hostile_text_harmless():
    done, _ = cmdop([ENTRY], "ls")
    assert (done.returncode, done.stderr) == (0, "")
    line = "7\t2026-01-01T00:00:00.000Z\tci@default\tgrant.opened\tok\tmach_1\t"
    assert done.stdout == line + '{"notice": "\\u001b[2J"}\n'
    done, _ = cmdop([ENTRY], "ls", "-o", "jsonl")
    assert json.loads(done.stdout) == ENTRY


def test_filters_are_the_hubs():
    filters = {"action": "a.b", "actor": "x", "target": "y", "outcome": "refused", "since": "z"}
    flags = [word for name, value in filters.items() for word in (f"--{name}", value)]
    _, (asked,) = cmdop([], "ls", *flags, "-n", "5")
    for name, value in filters.items():
        assert f"{name}={value}" in asked.query
    assert "limit=5" in asked.query


def test_a_whole_log_is_shown_with_its_head_to_write_down():
    done, _ = cmdop(PROOF, "verify")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"7:{'ab' * 32}" in done.stdout
    assert "1 of 1 machines agree" in done.stdout


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"first_bad": 5}, "entry 5 is missing or was changed"),
        ({"given_agrees": False}, "the log has no entry 9:ff"),
        ({"witnesses": [*PROOF["witnesses"], WITNESS]}, "machine mach_2 remembers another entry 9"),
    ],
)
def test_a_log_that_is_not_whole_exits_1_and_says_why(fields, said):
    done, (asked,) = cmdop({**PROOF, **fields, "ok": False}, "verify", "--head", "9:ff")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1
    assert (asked.path, asked.query) == ("/api/v1/audit/verify", "head=9%3Aff")
    assert (
        json.loads(cmdop({**PROOF, "ok": False}, "verify", "-o", "json")[0].stdout)["ok"] is False
    )


def test_contradictions_of_the_past_are_told_of():
    done, _ = cmdop({**PROOF, "contradictions": 2}, "verify")
    assert done.returncode == 0
    assert "2 contradictions are on record" in done.stderr
