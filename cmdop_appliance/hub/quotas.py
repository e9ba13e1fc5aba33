"""What the output of one machine's commands may take of the disk: `[disk] machine_bytes`."""

import logging
from typing import Final

from cmdop_appliance.hub.output import Outputs
from cmdop_appliance.store import output, quotas
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.transaction import Tx

# Output that arrives between two looks, as a share of what one machine may have: to look, all that
# is known of outputs is read.
_LOOK_SHARE: Final = 64
# So much more goes than must, so that the next piece of output is not one too much again.
_SLACK_SHARE: Final = 20
# Commands whose output one transaction forgets: some 10 ms of the writer.
_PIECE: Final = 100

_log = logging.getLogger("cmdop.hub.quotas")


class Quotas:
    """Forgets the oldest output of machines that have too much of it."""

    def __init__(self, store: Store, outputs: Outputs, machine_bytes: int) -> None:
        """`machine_bytes` 0: there is no bound."""
        self._store = store
        self._outputs = outputs
        self._machine_bytes = machine_bytes
        self._looked_at: int | None = None  # when so many bytes had been received

    async def sweep(self) -> None:
        """Look, if enough has come since the last look, and forget what is too much.

        What runs keeps its output, so a machine may have more for a while.

        Raises:
            StorageFull, Unavailable: it cannot be forgotten now; the next sweep tries again.
        """
        received = self._outputs.received_bytes
        if not self._machine_bytes or (
            self._looked_at is not None
            and received - self._looked_at < self._machine_bytes // _LOOK_SHARE
        ):
            return
        for taken in await self._store.run(quotas.over, self._machine_bytes):
            excess = taken.kept_bytes - self._machine_bytes + self._machine_bytes // _SLACK_SHARE
            ids = await self._store.run(quotas.oldest, taken.machine_id, excess)
            for at in range(0, len(ids), _PIECE):
                await self._store.run(_forget, ids[at : at + _PIECE])
            _log.warning(
                "the output of a machine's commands took too much; the oldest was forgotten",
                extra={"machine_id": taken.machine_id, "commands": len(ids)},
            )
            await self._outputs.delete_leftovers()
        self._looked_at = received


def _forget(tx: Tx, command_ids: list[str]) -> None:
    for command_id in command_ids:
        output.forget(tx, command_id)
