"""The files in the making of this machine: which there are, who goes on with one, and which go.

Whatever ends the agent, the next one goes on with the uploads that have a name, and takes away
what nobody goes on with.
"""

import logging
import os
import secrets
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from cmdop_appliance.agent.files.failures import FileFailure, shown
from cmdop_appliance.agent.files.roots import Place, Roots, status_of
from cmdop_appliance.agent.files.temporaries import SUFFIX, Key, Record, Temporary
from cmdop_appliance.agent.files.trees import remove

log = logging.getLogger("cmdop.agent.files.uploads")

# An upload is kept for so long after its last byte: a laptop that went home is back the next day.
UPLOAD_S: Final = 24 * 3600
# A finished upload is known for so long, for a caller who did not hear the answer.
DONE_S: Final = 3600
# Uploads with a record, open or finished of late: reading them at start takes some 50 ms.
UPLOADS_ITEMS: Final = 1000
# A place where nothing is to be found any more; of others it is asked again.
_NOWHERE: Final = ("file_not_found", "not_a_directory", "path_not_allowed", "invalid_path")


class Uploads:
    """The temporaries of this machine; used by several threads."""

    def __init__(self, folder: Path, roots: Roots) -> None:
        """Read the records in `folder`, which need not be there yet."""
        self._folder = folder
        self._roots = roots
        self._lock = threading.Lock()
        self._known: dict[Key, Temporary] = {}
        for path in folder.glob(f"*{SUFFIX}"):
            self._read(path)

    def begin(self, place: Place, upload: str | None) -> Temporary:
        """The temporary of this upload to a place; of none, a new one. It may not be made yet.

        For one too many another gives way, with all that has arrived of it.

        Raises:
            FileFailure: too many are written to at this moment.
        """
        directory, target = os.path.split(place.real)
        record = Record(directory=directory, target=target, upload=upload)
        temporary = Temporary(self._folder, secrets.token_hex(16), record)
        with self._lock:
            if (known := self._known.get(temporary.key)) is not None:
                return known
            gives_way = self._make_room() if upload is not None else None
            self._known[temporary.key] = temporary
        if gives_way is not None:
            try:
                self._give_way(gives_way)
            finally:
                gives_way.lock.release()
        return temporary

    def arrived(self, place: Place, upload: str) -> int:
        """How many bytes of an upload to a place have arrived; 0 of one that nobody knows.

        Raises:
            OSError: it cannot be looked at.
        """
        with self._lock:
            temporary = self._known.get((place.real, upload))
        if temporary is None:
            return 0
        if (done := temporary.done_at(place)) is not None:
            return done.size
        status = temporary.status(place.parent)
        return 0 if status is None else status.st_size

    def give_up(self, temporary: Temporary, directory: int) -> None:
        """Have nobody go on with it: it is taken away now, or by the sweep. Its lock is held."""
        try:
            self._take_away(temporary, directory)
        except (OSError, FileFailure) as exc:
            self._leave(temporary, exc)
        else:
            self.forget(temporary)

    def forget(self, temporary: Temporary) -> None:
        """Take away the record of what is gone, or has become its target. Its lock is held."""
        with self._lock:
            self._drop(temporary)
        _remove_record(temporary.path)

    def sweep(self) -> None:
        """Take away what nobody goes on with: of a dead agent, or of an upload grown old."""
        with self._lock:
            temporaries = list(self._known.values())
        for temporary in temporaries:
            if not temporary.lock.acquire(blocking=False):
                continue
            try:
                if temporary.holder is None and not temporary.is_forgotten:
                    self._sweep(temporary)
            finally:
                temporary.lock.release()

    def _sweep(self, temporary: Temporary) -> None:
        record = temporary.record
        try:
            with self._roots.place(temporary.place, follow=False) as place:
                status = temporary.status(place.parent)
                is_upload = record.upload is not None
                if is_upload and status is not None and _is_ahead(status.st_mtime + UPLOAD_S):
                    return
                self._take_away(temporary, place.parent)
        except FileFailure as failure:
            if failure.code not in _NOWHERE:
                log.warning("what is left of a file stays", extra={"error": failure.message})
                return
        if record.done is None or not _is_ahead(record.done.at_s + DONE_S):
            self.forget(temporary)

    def _take_away(self, temporary: Temporary, directory: int) -> None:
        status = status_of(directory, temporary.name)
        if status is None or not temporary.record.is_of(status):
            return
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(temporary.name, dir_fd=directory)
        elif temporary.record.is_own(status):
            place = Place(temporary.place, temporary.place, directory, temporary.name, status)
            remove(self._roots, place, is_stopped=lambda: False)
        else:
            with suppress(OSError):  # somebody else's, who has something in it
                os.rmdir(temporary.name, dir_fd=directory)
        log.info("removed what was left of a file", extra={"path": shown(temporary.place)})

    def _leave(self, temporary: Temporary, error: Exception) -> None:
        """Leave to the sweep what could not be taken away. Its lock is held."""
        log.warning("what is left of a file stays", extra={"error": str(error)})
        left = temporary.left_over()
        with self._lock:
            self._drop(temporary)
            self._known[left.key] = left

    def _drop(self, temporary: Temporary) -> None:
        """Have nobody find it any more. Both locks are held, its own and this one's."""
        temporary.is_forgotten = True
        if self._known.get(temporary.key) is temporary:
            del self._known[temporary.key]

    def _make_room(self) -> Temporary | None:
        """One upload more can be begun. What gives way for it: locked, and nobody finds it now.

        It is one that is finished, if there is any, and of these the one that was used last the
        longest ago.
        """
        uploads = [known for known in self._known.values() if known.record.upload is not None]
        if len(uploads) < UPLOADS_ITEMS:
            return None
        for known in sorted(uploads, key=lambda one: (one.record.done is None, one.used_at_s)):
            if known.lock.acquire(blocking=False):
                if known.holder is None:
                    self._drop(known)
                    return known
                known.lock.release()
        raise FileFailure(
            "no_space",
            f"{len(uploads)} uploads to this machine are under way, and no more can be at a time;"
            " wait for one to end",
        )

    def _give_way(self, temporary: Temporary) -> None:
        log.info("an upload gave way to another", extra={"path": shown(temporary.place)})
        try:
            with self._roots.place(temporary.place, follow=False) as place:
                self.give_up(temporary, place.parent)
        except FileFailure as failure:
            self._leave(temporary, failure)

    def _read(self, path: Path) -> None:
        record = None
        try:
            lines, used_at_s = path.read_bytes().splitlines(), path.stat().st_mtime
        except OSError as exc:  # the next agent tries again
            log.warning("record of a file not read", extra={"error": str(exc)})
            return
        for line in lines:
            with suppress(msgspec.DecodeError):  # torn
                record = msgspec.json.decode(line, type=Record)
        if record is None:  # it was not yet on the disk, so there is no temporary
            log.warning("record of a file damaged", extra={"record": path.name})
            _remove_record(path)
            return
        temporary = Temporary(self._folder, path.stem, record, is_begun=True)
        temporary.used_at_s = used_at_s
        self._known[temporary.key] = temporary


def _remove_record(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:  # the next agent tries again
        log.warning("record of a file not removed", extra={"error": str(exc)})


def _is_ahead(at_s: float) -> bool:
    return at_s > time.time()
