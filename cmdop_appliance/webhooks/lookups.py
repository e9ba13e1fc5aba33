"""Names into addresses: by the system's resolver, in threads that may hang."""

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from weakref import WeakValueDictionary

import trio

# Threads that look up one host, and all: the resolver of the system may hang for minutes, and does
# so for the hosts whose name servers are silent. All webhooks of a workspace (100) may lead there,
# and others' are looked up. Beyond that, attempts wait within their own time.
_LOOKUPS_OF_HOST: Final = 2
_LOOKUPS: Final = 256

# The addresses of a host, the best one first. Raises OSError.
Resolve = Callable[[str], Awaitable[Sequence[str]]]


class Lookups:
    """Looks names up as the system does, in threads that are left behind if they hang."""

    def __init__(self, getaddrinfo: Callable[..., list[Any]] = socket.getaddrinfo) -> None:
        """`getaddrinfo` may block."""
        self._getaddrinfo = getaddrinfo
        self._all = trio.CapacityLimiter(_LOOKUPS)
        self._of_host: WeakValueDictionary[str, _Places] = WeakValueDictionary()

    async def __call__(self, host: str) -> list[str]:
        """The addresses of a host. Waits while too many lookups, of it or of all, are under way.

        Raises:
            OSError: it has none, or the name servers do not tell.
        """
        places = self._of_host.get(host)
        if places is None:
            places = self._of_host[host] = _Places(self._all)
        found = await trio.to_thread.run_sync(
            self._look_up,
            host.encode(),  # text would go through Python's own, older IDNA
            abandon_on_cancel=True,
            limiter=places,  # type: ignore[arg-type] # "CapacityLimiter-like", and that is final
        )
        return list(dict.fromkeys(found))

    def _look_up(self, host: bytes) -> list[str]:
        return [found[4][0] for found in self._getaddrinfo(host, None, type=socket.SOCK_STREAM)]


class _Places:
    """A limiter for the lookups of one host, within that for all.

    A thread gives its place back when it ends, even if nobody waits for it any more.
    """

    def __init__(self, all_hosts: trio.CapacityLimiter) -> None:
        self._mine = trio.CapacityLimiter(_LOOKUPS_OF_HOST)
        self._all = all_hosts

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._mine.acquire_on_behalf_of(borrower)
        try:
            await self._all.acquire_on_behalf_of(borrower)
        except BaseException:
            self._mine.release_on_behalf_of(borrower)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        self._all.release_on_behalf_of(borrower)
        self._mine.release_on_behalf_of(borrower)
