"""A file in the making, with a record by which a later agent finds it.

A file is written beside its target, as `.cmdop-<token>.part`. Before that exists a record of it,
`<token>.jsonl` in the agent's own directory, is on the disk; each line is the record as it was
from then on, and the last whole line counts:

    begun   directory, target, upload    synced, and only then the temporary is made
    made    … and what that is           nothing else is unlinked, entered or gone on with
    done    … and how it ended           before the rename: true once the target is that inode

The directory may be another user's, who may put anything under the temporary's name, and even gets
the same inode for it. So a directory is emptied, and a file gone on with, only if it still is as it
was made: open to the agent's user alone. Of anything else no more is taken away than he could take
away himself: one name.
"""
# ruff: noqa: PTH118 - pathlib knows no bytes

import os
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from cmdop_appliance.agent.files.failures import FileFailure, failure_of, shown, swapped
from cmdop_appliance.agent.files.linux import LIST, LOOK
from cmdop_appliance.agent.files.roots import Place, status_of
from cmdop_appliance.private import sync_directory
from cmdop_appliance.protocol.files import Bytes32, UploadId

SUFFIX: Final = ".jsonl"  # of a record
_PRIVATE: Final = 0o700

Key = tuple[bytes, str]  # the target's real path; the upload, or what stands for one


class Done(Struct, frozen=True):
    """How an upload ended, and what its file is since."""

    size: int
    modified_ns: int
    sha256: Bytes32
    created: bool
    at_s: float  # since 1970


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a temporary; names as the machine has them."""

    directory: bytes
    target: bytes  # the name in it
    upload: UploadId | None = None  # None: it comes in one go, or not at all
    device: int | None = None
    inode: int | None = None  # None: it is not known to have been made
    uid: int | None = None  # whose it was then
    mode: int | None = None  # and its mode, with the kind of file
    done: Done | None = None

    def is_of(self, status: os.stat_result) -> bool:
        """True: this is what was made, or may be: its name was nobody else's."""
        if self.upload is not None and not stat.S_ISREG(status.st_mode):
            return False
        return self.inode is None or (status.st_dev, status.st_ino) == (self.device, self.inode)

    def is_own(self, status: os.stat_result) -> bool:
        """True: this is what was made, and nobody else's; a freed inode is another one's soon."""
        return self.is_of(status) and status.st_uid == self.uid

    def is_untouched(self, status: os.stat_result) -> bool:
        """True: that, and nobody else ever had a right or another name to open it by."""
        return self.is_own(status) and (status.st_mode, status.st_nlink) == (self.mode, 1)


class Temporary:
    """One file in the making. Whoever changes it, or what it has, holds its `lock`."""

    def __init__(self, folder: Path, token: str, record: Record, *, is_begun: bool = False) -> None:
        self.lock = threading.Lock()
        self.holder: object | None = None  # who writes to it; another takes it over by this
        self.used_at_s = time.time()  # when somebody last did, since 1970
        self.is_forgotten = False
        self.record = record
        self.hash: tuple[Any, int] | None = None  # a running sha256, and of how many bytes
        self.name = f".cmdop-{token}.part".encode()
        self.key: Key = (os.path.join(record.directory, record.target), record.upload or token)
        self.path = folder / f"{token}{SUFFIX}"
        self.place = os.path.join(record.directory, self.name)
        self._is_begun = is_begun

    def let_go(self) -> None:
        """Nobody writes to it any more."""
        self.holder = None
        self.used_at_s = time.time()
        with suppress(OSError):  # it tells the next agent, and there may be none yet
            os.utime(self.path)

    def status(self, directory: int) -> os.stat_result | None:
        """Of the file in its directory. None: there is none that can be gone on with.

        Raises:
            OSError: it cannot be looked at.
        """
        status = status_of(directory, self.name)
        return status if status is not None and self.record.is_untouched(status) else None

    def done_at(self, place: Place) -> Done | None:
        """How it ended, if what stands at its target is what it became, and nobody wrote to it."""
        record, status = self.record, place.status  # once: another thread may note what is new
        done = record.done
        if done is None or status is None or not record.is_of(status):
            return None
        is_same = (status.st_size, status.st_mtime_ns) == (done.size, done.modified_ns)
        return done if is_same else None

    def open(self, directory: int) -> int:
        """A descriptor of the file; it is made if there is none to go on with.

        Raises:
            FileFailure: the record cannot be written, or another thing is in its place.
            OSError: the file cannot be made, or opened.
        """
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        if self.status(directory) is None:
            self._begin(directory)
            fd = os.open(self.name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
            return self._noted(fd)  # of this call's own making, by O_EXCL
        fd = os.open(self.name, flags, dir_fd=directory)
        if not self.record.is_untouched(os.fstat(fd)):
            os.close(fd)
            raise swapped(self.place)
        return fd

    def make_directory(self, directory: int) -> int:
        """Have a directory made instead: a descriptor of it. It is empty, and the agent's alone.

        Raises:
            FileFailure: the record cannot be written, or another thing is in its place.
            OSError: it cannot be made.
        """
        self._begin(directory)
        os.mkdir(self.name, _PRIVATE, dir_fd=directory)
        return self._noted(os.open(self.name, LIST, dir_fd=directory), stat.S_IFDIR)

    def make_link(self, directory: int, text: bytes) -> int:
        """Have a link made instead: a descriptor of it (`O_PATH`).

        Raises:
            FileFailure: the record cannot be written, or another thing is in its place.
            OSError: it cannot be made.
        """
        self._begin(directory)
        os.symlink(text, self.name, dir_fd=directory)
        return self._noted(os.open(self.name, LOOK, dir_fd=directory), stat.S_IFLNK)

    def check(self, directory: int, handle: int) -> None:
        """Do nothing if what was made, open as `handle`, still has its name.

        Raises:
            FileFailure: another thing has, or none.
            OSError: it cannot be looked at.
        """
        status = status_of(directory, self.name)
        if status is None or not os.path.samestat(status, os.fstat(handle)):
            raise swapped(self.place)

    def _begin(self, directory: int) -> None:
        """From now on it may be there."""
        self.hash = None
        if self._is_begun:  # and gone since: finished, or taken away by somebody
            self._note(device=None, inode=None, uid=None, mode=None, done=None)
            with suppress(FileNotFoundError):  # one that may have been another's meanwhile
                os.unlink(self.name, dir_fd=directory)
            return
        try:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            with self.path.open("xb") as file:
                file.write(_line(self.record))
                file.flush()
                os.fsync(file.fileno())
            sync_directory(self.path.parent)
        except OSError as exc:
            raise failure_of(exc, os.fsencode(self.path)) from exc
        self._is_begun = True

    def _noted(self, handle: int, kind: int | None = None) -> int:
        """Take what is open for what was made, and nothing else from now on.

        What could not be opened as it was made has to be of this `kind`, the agent's own and empty.
        """
        try:
            made = os.fstat(handle)
            if kind is not None:
                self._check_made(handle, made, kind)
            self._note(device=made.st_dev, inode=made.st_ino, uid=made.st_uid, mode=made.st_mode)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _check_made(self, handle: int, made: os.stat_result, kind: int) -> None:
        is_own = stat.S_IFMT(made.st_mode) == kind and made.st_uid == os.geteuid()
        if is_own and kind == stat.S_IFDIR:
            is_own = made.st_mode & 0o777 == _PRIVATE and not os.listdir(handle)
        if not is_own:
            raise FileFailure(
                "file_permission_denied",
                f"{shown(self.place)} was just made, and is not the agent's own: somebody has put"
                " another thing in its place, or its file system keeps no owners and modes (such"
                " as NFS with root_squash)",
            )

    def note_end(self, status: os.stat_result, sha256: bytes, *, created: bool) -> None:
        """It is about to become its target.

        Raises:
            FileFailure: the record cannot be written.
        """
        size, modified_ns = status.st_size, status.st_mtime_ns
        self._note(done=Done(size, modified_ns, sha256, created, time.time()))

    def left_over(self) -> "Temporary":
        """The same, as what nobody goes on with."""
        record = msgspec.structs.replace(self.record, upload=None, done=None)
        left = Temporary(self.path.parent, self.path.stem, record, is_begun=True)
        with suppress(FileFailure):  # the disk that failed may be this one; then it is as it was
            left._note()
        return left

    def _note(self, **facts: Any) -> None:
        """Not synced: what a power cut takes of it costs an upload its answer at most."""
        record = msgspec.structs.replace(self.record, **facts)
        try:
            with self.path.open("ab") as file:
                file.write(_line(record))
        except OSError as exc:
            raise failure_of(exc, os.fsencode(self.path)) from exc
        self.record = record


def _line(record: Record) -> bytes:
    """On a line of its own, whatever the one before came to."""
    return b"\n" + msgspec.json.encode(record) + b"\n"
