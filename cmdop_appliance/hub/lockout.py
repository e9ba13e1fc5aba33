"""Addresses that tried too many wrong keys: for a while none of their keys is looked at.

A key that was good from the very same address in the last hour goes on working there, so that a
broken script behind somebody's NAT does not lock them out. Any other key is refused, right or
wrong: who guesses learns nothing.

On the hub's own machine a right key always works: all its users come from one address, and any of
them could keep the owner away. Keys are random and long; there a lockout only keeps guessers quiet.
"""

import logging
from math import ceil
from typing import Any, Final

import trio

from cmdop_appliance.addresses import subscriber
from cmdop_appliance.clock import Clock
from cmdop_appliance.config import AuthConfig
from cmdop_appliance.errors import RateLimited
from cmdop_appliance.hub.audit import STRANGERS, Audit
from cmdop_appliance.store.audit import Entry

_OWN: Final = frozenset({"127.0.0.1", "::1"})  # as the hub's own machine comes to it
_GOOD_S: Final = 3600.0  # for so long after its last use a key works on in a lockout
# Kept of each kind, some 300 bytes apiece; the ones that were seen least lately go first. Whoever
# guesses from more addresses than that is stopped by no table of addresses.
_KEPT: Final = 10_000

_log = logging.getLogger("cmdop.auth")


class Lockout:
    """Counts wrong keys by the address that they came from."""

    def __init__(self, config: AuthConfig, audit: Audit, clock: Clock) -> None:
        self._audit = audit
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
        if address not in _OWN:
            self._require_unlocked(subscriber(address), key_hash)

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
        self._require_unlocked(who)
        count, since = self._wrong.pop(who, (0, now))
        if now - since >= self._window_s:
            count, since = 0, now
        if count + 1 != self._attempts:
            _put_last(self._wrong, who, (count + 1, since))
            return
        _put_last(self._locked, who, now + self._lockout_s)
        _log.warning("address locked out", extra={"peer": address, "for_s": self._lockout_s})
        entry = Entry.by_hub(self._clock.now_ms(), "peer.locked_out", address)
        await self._audit.record_refusal(STRANGERS, entry)

    def _require_unlocked(self, who: str, key_hash: str = "") -> None:
        if not self._locked:
            return
        now = trio.current_time()
        left_s = self._locked.get(who, now) - now
        if left_s <= 0:
            self._locked.pop(who, None)
        elif self._good.get((who, key_hash), now - _GOOD_S) <= now - _GOOD_S:
            raise RateLimited("too many wrong keys came from this address", ceil(left_s))


def _put_last(table: dict[Any, Any], key: object, value: object) -> None:
    table.pop(key, None)
    table[key] = value
    if len(table) > _KEPT:
        del table[next(iter(table))]
