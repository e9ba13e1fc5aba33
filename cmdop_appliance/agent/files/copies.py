"""Another of a file, or of a directory with all that is in it: in place once it is whole.

A file goes the way of any that is written (replacing.py). Anything else is made beside its
destination, as a temporary, and renamed when the disk holds it.

Either directory may be another user's, who swaps what stands there for what is not his. So all that
is copied, dressed or removed is held by a descriptor, and a directory is open to the agent's user
alone until all is in it.

A copy has the mode, the times and the attributes of what it was made of, and its owner where the
agent may give that; but no file's set-user-id or set-group-id, which would be another user's there.
A file that takes the place of another keeps what that had, as always.
"""
# ruff: noqa: PTH118, PTH208 - pathlib knows neither bytes nor descriptors

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Final

from cmdop_appliance.agent.files.digests import Digests, is_unchanged, settles_in_s
from cmdop_appliance.agent.files.failures import FileFailure, IsStopped, Stopped, failing, shown
from cmdop_appliance.agent.files.linux import (
    FRESH,
    LOOK,
    copy_attributes,
    path_of,
    sync_file_system,
)
from cmdop_appliance.agent.files.reading import open_regular
from cmdop_appliance.agent.files.replacing import Terms, replacing
from cmdop_appliance.agent.files.roots import Place, Roots, sync_directory
from cmdop_appliance.agent.files.temporaries import Temporary
from cmdop_appliance.agent.files.trees import steps
from cmdop_appliance.agent.files.uploads import Uploads

# Copied between two questions whether that is still wanted: some 10 ms of work.
_CHUNK_BYTES: Final = 8 * 1024 * 1024
# The same where it goes through our memory; of a read beyond 4 MiB /proc/sys says ENOMEM.
_READ_BYTES: Final = 1024 * 1024
# What the kernel says of two files that it does not copy by itself; copy_file_range(2).
_CANNOT: Final = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_FILE_BITS: Final = 0o1777  # of a mode, without set-user-id and set-group-id


class Copier:
    """Makes copies; used by several threads."""

    def __init__(self, roots: Roots, uploads: Uploads, digests: Digests) -> None:
        self._roots = roots
        self._uploads = uploads
        self._digests = digests

    def copy(
        self, source: Place, destination: Place, *, overwrite: bool, is_stopped: IsStopped
    ) -> None:
        """Copy what stands at `source`, which `destination` is not within. It is on the disk then.

        A directory takes the place of an empty one only.

        Raises:
            FileFailure: nothing has happened.
        """
        kind = stat.S_IFMT(source.found().st_mode)
        if kind == stat.S_IFDIR:
            self._check_empty(destination)
            with self._beside(destination, overwrite, Temporary.make_directory) as copy:
                self._fill(source, copy, destination, is_stopped)
        elif kind == stat.S_IFLNK:
            with failing(source.path):
                text = os.readlink(source.name, dir_fd=source.parent)
            make = partial(Temporary.make_link, text=text)
            with self._beside(destination, overwrite, make) as copy:
                _dress_link(source.found(), copy)
        else:
            self._copy_file(source, destination, overwrite, is_stopped)

    def _copy_file(
        self, source: Place, destination: Place, overwrite: bool, is_stopped: IsStopped
    ) -> None:
        with _opened(source) as (handle, status):
            is_new = destination.status is None
            mode = stat.S_IMODE(status.st_mode) & _FILE_BITS if is_new else None
            terms = Terms(mode=mode, overwrite=overwrite)
            with replacing(destination, terms, self._uploads, self._digests) as copy:
                _copy_content(source, handle, status, copy, is_stopped)
                if is_new:
                    _dress(status, handle, copy)

    @contextmanager
    def _beside(
        self, destination: Place, overwrite: bool, make: Callable[[Temporary, int], int]
    ) -> Iterator[int]:
        """A descriptor of what was made, and is put at `destination` at the end of the block."""
        temporary = self._uploads.begin(destination, None)
        with temporary.lock, failing(destination.path), ExitStack() as stack:
            try:
                copy = make(temporary, destination.parent)
                stack.callback(os.close, copy)
                try:
                    yield copy
                    temporary.check(destination.parent, copy)
                    beside = replace(destination, name=temporary.name)
                    beside.rename_to(destination, overwrite=overwrite)
                except BaseException:
                    _take_back(copy)
                    raise
            except BaseException:
                self._uploads.give_up(temporary, destination.parent)
                raise
            self._uploads.forget(temporary)
            destination.sync()

    def _check_empty(self, destination: Place) -> None:
        """Say before all is copied what rename(2) would say afterwards."""
        if destination.status is None:
            return
        with failing(destination.path):
            handle = self._roots.enter(destination.parent, destination.name)
            try:
                is_empty = not os.listdir(handle)
            finally:
                os.close(handle)
        if not is_empty:
            message = f"{shown(destination.path)} is a directory with something in it"
            raise FileFailure("directory_not_empty", message)

    def _fill(self, source: Place, copy: int, destination: Place, is_stopped: IsStopped) -> None:
        """Make all that is in one directory in another, which is empty. The disk holds it then."""
        handles: list[int] = []  # of the directories that are being filled, the innermost last
        try:
            with closing(steps(self._roots, source, is_stopped)) as met:
                for step in met:
                    inner = step.place
                    with failing(_counterpart(inner, source, destination)):
                        if step.kind == "enter":
                            if handles:
                                os.mkdir(inner.name, 0o700, dir_fd=handles[-1])
                                handles.append(self._roots.enter(handles[-1], inner.name))
                            else:
                                handles.append(os.dup(copy))
                        elif step.kind == "other":
                            _copy_inner(inner, handles[-1], is_stopped)
                        else:
                            if len(handles) == 1:  # before it is open to anybody else
                                sync_file_system(copy)
                            _dress(inner.found(), step.handle, handles[-1])
                            os.close(handles.pop())
            with failing(destination.path):
                sync_directory(copy)
        finally:
            for handle in handles:
                os.close(handle)


def _counterpart(inner: Place, source: Place, destination: Place) -> bytes:
    """What `inner` is to become, for a message."""
    within = inner.path[len(source.path) :].lstrip(b"/")
    return os.path.join(destination.path, within) if within else destination.path


def _copy_inner(source: Place, directory: int, is_stopped: IsStopped) -> None:
    """Copy a file or a link into an open directory, under its own name; it need not be synced."""
    status = source.found()
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source.name, dir_fd=source.parent), source.name, dir_fd=directory)
        link = os.open(source.name, LOOK, dir_fd=directory)
        try:
            _dress_link(status, link)
        finally:
            os.close(link)
        return
    with _opened(source) as (handle, status):
        copy = os.open(source.name, FRESH, 0o600, dir_fd=directory)
        try:
            _copy_content(source, handle, status, copy, is_stopped)
            _dress(status, handle, copy)
        finally:
            os.close(copy)


@contextmanager
def _opened(source: Place) -> Iterator[tuple[int, os.stat_result]]:
    with failing(source.path):
        handle, status = open_regular(source)
    try:
        yield handle, status
    finally:
        os.close(handle)


def _copy_content(
    source: Place, handle: int, before: os.stat_result, copy: int, is_stopped: IsStopped
) -> None:
    time.sleep(settles_in_s(before))  # from now on a change shows
    while _copy_some(handle, copy):
        if is_stopped():
            raise Stopped
    if not is_unchanged(before, os.fstat(handle)):
        message = f"{shown(source.path)} was changed while it was copied; try again"
        raise FileFailure("changed_during_read", message)


def _copy_some(handle: int, copy: int) -> int:
    """How many bytes were copied on from where both stand; 0: there are no more."""
    try:
        if count := os.copy_file_range(handle, copy, _CHUNK_BYTES):
            return count
    except OSError as exc:
        if exc.errno not in _CANNOT:
            raise
    # Also what the kernel makes up as it is read, which it takes for empty (/proc, /sys).
    data = memoryview(os.read(handle, _READ_BYTES))
    written = 0
    while written < len(data):
        written += os.write(copy, data[written:])
    return written


def _dress(status: os.stat_result, source: int, copy: int) -> None:
    """Give a file or directory what another one has, which had this status when it was opened."""
    is_file = stat.S_ISREG(status.st_mode)
    with suppress(OSError):  # it is not for everybody to give things away
        os.fchown(copy, status.st_uid, status.st_gid)
    copy_attributes(source, copy)
    os.fchmod(copy, stat.S_IMODE(status.st_mode) & (_FILE_BITS if is_file else ~0))
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))


def _dress_link(status: os.stat_result, link: int) -> None:
    with suppress(OSError):
        os.chown(path_of(link), status.st_uid, status.st_gid)
    os.utime(path_of(link), ns=(status.st_atime_ns, status.st_mtime_ns))


def _take_back(copy: int) -> None:
    """Nobody else puts anything into a directory any more, which is to be removed now."""
    with suppress(OSError):  # a link has nothing in it, and cannot be changed so
        os.fchown(copy, os.geteuid(), -1)
        os.fchmod(copy, 0o700)
