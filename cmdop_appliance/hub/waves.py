"""Waves: a release goes to one machine, then to some, then to more, as long as it is good there.

All that is decided stands in the store, so that a hub that is killed goes on with the same wave.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio

from cmdop_appliance.clock import Clock, LeapWatch
from cmdop_appliance.config import UpgradeConfig
from cmdop_appliance.errors import StorageFull, Unavailable
from cmdop_appliance.hub.bus import Bus
from cmdop_appliance.hub.wakes import machine_subject
from cmdop_appliance.store import machine_upgrades, upgrades
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.transaction import Tx

# A machine that is away in the middle is waited for: longer than a trial takes, and a restart.
_AWAY_MS: Final = 10 * 60_000
# One that is there and gets no further is waited for longer than the slowest download may take.
_STUCK_MS: Final = 60 * 60_000


@dataclass(frozen=True, slots=True)
class Offered:
    """Bus: there is a release for this machine; which one, and how far it is, is in the store."""


class Waves:
    """Leads an upgrade through the machines, for as long as the hub runs."""

    def __init__(self, store: Store, bus: Bus, clock: Clock, config: UpgradeConfig) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self._config = config
        self._watch = LeapWatch()

    async def run(self) -> None:
        """Begin each wave when the one before has ended, until cancelled."""
        with self._bus.subscribe(upgrades.SUBJECT) as news:
            try:
                while True:
                    with suppress(StorageFull):  # it passes
                        await self._step()
                    await news.next()  # something has changed, or it is time to look
            except Unavailable:
                return

    async def _step(self) -> None:
        now_ms = self._clock.now_ms()
        # Machines come back to a hub that was away for long; then all looks old.
        is_steady = self._watch.is_steady(now_ms, trio.current_time())
        for machine_id in await self._store.run(
            _advance, self._config, now_ms, may_give_up=is_steady
        ):
            self._bus.publish(machine_subject(machine_id), Offered())


def _advance(tx: Tx, config: UpgradeConfig, now_ms: int, *, may_give_up: bool) -> list[str]:
    """The machines to be told of the upgrade: those of a new wave, and who has not answered."""
    upgrade = upgrades.open_one(tx)
    if upgrade is None or upgrade.status != "machines":
        return []
    machine_upgrades.enter(tx, upgrade, now_ms)
    if may_give_up:
        machine_upgrades.give_up(
            tx, upgrade.id, away_before_ms=now_ms - _AWAY_MS, stuck_before_ms=now_ms - _STUCK_MS
        )
    machine_upgrades.begin_wave(
        tx,
        upgrade,
        percent=config.wave_percent,
        max_failures=config.max_failures,
        now_ms=now_ms,
    )
    return machine_upgrades.offered(tx, upgrade.id)
