"""HTTP for the synchronous client: one kept-alive connection, and one of its own per stream.

Every request may be sent again: GET and DELETE by their nature (RFC 9110, section 9.2.2), a POST
because it carries an Idempotency-Key, by which the hub knows that it has this one already. So a hub
that restarts costs time and nothing else.
"""

import http
import http.client
import json
import select
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NoReturn
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

from cmdop_appliance.sdk.errors import (
    Away,
    CmdopError,
    Conflict,
    ConnectionFailed,
    NotFound,
    ServerError,
    Silent,
    UnexpectedAnswer,
    error_class,
)
from cmdop_appliance.sdk.patience import STOPPING, Patience, is_passing

# How long a hub that says nothing, or is away, is waited for: it stops within 5 s (contract, 11)
# and is ready within 2 s of its start, and a small machine reboots in a minute.
TIMEOUT_S: Final = 60.0
# What a proxy says of a hub that does not answer it: whether that heard of a request is unknown.
_GATEWAY: Final = frozenset({http.HTTPStatus.BAD_GATEWAY, http.HTTPStatus.GATEWAY_TIMEOUT})
_KEY_CHARACTERS: Final = 200  # contract, 1: Idempotency
_SHOWN_CHARACTERS: Final = 200  # of a foreign answer, in an error message
# Of a body in one call: what a socket on loopback takes, and gives, at once.
PIECE_BYTES: Final = 256 * 1024


class Transport:
    """Sends requests to one hub. Not for use by two threads at once."""

    def __init__(self, base_url: str, api_key: str, *, timeout_s: float) -> None:
        """`base_url`: with or without the /api/v1 at its end. `timeout_s`: see `Client`.

        Raises:
            CmdopError: the URL or the key cannot be one.
        """
        self._secure, self._host, self._port, self._prefix = _split(base_url)
        if not (api_key and api_key.isascii() and api_key.isprintable() and " " not in api_key):
            raise CmdopError("the API key is empty or has characters that no key has")
        self._base_url = base_url
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._connection = self._new_connection()
        self._has_met = False  # whoever was never there does not come back, but is a wrong address

    def copy(self) -> "Transport":
        """Another one to the same hub, for another thread."""
        twin = Transport(self._base_url, self._api_key, timeout_s=self._timeout_s)
        twin._has_met = self._has_met
        return twin

    def close(self) -> None:
        """Close the kept connection; the next request opens it again."""
        self._connection.close()

    def websocket(self, path: str) -> tuple[str, dict[str, str]]:
        """Where a websocket is opened, and the headers that go with it. `path`: below /api/v1."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        scheme = "wss" if self._secure else "ws"
        url = f"{scheme}://{host}:{self._port}{self._prefix}/api/v1{path}"
        return url, {"Authorization": f"Bearer {self._api_key}"}

    def patience(self) -> Patience:
        """As much of it as the client shall have."""
        return Patience(self._timeout_s)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
        waits: bool = False,
    ) -> dict[str, Any]:
        """The answer as JSON. `path` is below /api/v1, or begins with /api/ itself.

        A None in `query` or `body` is left out. In the body of a PATCH it is null instead: that
        takes something off.

        A hub that restarts is waited for, and so is a machine whose agent has not found it again.
        `waits`: the answer comes when something has ended, so a long silence only means that the
        hub is asked whether it is still there.

        Raises:
            APIError: the hub refused.
            ConnectionFailed, UnexpectedAnswer
            CmdopError: the idempotency key cannot be one.
        """
        headers = {"Idempotency-Key": _checked_key(idempotency_key)} if method == "POST" else {}
        patience = self.patience()
        unknown: ConnectionFailed | None = None  # an attempt may have done what was asked
        passing: CmdopError | None = None  # why the last one is not the last
        while True:
            try:
                return self._exchange(method, path, query, body, headers)
            except Away as exc:
                passing, unknown = exc, exc if exc.sent else unknown
            except Silent as exc:
                if not waits:
                    raise
                passing = unknown = exc
                self.request("GET", "/auth/me")
                continue
            except ServerError as exc:
                if exc.status != STOPPING:
                    _raise_failed(exc, unknown)
                passing = unknown or exc
            except Conflict as exc:  # which tells that no attempt before was carried out
                if not is_passing(exc, was_there=passing is not None):
                    raise
                passing, unknown = exc, None
            except NotFound:
                if unknown is None or method != "DELETE":
                    raise
                return {}  # an attempt before took it away
            patience.pause(passing)

    def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None,
        body: Mapping[str, object] | None,
        headers: Mapping[str, str],
    ) -> dict[str, Any]:
        if _is_stale(self._connection):
            self.close()
        try:
            self._begin(self._connection, self._timeout_s, method, path, query, body, headers)
            return self.read(self._response(self._connection))
        except BaseException:  # half an answer may still be in the connection
            self.close()
            raise

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        idle_timeout_s: float,
        headers: Mapping[str, str],
    ) -> Iterator[Iterator[bytes]]:
        """GET `path` on a connection of its own; gives the pieces of the body as they arrive.

        Raises:
            APIError: the hub refused.
            ConnectionFailed: also when nothing arrives for `idle_timeout_s`.
        """
        connection = self._new_connection()
        try:
            self._begin(connection, idle_timeout_s, "GET", path, query, extra=headers)
            response = self._response(connection)
            if response.status != http.HTTPStatus.OK:
                self.read(response)
            yield self.pieces(response)
        finally:
            connection.close()

    @contextmanager
    def exchange(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Iterable[bytes | memoryview] = (),
        length: int | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """One attempt on a connection of its own, however long it takes; gives the answer's head.

        `body` has `length` bytes. A hub that answers before it has all of them is sent no more.
        One that is silent is asked, over the kept connection, whether it is still there.

        Raises:
            ConnectionFailed
        """
        extra = {**(headers or {})}
        if length is not None:
            extra["Content-Length"] = str(length)
        connection = self._new_connection()
        try:
            self._begin(connection, self._timeout_s, method, path, query, extra=extra)
            for piece in body:  # whose failures are none of the hub's
                if not self._is_taken(connection.sock, piece):
                    break
            self._wait(connection.sock, select.POLLIN)
            yield self._response(connection)
        finally:
            connection.close()

    def long_request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        was_there: bool = False,
    ) -> dict[str, Any]:
        """As `request`, of what may take as long as all of a disk does: it is not asked for twice.

        `was_there`: see `is_passing`.
        """
        headers, sent = {}, b""
        if body is not None:
            headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid4())}
            sent = json.dumps(body).encode()
        patience = self.patience()
        failed: CmdopError | None = None
        while True:
            try:
                with self.exchange(
                    method,
                    path,
                    query=query,
                    headers=headers,
                    body=[sent],
                    length=None if body is None else len(sent),
                ) as response:
                    return self.read(response)
            except NotFound as exc:
                if method == "DELETE" and failed is not None and exc.code == "file_not_found":
                    return {}  # an attempt before took it away
                raise
            except CmdopError as exc:
                if not is_passing(exc, was_there=was_there or failed is not None):
                    raise
                failed = exc
            patience.pause(failed)

    def _is_taken(self, sock: socket.socket, piece: bytes | memoryview) -> bool:
        """Send all of `piece`; False: the hub wants no more, and has said why, or is gone."""
        # Over TLS there may be something to read that is no answer, such as a session ticket.
        answered = 0 if self._secure else select.POLLIN
        rest = memoryview(piece)
        while rest:
            if self._wait(sock, select.POLLOUT | answered) & answered:
                return False
            try:
                with self._failures():
                    rest = rest[sock.send(rest) :]
            except Away:
                return False
        return True

    def _wait(self, sock: socket.socket, events: int) -> int:
        """The first of `events` to come, as long as the hub is there."""
        poll = select.poll()
        poll.register(sock, events)
        while not (came := poll.poll(self._timeout_s * 1000)):
            self._exchange("GET", "/auth/me", None, None, {})
        return came[0][1]

    def pieces(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        """The body of an answer as it arrives.

        Raises:
            ConnectionFailed: also when nothing arrives for too long.
        """
        while True:
            with self._failures():
                piece = response.read1(PIECE_BYTES)
            if not piece:
                return
            yield piece

    def _new_connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=self._timeout_s)

    def _begin(
        self,
        connection: http.client.HTTPConnection,
        silence_s: float,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {self._api_key}", **(extra or {})}
        target = self._prefix + (path if path.startswith("/api/") else f"/api/v1{path}")
        if chosen := _present(query):
            target += "?" + urlencode(chosen)
        payload = None
        if body is not None:
            payload = json.dumps(body if method == "PATCH" else _present(body)).encode()
            headers["Content-Type"] = "application/json"
        if connection.sock is None:
            with self._failures(sent=False):
                connection.connect()
            self._has_met = True
        with self._failures():
            connection.sock.settimeout(silence_s)
            connection.request(method, target, payload, headers)

    def _response(self, connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        with self._failures():
            return connection.getresponse()

    def read(self, response: http.client.HTTPResponse) -> dict[str, Any]:
        """The answer as JSON.

        Raises:
            APIError: it is a refusal.
            ConnectionFailed, UnexpectedAnswer
        """
        with self._failures():
            raw = response.read()
        if response.status in _GATEWAY:
            raise Away(f"the hub behind {self._where} does not answer (HTTP {response.status})")
        if not raw and response.headers.get("Content-Length") is None:
            raise Away(f"the hub at {self._where} broke off its answer")
        return _checked(response, raw)

    @property
    def _where(self) -> str:
        return f"{self._host}:{self._port}"

    @contextmanager
    def _failures(self, *, sent: bool = True) -> Iterator[None]:
        where = self._where
        try:
            yield
        except TimeoutError as exc:
            kind = Silent if sent else ConnectionFailed
            raise kind(f"the hub at {where} does not answer") from exc
        except OSError as exc:
            message = f"cannot reach the hub at {where}: {_reason(exc)}"
            if self._has_met:
                raise Away(message, sent=sent) from exc
            raise ConnectionFailed(message) from exc
        except UnicodeError as exc:  # the resolver's word for a host name that cannot be one
            raise ConnectionFailed(f"cannot reach the hub at {where}: no such host") from exc
        except http.client.HTTPException as exc:
            if _is_torn(exc):
                raise Away(f"the hub at {where} broke off its answer") from exc
            raise UnexpectedAnswer(f"what listens at {where} is not a cmdop hub") from exc


def _split(base_url: str) -> tuple[bool, str, int, str]:
    try:
        url = urlsplit(base_url)
        secure, host, port = url.scheme == "https", url.hostname, url.port
    except ValueError:
        raise CmdopError("the hub's URL cannot be read") from None
    if (
        url.scheme not in {"http", "https"}
        or not host
        or " " in base_url
        or not base_url.isprintable()
    ):
        raise CmdopError("the hub's URL must look like http://127.0.0.1:3006")
    if url.username is not None or url.query or url.fragment:
        raise CmdopError("the hub's URL must be without a password, a query and a fragment")
    prefix = url.path.rstrip("/")
    for tail in ("/api/v1", "/v1"):  # the published API reference calls this the base URL
        prefix = prefix.removesuffix(tail)
    return secure, host, port or (443 if secure else 80), prefix


def _present(values: Mapping[str, object] | None) -> dict[str, object]:
    return {name: value for name, value in (values or {}).items() if value is not None}


def _is_stale(connection: http.client.HTTPConnection) -> bool:
    """True: the idle connection has bytes or an end to read, so the hub has given it up."""
    if connection.sock is None:
        return False
    poll = select.poll()  # select() cannot watch descriptors above 1023
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def _reason(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()


def _is_torn(error: http.client.HTTPException) -> bool:
    """True: what came is the beginning of an answer; False: it is none."""
    if isinstance(error, http.client.BadStatusLine):
        return "HTTP/1.1".startswith(str(error)[:8])
    return isinstance(error, http.client.IncompleteRead)


def _checked_key(key: str | None) -> str:
    if key is None:
        return str(uuid4())
    if not (0 < len(key) <= _KEY_CHARACTERS and key.isascii() and key.isprintable()):
        raise CmdopError(f"an idempotency key is 1 to {_KEY_CHARACTERS} printable ASCII characters")
    return key


def _raise_failed(error: ServerError, unknown: ConnectionFailed | None) -> NoReturn:
    """A failed attempt did nothing, but one before it may have."""
    if unknown is None:
        raise error
    raise ConnectionFailed(f"{unknown}, and failed when it was asked again: {error}") from error


def _checked(response: http.client.HTTPResponse, raw: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        shown = raw[:_SHOWN_CHARACTERS].decode("utf-8", "replace").strip()
        raise UnexpectedAnswer(f"not a cmdop hub: it answered HTTP {response.status}: {shown}")
    if response.status < http.HTTPStatus.MULTIPLE_CHOICES:
        return answer
    error, meta = answer.get("error"), answer.get("meta")
    if not isinstance(error, dict):  # of another plane
        error = {"message": error if isinstance(error, str) else "", "code": answer.get("code", "")}
    details = error.get("details")
    raise error_class(response.status)(
        response.status,
        str(error.get("code", "")),
        str(error.get("message") or f"the hub answered HTTP {response.status}"),
        details if isinstance(details, dict) else None,
        str(meta.get("request_id", "")) if isinstance(meta, dict) else "",
        str(error.get("hint") or ""),
    )
