"""How long syncs take, and when that is too good to be true."""

from pathlib import Path

import pytest

from cmdop_appliance.selftest import syncs
from cmdop_appliance.selftest.syncs import Syncs, measure


def test_it_measures_and_leaves_nothing(tmp_path):
    found = measure(tmp_path)
    assert 0 <= found.median_us <= found.slowest_us
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "median_us", "doubt"),
    [("tmpfs", 1, "memory"), ("ext4", 2, "sooner than a disk can"), ("ext4", 130, "")],
)
def test_what_cannot_hold_anything_is_doubted(kind, median_us, doubt):
    said = Syncs(kind, median_us, 1000).doubt
    assert doubt in said
    assert bool(said) is bool(doubt)


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path, monkeypatch):
    mounts = f"a / ext4 rw\nb {tmp_path.parent} tmpfs rw\nc {tmp_path}-other xfs rw\n"
    monkeypatch.setattr(Path, "read_text", lambda _self, **_how: mounts)
    assert syncs._kind(tmp_path) == "tmpfs"
