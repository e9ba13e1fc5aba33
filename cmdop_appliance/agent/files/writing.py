"""A file that arrives: in one go, or in the parts of an upload that outlives its connections."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final

from cmdop_appliance.agent.files.digests import Digests, is_settled
from cmdop_appliance.agent.files.failures import FileFailure, IsStopped, Stopped, failing, shown
from cmdop_appliance.agent.files.replacing import Terms, check, group_id, put_in_place, user_id
from cmdop_appliance.agent.files.roots import Roots
from cmdop_appliance.agent.files.temporaries import Done
from cmdop_appliance.agent.files.uploads import Uploads
from cmdop_appliance.protocol.files import Kept, Placed, Write, Written

# One read of what has arrived before, to go on with its checksum if that is still wanted.
_READ_BYTES: Final = 1024 * 1024


class Writing:
    """A file that takes bytes; `close` it, whatever came of it.

    Closed before its end nothing has happened, but the part of an upload is kept. A later `Writing`
    of the same upload takes it over: from then on the calls of this one fail.
    """

    def __init__(
        self,
        roots: Roots,
        uploads: Uploads,
        digests: Digests,
        call: Write,
        is_stopped: IsStopped,
    ) -> None:
        """Take bytes from `call.offset` on; what has arrived beyond it is given up.

        `is_stopped` is asked while files are read for their checksum, here and in `finish`.

        Raises:
            FileFailure: the file may not be put there, not so much of it has arrived, or nobody
                waits for this any more.
        """
        self._call = call
        self._roots = roots
        self._uploads = uploads
        self._digests = digests
        self._is_stopped = is_stopped
        self._terms = Terms(
            mode=call.mode,
            uid=None if call.owner is None else user_id(call.owner),
            gid=None if call.group is None else group_id(call.group),
            overwrite=call.overwrite,
            if_match=call.if_match,
        )
        self._at = call.offset  # where the next byte goes
        self._fd: int | None = None  # None: the upload is done already
        self._hash: Any = None  # of what stands before `_at`
        self._done: Done | None = None  # how this upload ended before
        with ExitStack() as self._open:
            places = roots.place(
                call.path,
                follow=True,
                make_parents=call.create_parents,
                remedy="; make it first, or ask for `create_parents`",
            )
            self._place = self._open.enter_context(places)
            with failing(self._place.path):
                self._begin()
            self._open = self._open.pop_all()
        self.placed = Placed(path=self._place.path, offset=call.offset)

    def write(self, data: bytes | bytearray) -> None:
        """Append.

        Raises:
            FileFailure: the disk takes no more, or another goes on with the upload.
        """
        with self._held():
            if self._fd is None:
                raise self._mismatch(self._at)
            rest = memoryview(data)
            while rest:
                written = os.pwrite(self._fd, rest, self._at)
                self._hash.update(rest[:written])
                self._at += written
                self._temporary.hash = (self._hash, self._at)
                rest = rest[written:]

    def finish(self, end: int, sha256: bytes | None) -> Written | Kept:
        """All has come, up to `end`. With the `sha256` of it all, the file is put in place.

        Raises:
            FileFailure: something else has come, the file may not be put there, or the disk failed.
        """
        with self._held():
            if sha256 is None and self._call.upload is None:
                raise FileFailure("invalid_request", "only of an upload is a part kept")
            if end != self._at:
                raise self._mismatch(self._at)
            with self._trusting():
                if sha256 is not None:
                    created = self._commit(sha256)
                    path = self._place.path
                    return Written(path=path, size=end, sha256=sha256, created=created)
                if self._fd is not None:
                    os.fsync(self._fd)
                return Kept(offset=end)

    def close(self) -> None:
        """Let go of it. It may be said twice."""
        with self._temporary.lock:
            if self._temporary.holder is self:
                self._let_go()
        self._open.close()

    def _begin(self) -> None:
        while True:
            self._temporary = self._uploads.begin(self._place, self._call.upload)
            with self._temporary.lock:
                if self._temporary.is_forgotten:  # meanwhile; there is none now
                    continue
                self._temporary.holder = self
                try:
                    self._take_over()
                except BaseException:
                    self._let_go()
                    raise
                return

    def _take_over(self) -> None:
        offset, directory = self._call.offset, self._place.parent
        self._done = self._temporary.done_at(self._place)
        if self._done is not None:
            arrived = self._done.size
            if offset not in (0, arrived):
                raise self._mismatch(arrived)
            if offset:
                return
        else:
            check(self._place, self._terms, self._digests, self._is_stopped)
            status = self._temporary.status(directory)
            arrived = 0 if status is None else status.st_size
            if offset > arrived:
                raise self._mismatch(arrived)
        self._roots.check_expendable(self._place)
        self._fd = self._temporary.open(directory)
        self._open.callback(os.close, self._fd)
        os.ftruncate(self._fd, offset)
        self._hash = self._hash_to(offset, self._fd)

    def _hash_to(self, offset: int, fd: int) -> Any:
        """The running checksum of what has arrived; of what another agent took, from the disk."""
        if self._temporary.hash is not None and self._temporary.hash[1] == offset:
            return self._temporary.hash[0]
        running, at = hashlib.sha256(), 0
        while at < offset and (data := os.pread(fd, min(_READ_BYTES, offset - at), at)):
            if self._is_stopped():
                raise Stopped
            running.update(data)
            at += len(data)
        return running

    def _commit(self, sha256: bytes) -> bool:
        """Put it in place. True: there was no file before this upload."""
        temporary, fd, before, terms = self._temporary, self._fd, self._done, self._terms
        if before is not None and before.sha256 != sha256:
            before = None
        if fd is None:
            if before is None:
                raise self._wrong(sha256)
            return before.created
        if self._hash.digest() != sha256:
            self._uploads.give_up(temporary, self._place.parent)
            raise self._wrong(sha256)
        if before is not None:  # the same once more: what stands there is its own
            terms = replace(terms, overwrite=True, if_match=sha256)

        if self._call.upload is not None:  # the long wait; what is dressed is begun anew
            os.fsync(fd)

        ready: os.stat_result | None = None

        def note_end(created: bool) -> None:
            nonlocal ready
            status = os.fstat(fd)
            ready = status if is_settled(status) else None
            if self._call.upload is not None:
                created = created if before is None else before.created
                temporary.note_end(status, sha256, created=created)

        created = put_in_place(
            self._place, fd, temporary.name, terms, self._digests, note_end, self._is_stopped
        )
        self._digests.put_moved(ready, os.fstat(fd), sha256)
        if self._call.upload is None:
            self._uploads.forget(temporary)
        return created if before is None else before.created

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Nobody else writes to it meanwhile. What has failed in one go is gone at once."""
        with self._temporary.lock:
            if self._temporary.holder is not self:
                raise self._mismatch(None)
            try:
                with failing(self._place.path):
                    yield
            except BaseException:
                if self._call.upload is None:
                    self._let_go()
                raise

    @contextmanager
    def _trusting(self) -> Iterator[None]:
        """A disk that fails in the block has lost what was sent: the upload begins again.

        What fsync(2) could not write it does not try again, and says that all is well.
        """
        try:
            yield
        except OSError:
            self._uploads.give_up(self._temporary, self._place.parent)
            raise

    def _let_go(self) -> None:
        """Close it; its lock is held. What nobody can go on with is taken away."""
        self._temporary.let_go()
        # What was only begun is no upload to go on with.
        if self._call.upload is None or self._temporary.record.inode is None:
            self._uploads.give_up(self._temporary, self._place.parent)
        self._open.close()

    def _mismatch(self, offset: int | None) -> FileFailure:
        path = shown(self._place.path)
        if offset is None:
            message = f"another request goes on with this upload to {path}"
        else:
            message = f"of this upload to {path} {offset} bytes have arrived; go on from there"
        return FileFailure("offset_mismatch", message, offset)

    def _wrong(self, sha256: bytes) -> FileFailure:
        return FileFailure(
            "checksum_mismatch",
            f"what has arrived for {shown(self._place.path)} has not the sha256 {sha256.hex()};"
            " send it again",
        )
