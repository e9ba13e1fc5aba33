"""The disk fails at each system call of a write: a clear error, and the old content whole.

strace watches a real agent while it puts a file in place, and lists what that asks of the system
for this file, its directory, its temporary and its record. Then each of these calls fails in turn,
once or from then on, with each error.
"""

import hashlib
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, product
from pathlib import Path
from random import Random
from typing import Any

from cmdop_appliance.agent.files.files import FOLDER
from tests.support.appliance import Answer, wait_for
from tests.support.machine_files import MachineFiles, names_in
from tests.torture.parts import Case, NotTriedError, Part, Stage
from tests.torture.site import Site, running_site

# errno → what a client is told of it (contract.md §5)
CODES = {"EIO": "file_io_error", "ENOSPC": "no_space", "EACCES": "file_permission_denied"}
_OLD = b"old" * 100_000
_NEW = Random(7).randbytes(600_000)
_SHA256 = hashlib.sha256(_NEW).hexdigest()
_PART = 200_000  # of an upload in two parts, the first
# A close that is not carried out leaves a descriptor open, and tells nothing of the disk.
_SPARED = frozenset({"close"})
_RENAMES = "rename,renameat,renameat2"
_RENAMED = re.compile(rb"rename.* = 0$", re.MULTILINE)
_CALL = re.compile(rb"^(\d+) +(\w+)\(", re.MULTILINE)


def why_not() -> str:
    """Why no call of an agent can be made to fail here; "" when it can."""
    if shutil.which("strace") is None:
        return "no strace here"
    argv = ["strace", "-e", "inject=getppid:error=EIO", "true"]
    tried = subprocess.run(argv, capture_output=True, text=True, check=False)
    return tried.stderr.strip() if tried.returncode else ""


class _Writer:
    """Puts a file in place, in one request or as the second part of an upload."""

    def __init__(self, site: Site, folder: Path, *, in_parts: bool) -> None:
        self.path = folder / "x"
        self.folder = folder
        self._records = site.agent.state_dir / FOLDER
        self._always = [folder, self.path, self._records]
        self.paths = self._always  # what it has to do with, as far as that is known before
        self._files = MachineFiles(site.hub.api, site.agent.machine_id)
        self._before: set[Path] = set()
        self._numbers = count()
        self._id = ""
        self._in_parts = in_parts

    def prepare(self) -> None:
        """The old file stands there, and of an upload in parts the first has arrived."""
        self.path.write_bytes(_OLD)
        self._before = set(self.folder.iterdir())  # with what earlier faults have left
        if self._in_parts:
            self._id = f"u{next(self._numbers)}"
            answer = self._files.upload(self.path, _NEW[:_PART], upload_id=self._id, offset=0)
            assert answer.status == 200, answer
            (temporary,) = set(self.folder.iterdir()) - self._before
            (record,) = self._records.glob(f"*{temporary.name.split('-')[1].split('.')[0]}*")
            self.paths = [*self._always, temporary, record]

    def write(self, offset: int = _PART) -> Answer:
        """The answer to what puts the new file in place; in parts, from an offset on."""
        if not self._in_parts:
            return self._files.upload(self.path, _NEW, sha256=_SHA256)
        rest = {"upload_id": self._id, "offset": offset, "sha256": _SHA256}
        return self._files.upload(self.path, _NEW[offset:], **rest)

    def judge(self, answer: Answer, errno: str, call: str, log: bytes) -> None:
        """Fail unless it was told as what it is, and the file is whole."""
        content = self.path.read_bytes()
        assert content in (_OLD, _NEW), f"a mixture of {len(content)} bytes"
        if answer.status == 200:
            assert content == _NEW
            assert "sync" not in call, "a failed sync was acknowledged"
        else:
            assert answer.error["code"] == CODES[errno], answer
            # What fails behind the rename cannot be taken back, and is told all the same.
            assert content == (_NEW if _RENAMED.search(log) else _OLD)
        left = set(self.folder.iterdir()) - self._before
        assert len(left) <= 1, left

    def finish(self) -> None:
        """The disk is whole again: what is missing is sent, and the new file is there."""
        if self.path.read_bytes() != _NEW:
            offset = self._files.offset(self.path, self._id) if self._in_parts else 0
            answer = self.write(offset)
            assert answer.status == 200, answer
        assert self.path.read_bytes() == _NEW


@contextmanager
def _traced(pid: int, log: Path, paths: list[Path], *expressions: str) -> Iterator[None]:
    """Within, strace is attached to a process and all its threads."""
    named = [word for path in paths for word in ("-P", str(path))]
    chosen = [word for expression in expressions for word in ("-e", expression)]
    argv = ["strace", "-f", "-p", str(pid), "-o", str(log), *named, *chosen]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as strace:
        assert strace.stderr is not None
        try:
            said = b""
            while b"attached" not in said:
                line = strace.stderr.readline()
                assert line, said
                said += line
            yield
        finally:
            strace.send_signal(signal.SIGINT)
            strace.wait(30)


def _steps(site: Site, writer: _Writer) -> list[tuple[str, int]]:
    """(name, number) of the calls of a write in which nothing fails.

    A thread's calls are counted for themselves, as strace does it.
    """
    log = site.place / "steps.strace"
    with _watching(site, writer, log, "trace=%file,%desc"):
        answer = writer.write()
    assert answer.status == 200, answer
    threads = Counter(_CALL.findall(log.read_bytes()))
    most: dict[str, int] = {}
    for (_, name), calls in threads.items():
        most[name.decode()] = max(calls, most.get(name.decode(), 0))
    return [
        (name, number)
        for name, calls in sorted(most.items())
        if name not in _SPARED
        for number in range(1, calls + 1)
    ]


@contextmanager
def _watching(site: Site, writer: _Writer, log: Path, *expressions: str) -> Iterator[None]:
    writer.prepare()
    with _traced(site.agent.pid, log, writer.paths, *expressions):
        yield


def _sweep(site: Site, writer: _Writer, errno: str, say: Callable[[str], Any]) -> None:
    struck, refused = 0, 0
    steps = _steps(site, writer)
    log = site.place / "fault.strace"
    for (call, number), more in product(steps, ("", "+")):
        fault = f"inject={call}:error={errno}:when={number}{more}"
        try:
            with _watching(site, writer, log, f"trace={call},{_RENAMES}", fault):
                answer = writer.write()
            if b"(INJECTED)" in (trace := log.read_bytes()):
                struck += 1
                refused += answer.status != 200
                writer.judge(answer, errno, call, trace)
            writer.finish()
        except Exception as exc:
            exc.add_note(fault)
            raise
    # What could not be unlinked while nothing could be is taken away by the next agent.
    before = site.agent.connections
    site.agent.kill()
    site.start_agent()
    site.wait_reconnected(before)
    wait_for(lambda: names_in(writer.folder) == [b"x"], f"{writer.folder} is swept")
    say(f"files-faults: {errno} at {struck} calls of {len(steps)} steps, {refused} told as such")


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    with running_site(stage.place) as site:

        def case(number: int, _dice: Random) -> None:
            if why := why_not():
                raise NotTriedError(why)
            errno = list(CODES)[number % len(CODES)]
            folder = stage.place / f"files-{number}"
            folder.mkdir()
            writer = _Writer(site, folder, in_parts=number >= len(CODES))
            _sweep(site, writer, errno, stage.say)

        yield case


FILES_FAULTS = Part("files-faults", 2 * len(CODES), 300.0, _stage)
