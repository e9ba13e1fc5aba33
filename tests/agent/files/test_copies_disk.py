"""What is answered is on the disk, and a copy that the disk refuses leaves nothing."""

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cmdop_appliance.protocol.files import Copy, Delete, Mkdir, Move
from tests.support.file_calls import picture
from tests.support.file_faults import needs_strace

_CALLS = "unlinkat,mkdirat,symlinkat,renameat,renameat2,fsync,syncfs"
_CARRY_OUT = """
import os, sys
from pathlib import Path
import msgspec
from cmdop_appliance.agent.files.failures import FileFailure
from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.protocol.files import AnyCall
state, root, call = sys.argv[1:]
os.environ["HOME"] = root
files = Files(Path(state), FilesPolicy(roots=(root,)))
try:
    files.carry_out(msgspec.json.decode(call, type=AnyCall), lambda: False)
except FileFailure as failure:
    sys.exit(f"{failure.code}: {failure.message}")
"""


@needs_strace
@pytest.mark.parametrize(
    ("call", "synced"),
    [
        (Delete(path=b"file"), [""]),
        (Delete(path=b"tree", recursive=True), [""]),
        (Move(source=b"file", destination=b"tree/new"), ["tree", ""]),
        (Copy(source=b"file", destination=b"tree/new"), ["tree"]),
        (Copy(source=b"tree", destination=b"new"), [""]),
        (Mkdir(path=b"tree/new"), ["tree"]),
        (Mkdir(path=b"new", mode=0o700), ["new", ""]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_what_is_answered_is_on_the_disk(root, tmp_path, call, synced):
    """After the last change of a name each directory is synced that had one."""
    trace = tmp_path / "trace"
    done = _carry_out_under_strace(root, call, f"--output={trace}", "-y", f"--trace={_CALLS}")
    assert done.returncode == 0, done.stderr
    lines = [line for line in trace.read_text().splitlines() if str(root) in line]
    last = max(n for n, line in enumerate(lines) if not line.startswith(("fsync", "syncfs")))
    found = [re.sub(r".*<(.*)>.*", r"\1", line) for line in lines[last + 1 :]]
    assert found == [str(root / name) for name in synced]


@needs_strace
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("mkdirat:error=ENOSPC:when=2", "no_space"),
        ("symlinkat:error=EDQUOT", "no_space"),
        ("copy_file_range:error=EIO:when=2", "file_io_error"),
        ("fchmod:error=EPERM", "file_permission_denied"),
        ("syncfs:error=EIO", "file_io_error"),
        ("renameat2:error=EACCES", "file_permission_denied"),
    ],
)
def test_a_copy_that_fails_leaves_nothing_and_says_why(root, fault, code):
    before = picture(root)
    call = Copy(source=b"tree", destination=b"copy")
    done = _carry_out_under_strace(root, call, "--output=/dev/null", f"--inject={fault}")
    assert done.stderr.startswith(f"{code}: {root}/copy"), done.stderr
    assert picture(root) == before


def _carry_out_under_strace(root: Path, call, *options: str) -> subprocess.CompletedProcess[str]:
    arguments = [str(root.parent / "state"), str(root), msgspec.json.encode(call)]
    return subprocess.run(
        ["strace", "-qq", *options, sys.executable, "-c", _CARRY_OUT, *arguments],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
