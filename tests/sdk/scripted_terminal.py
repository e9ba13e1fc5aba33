"""A real websocket that says of a terminal what a test says, connection after connection."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

PROTOCOL = "cmdop.terminal.v1"
RECORD = {"id": "term_1", "name": "one", "cols": 80, "rows": 24}


class Seat:
    """One connection, as the hub has it."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        assert socket.request is not None
        self.path = socket.request.path
        self.headers = socket.request.headers
        self.start: dict[str, Any] = self.heard()

    def heard(self) -> Any:
        """The next message in JSON."""
        said = self.socket.recv(timeout=20)
        assert isinstance(said, str), said
        return json.loads(said)

    def typed(self) -> tuple[int, bytes]:
        """The next keys, and the offset where they stand."""
        data = self.socket.recv(timeout=20)
        assert isinstance(data, bytes), data
        return int.from_bytes(data[:8]), data[8:]

    def say(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def hello(self, offset: int = 0) -> None:
        self.say("hello", terminal=RECORD, mode=self.start["mode"], offset=offset)

    def show(self, behind: int, data: bytes) -> None:
        self.socket.send(behind.to_bytes(8) + data)

    def end(self, **fields: Any) -> None:
        usual = {"end": "exited", "exit_code": 0, "signal": None, "code": None, "message": None}
        self.say("end", **{**usual, **fields})
        self.socket.close(1000)

    def cut(self) -> None:
        """Break the connection, without a word."""
        self.socket.socket.shutdown(2)


Script = Callable[[Seat], None] | tuple[int, bytes]


@contextmanager
def scripted_terminal(*scripts: Script) -> Iterator[str]:
    """The URL of a hub whose n-th connection is the n-th script: a talk, or (status, body).

    What fails in a script fails the test; so does a connection too many, or one too few.
    """
    left = list(scripts)
    failures: list[BaseException] = []
    taken: list[Callable[[Seat], None]] = []

    def admit(_: ServerConnection, __: Request) -> Response | None:
        if not left:
            failures.append(AssertionError("one connection too many"))
            return Response(404, "", Headers(), b'{"error": {"code": "x", "message": "too many"}}')
        script = left.pop(0)
        if callable(script):
            taken.append(script)
            return None
        status, body = script
        headers = Headers({"Content-Length": str(len(body))})
        return Response(status, HTTPStatus(status).phrase, headers, body)

    def talk(socket: ServerConnection) -> None:
        try:
            taken.pop(0)(Seat(socket))
        except BaseException as exc:  # noqa: BLE001 - raised in the test's own thread
            failures.append(exc)

    with serve(
        talk,
        "127.0.0.1",
        0,
        process_request=admit,
        subprotocols=[PROTOCOL],  # type: ignore[list-item]
        compression=None,
        ping_interval=None,
        close_timeout=1,
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield "http://{}:{}".format(*server.socket.getsockname())
        finally:
            server.shutdown()
            thread.join()
    if failures:
        raise failures[0]
    assert not left, f"{len(left)} connections were not made"
