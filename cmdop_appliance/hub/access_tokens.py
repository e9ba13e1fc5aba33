"""Access tokens: stand-ins for an API key that are good for hours, and can be given to a browser.

A token is its API key, sealed with a secret of this hub, which records none of them. So it carries
the key's rights and ends with the key; and whoever steals the store, secret and all, can make no
token, as the store has no key to put into one.
"""

import base64
import re
from dataclasses import dataclass, field
from typing import Final

from cmdop_appliance.auth import KEY_CHARS, presented_key
from cmdop_appliance.errors import Unauthorized
from cmdop_appliance.identity import SEAL_BYTES, sealed, unsealed

_PREFIX: Final = "cmdop_token_"
_TIME_BYTES: Final = 8
_RANDOM_CHARS: Final = -(-(SEAL_BYTES + _TIME_BYTES + KEY_CHARS) * 4 // 3)
_BEARER: Final = re.compile(rf"(?i:bearer) +{_PREFIX}([A-Za-z0-9_-]{{{_RANDOM_CHARS}}}) *")


@dataclass(frozen=True, slots=True)
class Shown:
    """The API key that somebody showed; by a token, which is good until then (ms since 1970)."""

    key: str = field(repr=False)
    until_ms: int | None = None


class AccessTokens:
    """Makes tokens, and tells them from others."""

    def __init__(self, secret: bytes) -> None:
        """`secret`: 256 bits of this hub's own."""
        self._secret = secret

    def issue(self, key: str, until_ms: int) -> str:
        """A token for an API key that is good."""
        seal = sealed(self._secret, until_ms.to_bytes(_TIME_BYTES) + key.encode())
        return _PREFIX + base64.urlsafe_b64encode(seal).rstrip(b"=").decode()

    def shown(self, authorization: str | None) -> Shown:
        """What is in an Authorization header: a token, in time or not, or an API key itself.

        Raises:
            Unauthorized: there is neither, or it is no token of ours, or cannot be a key.
        """
        bearer = _BEARER.fullmatch(authorization or "")
        if bearer is None:
            return Shown(presented_key(authorization))
        seal = base64.urlsafe_b64decode(bearer[1] + "=" * (-_RANDOM_CHARS % 4))
        content = unsealed(self._secret, seal)
        if content is None:
            raise Unauthorized("Invalid or missing API key")
        until_ms = int.from_bytes(content[:_TIME_BYTES])
        return Shown(content[_TIME_BYTES:].decode(), until_ms)
