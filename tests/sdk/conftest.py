"""What kind of client a test runs with, and where files come from and go to."""

import sys

import pytest

import cmdop_appliance.sdk.aio.resources.files
import cmdop_appliance.sdk.resources.files  # noqa: F401 - what they load is changed below
from tests.sdk.kinds import KIND, KINDS
from tests.sdk.scripted_machine import LARGE


@pytest.fixture(scope="session")
def _loops():
    yield
    KIND.close()


@pytest.fixture(params=KINDS)
def kind(request, _loops):
    """Each kind of client, one after another."""
    KIND.name = request.param
    yield KIND.name
    KIND.name = "sync"


@pytest.fixture(autouse=True)
def small_and_soon(monkeypatch):
    """Of files a 16th is large already, and attempts follow one another at once, at first."""
    for name, module in [*sys.modules.items()]:
        if name.startswith("cmdop_appliance.sdk."):
            for bytes_ in {"PIECE_BYTES", "WHOLE_BYTES", "_PART_BYTES"} & vars(module).keys():
                monkeypatch.setattr(module, bytes_, getattr(module, bytes_) // 16)
            if hasattr(module, "_PAUSE_FIRST_S"):
                monkeypatch.setattr(module, "_PAUSE_FIRST_S", 0.001)


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
