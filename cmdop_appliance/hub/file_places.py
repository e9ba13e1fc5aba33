"""How many calls for files one machine has at a time, and who may have how many of them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final
from weakref import WeakValueDictionary

import trio

from cmdop_appliance.errors import Unavailable
from cmdop_appliance.protocol.files import AnyCall, is_transfer
from cmdop_appliance.protocol.limits import FILE_CALLS, QUICK_CALLS

TRANSFERS: Final = FILE_CALLS - QUICK_CALLS
# Of either kind one API key has at most half, so that no single one shuts out the others.
_SHARE: Final = 2
# Who asks is told after this that there is no place. Our clients and most proxies give up on an
# answer after 60 s, and whoever waited for half of that has the other half for the call itself.
WAIT_S: Final = 30.0


class FilePlaces:
    """The places of one connection."""

    def __init__(self) -> None:
        self._quick = _Places(QUICK_CALLS)
        self._transfers = _Places(TRANSFERS)

    @asynccontextmanager
    async def hold(self, call: AnyCall, key_id: str) -> AsyncIterator[None]:
        """Have a place for a call of this API key, in turn.

        Raises:
            Unavailable: there was none for `WAIT_S`.
        """
        places = self._transfers if is_transfer(call) else self._quick
        async with AsyncExitStack() as held:
            try:
                with trio.fail_after(WAIT_S):
                    await held.enter_async_context(places.of(key_id))
                    await held.enter_async_context(places.all)
            except trio.TooSlowError:
                what = "transfers" if places is self._transfers else "calls for its files"
                raise Unavailable(
                    f"this machine has as many {what} under way as it takes: {places.number}, of"
                    f" one API key {places.number // _SHARE}; none ended within {WAIT_S:.0f} s",
                    hint="ask again when some have ended, or end some that are under way",
                ) from None
            yield


class _Places:
    """Places of one kind."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.all = trio.Semaphore(number)
        # Of each API key that has a place or waits for one.
        self._of: WeakValueDictionary[str, trio.Semaphore] = WeakValueDictionary()

    def of(self, key_id: str) -> trio.Semaphore:
        """The places that a key may have; whoever holds or awaits one keeps this."""
        return self._of.setdefault(key_id, trio.Semaphore(self.number // _SHARE))
