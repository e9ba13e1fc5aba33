"""Who calls the API: keys looked up by hash, remembered for a moment."""

from dataclasses import dataclass, field, replace
from typing import Final

import trio

from cmdop_appliance.auth import Caller, presented_key, secret_hash
from cmdop_appliance.clock import Clock
from cmdop_appliance.errors import Unauthorized
from cmdop_appliance.hub.access_tokens import AccessTokens
from cmdop_appliance.hub.lockout import Lockout
from cmdop_appliance.store import api_keys
from cmdop_appliance.store.api_keys import Use
from cmdop_appliance.store.engine import Store

# A revoked key stops working within this (semantics.md: 1 s), whichever process revoked it.
_REMEMBER_S: Final = 0.8
_TOKEN_MS: Final = 4 * 3_600_000  # contract.md §9
# Keys remembered at a time; a burst of wrong keys must not fill the memory.
_REMEMBERED: Final = 1000
# A key's last use is written no more often than this: it is for people, who look for unused keys.
_USE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Known:
    caller: Caller
    until: float  # Trio time


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A token for an API key, and whose that is."""

    token: str = field(repr=False)
    until_ms: int
    caller: Caller


class Callers:
    """Turns an Authorization header into a caller: by an API key, or by a token for one."""

    def __init__(self, store: Store, clock: Clock, lockout: Lockout, tokens: AccessTokens) -> None:
        self._store = store
        self._clock = clock
        self._lockout = lockout
        self._tokens = tokens
        self._known: dict[str, _Known] = {}
        self._noted: dict[str, float] = {}  # by key id, when its use was noted last; oldest first
        self._uses: dict[str, Use] = {}  # by key id: what is to be written

    async def identify(self, authorization: str | None, address: str) -> Caller:
        """Whose API key or token this is, shown by somebody at `address`.

        Raises:
            Unauthorized: none, or one that is unknown, expired or revoked.
            RateLimited: too many wrong ones came from there.
        """
        try:
            shown = self._tokens.shown(authorization)
        except Unauthorized:
            if authorization:
                await self._lockout.failed(address)
            raise
        if shown.until_ms is None:
            return await self._identify(shown.key, address)
        self._require_in_time(shown.until_ms)  # one that was good once counts as no guess
        return replace(await self._identify(shown.key, address), token_until_ms=shown.until_ms)

    async def sign_in(self, access_token: str, address: str) -> SignedIn:
        """A token for 4 hours, for an API key: `<key>`, or `<key>:<namespace of its workspace>`.

        Raises:
            Unauthorized: it is none, or is unknown, expired or revoked, or of another namespace.
            RateLimited: too many wrong ones came from there.
        """
        key, colon, namespace = access_token.partition(":")
        try:
            key = presented_key(f"Bearer {key}")
        except Unauthorized:
            await self._lockout.failed(address)
            raise
        caller = await self._identify(key, address)
        if colon and namespace != caller.namespace:
            await self._lockout.failed(address)
            raise Unauthorized("Invalid or missing API key")
        until_ms = self._clock.now_ms() + _TOKEN_MS
        if caller.expires_ms is not None:
            until_ms = min(until_ms, caller.expires_ms)
        return SignedIn(self._tokens.issue(key, until_ms), until_ms, caller)

    def key_in(self, authorization: str | None) -> str:
        """The API key that an Authorization header shows, or shows a token for.

        Raises:
            Unauthorized: there is none.
        """
        return self._tokens.shown(authorization).key

    def _require_in_time(self, until_ms: int) -> None:
        if until_ms <= self._clock.now_ms():
            raise Unauthorized(
                "Invalid or missing API key",
                hint="a token is good for 4 hours; get another one with POST /api/auth",
            )

    async def _identify(self, key: str, address: str) -> Caller:
        key_hash = secret_hash(key)
        self._lockout.check(address, key_hash)
        known = self._known.get(key_hash)
        if known is not None and known.until > trio.current_time():
            caller = known.caller
        else:
            caller = await self._look_up(key_hash, address)
        self._lockout.succeeded(address, key_hash)
        self._note_use(caller.key_id, address)
        return caller

    async def _look_up(self, key_hash: str, address: str) -> Caller:
        now_ms = self._clock.now_ms()
        key = await self._store.run(api_keys.by_hash, key_hash, now_ms)
        if key is None:
            self._known.pop(key_hash, None)
            await self._lockout.failed(address, key_hash)
            raise Unauthorized("Invalid or missing API key")
        self._lockout.check(address, key_hash)  # others of a burst were wrong in the meantime
        caller = Caller(
            key_id=key.id,
            name=key.name,
            workspace_id=key.workspace_id,
            namespace=key.namespace,
            scopes=frozenset(key.scopes),
            tags=tuple(key.tags),
            expires_ms=key.expires_ms,
        )
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        remember_s = _REMEMBER_S
        if key.expires_ms is not None:
            remember_s = min(remember_s, (key.expires_ms - now_ms) / 1000)
        self._known[key_hash] = _Known(caller, trio.current_time() + remember_s)
        return caller

    async def require_still_good(self, caller: Caller) -> None:
        """Pass if the key or the token by which a caller was identified is good to this moment.

        It counts as no try of a key, unlike `identify`.

        Raises:
            Unauthorized: it was revoked, or has expired.
        """
        if caller.token_until_ms is not None:
            self._require_in_time(caller.token_until_ms)
        if not await self._store.run(api_keys.is_good, caller.key_id, self._clock.now_ms()):
            raise Unauthorized("Invalid or missing API key")

    def forget(self) -> None:
        """A key was revoked: look all of them up anew."""
        self._known.clear()

    async def save_uses(self) -> None:
        """Write when and from where keys were used, as far as that is not written."""
        if self._uses:
            uses, self._uses = list(self._uses.values()), {}
            await self._store.run(api_keys.note_uses, uses)

    def _note_use(self, key_id: str, address: str) -> None:
        now = trio.current_time()
        if self._noted.get(key_id, -_USE_S) > now - _USE_S:
            return
        self._noted.pop(key_id, None)
        self._noted[key_id] = now
        self._uses[key_id] = Use(key_id, self._clock.now_ms(), address)
        while self._noted[oldest := next(iter(self._noted))] <= now - _USE_S:
            del self._noted[oldest]
