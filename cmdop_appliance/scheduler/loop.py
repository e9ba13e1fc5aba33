"""The scheduler: looks when something comes due, and has it decided."""

import logging
from collections.abc import Callable
from typing import Final

import trio

from cmdop_appliance.clock import Clock
from cmdop_appliance.errors import StorageFull, Unavailable
from cmdop_appliance.hub.commands import Commands
from cmdop_appliance.scheduler import firing
from cmdop_appliance.store import firings
from cmdop_appliance.store.engine import Store

# It looks this often at the least: the clock may leap, and what is due may be new or changed.
TICK_S: Final = 1.0

_log = logging.getLogger("cmdop.scheduler")


class Scheduler:
    """Fires what comes due, for as long as the hub runs."""

    def __init__(
        self,
        store: Store,
        commands: Commands,
        clock: Clock,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        """While the disk under the store does not have room, nothing fires."""
        self._store = store
        self._commands = commands
        self._clock = clock
        self._has_room = has_room
        self._is_paused = False

    async def run(self) -> None:
        """Fire whatever comes due, until cancelled. A full disk passes: what was due stays due."""
        is_begun = False
        while True:
            wait_s = TICK_S
            try:
                if not is_begun:
                    moved = await self._store.run(firing.moved)
                    await self._store.run(firings.move, moved)
                    is_begun = True
                wait_s = await self.step()
            except (StorageFull, Unavailable) as exc:
                _log.error("nothing can be fired", extra={"why": exc.message})
            await trio.sleep(wait_s)

    async def step(self) -> float:
        """Fire what is due now; after how many seconds to look again."""
        now_ms = self._clock.now_ms()
        if self._note_pause(firing.paused(now_ms)) or not self._has_room():
            return TICK_S
        while (due_ms := await self._store.run(firings.next_due, now_ms)) is not None:
            if due_ms > now_ms:
                return min(TICK_S, (due_ms - now_ms) / 1000)
            fired = await self._store.run(firing.fire, now_ms)
            await self._commands.entered(fired.changed, fired.to_cancel)
            now_ms = self._clock.now_ms()
        return TICK_S

    def _note_pause(self, why: str | None) -> bool:
        is_paused = why is not None
        if is_paused and not self._is_paused:
            _log.critical("schedules are paused", extra={"why": why})
        elif self._is_paused and not is_paused:
            _log.warning("schedules go on: the clock was set")
        self._is_paused = is_paused
        return is_paused
