# Made from sdk/aio/uploads.py by scripts/fix: change it there.
"""Files on their way to a machine.

A small file is one request with its sha256. A larger one is an upload with an id: one request has
all of it that is missing, another, without a body, its sha256, on which the machine puts it in
place. After a break the machine is asked how far it has come, and is sent the rest:

    GET  …/files/upload?upload_id=U                  → offset
    PUT  …/files/upload?upload_id=U&offset=N         → offset = size
    PUT  …/files/upload?upload_id=U&offset=S&sha256= → in place
"""

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any, BinaryIO, Final, TypeVar
from uuid import uuid4

from cmdop_appliance.sdk.errors import APIError, CmdopError, Forbidden, NotFound, UnexpectedAnswer
from cmdop_appliance.sdk.file_paths import with_exact_names
from cmdop_appliance.sdk.patience import is_passing
from cmdop_appliance.sdk.pieces import PIECE_BYTES, Pieces, Progress, next_piece, read_up_to
from cmdop_appliance.sdk.resources.resource import data_of
from cmdop_appliance.sdk.source_files import Source
from cmdop_appliance.sdk.transport import Transport
from cmdop_appliance.sdk.types import WrittenFile
from cmdop_appliance.sdk.waiting import on_disk

T = TypeVar("T")

# What is sent in one request, without an id: in a second over 10 Mbit/s.
WHOLE_BYTES: Final = 1024 * 1024
# What is held of a stream, which cannot be read again, until the machine has it.
_PART_BYTES: Final = 8 * 1024 * 1024


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
            pieces = iter([memoryview(data)])
            return _written(self._put(0, pieces, len(data), sha256=sha256))

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
            part += on_disk(read_up_to, file, _PART_BYTES - len(part))
            on_disk(digest.update, part)
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
        self._sealed = on_disk(seal)
        return _written(self._put(end, iter(()), 0, sha256=self._sealed))

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
        self, offset: int, pieces: Iterator[memoryview], length: int, *, sha256: str | None = None
    ) -> dict[str, Any]:
        query = {**self._place, **self._options, "sha256": sha256}
        if self._upload_id is not None:
            query |= {"upload_id": self._upload_id, "offset": offset}
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(length)}
        with (
            closing(self._told(offset, pieces)) as file,
            self._transport.exchange(
                "PUT", f"{self._route}/upload", query=query, headers=headers, file=file
            ) as response,
        ):
            return data_of(self._transport.read(response))

    def _told(self, offset: int, pieces: Iterator[memoryview]) -> Generator[memoryview]:
        while (piece := on_disk(next_piece, pieces)) is not None:
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
