"""Who calls the API: keys and sign-ins looked up by hash, remembered for a moment.

Who shows the cookie of a browser is identified by `exchange.identify`, which holds the request to
the rules of `api/same_origin.py` first; sockets are admitted by it, too.
"""

from dataclasses import dataclass, field, replace
from typing import Final

import trio

from cmdop_appliance.auth import Caller, presented_key, secret_hash
from cmdop_appliance.clock import Clock
from cmdop_appliance.errors import Unauthorized
from cmdop_appliance.hub.access_tokens import AccessTokens
from cmdop_appliance.hub.lockout import Lockout
from cmdop_appliance.hub.uses import Uses
from cmdop_appliance.model import ApiKey
from cmdop_appliance.store import api_keys, sign_ins
from cmdop_appliance.store.engine import Store

# A revoked key stops working within this (semantics.md: 1 s), whichever process revoked it.
_REMEMBER_S: Final = 0.8
_TOKEN_MS: Final = 4 * 3_600_000  # contract.md §9
# Keys remembered at a time; a burst of wrong keys must not fill the memory.
_REMEMBERED: Final = 1000


@dataclass(frozen=True, slots=True)
class _Known:
    caller: Caller
    until: float  # Trio time


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token for an API key, and whose that is."""

    token: str = field(repr=False)
    until_ms: int
    caller: Caller


class Callers:
    """Turns what somebody shows into a caller: an API key, a token for one, or a cookie."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        lockout: Lockout,
        tokens: AccessTokens,
        sign_in_idle_ms: int,
    ) -> None:
        """`sign_in_idle_ms`: for so long a browser stays signed in that nobody uses."""
        self._store = store
        self._clock = clock
        self._lockout = lockout
        self._tokens = tokens
        self._known: dict[str, _Known] = {}
        self._idle_ms = sign_in_idle_ms
        self._key_uses, self._sign_in_uses = Uses(clock), Uses(clock, sign_in_idle_ms)

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

    async def identify_key(self, key: str, address: str) -> Caller:
        """Whose API key this is; no token is taken for one.

        Raises:
            Unauthorized: it is none, or is unknown, expired or revoked.
            RateLimited: too many wrong ones came from there.
        """
        try:
            key = presented_key(f"Bearer {key}")
        except Unauthorized:
            await self._lockout.failed(address)
            raise
        return await self._identify(key, address)

    async def identify_cookie(self, cookie: str, address: str) -> Caller:
        """Whose sign-in this is: its key's holder, in one browser.

        A wrong one counts as no guess: a page goes on asking when its sign-in has ended.

        Raises:
            Unauthorized: there is no such sign-in, or no longer.
            RateLimited: too many wrong keys came from there, and this was not in use there.
        """
        cookie_hash = secret_hash(cookie)
        self._lockout.check(address, cookie_hash)
        caller = self._remembered(cookie_hash)
        if caller is None:
            now_ms = self._clock.now_ms()
            found = await self._store.run(sign_ins.by_hash, cookie_hash, now_ms)
            if found is None:
                raise _signed_out()
            sign_in, key = found
            caller = replace(
                caller_of(key), sign_in_id=sign_in.id, sign_in_until_ms=sign_in.expires_ms
            )
            self._remember(cookie_hash, caller, sign_in.ends_ms - now_ms)
        self._lockout.succeeded(address, cookie_hash)
        self._note_use(caller, address)
        return caller

    async def issue_token(self, access_token: str, address: str) -> AccessToken:
        """A token for 4 hours, for an API key: `<key>`, or `<key>:<namespace of its workspace>`.

        Raises:
            Unauthorized: it is none, or is unknown, expired or revoked, or of another namespace.
            RateLimited: too many wrong ones came from there.
        """
        key, colon, namespace = access_token.partition(":")
        caller = await self.identify_key(key, address)
        if colon and namespace != caller.namespace:
            await self._lockout.failed(address)
            raise Unauthorized("Invalid or missing API key")
        until_ms = self._clock.now_ms() + _TOKEN_MS
        if caller.expires_ms is not None:
            until_ms = min(until_ms, caller.expires_ms)
        return AccessToken(self._tokens.issue(key.strip(), until_ms), until_ms, caller)

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
        caller = self._remembered(key_hash) or await self._look_up(key_hash, address)
        self._lockout.succeeded(address, key_hash)
        self._note_use(caller, address)
        return caller

    async def _look_up(self, key_hash: str, address: str) -> Caller:
        now_ms = self._clock.now_ms()
        key = await self._store.run(api_keys.by_hash, key_hash, now_ms)
        if key is None:
            self._known.pop(key_hash, None)
            await self._lockout.failed(address, key_hash)
            raise Unauthorized("Invalid or missing API key")
        self._lockout.check(address, key_hash)  # others of a burst were wrong in the meantime
        caller = caller_of(key)
        self._remember(
            key_hash, caller, None if key.expires_ms is None else key.expires_ms - now_ms
        )
        return caller

    def _remembered(self, shown_hash: str) -> Caller | None:
        known = self._known.get(shown_hash)
        return known.caller if known is not None and known.until > trio.current_time() else None

    def _remember(self, shown_hash: str, caller: Caller, left_ms: int | None) -> None:
        """Look up no more for a moment who shows this; it is good for `left_ms` yet."""
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        remember_s = _REMEMBER_S if left_ms is None else min(_REMEMBER_S, left_ms / 1000)
        self._known[shown_hash] = _Known(caller, trio.current_time() + remember_s)

    async def require_still_good(self, caller: Caller) -> None:
        """Pass if what identified a caller is good to this moment: the key, token or sign-in.

        It counts as no try of a key, unlike `identify`. But a browser that has a stream or a socket
        open is in use as long as somebody asks this for it.

        Raises:
            Unauthorized: it was revoked, or has expired.
        """
        now_ms = self._clock.now_ms()
        if caller.token_until_ms is not None:
            self._require_in_time(caller.token_until_ms)
        if caller.sign_in_id is not None:
            if not await self._store.run(sign_ins.is_good, caller.sign_in_id, now_ms):
                raise _signed_out()
            self._sign_in_uses.note(caller.sign_in_id)
        elif not await self._store.run(api_keys.is_good, caller.key_id, now_ms):
            raise Unauthorized("Invalid or missing API key")

    def forget(self) -> None:
        """A key or a sign-in has ended: look all of them up anew."""
        self._known.clear()

    async def save_uses(self) -> None:
        """Write when and from where keys and sign-ins were used, as far as that is not written."""
        if uses := self._key_uses.take():
            await self._store.run(api_keys.note_uses, uses)
        if uses := self._sign_in_uses.take():
            await self._store.run(sign_ins.note_uses, uses, self._idle_ms)

    def _note_use(self, caller: Caller, address: str) -> None:
        self._key_uses.note(caller.key_id, address)
        if caller.sign_in_id is not None:
            self._sign_in_uses.note(caller.sign_in_id, address)


def caller_of(key: ApiKey) -> Caller:
    """Who shows this key."""
    return Caller(
        key_id=key.id,
        name=key.name,
        workspace_id=key.workspace_id,
        namespace=key.namespace,
        scopes=frozenset(key.scopes),
        tags=tuple(key.tags),
        expires_ms=key.expires_ms,
    )


def _signed_out() -> Unauthorized:
    return Unauthorized(
        "not signed in, or no longer",
        hint="open the link that `cmdop dashboard` prints, or sign in with an API key",
    )
