"""Addresses that tried too many wrong keys: for a while none of their keys is looked at.

A key that was good from the very same address in the last hour goes on working there, so that a
broken script behind somebody's NAT does not lock them out. Any other key is refused, right or
wrong: who guesses learns nothing.
"""

import logging
from contextlib import suppress
from math import ceil
from typing import Any, Final

import trio

from cmdop_appliance.addresses import subscriber
from cmdop_appliance.clock import Clock
from cmdop_appliance.config import AuthConfig
from cmdop_appliance.errors import RateLimited, StorageFull, Unavailable
from cmdop_appliance.store import audit
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.engine import Store

_GOOD_S: Final = 3600.0  # for so long after its last use a key works on in a lockout
# Kept of each kind, some 300 bytes apiece; the ones that were seen least lately go first. Whoever
# guesses from more addresses than that is stopped by no table of addresses.
_KEPT: Final = 10_000

_log = logging.getLogger("cmdop.auth")


class Lockout:
    """Counts wrong keys by the address that they came from."""

    def __init__(self, config: AuthConfig, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._attempts = config.attempts
        self._window_s = config.window_ms / 1000
        self._lockout_s = config.lockout_ms / 1000
        self._wrong: dict[str, tuple[int, float]] = {}  # by subscriber: how many, since when
        self._locked: dict[str, float] = {}  # by subscriber: until when
        self._good: dict[tuple[str, str], float] = {}  # by subscriber and key: when last

    def check(self, address: str, key_hash: str = "") -> None:
        """Pass, unless the address is locked out and the key was not good from there before.

        Raises:
            RateLimited: nothing was looked up.
        """
        if not self._locked:
            return
        who, now = subscriber(address), trio.current_time()
        left_s = self._locked.get(who, now) - now
        if left_s <= 0:
            self._locked.pop(who, None)
        elif self._good.get((who, key_hash), now - _GOOD_S) <= now - _GOOD_S:
            raise RateLimited("too many wrong keys came from this address", ceil(left_s))

    def succeeded(self, address: str, key_hash: str) -> None:
        """A key was good."""
        if self._attempts:
            _put_last(self._good, (subscriber(address), key_hash), trio.current_time())

    async def failed(self, address: str, key_hash: str = "") -> None:
        """A key, or an enrolment token, was wrong.

        Raises:
            RateLimited: the address is locked out; a key that has been good is so no more.
        """
        who, now = subscriber(address), trio.current_time()
        self._good.pop((who, key_hash), None)
        self.check(address)
        count, since = self._wrong.pop(who, (0, now))
        if now - since >= self._window_s:
            count, since = 0, now
        if count + 1 != self._attempts:
            _put_last(self._wrong, who, (count + 1, since))
            return
        _put_last(self._locked, who, now + self._lockout_s)
        _log.warning("address locked out", extra={"peer": address, "for_s": self._lockout_s})
        entry = Entry.by_hub(self._clock.now_ms(), "peer.locked_out", address)
        with suppress(StorageFull, Unavailable):  # locked out it is
            await self._store.run(audit.append, entry)


def _put_last(table: dict[Any, Any], key: object, value: object) -> None:
    table.pop(key, None)
    table[key] = value
    if len(table) > _KEPT:
        del table[next(iter(table))]
