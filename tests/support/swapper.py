"""Somebody on the machine puts links in the place of directories and files while the hub uses them.

Below `root`, which is open to the hub, names are exchanged with links to `outside`, which is not:
a directory with files in it, a file, and a directory deep in a tree. `outside` looks the same as
what it stands for, so that whoever follows a link finds its secret or leaves a trace there.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cmdop_appliance.agent.files.failures import FileFailure
from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.protocol.files import (
    AnyCall,
    Copy,
    Delete,
    Entries,
    Exist,
    Existing,
    Found,
    List,
    Mkdir,
    Move,
    Read,
    Stat,
    Write,
)
from tests.support.descriptors import open_descriptors

SECRET = b"what nobody shall read"
OPEN = b"open to all"
ONLY_OUTSIDE = b"only-outside"
NAMES = [b"f%d" % number for number in range(6)]
_SHA256 = hashlib.sha256(OPEN).digest()
# 2 is RENAME_EXCHANGE (linux/fs.h), -100 AT_FDCWD (linux/fcntl.h); a name may just be deleted. 1 is
# PR_SET_PDEATHSIG (linux/prctl.h): it does not outlive us, whatever ends us.
_SWAP = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.prctl(1, 9)
pairs = [(name, name + b".link") for name in map(os.fsencode, sys.argv[1:])]
while True:
    for name, link in pairs:
        libc.renameat2(-100, name, -100, link, 2)
"""


class Playground:
    """A root, and beside it what is not to be touched."""

    def __init__(self, place: Path) -> None:
        self.root, self.outside, self._state = place / "root", place / "outside", place / "state"
        self._state.mkdir()
        _fill(self.outside, SECRET)
        (self.outside / os.fsdecode(ONLY_OUTSIDE)).write_bytes(SECRET)
        self._swapper: subprocess.Popen[bytes] | None = None
        self.plant()
        self._before = _everything(self.outside)

    def plant(self) -> None:
        """Have all there that was deleted, and nothing else."""
        with self._paused():
            shutil.rmtree(self.root, ignore_errors=True)
            for name in ("d", "tree/deep/d"):
                _fill(self.root / name, OPEN)
                (self.root / f"{name}.link").symlink_to(self.outside)
            (self.root / "file").write_bytes(OPEN)
            (self.root / "file.link").symlink_to(self.outside / os.fsdecode(NAMES[0]))

    def files(self) -> Files:
        """What answers the hub."""
        return Files(self._state, FilesPolicy(roots=(str(self.root),)))

    def check(self) -> None:
        """Outside all is as it was, and nothing of it has come inside."""
        assert _everything(self.outside) == self._before
        for path, (_, content) in _everything(self.root).items():
            assert content is None or SECRET not in content, path
            assert not path.name.startswith(".cmdop-"), "a temporary was left behind"

    @contextmanager
    def swapping(self) -> Iterator[None]:
        """Another process exchanges names and links, as fast as it can."""
        names = [str(self.root / name) for name in ("d", "file", "tree/deep/d")]
        self._swapper = subprocess.Popen([sys.executable, "-S", "-c", _SWAP, *names])
        try:
            yield
        finally:
            self._swapper.kill()
            self._swapper.wait()
            self._swapper = None

    @contextmanager
    def _paused(self) -> Iterator[None]:
        if self._swapper is None:
            yield
            return
        self._swapper.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._swapper.pid, os.WSTOPPED)
        try:
            yield
        finally:
            self._swapper.send_signal(signal.SIGCONT)


def provoke(place: Path, calls: int, seed: int) -> Counter[tuple[str, str]]:
    """Make so many calls; how they ended: kind of call, and its error code or `done`.

    Raises:
        AssertionError: one got outside, or told what is there.
    """
    ground, chance = Playground(place), random.Random(seed)
    files, before = ground.files(), open_descriptors()
    ended: Counter[tuple[str, str]] = Counter()
    with ground.swapping():
        for _ in range(calls):
            call = _any_call(chance, os.fsencode(ground.root))
            kind = type(call).__name__
            try:
                _carry_out(files, call)
            except FileFailure as failure:
                ended[kind, failure.code] += 1
            else:
                ended[kind, "done"] += 1
            if ended.total() % 50 == 0:
                ground.plant()
    ground.check()
    assert open_descriptors() == before
    return ended


def _any_call(chance: random.Random, root: bytes) -> AnyCall:
    directory = root + chance.choice([b"/d/", b"/tree/deep/d/"])
    name = directory + chance.choice(NAMES)
    place = chance.choice([name, root + b"/file", root + b"/new"])
    return chance.choice(
        [
            List(path=chance.choice([directory, directory + b"sub"]), limit=100),
            Stat(path=place, checksum=True),
            Exist(paths=[name, directory + ONLY_OUTSIDE]),
            Read(path=place),
            Read(path=directory + b"../d/sub/inner"),
            Write(path=place),
            Write(path=directory + b"made/here", create_parents=True),
            Delete(path=name),
            Delete(path=directory + b"sub", recursive=True),
            Delete(path=root + b"/tree", recursive=True),
            Delete(path=root + b"/copy", recursive=True),
            Move(source=name, destination=root + b"/new", overwrite=True),
            Move(source=root + b"/new", destination=name, overwrite=True),
            Move(source=directory + b"sub", destination=root + b"/copy"),
            Copy(source=name, destination=place, overwrite=True),
            Copy(source=root + b"/file", destination=name, overwrite=True),
            Copy(source=root + b"/tree", destination=root + b"/copy"),
            Copy(source=root + b"/copy", destination=directory + b"copied"),
            Mkdir(path=directory + b"made/further", parents=True, mode=0o700),
        ]
    )


def _carry_out(files: Files, call: AnyCall) -> None:
    """Do it, and look at what comes of it."""
    if isinstance(call, Read):
        with closing(files.open(call)) as reading:
            while data := reading.read(100):
                assert SECRET not in data
    elif isinstance(call, Write):
        with closing(files.place(call, lambda: False)) as writing:
            writing.write(OPEN)
            writing.finish(len(OPEN), _SHA256)
    else:
        answer = files.carry_out(call, lambda: False)
        if isinstance(answer, Entries):
            assert ONLY_OUTSIDE not in [entry.name for entry in answer.entries]
            assert all(
                entry.type != "file" or entry.size != len(SECRET) for entry in answer.entries
            )
        elif isinstance(answer, Found):
            assert answer.entry.type != "file" or answer.entry.size != len(SECRET)
            assert answer.sha256 in (None, _SHA256)
        elif isinstance(answer, Existing):
            assert not answer.exist[1]


def _fill(directory: Path, content: bytes) -> None:
    (directory / "sub").mkdir(parents=True)
    (directory / "sub/inner").write_bytes(content)
    for name in NAMES:
        (directory / os.fsdecode(name)).write_bytes(content)


def _everything(top: Path) -> dict[Path, tuple[object, bytes | None]]:
    """All that is there, links not followed, with its content and what would tell of a change."""
    found = {}
    for path in [top, *top.rglob("*")]:
        status = path.lstat()
        told = (status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)
        is_file = path.is_file() and not path.is_symlink()
        found[path] = (told, path.read_bytes() if is_file else None)
    return found
