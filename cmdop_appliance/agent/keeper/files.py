"""Private files and folders, and the pool of output files."""
# ruff: noqa: PTH101, PTH102, PTH106, PTH108, PTH112, PTH114, PTH116, PTH208 - without pathlib, see the package

import os
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

POOL_SLOTS = 32  # twice the commands that a machine runs at once by default (`max_parallel`)
OUTPUT = "output"  # the folder of output files, in the keeper's own


def open_private(name: str, flags: int) -> int:
    """A descriptor of a file, made if needed, that is 0600 whatever the umask."""
    fd = os.open(name, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.fchmod(fd, 0o600)
    return fd


def make_private_folder(name: str) -> None:
    """Make a folder, or take the one there is, and have it 0700 whatever the umask."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700)
    os.chmod(name, 0o700)


class Slot:
    """The two files one command writes to. A number is used once: a child left behind by an
    ended command may still write to its files.
    """

    __slots__ = ("number", "stderr", "stdout")

    def __init__(self, number: int) -> None:
        self.number = number
        flags = os.O_WRONLY | os.O_APPEND | os.O_EXCL
        self.stdout = open_private(f"{OUTPUT}/{number}.out", flags)
        try:
            self.stderr = open_private(f"{OUTPUT}/{number}.err", flags)
        except OSError:
            os.close(self.stdout)
            raise

    def close(self) -> None:
        """Close our descriptors; the command has its own."""
        os.close(self.stdout)
        os.close(self.stderr)


class OutputPool:
    """Slots opened in idle time, because files made while a caller waits cost it the time."""

    def __init__(self, kept: Iterable[int]) -> None:
        """Use the numbers above all there are; files whose slot is not `kept` are removed."""
        slots = set(kept)
        self._next = max(slots, default=0) + 1
        for name in os.listdir(OUTPUT):
            stem = name.partition(".")[0]
            if not stem.isdecimal() or int(stem) not in slots:
                _remove(f"{OUTPUT}/{name}")
        self._free: deque[Slot] = deque()

    def first(self) -> Slot:
        """The slot for the next command, still the pool's until `take_first`."""
        if not self._free:
            self.add()
        return self._free[0]

    def take_first(self) -> Slot:
        """The slot that `first` gave, now the caller's to close."""
        return self._free.popleft()

    def is_full(self) -> bool:
        """True: nothing to do in idle time."""
        return len(self._free) >= POOL_SLOTS

    def add(self) -> None:
        """Open one more slot. Raises OSError when the disk or the descriptors are used up."""
        number = self._next
        self._next += 1
        self._free.append(Slot(number))


def output_sizes(slot: int) -> tuple[int, int]:
    """Bytes in stdout and stderr; 0 for a file that somebody removed."""
    sizes = []
    for suffix in ("out", "err"):
        try:
            sizes.append(os.stat(f"{OUTPUT}/{slot}.{suffix}").st_size)
        except OSError:
            sizes.append(0)
    return sizes[0], sizes[1]


def screen_folder(slot: int) -> str:
    """Where the output of a terminal is kept."""
    return f"{OUTPUT}/{slot}.pty"


def remove_output(slot: int, *, has_screen: bool) -> None:
    """Remove what there is; what still writes to a file loses nothing but the name."""
    for name in (f"{OUTPUT}/{slot}.out", f"{OUTPUT}/{slot}.err"):
        with suppress(OSError):  # somebody was faster
            os.unlink(name)
    if has_screen:
        with suppress(OSError):
            _remove(screen_folder(slot))


def _remove(name: str) -> None:
    """Remove a file, or a folder of files."""
    if os.path.isdir(name) and not os.path.islink(name):
        for inner in os.listdir(name):
            os.unlink(f"{name}/{inner}")
        os.rmdir(name)
    else:
        os.unlink(name)
