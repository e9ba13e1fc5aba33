"""The cookie by which a browser is signed in: one name by HTTPS, and one by plain HTTP.

Of the first a browser knows that nobody can have set it but this very host, by HTTPS (RFC 6265bis
§4.1.3.2); so by HTTPS no other counts.
"""

from collections.abc import Mapping
from typing import Final

_NAME: Final = {True: "__Host-cmdop", False: "cmdop"}
_RULES: Final = {
    True: "Path=/; Secure; HttpOnly; SameSite=Strict",
    False: "Path=/; HttpOnly; SameSite=Strict",
}


def cookie_in(headers: Mapping[str, str], *, is_secure: bool) -> str | None:
    """The secret that a browser shows."""
    for pair in headers.get("cookie", "").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == _NAME[is_secure] and value:
            return value
    return None


def cookie_header(cookie: str, age_s: int, *, is_secure: bool) -> dict[str, str]:
    """What has a browser keep this secret for so long; 0: forget it."""
    value = f"{_NAME[is_secure]}={cookie}; Max-Age={age_s}; {_RULES[is_secure]}"
    return {"Set-Cookie": value, "Cache-Control": "no-store"}
