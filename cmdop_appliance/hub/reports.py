"""What a machine tells of itself over its link: that it lives, how loaded it is, what was changed.

None of it is believed further than this machine: numbers are held to their types, and whatever a
hostile one could have written without end is bounded.
"""

import logging
import math
from collections.abc import Sequence
from typing import Final

import trio

from cmdop_appliance.clock import Clock
from cmdop_appliance.hub.audit import Audit
from cmdop_appliance.hub.bus import Bus
from cmdop_appliance.hub.lifecycle import StaleConnection
from cmdop_appliance.model import Action, Machine
from cmdop_appliance.protocol.messages import (
    AuditHead,
    Background,
    Heartbeat,
    Heartbeatack,
    Notice,
    Sample,
    Sampled,
    Samples,
    Telemetry,
)
from cmdop_appliance.store import audit, metrics, sessions
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.transaction import Tx, unhurried

# Each change to or from the background is a write to the disk: an agent can have one in so long.
_GROUND_S: Final = 1.0
# What is recorded of a notice, in characters; an honest one has some 100.
_NOTICE_CHARS: Final = 256
# The notices that an agent has.
_GRANTS: Final[tuple[Action, ...]] = ("grant.opened", "grant.closed", "grant.expired")

# What an agent says all the time.
Sign = Heartbeat | Samples

_log = logging.getLogger("cmdop.hub.session")


def load_subject(workspace_id: str) -> str:
    """Where the ids of a workspace's machines are published whose load was recorded just now."""
    return f"load.{workspace_id}"


class Reports:
    """Records what one connection of a machine tells of it.

    Each method raises `StaleConnection` if the session is over, or has a newer connection.
    """

    def __init__(
        self,
        store: Store,
        bus: Bus,
        log: Audit,
        clock: Clock,
        machine: Machine,
        session_id: str,
        epoch: int,
    ) -> None:
        self._store = store
        self._bus = bus
        self._audit = log
        self._clock = clock
        self._machine = machine
        self._session_id = session_id
        self._epoch = epoch
        self._ground_from = -math.inf  # when the next change to or from the background may be made
        self._heartbeat_samples = 0

    async def signs(self, signs: Sequence[Sign]) -> list[Heartbeatack | Sampled]:
        """Record signs of life, and those samples that are new; what the agent is told of each."""
        recorded = list(signs)
        recorded += [
            self._sample_of_heartbeat(sign.telemetry)
            for sign in signs
            if isinstance(sign, Heartbeat) and sign.telemetry is not None
        ]
        now_ms = self._clock.now_ms()
        head = await self._store.run(
            _record, self._machine.id, self._session_id, self._epoch, recorded, now_ms
        )
        if any(isinstance(sign, Samples) for sign in recorded):
            self._bus.publish(load_subject(self._machine.workspace_id), self._machine.id)
        return [
            Heartbeatack(audit_head=head)
            if isinstance(sign, Heartbeat)
            else Sampled(number=sign.samples[-1].number)
            for sign in signs
        ]

    async def background(self, message: Background) -> None:
        """CONNECTED ⇄ BACKGROUND; after a change the agent waits, and all that it says."""
        await trio.sleep_until(self._ground_from)
        self._ground_from = trio.current_time() + _GROUND_S
        await self._store.run(sessions.set_background, self._session_id, self._epoch, on=message.on)

    async def notice(self, message: Notice) -> None:
        """Record and log what was changed on the machine, as far as there is room for it."""
        action = next((known for known in _GRANTS if known == message.event), None)
        if action is None:
            return
        machine, notice = self._machine, message.message[:_NOTICE_CHARS]
        said = Entry.by_machine(machine, self._clock.now_ms(), action, machine.id, notice=notice)
        if (entry := self._audit.bounded(machine.id, said)) is not None:
            shown = {"machine_id": machine.id, "event": message.event, "notice": notice}
            _log.warning("notice", extra=shown)
            await self._store.run(audit.append, entry)

    def _sample_of_heartbeat(self, telemetry: Telemetry) -> Samples:
        """Agents of the first release say each sample once, and hear of no confirmation."""
        self._heartbeat_samples += 1
        sample = Sample(number=self._heartbeat_samples, age_ms=0, telemetry=telemetry)
        series = self._epoch.to_bytes(16)  # of this connection alone
        return Samples(series=series, samples=[sample])


@unhurried
def _record(
    tx: Tx, machine_id: str, session_id: str, epoch: int, signs: Sequence[Sign], now_ms: int
) -> AuditHead | None:
    samples = [sign for sign in signs if isinstance(sign, Samples)]
    # One sign of life is as good as many of the same moment.
    is_alive = len(samples) == len(signs) or sessions.heartbeat(tx, session_id, epoch, now_ms)
    if not is_alive or not all(
        metrics.record(tx, machine_id, epoch, message, now_ms) for message in samples
    ):
        raise StaleConnection
    head = audit.head(tx)
    return None if head == audit.START else head
