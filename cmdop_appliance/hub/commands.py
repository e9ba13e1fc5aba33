"""Commands from the hub's side: recorded, dispatched, waited for, ended.

What starts here is on disk before anyone hears of it; what an agent reports is on disk before the
agent may forget it. In between, everything is found again from the store.
"""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from cmdop_appliance.auth import Caller, Reach
from cmdop_appliance.clock import Clock
from cmdop_appliance.errors import Unavailable
from cmdop_appliance.hub import lifecycle
from cmdop_appliance.hub.audit import Audit
from cmdop_appliance.hub.bus import SWEEP_S, Bus, Subscription
from cmdop_appliance.hub.output import Outputs, save_all
from cmdop_appliance.hub.wakes import (
    CancelRequested,
    Changed,
    Dispatched,
    Grown,
    Look,
    Removed,
    batch_subject,
    command_subject,
    link_subject,
    machine_subject,
    output_subject,
)
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Batch, Command
from cmdop_appliance.protocol.messages import Finished, Rejected, Spec, Started
from cmdop_appliance.store import commands as rows
from cmdop_appliance.store import sessions
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.idempotency import Once
from cmdop_appliance.store.transaction import Tx, reads

# A command that did not reach its machine within this is not started there later, and one whose
# caller waits must have begun by then. As long as a session's grace period (contract.md §2).
DELIVER_MS: Final = 30_000
# A caller who waits is not kept waiting for a start much longer than for the command itself, but a
# busy machine gets this long.
_START_AT_LEAST_MS: Final = 5_000
# How much longer than its timeout a caller waits: SIGTERM, 10 s, SIGKILL, and the way back.
_END_MS: Final = 15_000
# Contact with machines begins anew with each hub: none is called silent before this.
_SETTLE_MS: Final = 60_000

_log = logging.getLogger("cmdop.hub.commands")


def hash_of(spec: Spec) -> bytes:
    """What tells an agent whether a command that it knows is dispatched once more."""
    return hashlib.sha256(msgspec.json.encode(spec)).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """How a command is to be carried out, beside what to run."""

    queue_ms: int | None = None  # wait so long for a machine that is away; None: do not wait
    supersede_key: str | None = None  # take the place of unsent commands with the same key
    once: Once | None = None  # the caller may ask again, and means the same command


_PLAIN: Final = Ask()
_LOOK: Final = Look()


class Commands:
    """Starts, follows and ends commands for callers and for agents' connections."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        outputs: Outputs,
        audit: Audit,
        clock: Clock,
        lost_after_ms: int,
    ) -> None:
        """`lost_after_ms`: a machine that is silent for so long has lost its commands."""
        self._store = store
        self._bus = bus
        self._outputs = outputs
        self._audit = audit
        self._clock = clock
        self._lost_after_ms = lost_after_ms
        self._opened_ms = clock.now_ms()
        self._look_from = 0.0  # when the next look for what was lost is due, Trio's clock
        self.accepted = 0  # commands that were recorded since the start
        self.ended: Counter[str] = Counter()  # ends that were recorded, by status

    # ── for callers ──────────────────────────────────────────────────────────────────────────

    async def start(
        self, caller: Caller, machine_id: str, text: str, spec: Spec, ask: Ask = _PLAIN
    ) -> Command:
        """Record a command and send it on its way, or find the one that was asked for before.

        Raises:
            MachineNotFound, SessionNotActive, IdempotencyConflict: nothing was recorded.
        """
        new = self.new(caller, machine_id, text, spec, ask)
        command, *others = await self._store.run(lifecycle.start, caller, new, ask.once)
        if command.id == new.id:
            await self.recorded([command, *others], accepted=1)
        return command

    async def run(
        self, caller: Caller, machine_id: str, text: str, spec: Spec, ask: Ask = _PLAIN
    ) -> Command:
        """`start`, then wait for the end.

        Returns a record that is still open when the machine is lost, or the hub is stopping,
        before the end is known: the command may run on, and its id stays valid.
        """
        new = self.new(caller, machine_id, text, spec, ask, is_awaited=True)
        with self._bus.subscribe(command_subject(new.id)) as changes:
            command, *others = await self._store.run(lifecycle.start, caller, new, ask.once)
            if command.id == new.id:
                await self.recorded([command, *others], accepted=1)
                return await self._wait_end(command, changes)
        with self._bus.subscribe(command_subject(command.id)) as changes:
            command = await self._store.run(rows.get, Reach(command.workspace_id), command.id)
            return await self._wait_end(command, changes)

    async def wait_started(self, command: Command, within_s: float) -> Command:
        """The record once the command has begun, or as it is known after `within_s`.

        Sooner when the hub is stopping: the command is recorded, whatever becomes of the wait.
        """
        with self._bus.subscribe(command_subject(command.id)) as changes, suppress(Unavailable):
            command = await self._store.run(rows.get, Reach(command.workspace_id), command.id)
            with trio.move_on_after(within_s):
                while command.status == "pending" and command.session_id is not None:
                    message = await changes.next()
                    if isinstance(message, Changed):
                        command = message.command
                    else:
                        command, _ = await self._store.run(look_at, command)
        return command

    async def wait_end(self, caller: Caller, command_id: str, within_s: float) -> None:
        """Return once the command has ended, or nobody can tell of its end, or after `within_s`.

        Raises:
            CommandNotFound: it does not exist for this caller.
        """
        with self._bus.subscribe(command_subject(command_id)) as changes:
            command = await self._store.run(rows.get, caller.reach, command_id)
            with trio.move_on_after(within_s):
                await self._wait_end(command, changes)

    async def cancel(self, caller: Caller, command_id: str) -> None:
        """Record that a command is to end, and tell its machine; unsent, it has ended at once.

        Raises:
            CommandNotFound, CommandNotRunning: nothing was recorded.
        """
        command, *others = await self._store.run(
            lifecycle.cancel, caller, command_id, self._clock.now_ms()
        )
        if command.session_id is not None:
            self._bus.publish(machine_subject(command.machine_id), CancelRequested(command_id))
        else:
            await self._tell([command, *others])

    async def entered(self, changed: Sequence[Command], to_cancel: Sequence[Command] = ()) -> None:
        """Tell of what another part of the hub has recorded: new commands, ends, and cancels."""
        accepted = sum(command.finished_ms is None for command in changed)
        await self.recorded(changed, accepted)
        for command in to_cancel:
            self._bus.publish(machine_subject(command.machine_id), CancelRequested(command.id))

    async def remove_machine(self, caller: Caller, machine_id: str) -> None:
        """Take a machine out: its connection is cut, its open commands are lost.

        Raises:
            MachineNotFound: no such machine is in the caller's reach.
        """
        changed = await self._store.run(
            lifecycle.remove_machine, caller, machine_id, self._clock.now_ms()
        )
        self._bus.publish(link_subject(machine_id), Removed())
        await self._tell(changed)

    async def sweep(self) -> None:
        """Expire what waited too long, and give up on machines that are silent for long.

        Raises:
            StorageFull, Unavailable: it cannot be recorded now.
        """
        now_ms = self._clock.now_ms()
        silent_before_ms = now_ms - self._lost_after_ms
        if now_ms - self._opened_ms < min(_SETTLE_MS, self._lost_after_ms):
            silent_before_ms = 0
        await self._tell(await self._store.run(lifecycle.sweep, now_ms, silent_before_ms))

    async def look(self) -> None:
        """Every `SWEEP_S`, have what a lost wake-up left behind found; called each second or so.

        Once for all machines, for most have nothing; it writes nothing, so a full disk lets it.
        """
        if trio.current_time() >= self._look_from:
            self._look_from = trio.current_time() + SWEEP_S
            for machine_id in await self._store.run(rows.machines_with_open):
                self._bus.publish(machine_subject(machine_id), _LOOK)

    # ── for batches ──────────────────────────────────────────────────────────────────────────

    def new(
        self,
        caller: Caller,
        machine_id: str,
        text: str,
        spec: Spec,
        ask: Ask,
        *,
        is_awaited: bool = False,
        batch: Batch | None = None,
    ) -> Command:
        """A command to be recorded; one that a caller waits for must not start long after."""
        now_ms = self._clock.now_ms() if batch is None else batch.created_ms
        start_ms = DELIVER_MS
        if ask.queue_ms is not None:
            start_ms = ask.queue_ms
        elif is_awaited and spec.timeout_ms is not None:
            start_ms = min(DELIVER_MS, max(spec.timeout_ms, _START_AT_LEAST_MS))
        return Command(
            id=new_id("cmd"),
            workspace_id=caller.workspace_id,
            machine_id=machine_id,
            session_id=None,
            batch_id=None if batch is None else batch.id,
            command=text,
            spec=spec,
            spec_hash=hash_of(spec),
            status="pending",
            operator=caller.email,
            supersede_key=ask.supersede_key,
            created_ms=now_ms,
            start_until_ms=now_ms + start_ms,
            is_bounded=is_awaited or ask.queue_ms is not None,
            is_queued=ask.queue_ms is not None,
        )

    async def recorded(self, changed: Sequence[Command], accepted: int) -> None:
        """Tell of what was recorded; so many of it are new commands that were `accepted`."""
        self.accepted += accepted
        await self._tell(changed)

    # ── for agents' connections ──────────────────────────────────────────────────────────────

    async def started(self, machine_id: str, epoch: int, message: Started) -> None:
        """Record that a command runs.

        Raises:
            CommandNotFound: the command is not this machine's.
            StaleConnection: a newer connection speaks for it.
        """
        changed = await self._store.run(
            lifecycle.started, machine_id, epoch, message, self._clock.now_ms()
        )
        if changed is not None:
            await self._tell([changed])

    async def finished(self, machine_id: str, epoch: int, messages: Sequence[Finished]) -> None:
        """Record ends with their output; when this returns, the agent may forget them.

        Raises:
            CommandNotFound, StaleConnection: as `started`; none was recorded.
        """
        unsafe = await self._outputs.sync([message.id for message in messages])
        ends = [(message, await self._outputs.sizes(message.id)) for message in messages]
        for message, changed in zip(
            messages,
            await self._store.run(
                lifecycle.finished, machine_id, epoch, ends, unsafe, self._clock.now_ms()
            ),
            strict=True,
        ):
            if not changed:  # another end stands
                self._outputs.end(message.id)
                continue
            self._tell_end(changed[0])
            await self._tell(changed[1:])

    async def rejected(self, machine_id: str, epoch: int, message: Rejected) -> None:
        """Record that an agent refused a dispatch which contradicts what it knows.

        Raises:
            CommandNotFound, StaleConnection: as `started`.
        """
        _log.warning("dispatch rejected", extra={"command_id": message.id, "why": message.reason})
        await self._tell(
            await self._store.run(
                lifecycle.rejected,
                self._audit,
                machine_id,
                epoch,
                message.id,
                message.reason,
                self._clock.now_ms(),
            )
        )

    async def lose(self, machine_id: str, epoch: int, command_id: str, reason: str) -> None:
        """Record that nobody can tell how a command ended: its machine knows nothing of it.

        Raises:
            CommandNotFound, StaleConnection: as `started`.
        """
        now_ms = self._clock.now_ms()
        await self._tell(
            await self._store.run(lifecycle.unknown, machine_id, epoch, command_id, reason, now_ms)
        )

    async def refuse(
        self, machine_id: str, epoch: int, command_id: str, code: str, message: str
    ) -> None:
        """Record that a command was not sent to its machine, whose agent cannot carry it out.

        Raises:
            CommandNotFound, StaleConnection: as `started`.
        """
        now_ms = self._clock.now_ms()
        await self._tell(
            await self._store.run(
                lifecycle.unfit, machine_id, epoch, command_id, code, message, now_ms
            )
        )

    # ── inside ───────────────────────────────────────────────────────────────────────────────

    async def _tell(self, changed: Sequence[Command]) -> None:
        """Wake whoever waits for these commands, and the machines that are to start some."""
        for command in changed:
            if command.finished_ms is not None:
                await self._store_output(command.id)
                self._tell_end(command)
                continue
            if command.status == "pending" and command.session_id is not None:
                self._outputs.begin(command.id)
                self._bus.publish(machine_subject(command.machine_id), Dispatched(command))
            self._tell_change(command)

    async def _store_output(self, command_id: str) -> None:
        if unsafe := await self._outputs.sync([command_id]):
            await self._store.run(save_all, unsafe)

    def _tell_end(self, ended: Command) -> None:
        self.ended[ended.status] += 1
        self._tell_change(ended)
        self._bus.publish(output_subject(ended.id), Grown())
        self._outputs.end(ended.id)

    def _tell_change(self, command: Command) -> None:
        self._bus.publish(command_subject(command.id), Changed(command))
        if command.batch_id is not None:
            self._bus.publish(batch_subject(command.batch_id), Changed(command))

    async def _wait_end(self, command: Command, changes: Subscription) -> Command:
        with suppress(Unavailable):
            reachable = True
            while (reachable or command.is_queued) and command.finished_ms is None:
                left_s = (wait_until_ms(command) - self._clock.now_ms()) / 1000
                until = trio.current_time() + left_s
                message = await changes.next(min(left_s, SWEEP_S))
                if isinstance(message, Changed):
                    command = message.command
                elif trio.current_time() >= until:
                    break
                else:
                    command, reachable = await self._store.run(look_at, command)
        return command


def wait_until_ms(command: Command) -> float:
    """How long a caller waits for this end: until then it is certain to come, if all is well."""
    timeout_ms = command.spec.timeout_ms
    if timeout_ms is None:
        return math.inf
    if command.started_ms is not None:
        return command.started_ms + timeout_ms + _END_MS
    if command.is_queued:  # nobody knows when its machine comes
        return command.created_ms + timeout_ms
    return command.start_until_ms + timeout_ms + _END_MS


@reads
def look_at(tx: Tx, command: Command) -> tuple[Command, bool]:
    """The record as it stands, and whether its machine can still tell of its end."""
    reach = Reach(command.workspace_id)
    machine = sessions.live_of(tx, reach, command.machine_id)
    return rows.get(tx, reach, command.id), machine is not None
