"""Why a call for files came to nothing, in the words of the public API."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

IsStopped = Callable[[], bool]  # True: nobody waits for the call any more

_SHOWN_CHARS: Final = 200  # of a path, in a message

_PERMISSION: Final = "file_permission_denied"
_NO_SPACE: Final = "no_space"
_INVALID: Final = "invalid_path"
# errno → code, and what is the matter with the path, remedy included; open(2), rename(2), rmdir(2).
_KNOWN: Final = {
    errno.ENOENT: ("file_not_found", "does not exist"),
    errno.ENOTDIR: (
        "not_a_directory",
        "is not a directory, or leads through something that is not",
    ),
    errno.EISDIR: ("is_a_directory", "is a directory"),
    errno.EEXIST: ("file_exists", "exists already"),
    errno.ENOTEMPTY: ("directory_not_empty", "is a directory with something in it"),
    errno.EACCES: (_PERMISSION, "is not open to the agent's user: permission denied"),
    errno.EPERM: (
        _PERMISSION,
        "does not allow this to the agent's user: operation not permitted (see lsattr)",
    ),
    errno.EROFS: (_PERMISSION, "is on a file system that is mounted read-only"),
    # No link is ever followed by the kernel for us.
    errno.ELOOP: ("changed_during_read", "was changed meanwhile: it is a link now; try again"),
    errno.ENAMETOOLONG: (_INVALID, "has a name longer than its file system takes"),
    errno.EINVAL: (_INVALID, "is no path that its file system takes for this"),
    errno.ENOSPC: (_NO_SPACE, "cannot be written: its disk is full"),
    errno.EDQUOT: (_NO_SPACE, "cannot be written: a quota on its disk is used up"),
    errno.EFBIG: (_NO_SPACE, "cannot be written: its file system takes no file so large"),
}


class FileFailure(Exception):
    """A call cannot be carried out. `code` is part of the public API, and `message` for people."""

    def __init__(self, code: str, message: str, offset: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.offset = offset  # of `offset_mismatch`: where the upload stands


class Stopped(FileFailure):
    """Nobody waits for the call any more, so the rest of it was not done."""

    def __init__(self) -> None:
        super().__init__("unavailable", "the call was stopped before it was done")


def failure_of(error: OSError, path: bytes) -> FileFailure:
    """What the system's refusal to do something with `path` means to the caller."""
    if error.errno in _KNOWN:
        code, matter = _KNOWN[error.errno]
        return FileFailure(code, f"{shown(path)} {matter}")
    reason = os.strerror(error.errno) if error.errno else str(error)
    return FileFailure("file_io_error", f"{shown(path)} cannot be used: {reason.lower()}")


@contextmanager
def failing(path: bytes) -> Iterator[None]:
    """An OSError in the block is raised as the FileFailure that it means for `path`."""
    try:
        yield
    except OSError as exc:
        raise failure_of(exc, path) from exc


def swapped(path: bytes) -> FileFailure:
    """Somebody gave the name to another thing between two looks at it."""
    message = f"{shown(path)} was changed meanwhile: another thing has its name now; try again"
    return FileFailure("changed_during_read", message)


def shown(path: bytes, most: int = _SHOWN_CHARS) -> str:
    """A path for a message: no byte of it can do anything to a terminal, or make it long."""
    text = path.decode("utf-8", "replace")
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return text if len(text) <= most else f"{text[: most - 1]}…"
