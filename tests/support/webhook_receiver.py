"""A receiver of webhooks as others would write one: the reference library, and a ledger."""

import hashlib
import hmac
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Literal
from unittest import mock

import standardwebhooks.webhooks
from standardwebhooks.webhooks import Webhook

from tests.support.appliance import wait_for

# What becomes of a request: a status that is answered, or how it is not.
Reply = int | Literal["reset", "close", "hang"]

ALLOWED: Final = '[webhooks]\nallow_networks = ["127.0.0.1/32"]\n'  # a hub may send here
_LOOK_S = 0.05  # of one that hangs, whether it is to go on
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST
_verifying = threading.Lock()  # the library has one clock for all receivers


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that came whole, and was signed by the secret of its path."""

    path: str
    event: Any  # its body
    body: bytes
    reply: Reply

    @property
    def is_taken(self) -> bool:
        """True: it was answered with success."""
        return isinstance(self.reply, int) and 200 <= self.reply < 300


class Receiver:
    """Listens on 127.0.0.1. What is not signed as it should be ends up in `troubles`."""

    def __init__(
        self, reply: Callable[[str, str, int], Reply], now_ms: Callable[[], int] | None
    ) -> None:
        self.arrivals: list[Arrival] = []
        self.troubles: list[str] = []
        self.hanging = 0  # requests that get no answer, now
        self._reply = reply
        self._now_ms = now_ms
        self._secrets: dict[str, str] = {}
        self._tries: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))

    @property
    def url(self) -> str:
        """Where it is, without a path."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def expect(self, path: str, secret: str) -> None:
        """What comes for this path is signed with this."""
        self._secrets[path] = secret

    def at(self, path: str) -> list[Arrival]:
        """What came for a path, in the order it came."""
        with self._lock:
            return [arrival for arrival in self.arrivals if arrival.path == path]

    def wait_for(self, path: str, count: int) -> list[Arrival]:
        """What came for a path, once it is so much."""
        wait_for(lambda: len(self.at(path)) >= count, f"{count} requests for {path}")
        return self.at(path)

    def take(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """Write down a request; what to answer."""
        with self._lock:
            try:
                event = self._verified(self._secrets[path], headers, body)
            except Exception as exc:  # noqa: BLE001 - whatever a hub sends, somebody is told
                self.troubles.append(f"{path}: {exc!r}: {headers} {body!r}")
                return 400
            reply = self._reply(path, event["id"], self._tries[path, event["id"]])
            self._tries[path, event["id"]] += 1
            self.arrivals.append(Arrival(path, event, body, reply))
            return reply

    def hang(self, connection: socket.socket) -> None:
        """Return when the other side has gone, or the receiver is to end."""
        with self._lock:
            self.hanging += 1
        while not self._is_over.is_set() and not select.select([connection], [], [], _LOOK_S)[0]:
            pass
        with self._lock:
            self.hanging -= 1

    def _verified(self, secret: str, headers: dict[str, str], body: bytes) -> Any:
        now = float(headers["webhook-timestamp"])
        if self._now_ms is not None:
            now = self._now_ms() / 1000
        stopped = mock.patch.object(standardwebhooks.webhooks, "datetime", _stopped_at(now))
        with _verifying, stopped:
            event = Webhook(secret).verify(body, headers)
        assert event["id"] == headers["webhook-id"]
        ours = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        assert headers["x-cmdop-signature"] == f"sha256={ours}"
        assert headers["content-type"] == "application/json"
        return event

    def _run(self) -> None:
        self._server.serve_forever(poll_interval=_LOOK_S)

    def _close(self) -> None:
        self._is_over.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def running_receiver(
    reply: Callable[[str, str, int], Reply] = lambda path, event_id, tries: 200,
    now_ms: Callable[[], int] | None = None,
) -> Iterator[Receiver]:
    """A receiver that answers `reply(path, event id, how often it came before)`.

    `now_ms`: how late a request comes is judged by this clock. At the end nothing may have come
    that was not signed as it should be.
    """
    receiver = Receiver(reply, now_ms)
    thread = threading.Thread(target=receiver._run, name="webhook receiver")
    thread.start()
    try:
        yield receiver
    finally:
        receiver._close()
        thread.join()
    assert not receiver.troubles, receiver.troubles[:3]


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # all of them end with it
    request_queue_size = 128

    def shutdown_request(self, request: Any) -> None:
        """Close, and say no goodbye before it: that would be no reset."""
        self.close_request(request)


def _handler_of(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 60  # seconds for a request that never comes

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            body = self.rfile.read(length)
            if len(body) < length:
                return  # the hub was killed in the middle
            headers = {name.lower(): value for name, value in self.headers.items()}
            match receiver.take(self.path, headers, body):
                case "hang":
                    receiver.hang(self.connection)
                case "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                case int() as status:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing: the ledger has it."""

        def handle(self) -> None:
            with suppress(OSError):  # the hub was killed
                super().handle()

        def finish(self) -> None:
            with suppress(OSError):
                super().finish()

    return Handler


def _stopped_at(at_s: float) -> type[datetime]:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromtimestamp(at_s, tz or UTC)

    return Stopped
