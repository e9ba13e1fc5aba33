"""HTTP for the synchronous client: one kept-alive connection, and one of its own per stream."""

import http
import http.client
import json
import select
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from cmdop_appliance.sdk.errors import CmdopError, ConnectionFailed, UnexpectedAnswer, error_class

_IDEMPOTENT: Final = frozenset({"GET", "PUT", "DELETE"})  # RFC 9110, section 9.2.2
_SHOWN_CHARACTERS: Final = 200  # of a foreign answer, in an error message


class Transport:
    """Sends requests to one hub. Not for use by two threads at once."""

    def __init__(self, base_url: str, api_key: str, *, timeout_s: float) -> None:
        """`base_url`: with or without the /api/v1 at its end. `timeout_s`: per wait for bytes.

        Raises:
            CmdopError: the URL or the key cannot be one.
        """
        self._secure, self._host, self._port, self._prefix = _split(base_url)
        if not (api_key and api_key.isascii() and api_key.isprintable() and " " not in api_key):
            raise CmdopError("the API key is empty or has characters that no key has")
        self._api_key = api_key
        self._connection = self._connect(timeout_s)

    def close(self) -> None:
        """Close the kept connection; the next request opens it again."""
        self._connection.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> dict[str, Any]:
        """The answer as JSON. `path` is below /api/v1. A None in `query` or `body` is left out.

        A connection that the hub closed while it was idle is replaced; beyond that only a request
        that may be repeated (GET, DELETE) is sent a second time.

        Raises:
            APIError: the hub refused.
            ConnectionFailed, UnexpectedAnswer
        """
        if _is_stale(self._connection):
            self.close()
        reused = self._connection.sock is not None
        try:
            return self._exchange(method, path, query, body)
        except ConnectionFailed:
            if not (reused and method in _IDEMPOTENT):
                raise
            return self._exchange(method, path, query, body)

    def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None,
        body: Mapping[str, object] | None,
    ) -> dict[str, Any]:
        try:
            response = self._send(self._connection, method, path, query, body)
            with _connection_errors(self._where):
                raw = response.read()
        except BaseException:  # half an answer is still in the connection
            self.close()
            raise
        return _checked(response, raw)

    @contextmanager
    def stream(
        self, path: str, *, idle_timeout_s: float, headers: Mapping[str, str]
    ) -> Iterator[Iterator[bytes]]:
        """GET `path` on a connection of its own; gives the pieces of the body as they arrive.

        Raises:
            APIError: the hub refused.
            ConnectionFailed: also when nothing arrives for `idle_timeout_s`.
        """
        connection = self._connect(idle_timeout_s)
        try:
            response = self._send(connection, "GET", path, extra=headers)
            if response.status != http.HTTPStatus.OK:
                with _connection_errors(self._where):
                    raw = response.read()
                _checked(response, raw)
            yield self._pieces(response)
        finally:
            connection.close()

    def _pieces(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        while True:
            with _connection_errors(self._where):
                piece = response.read1(64 * 1024)
            if not piece:
                return
            yield piece

    @property
    def _where(self) -> str:
        return f"{self._host}:{self._port}"

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=timeout_s)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {self._api_key}", **(extra or {})}
        target = f"{self._prefix}/api/v1{path}"
        if chosen := _present(query):
            target += "?" + urlencode(chosen)
        payload = None
        if body is not None:
            payload = json.dumps(_present(body)).encode()
            headers["Content-Type"] = "application/json"
        with _connection_errors(self._where):
            connection.request(method, target, payload, headers)
            return connection.getresponse()


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


@contextmanager
def _connection_errors(where: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise ConnectionFailed(f"the hub at {where} does not answer") from exc
    except OSError as exc:
        reason = (exc.strerror or str(exc) or type(exc).__name__).lower()
        raise ConnectionFailed(f"cannot reach the hub at {where}: {reason}") from exc
    except UnicodeError as exc:  # the resolver's word for a host name that cannot be one
        raise ConnectionFailed(f"cannot reach the hub at {where}: no such host") from exc
    except http.client.IncompleteRead as exc:
        raise ConnectionFailed(f"the hub at {where} broke off its answer") from exc
    except http.client.HTTPException as exc:
        raise UnexpectedAnswer(f"what listens at {where} is not a cmdop hub") from exc


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
    if not isinstance(error, dict):
        error = {"message": error if isinstance(error, str) else ""}
    details = error.get("details")
    raise error_class(response.status)(
        response.status,
        str(error.get("code", "")),
        str(error.get("message") or f"the hub answered HTTP {response.status}"),
        details if isinstance(details, dict) else None,
        str(meta.get("request_id", "")) if isinstance(meta, dict) else "",
    )
