"""Signatures of webhooks: Standard Webhooks' three headers, and our own documented one.

The two use different keys where the secret is of the form `whsec_…`: `X-Cmdop-Signature` the text
of the secret, as people copy it, the standard one the bytes that its base64 stands for. Of a
secret of another form both use the UTF-8 bytes.
"""

import base64
import hmac
import secrets
from typing import Final

_PREFIX: Final = "whsec_"
_NEW_BYTES: Final = 32
_LEAST_BYTES, _MOST_BYTES = 24, 64  # of a key (Standard Webhooks, "Signature scheme")
_LEAST_CHARS, _MOST_CHARS = 8, 256  # of a secret of another form


def new_webhook_secret(key: bytes | None = None) -> str:
    """A secret that nobody guesses: `whsec_` and 32 random bytes in base64, or these."""
    return _PREFIX + base64.b64encode(key or secrets.token_bytes(_NEW_BYTES)).decode()


def check_secret(text: str) -> str | None:
    """Why this is no secret of a webhook; None: it is one."""
    if text.startswith(_PREFIX):
        try:
            is_key = _LEAST_BYTES <= len(_key(text)) <= _MOST_BYTES
        except ValueError:
            is_key = False
        if not is_key:
            return f"must have base64 of {_LEAST_BYTES} to {_MOST_BYTES} bytes after {_PREFIX}"
        return None
    is_plain = text.isascii() and text.isprintable() and text == text.strip()
    if not is_plain or not _LEAST_CHARS <= len(text) <= _MOST_CHARS:
        return (
            f"must be {_LEAST_CHARS} to {_MOST_CHARS} printable ASCII characters with no space at"
            f" either end, or {_PREFIX} and base64"
        )
    return None


def signed_headers(secret: str, webhook_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """What proves to the receiver that this body is from who holds `secret`.

    `webhook_id` is the id of the message, the same in every attempt; `at_s` is when this attempt
    is made, in seconds since 1970 UTC: receivers refuse what is older than some minutes.
    """
    signed = f"{webhook_id}.{at_s}.".encode() + body
    standard = hmac.digest(_key(secret), signed, "sha256")
    ours = hmac.digest(secret.encode(), body, "sha256")
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{base64.b64encode(standard).decode()}",
        "X-Cmdop-Signature": f"sha256={ours.hex()}",
    }


def _key(secret: str) -> bytes:
    if not secret.startswith(_PREFIX):
        return secret.encode()
    text = secret.removeprefix(_PREFIX)
    # Without its padding, too: that is how the reference library takes it.
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
