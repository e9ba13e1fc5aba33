"""Secrets that are good once, for a while, and in this process: what each of them stands for."""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import trio

from cmdop_appliance.auth import Caller, secret_hash

T = TypeVar("T")

# Open at a time: an entry takes some 500 bytes, and who needs so many asks in vain.
_MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class _Open(Generic[T]):
    caller: Caller
    what: T
    until: float  # Trio time


class OneTimeSecrets(Generic[T]):
    """Knows the secrets that are open by their hashes alone."""

    def __init__(self) -> None:
        self._open: dict[str, _Open[T]] = {}  # by hash, the oldest first

    def __len__(self) -> int:
        return len(self._open)

    def put(self, secret: str, caller: Caller, what: T, for_ms: int) -> None:
        """Have a new secret be good for so long from now.

        Beyond 1000 that are open, the oldest of this caller's key is good no more, or that of
        another.
        """
        now = trio.current_time()
        self._open = {name: each for name, each in self._open.items() if each.until > now}
        if len(self._open) >= _MOST:
            own = (name for name, each in self._open.items() if each.caller.key_id == caller.key_id)
            del self._open[next(own, next(iter(self._open)))]
        self._open[secret_hash(secret)] = _Open(caller, what, now + for_ms / 1000)

    def take(self, secret: str) -> tuple[Caller, T] | None:
        """Whose it was and what it stood for; None: it is none, was taken, or is too old."""
        found = self._open.pop(secret_hash(secret), None)
        if found is None or found.until <= trio.current_time():
            return None
        return found.caller, found.what
