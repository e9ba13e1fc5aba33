# Made from sdk/aio/downloads.py by scripts/fix: change it there.
"""Files on their way from a machine."""

import http
import re
from collections.abc import Generator, Mapping
from contextlib import closing
from typing import Final

from cmdop_appliance.sdk.connection import Response
from cmdop_appliance.sdk.errors import APIError, Away, CmdopError, Silent, UnexpectedAnswer
from cmdop_appliance.sdk.patience import is_passing
from cmdop_appliance.sdk.transport import Transport

# How often a file may change, or arrive damaged, until we say that there is no getting it.
_CHANGES: Final = 3
_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+)")


class Download:
    """The bytes of one file, over as many connections as it takes."""

    def __init__(
        self, transport: Transport, route: str, place: Mapping[str, object], name: str
    ) -> None:
        """`route`: of the machine's files; `place`: the path as a query, `name`: for people."""
        self._transport = transport
        self._route = route
        self._place = place
        self._name = name
        self._changes = 0
        self.offset = 0  # where the next piece belongs
        self.size: int | None = None  # None: nothing is known yet
        self.etag = ""

    def pieces(self) -> Generator[bytes]:
        """From `offset` to the end; when the file has changed, again from 0.

        Raises:
            CmdopError: it changes again and again.
        """
        patience = self._transport.patience()
        failed: CmdopError | None = None
        while self.offset != self.size:
            try:
                with closing(self._attempt()) as pieces:
                    for piece in pieces:
                        patience.renew()
                        yield piece
                        self.offset += len(piece)
                failed = Away("the hub broke off the file")
            except Silent as exc:
                failed = exc
            except CmdopError as exc:
                if isinstance(exc, APIError) and exc.code == "changed_during_read":
                    self.begin_again(exc)
                elif not is_passing(exc, was_there=bool(failed or self.etag)):
                    raise
                failed = exc
            if self.offset != self.size:
                patience.pause(failed)

    def begin_again(self, why: CmdopError | None = None) -> None:
        """What has arrived is of no use.

        Raises:
            CmdopError: that was so too often.
        """
        self.offset, self.size, self.etag = 0, None, ""
        self._changes += 1
        if self._changes > _CHANGES:
            raise CmdopError(
                f"{self._name} changed {self._changes} times while it was read"
            ) from why

    def _attempt(self) -> Generator[bytes]:
        headers = {}
        if self.offset and self.etag.startswith('"'):  # a weak one says nothing of the bytes
            headers = {"Range": f"bytes={self.offset}-", "If-Range": self.etag}
        with self._transport.exchange(
            "GET", f"{self._route}/download", query=self._place, headers=headers
        ) as response:
            self._judge(response)
            yield from response.pieces()

    def _judge(self, response: Response) -> None:
        """Whether this goes on where we are, or begins at 0."""
        etag = response.header("ETag")
        match response.status:
            case http.HTTPStatus.PARTIAL_CONTENT:
                found = _RANGE.fullmatch(response.header("Content-Range"))
                if found is None or int(found[1]) != self.offset:
                    raise UnexpectedAnswer("the hub sent another part of a file than was asked for")
                self.size = int(found[2])
            case http.HTTPStatus.OK:
                if self.offset:
                    self.begin_again()
                self.size = response.length
                if self.size is None:
                    raise UnexpectedAnswer("the hub sent a file without its size")
            case http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self.begin_again()
                raise Away(f"{self._name} is shorter than what arrived of it")
            case _:
                self._transport.read(response)
                raise UnexpectedAnswer(f"the hub sent a file with HTTP {response.status}")
        self.etag = etag
