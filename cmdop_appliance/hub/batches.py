"""Batches from the hub's side: one command on many machines, started, waited for, resumed."""

from collections.abc import Iterable
from contextlib import suppress

import msgspec
import trio

from cmdop_appliance.auth import Caller, Reach
from cmdop_appliance.clock import Clock
from cmdop_appliance.errors import Unavailable
from cmdop_appliance.hub import lifecycle
from cmdop_appliance.hub.audit import Audit
from cmdop_appliance.hub.bus import Bus
from cmdop_appliance.hub.commands import Ask, Commands, look_at, wait_until_ms
from cmdop_appliance.hub.wakes import Changed, batch_subject
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Batch, Command
from cmdop_appliance.protocol.messages import Spec
from cmdop_appliance.store import batches as rows
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.idempotency import Once
from cmdop_appliance.store.transaction import Tx, reads


class Batches:
    """Starts, follows and resumes batches for callers."""

    def __init__(
        self, store: Store, bus: Bus, audit: Audit, clock: Clock, commands: Commands
    ) -> None:
        self._store = store
        self._bus = bus
        self._audit = audit
        self._clock = clock
        self._commands = commands

    async def start(
        self,
        caller: Caller,
        machine_ids: Iterable[str],
        text: str,
        spec: Spec,
        ask: Ask,
        *,
        concurrency: int,
        canary: int,
        max_errors: int | None,
    ) -> tuple[Batch, list[Command]]:
        """Record a command for each machine, and let the first of them go.

        Raises:
            IdempotencyConflict: nothing was recorded.
        """
        batch = Batch(
            id=new_id("batch"),
            workspace_id=caller.workspace_id,
            concurrency=concurrency,
            canary=canary,
            max_errors=max_errors,
            refused={},
            created_ms=self._clock.now_ms(),
        )
        new = [
            self._commands.new(caller, machine_id, text, spec, ask, is_awaited=True, batch=batch)
            for machine_id in machine_ids
        ]
        return await self._start(caller, batch, new, ask.once)

    async def resume(
        self, caller: Caller, batch_id: str, once: Once | None
    ) -> tuple[Batch, list[Command]]:
        """A new batch, like the one that was stopped, of the commands that it skipped.

        Raises:
            BatchNotFound, Conflict, IdempotencyConflict: nothing was recorded.
        """
        old, skipped = await self._store.run(lifecycle.rest_of, caller, batch_id)
        now_ms = self._clock.now_ms()
        batch = msgspec.structs.replace(
            old, id=new_id("batch"), refused={}, resumed_by=None, created_ms=now_ms
        )
        new = [self._again(caller, batch, command) for command in skipped]
        return await self._start(caller, batch, new, once, resumes=batch_id)

    async def find(self, caller: Caller, batch_id: str) -> tuple[Batch, list[Command]]:
        """A batch and its commands as they stand.

        Raises:
            BatchNotFound: none with this id is in the caller's reach.
        """
        batch = await self._store.run(rows.get, caller.reach, batch_id)
        return batch, await self._store.run(rows.commands_of, caller.reach, batch_id)

    async def wait_ends(self, caller: Caller, batch: Batch) -> list[Command]:
        """Wait for the ends of a batch; as with `Commands.run`, some may be open still.

        What is held is waited for as long as something goes on that it waits for.
        """
        known: dict[str, Command] = {}
        away: set[str] = set()  # commands whose machines cannot tell of their ends

        async def look() -> None:
            away.clear()
            for command, is_reachable in await self._store.run(
                _look_at_all, caller.reach, batch.id
            ):
                known[command.id] = command
                # What was not sent is sent in time, or expires.
                if not (is_reachable or command.is_queued or command.session_id is None):
                    away.add(command.id)

        def under_way() -> list[Command]:
            return [
                each
                for each in known.values()
                if each.finished_ms is None and not each.is_held and each.id not in away
            ]

        with self._bus.subscribe(batch_subject(batch.id)) as changes:
            await look()
            with suppress(Unavailable):
                while commands := under_way():
                    left_ms = max(map(wait_until_ms, commands)) - self._clock.now_ms()
                    message = None
                    with trio.move_on_after(max(0, left_ms) / 1000) as patience:
                        message = await changes.next()
                    if patience.cancelled_caught:
                        break
                    if isinstance(message, Changed) and message.command.id in known:
                        known[message.command.id] = message.command
                        away.discard(message.command.id)
                    if message is None or not under_way():  # what was held may go on now
                        await look()
        return list(known.values())

    async def _start(
        self,
        caller: Caller,
        batch: Batch,
        new: list[Command],
        once: Once | None,
        resumes: str | None = None,
    ) -> tuple[Batch, list[Command]]:
        started, changed = await self._store.run(
            lifecycle.start_batch, self._audit, caller, batch, new, once, resumes
        )
        if started.id == batch.id:
            accepted = sum(each.batch_id == batch.id for each in changed)
            await self._commands.recorded(changed, accepted)
        return started, [each for each in changed if each.batch_id == started.id]

    def _again(self, caller: Caller, batch: Batch, skipped: Command) -> Command:
        """A new command like one that was skipped, as its new caller asks for it."""
        ask = Ask(supersede_key=skipped.supersede_key)
        if skipped.is_queued:
            queue_ms = skipped.start_until_ms - skipped.created_ms
            ask = Ask(queue_ms=queue_ms, supersede_key=skipped.supersede_key)
        spec = msgspec.structs.replace(skipped.spec, operator=caller.email)
        machine_id, text = skipped.machine_id, skipped.command
        return self._commands.new(caller, machine_id, text, spec, ask, is_awaited=True, batch=batch)


@reads
def _look_at_all(tx: Tx, reach: Reach, batch_id: str) -> list[tuple[Command, bool]]:
    return [look_at(tx, command) for command in rows.commands_of(tx, reach, batch_id)]
