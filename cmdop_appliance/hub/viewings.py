"""All viewers of terminals: who is let in to look, and until when.

Together those of a terminal have a size, that of the smallest screen of an operator, and one of
them whose terminal answers what the program asks it: the operator who came first.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from cmdop_appliance.auth import Caller
from cmdop_appliance.clock import Clock
from cmdop_appliance.errors import ApplianceError
from cmdop_appliance.hub.audience import Audience, Seats
from cmdop_appliance.hub.audit import Audit
from cmdop_appliance.hub.bus import Bus
from cmdop_appliance.hub.terminals import Terminals
from cmdop_appliance.hub.viewing import Viewing
from cmdop_appliance.model import ClientMode, Terminal
from cmdop_appliance.protocol.terminals import Size
from cmdop_appliance.store import clients
from cmdop_appliance.store import terminals as rows
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.transaction import Tx, brief

# What a program asks as it starts is answered by who opens it and looks at once.
_YOUNG_MS: Final = 10_000


class Viewings:
    """Everybody who looks at a terminal."""

    def __init__(
        self, store: Store, bus: Bus, audit: Audit, clock: Clock, terminals: Terminals
    ) -> None:
        self._store = store
        self._bus = bus
        self._audit = audit
        self._clock = clock
        self._terminals = terminals
        self._audiences: dict[str, Audience] = {}
        self._seats = Seats()
        self._screening = trio.Lock()

    def count(self, terminal_id: str) -> tuple[int, int]:
        """How many operators and observers look at a terminal."""
        audience = self._audiences.get(terminal_id)
        return (0, 0) if audience is None else audience.count()

    @asynccontextmanager
    async def view(
        self,
        caller: Caller,
        terminal: Terminal,
        mode: ClientMode,
        *,
        offset: int | None,
        size: Size | None,
        writer: str | None,
    ) -> AsyncIterator[Viewing]:
        """Look at a terminal from a byte offset of its output on; None: from what is kept.

        An operator has a size, and a writer: who types, through all connections. Whoever calls has
        seen to the caller's scopes.

        Raises:
            TerminalNotFound: it is out of the caller's reach.
            Forbidden: an operator whose key is attached to the machine as an observer.
            TerminalsNotSupported: its machine takes no viewer.
            TooManyTerminals: nor does it, or none of this key.
        """
        with self._seats.taken(caller.key_id, terminal.machine_id):
            now_ms = self._clock.now_ms()
            log = self._audit
            terminal = await self._store.run(_let_in, log, caller, terminal.id, mode, now_ms)
            young_s = (terminal.created_ms + _YOUNG_MS - now_ms) / 1000
            audience = self._audiences.setdefault(terminal.id, Audience(self._terminals, young_s))
            viewing = Viewing(
                self._store,
                self._bus,
                audience,
                caller,
                terminal,
                mode,
                offset=offset,
                size=size if mode == "operator" else None,
                writer=writer,
                screening=self._screening,
            )
            async with self._seen(audience, viewing):
                yield viewing

    @asynccontextmanager
    async def _seen(self, audience: Audience, viewing: Viewing) -> AsyncIterator[None]:
        failure: ApplianceError | None = None
        try:
            await audience.join(viewing)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(viewing.run)
                try:
                    await viewing.wait_begun()
                    yield
                except ApplianceError as exc:
                    failure = exc  # a nursery would make a group of it
                nursery.cancel_scope.cancel()
        finally:
            await audience.leave(viewing)
            self._audiences = {
                terminal_id: each
                for terminal_id, each in self._audiences.items()
                if each.is_young or not each.is_empty  # it knows what was asked
            }
        if failure is not None:
            raise failure


@brief
def _let_in(
    tx: Tx, log: Audit, caller: Caller, terminal_id: str, mode: ClientMode, now_ms: int
) -> Terminal:
    terminal = rows.get(tx, caller.reach, terminal_id)
    if mode == "operator":
        clients.require_operator(tx, caller.key_id, terminal.machine_id)
    details = {"machine_id": terminal.machine_id, "name": terminal.name, "mode": mode}
    entry = Entry.by(caller, now_ms, "terminal.attached", terminal_id, **details)
    log.append(tx, caller.key_id, entry)
    return terminal
