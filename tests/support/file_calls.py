"""Calls for files, as the hub would make them, and what came of them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cmdop_appliance.agent.files.failures import FileFailure
from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.protocol.files import AnyAnswer, AnyCall


def b(path: object) -> bytes:
    """A path as the machine has it."""
    return os.fsencode(str(path))


def never() -> bool:
    """Somebody waits for it."""
    return False


def do(files: Files, call: AnyCall, is_stopped: Callable[[], bool] = never) -> AnyAnswer:
    """The answer."""
    return files.carry_out(call, is_stopped)


def refusal(files: Files, call: AnyCall, code: str) -> str:
    """The message of the failure with this code."""
    with pytest.raises(FileFailure) as caught:
        do(files, call)
    assert caught.value.code == code, caught.value
    return caught.value.message


def picture(top: Path) -> dict[str, tuple[int, bytes]]:
    """All that is there: mode, and content or what a link says."""
    found = {}
    for path in [top, *top.rglob("*")]:
        content = b""
        if path.is_symlink():
            content = b(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(top))] = (path.lstat().st_mode, content)
    return found
