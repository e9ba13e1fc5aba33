"""A machine's files as its agent has them, called without a hub."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cmdop_appliance.agent.files.failures import FileFailure
from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.files.writing import Writing
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.protocol.files import Kept, Read, Uploaded, Write, Written

AnyPath = bytes | str | Path

LARGE = Random(2).randbytes(1_000_000)  # what is written in pieces
WHOLE = Random(3).randbytes(300_000)  # what is uploaded in parts

is_root = os.geteuid() == 0
as_root = pytest.mark.skipif(not is_root, reason="only root can mount")


def sha256(data: bytes) -> bytes:
    """Of a whole file."""
    return hashlib.sha256(data).digest()


def agent_files(state_dir: Path) -> Files:
    """As an agent has them that was just started on this state directory."""
    state_dir.mkdir(mode=0o700, exist_ok=True)
    return Files(state_dir, FilesPolicy())


def placed(files: Files, path: AnyPath, **call: Any) -> Writing:
    """A file to write, or a part of an upload; the caller closes it."""
    return files.place(Write(path=os.fsencode(path), **call), lambda: False)


def put(files: Files, path: AnyPath, data: bytes, **call: Any) -> Written:
    """Write a file, or the last part of an upload that has the bytes before `offset`."""
    whole = call.pop("whole", data)
    with closing(placed(files, path, **call)) as writing:
        if data:
            writing.write(data)
        written = writing.finish(call.get("offset", 0) + len(data), sha256(whole))
    assert isinstance(written, Written)
    return written


def keep(files: Files, path: AnyPath, upload: str, data: bytes, offset: int = 0) -> int:
    """Write a part of an upload; how much has arrived then."""
    with closing(placed(files, path, upload=upload, offset=offset)) as writing:
        writing.write(data)
        kept = writing.finish(offset + len(data), None)
    assert isinstance(kept, Kept)
    return kept.offset


def get(files: Files, path: AnyPath, **call: Any) -> bytes:
    """Read a file, or a part of it."""
    with closing(files.open(Read(path=os.fsencode(path), **call))) as reading:
        return b"".join(iter(lambda: reading.read(100_000), b""))


def arrived(files: Files, path: AnyPath, upload: str) -> int:
    """How much of an upload is there."""
    answer = files.carry_out(Uploaded(path=os.fsencode(path), upload=upload), lambda: False)
    assert isinstance(answer, Kept)
    return answer.offset


@contextmanager
def fails(code: str) -> Iterator[pytest.ExceptionInfo[FileFailure]]:
    """The block ends in a failure of this code, which is said in words."""
    with pytest.raises(FileFailure) as failure:
        yield failure
    assert failure.value.code == code, failure.value.message
    assert failure.value.message


def mode_of(path: Path) -> int:
    """Its permissions, and the three bits before them."""
    return path.stat().st_mode & 0o7777


def parts_in(folder: Path) -> list[Path]:
    """Temporaries in a directory."""
    return sorted(folder.glob(".cmdop-*.part"))


def records_in(state_dir: Path) -> list[Path]:
    """What an agent has noted of its temporaries."""
    return sorted((state_dir / "files").glob("*"))


@contextmanager
def mounted(folder: Path, *how: str) -> Iterator[Path]:
    """A file system of its own on `folder`, made; `how`: the words of mount(8)."""
    folder.mkdir()
    subprocess.run(["mount", *how, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
