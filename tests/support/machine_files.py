"""A machine's files over plain HTTP, as any client has them that is not ours."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, urlencode, urlsplit

from tests.support.appliance import PATIENCE_S, Answer, Api

# What a slow reader's system takes before the reader does; the least of socket(7) is less.
_WINDOW_BYTES = 64 * 1024

AnyPath = bytes | str | Path


def names_in(folder: AnyPath) -> list[bytes]:
    """The names in a directory."""
    return sorted(os.fsencode(path.name) for path in Path(os.fsdecode(folder)).iterdir())


def arrived(path: Path) -> int:
    """Bytes in the one temporary that may stand beside a file which is alone otherwise; -1: none.

    Fails when there are more of them.
    """
    others = [other for other in path.parent.iterdir() if other != path]
    assert len(others) <= 1, others
    with suppress(FileNotFoundError):  # it has just become the file, or was taken away
        for other in others:
            return other.stat().st_size
    return -1


class MachineFiles:
    """The files of one machine as one key sees them.

    A path is sent as the bytes that it is, percent-encoded, whether they are UTF-8 or not.
    `flat`: by the routes that name the machine in the query.
    """

    def __init__(self, api: Api, machine_id: str, *, flat: bool = False) -> None:
        self.api = api
        self._machine_id = machine_id
        self._flat = flat

    def route(self, name: str, path: AnyPath | None = None, **query: object) -> str:
        """The address of `/files{name}` for a path."""
        words = {key: value for key, value in query.items() if value is not None}
        if self._flat:
            words["machine_id"] = self._machine_id
        where = "/files" if self._flat else f"/machines/{self._machine_id}/files"
        text = urlencode(words)
        if path is not None:
            text = f"path={quote_from_bytes(os.fsencode(path), safe='')}&{text}"
        return f"{where}{name}?{text}"

    def call(
        self,
        method: str,
        name: str,
        path: AnyPath | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        **query: object,
    ) -> Answer:
        """One request to `/files{name}`; `body` is JSON, or bytes as they are."""
        return self.api.call(method, self.route(name, path, **query), body, headers=headers)

    def list(self, folder: AnyPath, **query: object) -> Any:
        """A page of a directory."""
        return self.call("GET", "", folder, **query).data

    def stat(self, path: AnyPath, **query: object) -> Any:
        """The entry of a path."""
        return self.call("GET", "/stat", path, **query).data

    def download(self, path: AnyPath, **headers: str) -> Answer:
        """A file, or a part of it."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call("GET", "/download", path, headers=named)

    def upload(self, path: AnyPath, data: bytes, **query: object) -> Answer:
        """A file, or a part of it, in one request."""
        with self.sending(path, len(data), **query) as sending:
            sending.send(data)
            return sending.answer()

    def offset(self, path: AnyPath, upload_id: str) -> int:
        """How much of an upload has arrived."""
        answer = self.call("GET", "/upload", path, upload_id=upload_id)
        return int(answer.data["offset"])

    @contextmanager
    def sending(self, path: AnyPath, size: int, **query: object) -> Iterator["Sending"]:
        """An upload of `size` bytes that goes as its user does; the end breaks it off."""
        with _connected(self.api) as connection:
            connection.putrequest("PUT", f"/api/v1{self.route('/upload', path, **query)}")
            connection.putheader("Authorization", f"Bearer {self.api.key}")
            connection.putheader("Content-Type", "application/octet-stream")
            connection.putheader("Content-Length", str(size))
            connection.endheaders()
            yield Sending(connection)

    @contextmanager
    def reading(self, path: AnyPath, **headers: str) -> Iterator["Reading"]:
        """A download that is read as its user does, and held up meanwhile."""
        with _connected(self.api) as connection:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            sent["Authorization"] = f"Bearer {self.api.key}"
            connection.request("GET", f"/api/v1{self.route('/download', path)}", headers=sent)
            with connection.getresponse() as answer:
                yield Reading(answer)


class Sending:
    """The body of an upload."""

    def __init__(self, connection: HTTPConnection) -> None:
        self._connection = connection

    def send(self, data: bytes) -> None:
        """The next bytes; a hub that has answered already need not take them."""
        with suppress(ConnectionError):
            self._connection.send(data)

    def answer(self) -> Answer:
        """What the hub says to it."""
        with self._connection.getresponse() as answer:
            return Answer(answer.status, _names(answer), answer.read())


class Reading:
    """The body of a download."""

    def __init__(self, answer: HTTPResponse) -> None:
        self._answer = answer
        self.status = answer.status
        self.headers = _names(answer)

    def read(self, size: int) -> bytes:
        """The next bytes; fewer only at the end."""
        return self._answer.read(size)

    def read_rest(self) -> bytes:
        """All that still comes, however it ends."""
        rest = bytearray()
        with suppress(ConnectionError, HTTPException):
            while piece := self._answer.read1(1024 * 1024):
                rest += piece
        return bytes(rest)


def _names(answer: HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.getheaders()}


@contextmanager
def _connected(api: Api) -> Iterator[HTTPConnection]:
    """A connection that takes little at a time, so that who reads slowly is felt."""
    host, port = urlsplit(api.url).hostname, urlsplit(api.url).port
    connection = HTTPConnection(str(host), port, timeout=PATIENCE_S)
    stream = socket.socket()
    connection.sock = stream
    try:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW_BYTES)
        stream.settimeout(PATIENCE_S)
        stream.connect((str(host), port or 0))
        yield connection
    finally:
        connection.close()
