"""Tickets for the sockets of terminals: a browser sends no key there, and no URL may have one."""

from typing import Final

from cmdop_appliance.auth import Caller
from cmdop_appliance.errors import Unauthorized
from cmdop_appliance.hub.callers import Callers
from cmdop_appliance.hub.one_time import OneTimeSecrets
from cmdop_appliance.model import ClientMode

TICKET_MS: Final = 30_000  # contract.md §1


class Tickets:
    """Issues tickets, each good once, within 30 s, as long as its caller's key is."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._open: OneTimeSecrets[tuple[str, ClientMode]] = OneTimeSecrets()

    def issue(self, caller: Caller, terminal_id: str, mode: ClientMode, ticket: str) -> None:
        """Have `ticket`, a new secret, be good for 30 s from now."""
        self._open.put(ticket, caller, (terminal_id, mode), TICKET_MS)

    async def redeem(self, ticket: str) -> tuple[Caller, str, ClientMode]:
        """Who asked for this ticket, for which terminal, and what its holder may do there.

        Raises:
            Unauthorized: it is none, was used, or is too old; or the caller's key is good no more.
        """
        found = self._open.take(ticket)
        if found is None:
            raise Unauthorized(
                "Invalid ticket",
                hint="a ticket is good once, within 30 s; POST /api/v1/terminals/:id/tickets",
            )
        caller, (terminal_id, mode) = found
        await self._callers.require_still_good(caller)
        return caller, terminal_id, mode
