"""Signing browsers in: by a link that is good once, or by an API key. There are no passwords.

What a browser gets is a cookie, a secret of its own, by which it acts as that key until it signs
out, is not used for long, or the key ends.
"""

from typing import Final

from cmdop_appliance.auth import Caller, new_cookie, secret_hash
from cmdop_appliance.clock import Clock
from cmdop_appliance.config import AuthConfig
from cmdop_appliance.errors import Unauthorized
from cmdop_appliance.hub.callers import Callers
from cmdop_appliance.hub.lockout import Lockout
from cmdop_appliance.hub.one_time import OneTimeSecrets
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import SignIn
from cmdop_appliance.store import sign_ins as rows
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.engine import Store

LINK_MS: Final = 600_000
# What browsers say of themselves seldom has 150 characters.
_USER_AGENT_CHARS: Final = 256


def address_of(link: str, url: str) -> str:
    """Where to open a link in a browser, of the hub at `url`: what is behind # is sent nowhere."""
    return f"{url}/sign-in#{link}"


class SignIns:
    """Makes links and sign-ins."""

    def __init__(
        self, store: Store, clock: Clock, lockout: Lockout, callers: Callers, config: AuthConfig
    ) -> None:
        self._store = store
        self._clock = clock
        self._lockout = lockout
        self._callers = callers
        self._idle_ms = config.sign_in_idle_ms
        self._longest_ms = config.sign_in_ms
        self._links: OneTimeSecrets[None] = OneTimeSecrets()

    def put_link(self, caller: Caller, link: str, for_ms: int = LINK_MS) -> None:
        """Have `link`, a new secret, sign one browser in as this caller's key, within `for_ms`."""
        self._links.put(link, caller, None, for_ms)

    async def redeem(self, link: str, address: str) -> Caller:
        """Who made this link, which is good no more now.

        Raises:
            Unauthorized: it is none, was used, or is too old; or who made it has lost the key.
            RateLimited: too many wrong ones, or wrong keys, came from there.
        """
        self._lockout.check(address)
        found = self._links.take(link)
        if found is None:
            await self._lockout.failed(address)
            raise Unauthorized(
                "Invalid sign-in link",
                hint="a link is good once, and not for long; `cmdop dashboard` prints another one",
            )
        caller, _ = found
        await self._callers.require_still_good(caller)
        return caller

    async def begin(
        self, caller: Caller, address: str, user_agent: str, instead_of: str | None
    ) -> tuple[SignIn, str]:
        """Sign a browser in as this caller's key: (record, the secret for its cookie).

        It ends no later than what the caller shows. `instead_of` is the id of a sign-in that ends,
        which the same browser had before.

        Raises:
            Unauthorized: the key was revoked.
        """
        now_ms = self._clock.now_ms()
        ends = (now_ms + self._longest_ms, caller.until_ms, caller.sign_in_until_ms)
        expires_ms = min(end for end in ends if end is not None)
        sign_in = SignIn(
            id=new_id("sign"),
            api_key_id=caller.key_id,
            key_name=caller.name,
            created_ms=now_ms,
            last_seen_ms=now_ms,
            ip=address,
            user_agent=user_agent[:_USER_AGENT_CHARS],
            expires_ms=expires_ms,
            ends_ms=min(now_ms + self._idle_ms, expires_ms),
        )
        cookie = new_cookie()
        details = {} if instead_of is None else {"instead_of": instead_of}
        entry = Entry.by(caller, now_ms, "sign_in.created", sign_in.id, **details)
        insert = entry.recording(rows.insert)
        await self._store.run(insert, sign_in, secret_hash(cookie), instead_of)
        if instead_of is not None:
            self._callers.forget()
        return sign_in, cookie
