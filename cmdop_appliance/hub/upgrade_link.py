"""What is said of an upgrade on one agent connection."""

import logging
import re
from contextlib import suppress
from typing import Final

import trio

from cmdop_appliance.errors import StorageFull
from cmdop_appliance.hub.lifecycle import StaleConnection
from cmdop_appliance.hub.line import Line
from cmdop_appliance.hub.services import SessionServices
from cmdop_appliance.model import Machine, MachineUpgradeState
from cmdop_appliance.protocol.messages import clean
from cmdop_appliance.protocol.upgrades import Upgrade, Upgrading
from cmdop_appliance.store import machine_upgrades, machines
from cmdop_appliance.store.transaction import Tx

# Each step is a write to the disk: an agent can have one in so long.
_STEP_S: Final = 0.1
# What is recorded of why, in characters.
_REASON_CHARS: Final = 1000
_CODE: Final = re.compile(r"[a-z_]{1,40}")

_log = logging.getLogger("cmdop.hub.waves")


class UpgradeLink:
    """Offers a machine the release whose turn has come there, and records what comes of it."""

    def __init__(self, services: SessionServices, line: Line, machine: Machine, epoch: int) -> None:
        self.is_supported = False
        self._services = services
        self._line = line
        self._machine = machine
        self._epoch = epoch
        self._next_step = 0.0  # when the next may be recorded, Trio's clock

    async def offer(self) -> None:
        """Offer it, if there is one; the agent tells how far it is, however often it is asked."""
        upgrade = await self._services.store.run(machine_upgrades.under_way, self._machine.id)
        if upgrade is None:
            return
        if self.is_supported:
            self._line.post(
                Upgrade(id=upgrade.id, manifest=upgrade.manifest, signature=upgrade.signature)
            )
            return
        text = "the agent is of an early release: replace its program by hand this once"
        # Else another connection records it, or the next offer on this one.
        with suppress(StaleConnection, StorageFull):
            await self._record(upgrade.id, "refused", "not_supported", text)

    async def hear(self, message: Upgrading) -> None:
        """Record how far the machine is.

        Raises:
            StaleConnection: a newer connection speaks for it.
        """
        await trio.sleep_until(self._next_step)
        self._next_step = trio.current_time() + _STEP_S
        code = message.code if _CODE.fullmatch(message.code) else None
        reason = clean(message.message)[:_REASON_CHARS] or None
        await self._record(message.id, message.progress, code, reason)

    async def _record(
        self, upgrade_id: str, state: MachineUpgradeState, code: str | None, reason: str | None
    ) -> None:
        machine_id, now_ms = self._machine.id, self._services.clock.now_ms()
        changed = await self._services.store.run(
            _record, upgrade_id, machine_id, self._epoch, state, code, reason, now_ms
        )
        if changed:
            shown = {"machine_id": machine_id, "state": state, "code": code, "reason": reason}
            _log.info("upgrade of a machine", extra=shown)


def _record(
    tx: Tx,
    upgrade_id: str,
    machine_id: str,
    epoch: int,
    state: MachineUpgradeState,
    code: str | None,
    reason: str | None,
    now_ms: int,
) -> bool:
    if machines.epoch_of(tx, machine_id) != epoch:
        raise StaleConnection
    return machine_upgrades.record(
        tx, upgrade_id, machine_id, state, code=code, reason=reason, now_ms=now_ms
    )
