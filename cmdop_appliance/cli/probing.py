"""What a hub, or whatever stands before it, answers: below the client, which hides just that."""

import base64
import hashlib
import http.client
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from cmdop_appliance.cli.connection import Hub
from cmdop_appliance.sdk.trust import tls_context, trust_in

_TIMEOUT_S: Final = 5.0
_BODY_BYTES: Final = 64 * 1024
_ACCEPT: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


@dataclass(frozen=True, slots=True)
class Probed:
    """An answer, what time it is there, and how long it took."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: str
    took_s: float

    def skew_s(self, now_s: float) -> float | None:
        """How far the hub's clock is ahead of ours; None: it does not say."""
        try:
            date = parsedate_to_datetime(self.headers.get("date", ""))
        except ValueError:
            return None
        return date.timestamp() - now_s


def probe(hub: Hub, path: str, headers: Mapping[str, str] | None = None) -> Probed:
    """GET `path` there.

    Raises:
        OSError, http.client.HTTPException: nobody answers, or not in HTTP.
        CmdopError: what shall vouch for the hub is no certificate.
    """
    parts = urlsplit(hub.url)
    where = parts.hostname or "", parts.port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = tls_context(trust_in(None, hub.certificate))
        connection = http.client.HTTPSConnection(*where, timeout=_TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(*where, timeout=_TIMEOUT_S)
    begun = time.monotonic()
    try:
        connection.request("GET", parts.path.rstrip("/") + path, headers=dict(headers or {}))
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        # What follows 101 is no body, and has no end.
        is_open = answer.status == http.HTTPStatus.SWITCHING_PROTOCOLS
        body = b"" if is_open else answer.read(_BODY_BYTES)
        took_s = time.monotonic() - begun
        return Probed(answer.status, found, body.decode(errors="replace"), took_s)
    finally:
        connection.close()


def probe_websocket(hub: Hub, path: str, protocol: str) -> tuple[bool, Probed]:
    """Ask for a websocket. True: it is open, as RFC 6455 says (section 4.1).

    Raises: as `probe`.
    """
    nonce = base64.b64encode(secrets.token_bytes(16)).decode()
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": nonce,
        "Sec-WebSocket-Protocol": protocol,
        "Authorization": f"Bearer {hub.key}",
    }
    answer = probe(hub, path, headers)
    expected = hashlib.sha1(f"{nonce}{_ACCEPT}".encode(), usedforsecurity=False).digest()
    accepted = answer.headers.get("sec-websocket-accept", "")
    is_open = answer.status == http.HTTPStatus.SWITCHING_PROTOCOLS
    return is_open and accepted == base64.b64encode(expected).decode(), answer
