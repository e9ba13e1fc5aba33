"""What a person gets to see of a refusal."""

import os
import tempfile
from pathlib import Path

import pytest

from cmdop_appliance.cli.failures import as_failure, report_crash
from cmdop_appliance.sdk import Conflict, Forbidden, InvalidRequest, NotFound, Unauthorized


@pytest.mark.parametrize("kind", [Forbidden, Conflict, InvalidRequest])
def test_the_hubs_hint_is_shown(kind):
    shown = as_failure(kind(400, "some_code", "in words", {"a": 1}, hint="do this"))
    assert (shown.message, shown.hint) == ("in words", "do this")


def test_where_the_hub_gives_no_hint_the_command_line_has_its_own():
    assert as_failure(Forbidden(403, "forbidden", "no")).hint.startswith("cmdop auth status")


def test_a_wrong_key_is_hinted_at_in_words_of_the_command_line():
    error = Unauthorized(401, "unauthorized", "no", hint="send it as `Authorization: Bearer …`")
    assert "CMDOP_API_KEY" in as_failure(error).hint


@pytest.mark.parametrize(
    ("message", "details", "shown"),
    [
        ("Validation failed", {"cwd": "is empty", "n": 1}, "Validation failed: cwd: is empty"),
        ("query parameter n: is odd", {"n": "is odd"}, "query parameter n: is odd"),
        ("no", {}, "no"),
    ],
)
def test_the_reasons_of_fields_are_shown_once(message, details, shown):
    failure = as_failure(InvalidRequest(422, "validation_failed", message, details))
    assert (failure.message, failure.hint) == (shown, "")


AWAY = {"current_status": "DISCONNECTED", "machine_id": "mach_1"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Conflict(409, "session_not_active", "no", AWAY), 6),
        (Conflict(409, "file_exists", "no"), 1),
        (Forbidden(403, "forbidden", "no"), 4),
        (Forbidden(403, "file_permission_denied", "no"), 1),
        (Forbidden(403, "path_not_allowed", "no"), 1),
        (NotFound(404, "file_not_found", "no"), 3),
    ],
)
def test_a_machine_that_is_away_or_refuses_is_not_a_key_that_is_not_good_enough(error, code):
    failure = as_failure(error)
    assert failure.exit_code == code
    assert ("cmdop auth" in failure.hint) == (code == 4)
    assert (failure.message == "mach_1 is not connected (DISCONNECTED)") == (code == 6)
    assert ("machines ls" in failure.hint) == (code == 6)


def test_a_program_that_fails_again_and_again_fills_no_disk(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for number in range(10):
        old = tmp_path / f"cmdop-crash-{number}.txt"
        old.touch()
        os.utime(old, (number, number))
    (tmp_path / "other.txt").touch()
    report_crash(ValueError())
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 11
    assert "cmdop-crash-0.txt" not in left
    assert {"cmdop-crash-1.txt", "other.txt", Path(capsys.readouterr().err.split()[-1]).name} < left
