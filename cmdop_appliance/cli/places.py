"""Places of files, as people write them: `MACHINE:PATH`, or a path here; and what stands there."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.sdk import APIError, NotFound
from cmdop_appliance.sdk.resources.files import Files
from cmdop_appliance.sdk.types import FileEntry

_TAG: Final = "tag:"
_HOME: Final = "."  # what paths on a machine count from


@dataclass(frozen=True, slots=True)
class Remote:
    """A path on a machine, or on those that a selector fits."""

    machine: str  # as it was written
    path: str  # from the root, or from the home of the agent's user

    def __str__(self) -> str:
        return f"{self.machine}:{self.path}"


def read_place(text: str) -> Remote | None:
    """What `MACHINE:PATH` names; None: it is a path here.

    As with scp, what has a slash before its first colon is here, and so is what begins with a
    colon. `MACHINE:` is the home of the agent's user there, and so is a `~`.
    """
    tagged = text.startswith(_TAG) and ":" in text.removeprefix(_TAG).partition("/")[0]
    head, colon, path = text.removeprefix(_TAG if tagged else "").partition(":")
    if not (head and colon) or "/" in head:
        return Remote(_TAG, _from_home(path)) if tagged else None
    return Remote(f"{_TAG}{head}" if tagged else head, _from_home(path))


def remote_place(text: str) -> Remote:
    """The same, where it must be on a machine.

    Raises:
        Failure: it is not.
    """
    place = read_place(text)
    if place is None:
        raise Failure(
            f'"{text}" names no machine', exit_code=failures.USAGE, hint="write MACHINE:PATH"
        )
    return place


def named_place(text: str) -> Remote:
    """The same, of what is to leave its place: whatever is empty there must not mean all of a home.

    Raises:
        Failure: it is not on a machine, or does not end in a name.
    """
    place = remote_place(text)
    if not name_of(place.path):
        raise Failure(
            f'"{text}" ends in no name, and is left as it is',
            exit_code=failures.USAGE,
            hint='an empty path, "/", "~" and what ends in "." or ".." are refused',
        )
    return place


def look(files: Files, machine_id: str, path: str) -> tuple[bool, bool]:
    """(whether a path of a machine leads to a directory, whether anything is there)."""
    try:
        return is_directory(files, machine_id, files.stat(machine_id, path)), True
    except NotFound as exc:
        if exc.code != "file_not_found":
            raise
        return False, False


def is_directory(files: Files, machine_id: str, entry: FileEntry) -> bool:
    """True: it is a directory, or a link that leads to one."""
    if entry["type"] != "symlink":
        return entry["type"] == "directory"
    try:
        next(files.list(machine_id, entry["path"]), None)  # which only a directory can be
    except APIError as exc:
        if exc.code not in ("not_a_directory", "file_not_found"):
            raise
        return False
    return True


def below(directory: str, name: str) -> str:
    """The path of `name` in a directory of a machine."""
    return str(PurePosixPath(directory) / name)


def name_of(path: str) -> str:
    """The last part of a path; "" if that is no name but stands for what is in a directory."""
    name = path.rstrip("/").rpartition("/")[2]
    return "" if name in (".", "..") else name


def is_directory_text(path: str) -> bool:
    """True: who writes it so means a directory."""
    return path.endswith(("/", "/.", "/..")) or path in (".", "..")


def _from_home(path: str) -> str:
    if path == "~" or path.startswith("~/"):
        path = path.removeprefix("~").lstrip("/")
    return path or _HOME
