"""The command line, for the tests of files: in this process, or in one of its own."""

import io
import os
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmdop_appliance.cli.main import main
from tests.sdk.scripted_hub import ScriptedHub
from tests.support.appliance import Hub

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "cmdop_appliance"]


@dataclass(frozen=True)
class Done:
    """How one run ended, and what it said."""

    returncode: int
    stdout: bytes
    stderr: bytes


def environ(hub: Hub | ScriptedHub) -> dict[str, str]:
    """What makes `hub` the one that is meant."""
    url, key = (hub.api.url, hub.api.key) if isinstance(hub, Hub) else (hub.url, "k")
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "LANG": "C.UTF-8",
        "CMDOP_URL": url,
        "CMDOP_API_KEY": key,
    }


def cmdop(hub: Hub | ScriptedHub, *args: object, cwd: Path = ROOT, stdin: bytes = b"") -> Done:
    """One run in this process, to its end: it takes a tenth of the time of another process."""
    stdout, stderr = io.BytesIO(), io.BytesIO()
    umask = os.umask(0o022)
    try:
        with (
            chdir(cwd),
            pytest.MonkeyPatch.context() as patched,
            redirect_stdout(_text(stdout)),
            redirect_stderr(_text(stderr)),
        ):
            patched.setattr(sys, "stdin", _text(io.BytesIO(stdin)))
            for name, value in environ(hub).items():
                patched.setenv(name, value)
            code = main([str(arg) for arg in args])
            return Done(code, stdout.getvalue(), stderr.getvalue())
    finally:
        os.umask(umask)


def _text(file: io.BytesIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, "utf-8", write_through=True)
