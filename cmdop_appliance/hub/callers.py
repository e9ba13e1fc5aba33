"""Who calls the API: keys looked up by hash, remembered for a moment."""

from dataclasses import dataclass
from typing import Final

import trio

from cmdop_appliance.auth import Caller, presented_key, secret_hash
from cmdop_appliance.clock import Clock
from cmdop_appliance.errors import Unauthorized
from cmdop_appliance.store import api_keys
from cmdop_appliance.store.engine import Store

# A revoked key stops working within this (semantics.md: 1 s), whichever process revoked it.
_REMEMBER_S: Final = 0.8
# Keys remembered at a time; a burst of wrong keys must not fill the memory.
_REMEMBERED: Final = 1000


@dataclass(frozen=True, slots=True)
class _Known:
    caller: Caller
    until: float  # Trio time


class Callers:
    """Turns an Authorization header into a caller."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[str, _Known] = {}

    async def identify(self, authorization: str | None) -> Caller:
        """Whose API key this is.

        Raises:
            Unauthorized: none, or one that is unknown, expired or revoked.
        """
        key_hash = secret_hash(presented_key(authorization))
        known = self._known.get(key_hash)
        if known is not None and known.until > trio.current_time():
            return known.caller
        key = await self._store.run(api_keys.by_hash, key_hash, self._clock.now_ms())
        if key is None:
            self._known.pop(key_hash, None)
            raise Unauthorized("Invalid or missing API key")
        caller = Caller(key.id, key.name, key.workspace_id, key.namespace, frozenset(key.scopes))
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[key_hash] = _Known(caller, trio.current_time() + _REMEMBER_S)
        return caller

    def forget(self) -> None:
        """A key was revoked: look all of them up anew."""
        self._known.clear()
