"""Where files come from and go to."""

import pytest

from tests.sdk.scripted_machine import LARGE


@pytest.fixture
def local(tmp_path):
    """A file here with the bytes LARGE."""
    path = tmp_path / "local"
    path.write_bytes(LARGE)
    return path


@pytest.fixture
def here(tmp_path):
    """Where a file is to arrive."""
    path = tmp_path / "here" / "f"
    path.parent.mkdir()
    return path
