"""Where a path leads: the one way from what the hub names to a directory that is held open.

A path is walked from `/` on, a component at a time, each opened in the directory before it and
never through a link. The text of a link takes its place in what remains to be walked, an absolute
one from the start; `..` starts again without the last component. So whatever is swapped meanwhile,
each step is taken in a directory that the steps before have led to, and none is taken out of the
roots. What comes of it is that directory, open, and one name in it.

Links in the own paths of the roots are the host's: they are followed once, when the agent starts.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cmdop_appliance.agent.files.failures import FileFailure, failing, shown
from cmdop_appliance.agent.files.linux import (
    LIST,
    LOOK,
    PASS,
    may_be_planted,
    rename_exclusively,
)
from cmdop_appliance.agent.files.needed import Needed, needed_at
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.protocol.limits import PATH_BYTES

# Links on one way: as many as the kernel follows (MAXSYMLINKS, linux/namei.h).
_LINKS: Final = 40
# Components on one way, where each `..` walks anew: some 50 ms of work. A path of PATH_BYTES has at
# most 2,048.
_STEPS: Final = 10_000

_Parts = tuple[bytes, ...]
_Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True, slots=True)
class Place:
    """One name in a directory that is open until the `with` block ends."""

    path: bytes  # absolute, as it was asked for; where that has a `..`, `real`
    real: bytes  # absolute, no links in it: the directory's path when it was opened, and `name`
    parent: int  # descriptor, for names in it (`dir_fd`) and nothing else
    name: bytes  # one component; "." if the place is a root itself
    status: os.stat_result | None  # of the name, not followed; None: nothing is there
    is_for_directory: bool = False  # its path ends in "/": what is made there can be nothing else

    def found(self) -> os.stat_result:
        """Its status.

        Raises:
            FileFailure: nothing is there.
        """
        if self.status is None:
            raise FileFailure("file_not_found", f"{shown(self.path)} does not exist")
        return self.status

    def check_not_root(self) -> None:
        """A root holds things; it is not for the hub to move, replace or delete.

        Raises:
            FileFailure: this is one.
        """
        if self.name == b".":
            message = f"{shown(self.path)} is one of the roots in agent.toml (files.roots)"
            raise FileFailure("path_not_allowed", message)

    def rename_to(self, other: "Place", *, overwrite: bool) -> None:
        """Give what stands here the name there; without `overwrite` only if nothing has it.

        Raises:
            OSError: as of rename(2).
        """
        if overwrite:
            os.rename(self.name, other.name, src_dir_fd=self.parent, dst_dir_fd=other.parent)
        else:
            rename_exclusively(self.name, self.parent, other.name, other.parent)

    def sync(self) -> None:
        """Wait until the disk holds the names in the directory."""
        sync_directory(self.parent)


class Roots:
    """What of the file system agent.toml opens to the hub, less the directories `keep_out`.

    A relative path counts from `home`; an empty one is home or, where that is not open, the first
    root. `config` is agent.toml, which stays as it is.
    """

    def __init__(
        self,
        policy: FilesPolicy,
        keep_out: Sequence[Path],
        home: bytes,
        config: Path | None = None,
    ) -> None:
        # As they are written, and as they are meant; the longest first.
        spelled = {_parts(os.fsencode(root)) for root in policy.roots}
        self._spelled = [
            (parts, _parts(os.path.realpath(_joined(parts))))
            for parts in sorted(spelled, key=len, reverse=True)
        ]
        self._roots = {real for _, real in self._spelled}
        self._keep_out = tuple(keep_out)
        self._kept = [Needed(_absolute(kept), "the agent's or the hub's own") for kept in keep_out]
        self._home = self._empty = _parts(home)
        if policy.roots and not self._is_open(_parts(os.path.realpath(home))):
            self._empty = _parts(os.fsencode(policy.roots[0]))
        self._needs = [
            Needed(
                _joined(self._home),
                "the home of the agent's user; delete or move what is in it by name",
            ),
            *self._kept,
        ]
        if config is not None:
            self._needs.append(Needed(_absolute(config), "agent.toml, which no hub may change"))

    def from_home(self, path: bytes) -> bytes:
        """The path itself; where it is `~`, or begins with `~/`, with home in its place."""
        is_at_home = path == b"~" or path.startswith(b"~/")
        return _joined(self._home) + path[1:] if is_at_home else path

    @contextmanager
    def place(
        self, path: bytes, *, follow: bool, make_parents: bool = False, remedy: str = ""
    ) -> Iterator[Place]:
        """Walk to `path`. With `follow` a link at its end is followed, too, within the roots.

        With `make_parents` directories that are missing on the way are made, and on the disk; else
        `remedy` is told of one. An OSError in the block is raised as the FileFailure that it means
        for `path`.

        Raises:
            FileFailure: it leads to no directory within the roots.
        """
        asked = _parts(path)
        if not path.startswith(b"/"):
            asked = (*self._home, *asked) if asked else self._empty
        # With home, too: that is what is answered with.
        if b"\0" in path or max(len(path), len(_joined(asked))) > PATH_BYTES:
            raise FileFailure(
                "invalid_path",
                f"{shown(path)} is no path: those have no NUL, and at most {PATH_BYTES} bytes",
            )
        with failing(path), closing(_Walk(self._meant(asked), path)) as walk:
            name, status = self._follow(walk, follow, make_parents, remedy)
            real = _joined(walk.walked if name == b"." else (*walk.walked, name))
            as_asked = real if b".." in asked else _joined(asked)
            yield Place(as_asked, real, walk.directory, name, status, walk.is_for_directory)

    def enter(self, directory: int, name: bytes) -> int:
        """A descriptor to list the directory `name` in an open one; the caller closes it.

        Raises:
            FileFailure: it is the agent's or the hub's own.
            OSError: it cannot be opened, or is no directory.
        """
        handle = os.open(name, LIST, dir_fd=directory)
        try:
            self._check_not_kept(os.fstat(handle), name)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def check_expendable(self, place: Place) -> None:
        """A hub takes nothing from under the agent: what leads to that stays as it is.

        Raises:
            FileFailure: this leads to home, agent.toml or the agent's own, or is a root.
        """
        place.check_not_root()
        _check_none_at(self._needs, place)

    def check_whole(self, place: Place) -> None:
        """What is done to all that is in a directory is not done to the agent's or the hub's own.

        Raises:
            FileFailure: such a directory is beneath.
        """
        _check_none_at(self._kept, place)

    def _follow(
        self, walk: "_Walk", follow: bool, make_parents: bool, remedy: str
    ) -> tuple[bytes, os.stat_result | None]:
        """Walk to the end: the last name, in `walk.directory`, and its status."""
        path = walk.path
        for _ in range(_STEPS):
            if not walk.rest:
                self._check_open(walk.walked, path)
                return b".", os.fstat(walk.directory)
            name = walk.rest.popleft()
            if name == b"..":
                walk.start((*walk.walked[:-1], *walk.rest))
                continue
            here = (*walk.walked, name)
            if not walk.rest and here not in self._roots:
                self._check_open(here, path)
                status = status_of(walk.directory, name)
                if follow and status is not None and stat.S_ISLNK(status.st_mode):
                    self._splice(walk, name)
                    continue
                self._check_not_kept(status, path)
                if walk.is_for_directory and status and not stat.S_ISDIR(status.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                return name, status
            self._check_on_the_way(here, path)
            try:
                walk.enter(name)
            except NotADirectoryError:
                self._splice(walk, name)
            except FileNotFoundError:
                if not make_parents or not self._is_open(walk.walked):
                    missing = f"{shown(_joined(here))}, on the way to {shown(path)}, does not exist"
                    raise FileFailure("file_not_found", missing + remedy) from None
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=walk.directory)
                sync_directory(walk.directory)
                walk.rest.appendleft(name)
            else:
                self._check_not_kept(os.fstat(walk.directory), path)
        raise _endless(path)

    def _splice(self, walk: "_Walk", name: bytes) -> None:
        """Let the text of the link take its place. Where it leads is for the next steps to judge.

        Raises:
            FileFailure: somebody may have planted it, or it was one too many.
            NotADirectoryError: it is no link.
            OSError: it cannot be read.
        """
        text = _text_of(walk, name)
        walk.links += 1
        if walk.links > _LINKS:
            raise _endless(walk.path)
        if not walk.rest and means_directory(text):
            walk.is_for_directory = True
        if text.startswith(b"/"):
            walk.start(self._meant((*_parts(text), *walk.rest)))
        else:
            walk.rest.extendleft(reversed(_parts(text)))

    def _meant(self, parts: _Parts) -> _Parts:
        """The same path, but the links in the own path of its root followed."""
        for spelled, real in self._spelled:
            if parts[: len(spelled)] == spelled:
                return (*real, *parts[len(spelled) :])
        return parts

    def _is_open(self, parts: Sequence[bytes]) -> bool:
        parts = tuple(parts)
        return any(parts[: len(root)] == root for root in self._roots)

    def _check_open(self, parts: Sequence[bytes], path: bytes) -> None:
        if not self._is_open(parts):
            message = f"agent.toml of this machine does not open {shown(path)} (files.roots)"
            raise FileFailure("path_not_allowed", message)

    def _check_on_the_way(self, parts: _Parts, path: bytes) -> None:
        """A directory above a root may be passed on the way to it, and not even looked at else."""
        if not any(root[: len(parts)] == parts for root in self._roots):
            self._check_open(parts, path)

    def _check_not_kept(self, status: os.stat_result | None, path: bytes) -> None:
        if (
            status
            and stat.S_ISDIR(status.st_mode)
            and _identity(status) in _identities(self._keep_out)
        ):
            message = f"{shown(path)} is the agent's or the hub's own, and closed to all hubs"
            raise FileFailure("path_not_allowed", message)


class _Walk:
    """A walk under way: a directory, open, the real names that led to it, and what remains."""

    def __init__(self, rest: Iterable[bytes], path: bytes) -> None:
        self.path = path  # as it was asked for
        self.directory = os.open(b"/", PASS)
        self.walked: list[bytes] = []
        self.rest = deque(rest)
        self.links = 0
        self.is_for_directory = means_directory(path)

    def close(self) -> None:
        os.close(self.directory)

    def enter(self, name: bytes) -> None:
        inner = os.open(name, PASS, dir_fd=self.directory)
        os.close(self.directory)
        self.directory = inner
        self.walked.append(name)

    def start(self, rest: Iterable[bytes]) -> None:
        root = os.open(b"/", PASS)
        os.close(self.directory)
        self.directory = root
        self.walked = []
        self.rest = deque(rest)


def sync_directory(directory: int) -> None:
    """Wait until the disk holds the names in a directory; it need not be open for reading."""
    try:
        handle = os.open(b".", LIST, dir_fd=directory)
    except PermissionError:  # it may be written to, but not listed: there is no way to wait
        return
    try:
        os.fsync(handle)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # a file system that does not know this, fsync(2)
            raise
    finally:
        os.close(handle)


def status_of(directory: int, name: bytes) -> os.stat_result | None:
    """What stands at a name in an open directory, a link not followed. None: nothing.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def means_directory(path: bytes) -> bool:
    """True: a path that ends so is one of a directory, and a link at its end is followed."""
    return path.endswith((b"/", b"/."))


def _check_none_at(needs: Sequence[Needed], place: Place) -> None:
    needed = needed_at(needs, place.parent, place.name, place.status)
    if needed is not None:
        message = f"{shown(place.path)} is, or holds, {needed.what}"
        raise FileFailure("path_not_allowed", message)


def _text_of(walk: _Walk, name: bytes) -> bytes:
    link = os.open(name, LOOK, dir_fd=walk.directory)
    try:
        status = os.fstat(link)
        if not stat.S_ISLNK(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if may_be_planted(walk.directory, status):
            where = _joined((*walk.walked, name))
            raise FileFailure(
                "file_permission_denied",
                f"{shown(where)} is a link of user {status.st_uid} in a directory where anybody may"
                " put one, and is not followed: name what it leads to",
            )
        return os.readlink(b"", dir_fd=link)
    finally:
        os.close(link)


def _endless(path: bytes) -> FileFailure:
    return FileFailure("invalid_path", f"{shown(path)} leads through links that have no end")


def _absolute(path: Path) -> bytes:
    return os.fsencode(path.absolute())


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _identities(folders: Iterable[Path]) -> set[_Identity]:
    found = set()
    for folder in folders:
        with suppress(OSError):  # one that is not there is nowhere met
            found.add(_identity(folder.stat()))
    return found


def _parts(path: bytes) -> _Parts:
    return tuple(part for part in path.split(b"/") if part not in (b"", b"."))


def _joined(parts: Iterable[bytes]) -> bytes:
    return b"/" + b"/".join(parts)
