"""What has ended is kept for as long as `[retention]` says, and then dropped bit by bit."""

from collections.abc import Callable
from typing import Final

from cmdop_appliance.config import RetentionConfig
from cmdop_appliance.hub.output import Outputs
from cmdop_appliance.store import metrics, retention
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.transaction import Tx

# Of one sweep, which comes each second: ten times as much as a busy hub records.
_PIECES_MOST: Final = 20


class Retention:
    """Forgets what is kept no longer."""

    def __init__(self, store: Store, outputs: Outputs, config: RetentionConfig) -> None:
        self._store = store
        self._outputs = outputs
        self._config = config

    async def sweep(self, now_ms: int) -> None:
        """Drop some of it; called again and again, it drops all.

        Raises:
            StorageFull, Unavailable: it cannot be dropped now.
        """
        config = self._config
        await self._store.run(metrics.roll_up, now_ms, kept_ms=config.telemetry_ms)
        for forget, kept_ms in (
            (retention.forget_output, config.output_ms),
            (retention.forget_commands, config.commands_ms),
        ):
            if kept_ms:
                await self._forget(forget, now_ms - kept_ms)
                self._outputs.let_go(now_ms - kept_ms)
        await self._outputs.delete_leftovers()

    async def _forget(self, forget: Callable[[Tx, int], bool], before_ms: int) -> None:
        for _ in range(_PIECES_MOST):
            if not await self._store.run(forget, before_ms):
                return
