"""A real listener that answers as a test says, to show the client what a hub seldom does."""

import json
import socketserver
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.sdk.kinds import Client


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    method: str
    path: str  # without the query
    query: str
    headers: dict[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True)
class Answer:
    """Raw bytes to send; then the connection is closed, if so said."""

    raw: bytes
    close: bool = False


def answer(data: object, *, status: int = 200, meta: object = None, close: bool = False) -> Answer:
    """`data` in the hub's envelope. From status 400 on it is the error."""
    kind = "data" if status < 400 else "error"
    return http(status, json.dumps({kind: data, "meta": meta or {}}).encode(), close=close)


def http(status: int, body: bytes, *, close: bool = False) -> Answer:
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n"
    return Answer(head.encode() + body, close)


def stream(*events: bytes, whole: bool = True) -> Answer:
    """A chunked answer of these events; not `whole`: the connection breaks before its end."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return Answer(head + chunks + (b"0\r\n\r\n" if whole else b""), close=True)


def output(kind: str, data: bytes, position: str) -> bytes:
    encoded = b64encode(data).decode()
    return f'event: {kind}\nid: {position}\ndata: {{"data":"{encoded}"}}\n\n'.encode()


def end(**record: Any) -> bytes:
    whole = {"id": "cmd_1", "status": "completed", "exit_code": 0, **record}
    return f"event: end\ndata: {json.dumps(whole)}\n\n".encode()


@dataclass
class ScriptedHub:
    """What was asked of it, and how often somebody connected."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0


@contextmanager
def scripted_hub(
    script: Callable[[Asked], Answer], port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[ScriptedHub]:
    """A hub on this port, or a free one, whose every answer is `script(request)`."""
    hub = ScriptedHub()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            hub.connections += 1
            hub.open_connections += 1
            try:
                while (request := self._read()) is not None:
                    hub.asked.append(request)
                    reply = script(request)
                    self.wfile.write(reply.raw)
                    if reply.close:
                        return
            except ConnectionError:
                pass  # the client has left

        def _read(self) -> Asked | None:
            words = self.rfile.readline().decode().split()
            if not words:
                return None
            headers = {}
            while line := self.rfile.readline().decode().strip():
                name, _, value = line.partition(": ")
                headers[name.lower()] = value
            body = self.rfile.read(int(headers.get("content-length", "0")))
            path, _, query = words[1].partition("?")
            return Asked(words[0], path, query, headers, body)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True
        request_queue_size = 64

        def shutdown_request(self, request: Any) -> None:
            super().shutdown_request(request)
            hub.open_connections -= 1

    with Server(("127.0.0.1", port), Handler) as server:
        hub.url = "http://{}:{}".format(*server.server_address)
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
            hub.url = hub.url.replace("http", "https")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def asked_of(call: Callable[[Any], Any], data: object) -> tuple[Any, Asked]:
    """What a call gives when the hub answers with `data`, and the one request that it made."""
    with scripted_hub(lambda _: answer(data)) as hub, Client(hub.url, "k") as sdk:
        made = call(sdk)
        if data == []:
            made = list(made)
    (asked,) = hub.asked
    return made, asked


def sent_by(call: Callable[[Any], Any]) -> tuple[str, str, Any]:
    """What a call asks for that gives one record: (method, path, body)."""
    made, asked = asked_of(call, {"id": "id_1"})
    assert made == {"id": "id_1"}
    return asked.method, asked.path.removeprefix("/api/v1"), json.loads(asked.body or "null")
