"""What requests and answers say, sans-I/O: addresses, bodies, and refusals as errors."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from os import PathLike
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

from cmdop_appliance.sdk.errors import CmdopError, UnexpectedAnswer, error_class
from cmdop_appliance.sdk.trust import Trust, trust_in

_KEY_CHARACTERS: Final = 200  # contract, 1: Idempotency
_SHOWN_CHARACTERS: Final = 200  # of a foreign answer, in an error message


class Address(NamedTuple):
    """Where a hub is."""

    secure: bool
    host: str
    port: int
    prefix: str  # of every path
    trust: Trust = Trust()

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    def target(self, path: str, query: Mapping[str, object] | None = None) -> str:
        """What a request asks for. `path` is below /api/v1, or begins with /api/ or /mcp itself."""
        target = self.prefix + (path if path.startswith(("/api/", "/mcp")) else f"/api/v1{path}")
        chosen = _present(query)
        return f"{target}?{urlencode(chosen)}" if chosen else target

    def websocket(self, path: str) -> str:
        """The URL of a websocket at `path`, below /api/v1."""
        return f"{'wss' if self.secure else 'ws'}://{self.authority}{self.target(path)}"


def address_of(
    base_url: str,
    ca_file: str | PathLike[str] | None = None,
    certificate: str | None = None,
) -> Address:
    """What the URL says, with or without the /api/v1 at its end. The others: see `AsyncClient`.

    Raises:
        CmdopError: it cannot be a hub's, or the file cannot be read.
    """
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
    trust = trust_in(ca_file, certificate) if secure else Trust()
    return Address(secure, host, port or (443 if secure else 80), prefix, trust)


def bearer_of(api_key: str) -> dict[str, str]:
    """The header that shows the key.

    Raises:
        CmdopError: it cannot be one.
    """
    if not (api_key and api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise CmdopError("the API key is empty or has characters that no key has")
    return {"Authorization": f"Bearer {api_key}"}


def idempotency_key(key: str | None) -> str:
    """`key`, or a new one.

    Raises:
        CmdopError: it cannot be one.
    """
    if key is None:
        return str(uuid4())
    if not (0 < len(key) <= _KEY_CHARACTERS and key.isascii() and key.isprintable()):
        raise CmdopError(f"an idempotency key is 1 to {_KEY_CHARACTERS} printable ASCII characters")
    return key


def json_of(method: str, body: Mapping[str, object]) -> bytes:
    """`body` without what is None; in a PATCH that is null instead: it takes something off."""
    return json.dumps(body if method == "PATCH" else _present(body)).encode()


def read_answer(status: int, raw: bytes) -> dict[str, Any]:
    """The answer as JSON.

    Raises:
        APIError: it is a refusal.
        UnexpectedAnswer: it is not a hub's.
    """
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        shown = raw[:_SHOWN_CHARACTERS].decode("utf-8", "replace").strip()
        raise UnexpectedAnswer(f"not a cmdop hub: it answered HTTP {status}: {shown}")
    if status < HTTPStatus.MULTIPLE_CHOICES:
        return answer
    error, meta = answer.get("error"), answer.get("meta")
    if not isinstance(error, dict):  # of another plane
        error = {"message": error if isinstance(error, str) else "", "code": answer.get("code", "")}
    details = error.get("details")
    raise error_class(status)(
        status,
        str(error.get("code", "")),
        str(error.get("message") or f"the hub answered HTTP {status}"),
        details if isinstance(details, dict) else None,
        str(meta.get("request_id", "")) if isinstance(meta, dict) else "",
        str(error.get("hint") or ""),
    )


def _present(values: Mapping[str, object] | None) -> dict[str, object]:
    return {name: value for name, value in (values or {}).items() if value is not None}
