"""API keys, scopes and callers. Pure: it decides, others look up and store."""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cmdop_appliance.clock import rfc3339
from cmdop_appliance.errors import Forbidden, Unauthorized

_KEY: Final = re.compile(r"cmdop_apikey_[A-Za-z0-9_-]{43}")
_KEY_PREFIX: Final = "cmdop_apikey_"
KEY_CHARS: Final = len(_KEY_PREFIX) + 43
_SHOWN_CHARS: Final = 6  # of the random part in `key_prefix`: 36 of 256 bits


class Scope(StrEnum):
    """What a key may do. `admin` includes everything."""

    MACHINES_READ = "machines:read"
    MACHINES_WRITE = "machines:write"
    SESSIONS_READ = "sessions:read"
    SESSIONS_WRITE = "sessions:write"
    COMMANDS_EXECUTE = "commands:execute"
    FILES_READ = "files:read"
    FILES_WRITE = "files:write"
    SCHEDULES_READ = "schedules:read"
    SCHEDULES_WRITE = "schedules:write"
    WEBHOOKS_MANAGE = "webhooks:manage"
    METRICS_READ = "metrics:read"  # of the hub itself, for Prometheus
    ADMIN = "admin"
    # Classes of routes rather than rights; never granted to a key.
    ANY_KEY = "any key"
    PUBLIC = "public"


GRANTABLE: Final = tuple(scope for scope in Scope if scope not in (Scope.ANY_KEY, Scope.PUBLIC))


@dataclass(frozen=True, slots=True)
class Reach:
    """What a caller may know of: a workspace; with tags only its machines that carry all of them.

    What belongs to a machine that is out of reach does not exist for the caller.
    """

    workspace_id: str
    tags: tuple[str, ...] = ()

    def covers(self, workspace_id: str, tags: Iterable[str]) -> bool:
        """True: what belongs to that workspace and carries these tags exists for the caller."""
        return workspace_id == self.workspace_id and set(self.tags) <= set(tags)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: an API key of one workspace."""

    key_id: str
    name: str
    workspace_id: str
    namespace: str
    scopes: frozenset[str]
    tags: tuple[str, ...] = ()  # the key is good only for machines that carry all of them
    expires_ms: int | None = None
    token_until_ms: int | None = None  # it showed a token for the key, which is good until then
    sign_in_id: str | None = None  # it is a browser, which showed the cookie of this sign-in …
    sign_in_until_ms: int | None = None  # … which is good until then, at the latest

    @property
    def until_ms(self) -> int | None:
        """When what was shown is good no more, key or token, ms since 1970; None: it stays good."""
        ends = (self.expires_ms, self.token_until_ms)
        return min((end for end in ends if end is not None), default=None)

    @property
    def reach(self) -> Reach:
        """What this caller may know of."""
        return Reach(self.workspace_id, self.tags)

    @property
    def email(self) -> str:
        """The name by which records and answers call this caller (the API's `user_email`)."""
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', self.name)}@{self.namespace}"

    def allows(self, scope: Scope) -> bool:
        """True: this caller may do what `scope` stands for."""
        return scope is Scope.ANY_KEY or scope in self.scopes or Scope.ADMIN in self.scopes

    def require_outlives(self, expires_ms: int | None) -> None:
        """Pass if a credential that expires then (None: never) ends before what the caller shows.

        Raises:
            Forbidden: it does not.
        """
        until_ms = self.until_ms
        if until_ms is not None and (expires_ms is None or expires_ms > until_ms):
            shown = "key" if until_ms == self.expires_ms else "token"
            raise Forbidden(
                f"this {shown} expires {rfc3339(until_ms)}, and can make no key that lives longer",
                expires_at=rfc3339(until_ms),
            )

    def require(self, *scopes: Scope) -> None:
        """Pass if any one of `scopes` is the caller's.

        Raises:
            Forbidden: none is; the message names the first.
        """
        if not any(self.allows(scope) for scope in scopes):
            missing = str(scopes[0])
            raise Forbidden(
                f"Token lacks required permission: {missing}", required_permission=missing
            )


# Who calls a route that needs no key.
NOBODY: Final = Caller("", "nobody", "", "", frozenset())


def new_key(secret: bytes | None = None) -> str:
    """An API key: 256 random bits, or these, behind a prefix that secret scanners know."""
    secret = secret or new_secret()
    return _KEY_PREFIX + base64.urlsafe_b64encode(secret).rstrip(b"=").decode()


def new_secret() -> bytes:
    """256 random bits."""
    return secrets.token_bytes(32)


def new_cookie() -> str:
    """What a browser holds that is signed in: 256 random bits."""
    return secrets.token_urlsafe(32)


def new_link(secret: bytes) -> str:
    """A sign-in link: 256 random bits behind a prefix that secret scanners know."""
    return "cmdop_link_" + base64.urlsafe_b64encode(secret).rstrip(b"=").decode()


def derived_secret(key: str, salt: bytes) -> bytes:
    """256 bits that nobody has who lacks the API key, or the random salt."""
    return hmac.digest(key.encode(), salt, "sha256")


def shown_prefix(key: str) -> str:
    """The part of a key that may be shown, to tell keys apart."""
    return key[: len(_KEY_PREFIX) + _SHOWN_CHARS]


def secret_hash(secret: str | bytes) -> str:
    """What the store keeps of a secret. Plain SHA-256: the secrets are long and random."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).hexdigest()


def presented_key(authorization: str | None) -> str:
    """The API key in an Authorization header.

    Raises:
        Unauthorized: there is none, or it cannot be one of ours.
    """
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or _KEY.fullmatch(key.strip()) is None:
        raise Unauthorized(
            "Invalid or missing API key",
            hint="send it as `Authorization: Bearer cmdop_apikey_…` (cmdop auth create-key)",
        )
    return key.strip()
