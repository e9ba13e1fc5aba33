"""A file takes the place of another: whole, with its owner, mode and attributes, or not at all.

What is written stands in a temporary beside the target until all of it is on the disk; then it is
renamed. Whoever opens the target finds the old content or the new one, at any time, also after a
power cut. Writers of one target take turns from the last look at it to the rename.
"""

import grp
import os
import pwd
import re
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakValueDictionary

from cmdop_appliance.agent.files.digests import Digests
from cmdop_appliance.agent.files.failures import FileFailure, IsStopped, failing, shown
from cmdop_appliance.agent.files.linux import (
    LOOK,
    copy_attributes,
    may_be_planted,
    new_file_mode,
    rename_exclusively,
)
from cmdop_appliance.agent.files.reading import check_regular, sha256_of
from cmdop_appliance.agent.files.roots import Place, status_of
from cmdop_appliance.agent.files.uploads import Uploads

# The greatest number of a user or group: the one above says "as it is" to chown(2).
_ID_MOST: Final = 2**32 - 2
# Who is at the turn, by the directory's device and inode and the name in it.
_turns: Final[WeakValueDictionary[tuple[int, int, bytes], threading.Lock]] = WeakValueDictionary()
_turns_lock: Final = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what a file is put in place, and as whose. None: as the file before, or as any new one."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    overwrite: bool = True
    if_match: bytes | None = None  # only in the place of a file with this sha256


@contextmanager
def replacing(place: Place, terms: Terms, uploads: Uploads, digests: Digests) -> Iterator[int]:
    """A descriptor to write a file to; at the end of the block it is put in place.

    If the block fails, nothing has happened.

    Raises:
        FileFailure: the terms are not met, or the disk does not hold it.
    """
    check(place, terms, digests)
    temporary = uploads.begin(place, None)
    with temporary.lock, failing(place.path):
        try:
            fd = temporary.open(place.parent)
            try:
                yield fd
                put_in_place(place, fd, temporary.name, terms, digests)
            finally:
                os.close(fd)
        except BaseException:
            uploads.give_up(temporary, place.parent)
            raise
        uploads.forget(temporary)


def check(
    place: Place, terms: Terms, digests: Digests, is_stopped: IsStopped = lambda: False
) -> None:
    """Do nothing if a file may be put there. It may have to read all of one, for `if_match`.

    Raises:
        FileFailure: why not, or nobody waits for this any more.
    """
    if place.status is None:
        if place.is_for_directory:
            message = f"{shown(place.path)}/ can only be a directory, by the / at its end"
            raise FileFailure("is_a_directory", message)
        if terms.if_match is not None:
            raise _changed(place, "it is not there")
        return
    check_regular(place, place.status)
    if may_be_planted(place.parent, place.status):
        raise FileFailure(
            "file_permission_denied",
            f"{shown(place.path)} is a file of user {place.status.st_uid} in a directory where"
            " anybody may put one, and nothing is written to it: delete it first",
        )
    if not terms.overwrite:
        raise FileFailure("file_exists", f"{shown(place.path)} exists, and is to stay")
    if terms.if_match is not None and sha256_of(place, digests, is_stopped) != terms.if_match:
        raise _changed(place, "it has another sha256")


def _changed(place: Place, how: str) -> FileFailure:
    message = f"{shown(place.path)} is not what it was to be (if_match): {how}"
    return FileFailure("changed", message)


def put_in_place(
    place: Place,
    fd: int,
    name: bytes,
    terms: Terms,
    digests: Digests,
    before: Callable[[bool], None] = lambda created: None,
    is_stopped: IsStopped = lambda: False,
) -> bool:
    """Make the target of a temporary, `name`, open as `fd`. True: there was no file before.

    `before` hears the same just before the rename, and may refuse. Once this returns, the disk
    holds it all.

    Raises:
        FileFailure: the terms are not met, or nobody waits for this any more; all is as it was.
        OSError: the system refuses, or the disk failed: the old file stands there, or the new one.
    """
    with _turn(place):
        place = replace(place, status=status_of(place.parent, place.name))
        check(place, terms, digests, is_stopped)
        _dress(place, fd, terms)
        os.fsync(fd)
        created = place.status is None
        before(created)
        if terms.overwrite:
            os.rename(name, place.name, src_dir_fd=place.parent, dst_dir_fd=place.parent)
        else:
            rename_exclusively(name, place.parent, place.name, place.parent)
    place.sync()
    return created


def _dress(place: Place, fd: int, terms: Terms) -> None:
    """Give the temporary the owner, the attributes and the mode that the target is to have."""
    old, fresh = place.status, os.fstat(fd)
    uid, gid, mode = terms.uid, terms.gid, terms.mode
    if old is not None:
        uid, gid = old.st_uid if uid is None else uid, old.st_gid if gid is None else gid
    uid, gid = fresh.st_uid if uid is None else uid, fresh.st_gid if gid is None else gid
    if (uid, gid) != (fresh.st_uid, fresh.st_gid):
        try:
            os.fchown(fd, uid, gid)
        except PermissionError as exc:
            raise FileFailure(
                "file_permission_denied",
                f"{shown(place.path)} cannot be given to user {uid} and group {gid}, as it has to"
                " be, by the agent's user, so it stays as it is",
            ) from exc
    if old is not None:
        target = os.open(place.name, LOOK, dir_fd=place.parent)
        try:
            copy_attributes(target, fd)
        finally:
            os.close(target)
        mode = stat.S_IMODE(old.st_mode) if mode is None else mode
    os.fchmod(fd, new_file_mode(place.parent) if mode is None else mode)


def user_id(name: str) -> int:
    """The number of a user of this machine, who may be named by it.

    Raises:
        FileFailure: there is none.
    """
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return _number(name, "user", "owner")


def group_id(name: str) -> int:
    """The number of a group of this machine, which may be named by it.

    Raises:
        FileFailure: there is none.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return _number(name, "group", "group")


def _number(text: str, kind: str, field: str) -> int:
    if re.fullmatch("[0-9]{1,10}", text) and int(text) <= _ID_MOST:
        return int(text)
    name = shown(text.encode(errors="replace"))
    raise FileFailure("invalid_request", f"this machine has no {kind} {name} ({field})")


@contextmanager
def _turn(place: Place) -> Iterator[None]:
    directory = os.fstat(place.parent)
    with _turns_lock:
        key = (directory.st_dev, directory.st_ino, place.name)
        turn = _turns.setdefault(key, threading.Lock())
    with turn:
        yield
