"""Tickets for the sockets of terminals: a browser sends no key there, and no URL may have one."""

from dataclasses import dataclass
from typing import Final

import trio

from cmdop_appliance.auth import Caller, secret_hash
from cmdop_appliance.errors import Unauthorized
from cmdop_appliance.hub.callers import Callers
from cmdop_appliance.model import ClientMode

TICKET_MS: Final = 30_000  # contract.md §1
# Open at a time: an entry takes some 500 bytes, and who needs so many within 30 s asks in vain.
_MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class _Ticket:
    caller: Caller
    terminal_id: str
    mode: ClientMode
    until: float  # Trio time


class Tickets:
    """Issues tickets, each good once, within 30 s, as long as its caller's key is."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._open: dict[str, _Ticket] = {}  # by hash, the oldest first

    def issue(self, caller: Caller, terminal_id: str, mode: ClientMode, ticket: str) -> None:
        """Have `ticket`, a new secret, be good for 30 s from now.

        Beyond 1000 that are open, the oldest of this key is good no more, or that of another.
        """
        now = trio.current_time()
        self._open = {name: each for name, each in self._open.items() if each.until > now}
        if len(self._open) >= _MOST:
            own = (name for name, each in self._open.items() if each.caller.key_id == caller.key_id)
            del self._open[next(own, next(iter(self._open)))]
        until = now + TICKET_MS / 1000
        self._open[secret_hash(ticket)] = _Ticket(caller, terminal_id, mode, until)

    async def redeem(self, ticket: str) -> tuple[Caller, str, ClientMode]:
        """Who asked for this ticket, for which terminal, and what its holder may do there.

        Raises:
            Unauthorized: it is none, was used, or is too old; or the caller's key is good no more.
        """
        found = self._open.pop(secret_hash(ticket), None)
        if found is None or found.until <= trio.current_time():
            raise Unauthorized(
                "Invalid ticket",
                hint="a ticket is good once, within 30 s; POST /api/v1/terminals/:id/tickets",
            )
        await self._callers.require_still_good(found.caller)
        return found.caller, found.terminal_id, found.mode
