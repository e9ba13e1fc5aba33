"""All that is in a directory: removed or copied, and no link followed on the way.

Each directory is opened in the one above, which stays open meanwhile; whatever is swapped, nothing
is touched that does not lie in a directory that was found there.
"""
# ruff: noqa: PTH118, PTH208 - pathlib knows neither bytes nor descriptors

import os
import stat
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Final, Literal

from cmdop_appliance.agent.files.failures import (
    FileFailure,
    IsStopped,
    Stopped,
    failing,
    shown,
    swapped,
)
from cmdop_appliance.agent.files.roots import Place, Roots

# Directories within one another, of which each costs a descriptor, or two; no program makes more.
_DEPTH: Final = 200


@dataclass(frozen=True, slots=True)
class Step:
    """One thing met: a directory before and after all that is in it, or anything else."""

    kind: Literal["enter", "leave", "other"]
    place: Place  # of a directory that is left: with the status that it was opened with
    handle: int = -1  # of that, open until the next step


@dataclass(slots=True)
class _Level:
    place: Place
    handle: int  # the directory, open
    left: list[str]  # names in it, to go to


def steps(roots: Roots, place: Place, is_stopped: IsStopped) -> Generator[Step, None, None]:
    """Go to what stands at a place and to all that is in it; close the iterator.

    What vanishes before its turn is left out.

    Raises:
        FileFailure: something of it may not be entered, or was swapped, or it is too deep, or
            nobody waits for it.
    """
    if not stat.S_ISDIR(place.found().st_mode):
        yield Step("other", place)
        return
    levels: list[_Level] = []
    try:
        yield Step("enter", place)
        levels.append(_entered(roots, place))
        while levels:
            if is_stopped():
                raise Stopped
            level = levels[-1]
            if not level.left:
                yield Step("leave", level.place, level.handle)
                os.close(levels.pop().handle)
                continue
            inner = _inner(level)
            if inner is None:
                continue
            if not stat.S_ISDIR(inner.found().st_mode):
                yield Step("other", inner)
                continue
            if len(levels) == _DEPTH:
                message = f"{shown(inner.path)} lies more than {_DEPTH} directories deep"
                raise FileFailure("invalid_path", f"{message}; use a command")
            yield Step("enter", inner)
            levels.append(_entered(roots, inner))
    finally:
        for level in levels:
            os.close(level.handle)


def remove(roots: Roots, place: Place, is_stopped: IsStopped) -> None:
    """Remove what stands at a place, a directory with all that is in it.

    Raises:
        FileFailure: something cannot be removed; what was met before it is gone.
    """
    with closing(steps(roots, place, is_stopped)) as met:
        for step in met:
            inner = step.place
            with failing(inner.path), suppress(FileNotFoundError):  # gone is gone
                if step.kind == "other":
                    os.unlink(inner.name, dir_fd=inner.parent)
                elif step.kind == "leave":
                    os.rmdir(inner.name, dir_fd=inner.parent)


def _entered(roots: Roots, place: Place) -> _Level:
    with failing(place.path):
        handle = roots.enter(place.parent, place.name)
        try:
            entered = replace(place, status=os.fstat(handle))
            _check_same(place, entered)
            return _Level(entered, handle, os.listdir(handle))
        except BaseException:
            os.close(handle)
            raise


def _check_same(before: Place, now: Place) -> None:
    if not os.path.samestat(before.found(), now.found()):
        raise swapped(now.path)


def _inner(level: _Level) -> Place | None:
    """The next place in a directory; None: it has vanished."""
    name = os.fsencode(level.left.pop())
    path = os.path.join(level.place.path, name)
    with failing(path):
        try:
            status = os.lstat(name, dir_fd=level.handle)
        except FileNotFoundError:
            return None
    return Place(path, os.path.join(level.place.real, name), level.handle, name, status)
