"""The command line in this process."""

import io
import sys

import pytest

from cmdop_appliance.cli.main import main


@pytest.fixture
def command_line(capfd, monkeypatch):
    """Runs `cmdop` with a hub's address and a key: (its exit code, what it printed and said)."""

    def run(url, key, *args, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(["--hub", url, "--key", key, *args])
        return code, *capfd.readouterr()

    return run
