"""What is in a directory, a page at a time."""

import grp
import os
import pwd
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from cmdop_appliance.protocol.files import Entry, Kind
from cmdop_appliance.protocol.limits import ENTRIES_ITEMS, LABEL_CHARS, PATH_BYTES

# Names of directories that are being paged through, kept for the next page: some 50 MB at most.
_KEPT_NAMES: Final = 500_000

_KINDS: Final[dict[int, Kind]] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
}


class Listings:
    """The names in directories, by bytes, such that a page does not read the whole again.

    The first page reads the directory; those after it go on in what that has found, for as long as
    the directory says that it is the same. Of one that fits on a page nothing is kept.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, ...], list[bytes]] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def names(self, directory: int, *, hidden: bool, anew: bool) -> list[bytes]:
        """The names in an open directory, sorted; without `hidden` none that begins with a dot.

        Raises:
            OSError: it cannot be read.
        """
        status = os.fstat(directory)
        key = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, hidden)
        with self._lock:
            if not anew and key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        names = sorted(
            name
            for name in map(os.fsencode, os.listdir(directory))
            if hidden or not name.startswith(b".")
        )
        with self._lock:
            self._count -= len(self._kept.pop(key, ()))
            if len(names) > ENTRIES_ITEMS:
                self._kept[key] = names
                self._count += len(names)
            while self._count > _KEPT_NAMES:
                _, dropped = self._kept.popitem(last=False)
                self._count -= len(dropped)
        return names


class Describer:
    """Makes entries. It asks for the name of a user or group once, so it is for one call."""

    def __init__(self) -> None:
        self._owners: dict[int, str] = {}
        self._groups: dict[int, str] = {}

    def page(self, directory: int, names: list[bytes]) -> list[Entry]:
        """An entry for each name that is still there."""
        found = (self._entry_or_none(directory, name) for name in names)
        return [entry for entry in found if entry is not None]

    def entry(self, directory: int, name: bytes, status: os.stat_result, shown: bytes) -> Entry:
        """What stands at `name` in an open directory, as an entry of the name `shown`.

        Raises:
            OSError: it is a link and cannot be read, perhaps because it is gone.
        """
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "other")
        target = os.readlink(name, dir_fd=directory)[:PATH_BYTES] if kind == "symlink" else None
        return Entry(
            name=shown,
            type=kind,
            size=status.st_size,
            mode=stat.S_IMODE(status.st_mode),
            owner=_label(self._owners, status.st_uid, lambda uid: pwd.getpwuid(uid).pw_name),
            group=_label(self._groups, status.st_gid, lambda gid: grp.getgrgid(gid).gr_name),
            modified_ms=status.st_mtime_ns // 1_000_000,
            target=target,
        )

    def _entry_or_none(self, directory: int, name: bytes) -> Entry | None:
        try:
            status = os.lstat(name, dir_fd=directory)
            return self.entry(directory, name, status, name)
        except FileNotFoundError:
            return None
        except OSError:  # such as another user's FUSE mount: it has a name, and no more is known
            return Entry(name=name, type="other", size=0, mode=0, owner="", group="", modified_ms=0)


def _label(known: dict[int, str], number: int, look_up: Callable[[int], str]) -> str:
    if number not in known:
        try:
            name = os.fsencode(look_up(number)).decode("utf-8", "replace")
        except KeyError:
            name = str(number)
        known[number] = name[:LABEL_CHARS]
    return known[number]
