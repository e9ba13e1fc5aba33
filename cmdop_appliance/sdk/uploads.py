"""Files on their way to a machine.

A small file is one request with its sha256. A larger one is an upload with an id: one request has
all of it that is missing, another, without a body, its sha256, on which the machine puts it in
place. After a break the machine is asked how far it has come, and is sent the rest:

    GET  …/files/upload?upload_id=U                  → offset
    PUT  …/files/upload?upload_id=U&offset=N         → offset = size
    PUT  …/files/upload?upload_id=U&offset=S&sha256= → in place
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import FileIO
from typing import Any, BinaryIO, Final, TypeVar
from uuid import uuid4

from cmdop_appliance.sdk.errors import APIError, CmdopError, Forbidden, NotFound, UnexpectedAnswer
from cmdop_appliance.sdk.file_paths import with_exact_names
from cmdop_appliance.sdk.patience import is_passing
from cmdop_appliance.sdk.resources.resource import data_of
from cmdop_appliance.sdk.transport import PIECE_BYTES, Transport
from cmdop_appliance.sdk.types import WrittenFile

T = TypeVar("T")

# What is sent in one request, without an id: in a second over 10 Mbit/s.
WHOLE_BYTES: Final = 1024 * 1024
# What is held of a stream, which cannot be read again, until the machine has it.
_PART_BYTES: Final = 8 * 1024 * 1024

Progress = Callable[[int, int | None], None]  # bytes there, and of how many if that is known
Pieces = Callable[[int], Iterable[memoryview]]  # the bytes from an offset on


class Source:
    """A regular file here, read from any offset and hashed once, whatever is read again."""

    def __init__(self, file: FileIO, name: str) -> None:
        self._file = file
        self._name = name
        self._before = _state(file)
        self._digest = hashlib.sha256()
        self._hashed = 0  # bytes
        self.size = os.fstat(file.fileno()).st_size

    def whole(self) -> bytes:
        """All bytes at once.

        Raises:
            CmdopError: they were changed meanwhile.
        """
        if not self.size:  # or the system makes it up when it is read, such as those in /proc
            return self._file.read()
        data = b"".join(map(bytes, self.pieces(0)))
        self.sha256()
        return data

    @property
    def identity(self) -> str:
        """Another one for another file, and after every change."""
        return ":".join(map(str, self._before))

    def pieces(self, offset: int) -> Iterator[memoryview]:
        """The bytes from `offset` on. What lies before it is hashed first, if it was not yet.

        Raises:
            CmdopError: the file has become shorter.
        """
        for _ in self._read(self._hashed, offset):
            pass
        return self._read(offset, self.size)

    def _read(self, position: int, end: int) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(PIECE_BYTES))
        while position < end:
            self._file.seek(position)
            read = self._file.readinto(buffer[: end - position])
            if not read:
                raise self._changed()
            piece = buffer[:read]
            position += read
            if position > self._hashed:
                self._digest.update(piece[self._hashed - position :])
                self._hashed = position
            yield piece

    def sha256(self) -> str:
        """Of the whole file, once all of it was read.

        Raises:
            CmdopError: it was changed meanwhile.
        """
        self.pieces(self.size)
        if _state(self._file) != self._before:
            raise self._changed()
        return self._digest.hexdigest()

    def _changed(self) -> CmdopError:
        return CmdopError(f"{self._name} changed while it was read; nothing was put in place")


@contextmanager
def open_source(path: str | os.PathLike[str]) -> Iterator[Source]:
    """The regular file at `path`.

    Raises:
        CmdopError: it is something else.
        OSError
    """

    def without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # for who writes to a pipe

    with open(path, "rb", buffering=0, opener=without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise CmdopError(f"{os.fspath(path)} is not a regular file")
        yield Source(file, os.fspath(path))


class Upload:
    """One file on its way to one place on one machine."""

    def __init__(
        self,
        transport: Transport,
        route: str,
        place: Mapping[str, object],
        options: Mapping[str, object],
        progress: Progress | None,
    ) -> None:
        """`route`: of the machine's files; `place`: the path in it, as a query."""
        self._transport = transport
        self._route = route
        self._place = place
        self._options = options
        self._progress = progress
        self._patience = transport.patience()
        self._total: int | None = None
        self._upload_id: str | None = None
        self._offset: int | None = None  # where the machine stands; None: it must be asked
        self._was_there = False  # True: the machine has told of the upload
        self._arrived = 0  # how far it has ever been
        self._has_resumed = False  # True: part of it came from another attempt
        self._sealed = ""  # the sha256 that it was sent last

    def send_whole(self, data: bytes) -> WrittenFile:
        """All of the file in one request."""
        self._total = len(data)
        sha256 = hashlib.sha256(data).hexdigest()

        def attempt() -> WrittenFile:
            if self._sealed and (found := self._found()):
                return found
            self._sealed = sha256
            return _written(self._put(0, [memoryview(data)], len(data), sha256=sha256))

        return self._patiently(attempt)

    def send_file(self, source: Source, upload_id: str) -> WrittenFile:
        """All of the file; what an upload with this id has brought before is not sent again."""
        self._total, self._upload_id = source.size, upload_id
        attempt = partial(self._finish, source.size, source.pieces, source.sha256)
        return self._patiently(attempt)

    def send_stream(self, first: bytes, file: BinaryIO) -> WrittenFile:
        """`first`, and then what `file` gives until its end; in parts, each held until it is there.

        Raises:
            CmdopError: the machine has lost a part that it had.
        """
        self._upload_id, self._offset = uuid4().hex, 0
        digest, start, part = hashlib.sha256(), 0, first
        while True:
            part += read_up_to(file, _PART_BYTES - len(part))
            digest.update(part)
            end, pieces = start + len(part), _held(part, start)
            if len(part) < _PART_BYTES:
                return self._patiently(partial(self._finish, end, pieces, digest.hexdigest))
            self._patiently(partial(self._bring, end, pieces))
            start, part = end, b""

    def _patiently(self, attempt: Callable[[], T]) -> T:
        failed: CmdopError | None = None
        while True:
            try:
                return attempt()
            except CmdopError as exc:
                self._offset = self._offset_after(exc, failed)
                failed = exc
            self._patience.pause(failed)

    def _offset_after(self, error: CmdopError, failed: CmdopError | None) -> int | None:
        """Where another attempt begins; None: the machine is asked."""
        match error:
            case APIError(code="checksum_mismatch") if self._has_resumed:
                self._has_resumed = False  # what was there is not of this file, or was damaged
                return 0
            case APIError(code="offset_mismatch"):
                return None
        if not is_passing(error, was_there=self._was_there or failed is not None):
            raise error
        return None

    def _bring(self, end: int, pieces: Pieces) -> WrittenFile | None:
        """Bring the upload to `end`; the file, if it turns out that it is in place already."""
        if self._offset is None:
            self._offset = self._ask(end)
            if self._offset < end and self._sealed and (found := self._found()):
                return found
        if self._offset < end:
            answer = self._put(self._offset, pieces(self._offset), end - self._offset)
            self._offset = self._come_to(answer)
        return None

    def _finish(self, end: int, pieces: Pieces, seal: Callable[[], str]) -> WrittenFile:
        """Bring the upload to `end` and into place; `seal` tells its sha256 when all was read."""
        if found := self._bring(end, pieces):
            return found
        self._sealed = seal()
        return _written(self._put(end, (), 0, sha256=self._sealed))

    def _ask(self, end: int) -> int:
        """How much of the upload the machine has."""
        query = {**self._place, "upload_id": self._upload_id}
        with self._transport.exchange("GET", f"{self._route}/upload", query=query) as response:
            offset = self._come_to(data_of(self._transport.read(response)))
        self._has_resumed = self._has_resumed or offset > 0
        return offset if offset <= end else 0

    def _come_to(self, answer: Mapping[str, Any]) -> int:
        offset = answer.get("offset")
        if not isinstance(offset, int):
            raise UnexpectedAnswer("the hub did not say how far an upload has come")
        self._was_there = True
        if offset > self._arrived:
            self._arrived = offset
            self._patience.renew()
        return offset

    def _put(
        self, offset: int, pieces: Iterable[memoryview], length: int, *, sha256: str | None = None
    ) -> dict[str, Any]:
        query = {**self._place, **self._options, "sha256": sha256}
        if self._upload_id is not None:
            query |= {"upload_id": self._upload_id, "offset": offset}
        with self._transport.exchange(
            "PUT",
            f"{self._route}/upload",
            query=query,
            headers={"Content-Type": "application/octet-stream"},
            body=self._told(offset, pieces),
            length=length,
        ) as response:
            return data_of(self._transport.read(response))

    def _told(self, offset: int, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
        for piece in pieces:
            yield piece
            offset += len(piece)
            if self._progress is not None:
                self._progress(offset, self._total)

    def _found(self) -> WrittenFile | None:
        """The file, if it is in place already: the answer that said so was lost.

        None also when the key may only write: it is sent again.
        """
        query = {**self._place, "checksum": "true"}
        try:
            with self._transport.exchange("GET", f"{self._route}/stat", query=query) as response:
                there = data_of(self._transport.read(response))
        except Forbidden:
            return None
        except NotFound as exc:
            if exc.code != "file_not_found":
                raise
            return None
        return _written(there) if there.get("sha256") == self._sealed else None


def read_up_to(file: BinaryIO, size: int) -> bytes:
    """`size` bytes, or what is left until the end of `file`."""
    pieces = []
    while size and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _state(file: FileIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _held(part: bytes, start: int) -> Pieces:
    def pieces(offset: int) -> Iterator[memoryview]:
        if offset < start:
            raise CmdopError(
                f"the machine has lost bytes {offset} to {start} of the upload, and what they came"
                " from cannot be read again"
            )
        rest = memoryview(part)[offset - start :]
        for at in range(0, len(rest), PIECE_BYTES):
            yield rest[at : at + PIECE_BYTES]

    return pieces


def _written(answer: Mapping[str, Any]) -> WrittenFile:
    return with_exact_names(answer, WrittenFile)
