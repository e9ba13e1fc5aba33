"""Writes of the agent's that fall at a system call: it fails by strace(1), or is the last one.

    python -m tests.support.file_faults      a line of JSON for each write, on standard input

Each write is done by a child that stops itself first, until strace has it in its grip. So the
calls of one number are those of the write alone, and each costs no start of Python.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cmdop_appliance.agent.files.failures import FileFailure
from cmdop_appliance.protocol.files import Write
from tests.support.agent_files import agent_files, sha256
from tests.support.appliance import wait_for

_CALL = re.compile(r"[0-9]+ +([a-z0-9_]+)\(")  # after the id of the process
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")


@dataclass(frozen=True)
class Outcome:
    """What came of a write, and whether the fault struck at all."""

    is_struck: bool
    signal: int  # that it died of, or 0
    code: str | None  # of the failure; None: it was put in place
    message: str
    calls: list[str]  # the names of those that were traced, in their order


class Writer:
    """Does writes in processes of their own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def write(self, faults: str, state: Path, path: Path, data: bytes, **call: Any) -> Outcome:
        """Write while `faults` are in force, each as strace's `inject` has it, a space between."""
        order = {"state": str(state), "path": str(path), "data": data.hex(), "call": call}
        pid = self._ask(order)["pid"]
        with tempfile.NamedTemporaryFile("r") as trace:
            injections = [f"inject={fault}" for fault in faults.split()]
            calls = ",".join(fault.partition(":")[0] for fault in faults.split())
            words = [f"--{word}" for word in (f"trace={calls}", "signal=none", *injections)]
            strace = subprocess.Popen(
                ["strace", "-f", "-q", "-o", trace.name, *words, "-p", str(pid)],
                stderr=subprocess.PIPE,
                text=True,
            )
            with strace:
                wait_for(lambda: _is_traced(pid, strace), "strace has the process in its grip")
                os.kill(pid, signal.SIGCONT)
                end = self._ask({})
                assert strace.wait(30) is not None
                assert strace.stderr is not None
                lines = trace.read().splitlines()
        is_struck = any("INJECTED" in line for line in lines) or end["signal"] == signal.SIGKILL
        calls = [found[1] for line in lines if (found := _CALL.match(line))]
        return Outcome(is_struck, end["signal"], end["code"], end["message"], calls)

    def _ask(self, order: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextmanager
def running_writer() -> Iterator[Writer]:
    """One for a module."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.file_faults"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Writer(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0


def _is_traced(pid: int, strace: subprocess.Popen[str]) -> bool:
    if strace.poll() is not None:
        assert strace.stderr is not None
        pytest.skip(f"strace cannot trace here: {strace.stderr.read()}")
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


def main() -> None:
    """Obey orders, each in two steps: the child's id once it stands still, then how it ended."""
    for line in sys.stdin:
        order = json.loads(line)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            _obey(order, writer)
        os.close(writer)
        os.waitpid(pid, os.WUNTRACED)
        _say({"pid": pid})
        sys.stdin.readline()
        with os.fdopen(reader, "rb") as told:
            answer = told.read()
        _, status = os.waitpid(pid, 0)
        died_of = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        _say({"signal": died_of, "code": None, "message": ""} | json.loads(answer or b"{}"))


def _obey(order: dict[str, Any], writer: int) -> None:
    state, path, data = Path(order["state"]), order["path"], bytes.fromhex(order["data"])
    call = Write(path=os.fsencode(path), **order["call"])
    answer: dict[str, str] = {}
    try:
        files = agent_files(state)
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            with closing(files.place(call, lambda: False)) as writing:
                writing.write(data)
                writing.finish(len(data), sha256(data))
        except FileFailure as failure:
            answer = {"code": failure.code, "message": failure.message}
    except BaseException as exc:  # noqa: BLE001 - told to the test
        answer = {"code": "broken", "message": repr(exc)}
    finally:
        os.writev(writer, [json.dumps(answer).encode()])  # no fault strikes this call
        os._exit(0)


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
