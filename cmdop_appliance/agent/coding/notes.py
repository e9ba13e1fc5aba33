"""What is being made for coding sessions, on the disk, so that it can be undone after a crash.

ID.json: a note, there before anything is made, gone once the keeper has started the session.
ID.lock: held by the git that works for it, which may outlive the agent.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from cmdop_appliance.agent.keeper.files import make_private_folder, open_private
from cmdop_appliance.private import write_private
from cmdop_appliance.protocol.terminals import Worktree

FOLDER: Final = "coding"  # in the state directory


class Note(Struct, frozen=True, kw_only=True):
    """What is made for one session. What is there in spite of it was there before, or is shared."""

    directories: tuple[str, ...] = ()  # the deepest first; removed only while they are empty
    worktree: Worktree | None = None
    base: str = ""  # the commit at which its branch begins
    is_ours: bool = False  # its directory was made for it: nobody else has had that name


class Notes:
    """The notes of one agent. Plain blocking code; OSError means that the disk does not work."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / FOLDER

    def write(self, session_id: str, note: Note) -> None:
        """Have the disk hold a note; another of this session is replaced."""
        make_private_folder(str(self._folder))
        write_private(self._folder / f"{session_id}.json", msgspec.json.encode(note).decode())

    def remove(self, session_id: str) -> None:
        """Nothing is to be undone of this session."""
        for suffix in ("lock", "json"):  # whatever is cut short is found by its note
            (self._folder / f"{session_id}.{suffix}").unlink(missing_ok=True)

    def read(self) -> dict[str, Note | None]:
        """Each session's note; None: it cannot be read."""
        found: dict[str, Note | None] = {}
        for path in self._folder.glob("*.json"):  # none without the folder
            try:
                found[path.stem] = msgspec.json.decode(path.read_bytes(), type=Note)
            except (OSError, msgspec.DecodeError):
                found[path.stem] = None
        return found

    @contextmanager
    def locked(self, session_id: str) -> Iterator[int]:
        """A descriptor; whoever has inherited it holds the lock, until it ends."""
        lock = open_private(str(self._folder / f"{session_id}.lock"), os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock
        finally:
            os.close(lock)

    def wait_unlocked(self, session_id: str) -> None:
        """Wait until nobody who has inherited the lock is left."""
        with self.locked(session_id):
            pass
