"""Places of files, as people write them: `MACHINE:PATH`, or a path here; and what stands there."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.targets import split_target
from cmdop_appliance.sdk import APIError, NotFound
from cmdop_appliance.sdk.resources.files import Files
from cmdop_appliance.sdk.types import FileEntry

_HOME: Final = "."  # what paths on a machine count from


@dataclass(frozen=True, slots=True)
class Remote:
    """A path on a machine, or on those that a selector fits."""

    machine: str  # as it was written
    path: str  # from the root, or from the home of the agent's user


def read_place(text: str) -> Remote | None:
    """What `MACHINE:PATH` names; None: it is a path here.

    `MACHINE:` is the home of the agent's user there, and so is a `~`.
    """
    found = split_target(text)
    return None if found is None else Remote(found[0], _from_home(found[1]))


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
