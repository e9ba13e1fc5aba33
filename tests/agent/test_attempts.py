"""What came of the last upgrade is what runs now, whoever died on the way."""

from pathlib import Path

import msgspec
import pytest

from cmdop_appliance.agent.attempts import FILE, Attempt, keep, last_attempt, settle
from cmdop_appliance.ids import new_id
from cmdop_appliance.service.folders import Version

STARTING = Attempt(id=new_id("upg"), version="2.0.0-0123456789ab")


@pytest.mark.parametrize(
    ("own", "progress", "code"),
    [
        (Version(Path("/opt/cmdop/versions/2.0.0-0123456789ab")), "healthy", ""),
        (Version(Path("/opt/cmdop/versions/1.0.0-0123456789ab")), "rolled_back", "interrupted"),
        (None, "rolled_back", "interrupted"),
    ],
)
def test_an_attempt_whose_end_nobody_noted_ended_as_the_program_shows(
    tmp_path, own, progress, code
):
    assert keep(tmp_path, STARTING)
    found = settle(tmp_path, own)
    assert (found.progress, found.code) == (progress, code)
    assert last_attempt(tmp_path) == found
    assert found.told().id == STARTING.id


def test_an_end_that_was_noted_stays_whatever_runs(tmp_path):
    noted = STARTING.rolled_back("silent", "for 60 s")
    keep(tmp_path, noted)
    assert settle(tmp_path, Version(Path("/opt/cmdop/versions") / STARTING.version)) == noted


@pytest.mark.parametrize("content", [b"", b"{", msgspec.json.encode({"id": "upg_x"})])
def test_a_note_that_nobody_can_read_is_no_attempt(tmp_path, content):
    assert settle(tmp_path, None) is None
    (tmp_path / FILE).write_bytes(content)
    assert settle(tmp_path, None) is None


def test_a_note_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / FILE).mkdir()
    assert not keep(tmp_path, STARTING)
