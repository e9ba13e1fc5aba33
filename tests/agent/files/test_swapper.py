"""A link that is put in the place of a directory or a file leads nobody out of the roots."""

import tempfile
from pathlib import Path

import pytest

from tests.support.swapper import SECRET, Playground, provoke

CALLS = 3000  # some 3 s; the torture makes 100,000
TRIES = 100_000  # of who follows links; one of the first few succeeds
MEMORY = Path("/dev/shm")  # where nothing waits for a disk


@pytest.fixture
def place():
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as place:
        yield Path(place)


def test_no_call_gets_out_while_links_are_swapped_in(place):
    ended = provoke(place, CALLS, seed=1)
    done = {kind for kind, how in ended if how == "done"}
    met_a_link = {kind for kind, how in ended if how == "path_not_allowed"}
    assert done == {"List", "Stat", "Exist", "Read", "Write", "Delete", "Move", "Copy", "Mkdir"}
    assert met_a_link == done - {"Exist"}


def test_whoever_follows_links_does_get_out(place):
    """Else the test above would say nothing."""
    ground = Playground(place)
    with ground.swapping():
        for name in ("d/f1", "file", "tree/deep/d/f1"):
            path = ground.root / name
            assert any(SECRET in path.read_bytes() for _ in range(TRIES)), name
