"""The two clients are one."""

import re
from pathlib import Path

import pytest

from scripts import unasync


def test_the_synchronous_client_is_made_from_the_asynchronous_one(tmp_path):
    unasync.write(tmp_path)
    for path in unasync.made():
        assert (unasync.SDK / path).read_text() == (tmp_path / path).read_text(), "run scripts/fix"


def test_whatever_is_not_made_is_written_for_both_or_for_neither():
    ours = {path.relative_to(unasync.SDK) for path in unasync.SDK.rglob("*.py")}
    both = {path for path in ours if Path("aio", path) in ours}
    assert {str(path) for path in both - unasync.made().keys()} == unasync.TWICE
    assert unasync.made().keys() <= both


@pytest.mark.parametrize("path", unasync.made(), ids=str)
def test_nothing_of_the_loop_is_left_in_what_is_made(path):
    source = (unasync.SDK / path).read_text().partition("\n")[2]
    assert not re.findall(r"\basync (?:def|with|for)\b|\bawait\b|\banyio\b|\baio\b", source)
