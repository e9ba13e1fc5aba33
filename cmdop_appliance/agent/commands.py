"""Every command of this machine: started at most once, its true end told until acknowledged.

    dispatch → its turn by serial key → queue → journal: STARTING, synced → keeper → started
                 └ cancelled, expired, denied: never starts              … exited → acknowledged

Commands that start together share a sync. The keeper's connection is held here for terminals, too.

What was under way when the agent or the keeper died is settled by journal × keeper records:

    keeper's record    the command
    running            runs
    exited, refused    ended as the record says
    orphaned           lost: rebooted, when it is of another boot, else lost: keeper_killed
    none               lost: start_unknown
"""

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from itertools import islice
from pathlib import Path
from typing import Final

import trio

from cmdop_appliance.agent.audit import append_denial
from cmdop_appliance.agent.command import Command, Ending, Phase, forgotten
from cmdop_appliance.agent.groups import first_error
from cmdop_appliance.agent.journal import Entry, Journal
from cmdop_appliance.agent.keeper_client import (
    Exited,
    Keeper,
    KeeperLost,
    Record,
    Refused,
    Started,
    Taken,
    Written,
    open_keeper,
    output_path,
)
from cmdop_appliance.agent.outbox import Outbox
from cmdop_appliance.agent.policy import Denied, Policy, judge
from cmdop_appliance.agent.recovery import ending_of, exit_of, refusal
from cmdop_appliance.agent.terminals import Terminals
from cmdop_appliance.errors import LocalProtocolError, StartupError, TerminalsNotSupported
from cmdop_appliance.ids import is_id
from cmdop_appliance.protocol.messages import (
    Cancel,
    Dispatch,
    Known,
    Rejected,
    Resume,
    Stored,
)

log = logging.getLogger("cmdop.agent.commands")

# Specs waiting for their turn; a hub that sends more is told so, command by command.
QUEUE_BYTES: Final = 32 * 1024 * 1024
# A journal sync up to this may hold up everything else: a thread costs some 0.3 ms itself.
QUICK_SYNC_S: Final = 0.001
# Between two tries to reach the keeper, which each start one where none runs.
KEEPER_RETRY_S: Final = 1.0
# A keeper of an earlier release that holds nothing ends at once; if it does not, it is lived with.
RETIRE_S: Final = 10.0


class Commands:
    """The commands of one state directory; lives as long as the agent."""

    def __init__(
        self,
        state_dir: Path,
        journal: Journal,
        outbox: Outbox,
        policy: Policy = Policy(),  # noqa: B008 - it is frozen
        *,
        terminals: Terminals,
        open_keeper: Callable[[Path], AbstractAsyncContextManager[Keeper]] = open_keeper,
    ) -> None:
        self.keeper_id = self.boot_id = ""  # as of the last keeper
        self._state_dir = state_dir
        self._open_keeper = open_keeper
        self._journal = journal
        self._outbox = outbox
        self._policy = policy
        self._terminals = terminals  # which the same keeper holds
        self._known: dict[str, Command] = {}
        self._queue: dict[Command, None] = {}  # may start, in this order
        # Per serial key: the command that may start or has, then those that wait for its end.
        self._lines: dict[str, dict[Command, None]] = {}
        self._queued_bytes = 0  # of the queue and the lines
        self._next_expiry = math.inf  # of a command that waits, or earlier
        self._busy: set[Command] = set()  # start, or run
        self._forsaken: set[str] = set()  # run, though the hub let go of them
        self._wake = trio.Event()  # the queue may move
        self._settled = trio.Event()
        self._keeper: Keeper | None = None
        self._disk_is_quick = False  # as of the last sync of the journal
        for entry in journal.entries.values():
            self._known[entry.id] = _under_way(entry.id, entry.spec_hash, entry.serial_key)

    async def run(self) -> None:
        """Start, watch and end commands until cancelled; a keeper that is gone is replaced.

        Terminals are told of it, and what it says of them.
        """
        while True:
            try:
                async with self._open_keeper(self._state_dir) as self._keeper:
                    await self._settle(self._keeper)
                    await self._terminals.settle(self._keeper)
                    self._settled.set()
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._start_queued, self._keeper)
                        nursery.start_soon(self._hear, self._keeper)
            except* (KeeperLost, StartupError, OSError) as group:
                log.warning("no keeper", extra={"error": first_error(group)})
            finally:
                self._keeper = None
                self._terminals.lose()
            await trio.sleep(KEEPER_RETRY_S)

    async def wait_settled(self) -> None:
        """Wait until it is known what became of what an earlier agent started."""
        await self._settled.wait()

    def inventory(self) -> list[Known]:
        """Every command that the hub has not acknowledged."""
        return [command.known() for command in self._known.values()]

    def hold(self) -> None:
        """The connection has ended: no command says anything until the hub resumes it."""
        for command in self._known.values():
            command.outflow.hold()

    # ── what the hub says ────────────────────────────────────────────────────────────────────

    async def dispatch(self, message: Dispatch) -> None:
        """Queue a command, unless its id was ever seen: then its state is told once more."""
        if message.id in self._journal.tombstones:
            await self._outbox.say(forgotten(message.id))
        elif (command := self._known.get(message.id)) is None:
            if message.is_restored and self._journal.is_beyond_memory(message.id):
                text = "this machine remembers no commands as old as this one, which may have run"
                await self._outbox.say(forgotten(message.id, text))
            else:
                await self._queue_up(message)
        elif command.spec_hash is not None and command.spec_hash != message.spec_hash:
            log.warning("spec mismatch", extra={"command_id": message.id})
            await self._outbox.say(Rejected(id=message.id, reason="spec_mismatch"))
        else:
            command.repeat()
            self._outbox.look_at(command)

    async def cancel(self, message: Cancel) -> None:
        """End a command. What has not started never will, not even if it is dispatched later."""
        if message.id in self._journal.tombstones:
            await self._outbox.say(forgotten(message.id))
            return
        command = self._known.get(message.id)
        if command is None:
            command = self._known[message.id] = Command(message.id, None)
            command.outflow.resume(0, 0)
            self._decide(command, Ending(end="cancelled"))
        elif command.phase is Phase.ENDED:
            command.repeat()
            self._outbox.look_at(command)
        elif command.phase is Phase.QUEUED and command not in self._busy:
            self._leave_queue(command)
            self._decide(command, Ending(end="cancelled"))
        else:
            command.cancelled = True
            if command.phase is not Phase.QUEUED and self._keeper is not None:
                with suppress(KeeperLost):  # the next keeper is asked again
                    await self._keeper.cancel(command.id)

    def resume(self, message: Resume) -> None:
        """Tell of this command from these offsets on."""
        if (command := self._known.get(message.id)) is not None:
            command.outflow.resume(message.stdout, message.stderr)
            command.repeat()
            self._outbox.look_at(command)

    def stored(self, message: Stored) -> None:
        """The hub holds this much of the output: there is room for more."""
        if (command := self._known.get(message.id)) is not None:
            command.outflow.stored(message.stdout, message.stderr)
            self._outbox.look_at(command)

    async def acknowledge(self, command_ids: Sequence[str]) -> None:
        """The hub holds the ends of these commands: let go of them."""
        ended = [
            command_id
            for command_id in dict.fromkeys(command_ids)  # the hub may say it twice at once
            if command_id in self._known and self._known[command_id].phase is Phase.ENDED
        ]
        for command_id in ended:
            del self._known[command_id]
            self._journal.forget(command_id)
        if ended and self._keeper is not None:
            with suppress(KeeperLost):  # the next keeper is told when it is met
                await self._keeper.forget(ended)

    # ── from the queue to the keeper ─────────────────────────────────────────────────────────

    async def _queue_up(self, message: Dispatch) -> None:
        expires = (
            math.inf if message.ttl_ms is None else trio.current_time() + message.ttl_ms / 1000
        )
        command = Command(
            message.id,
            message.spec_hash,
            spec=message.spec,
            serial_key=message.spec.serial_key,
            expires=expires,
        )
        if self._queued_bytes + command.weight_bytes > QUEUE_BYTES:
            await self._outbox.say(Rejected(id=command.id, reason="queue_full"))
            return
        command.outflow.resume(0, 0)
        self._known[command.id] = command
        self._queued_bytes += command.weight_bytes
        self._next_expiry = min(self._next_expiry, expires)
        if self._join_line(command):
            self._queue[command] = None
        if command.is_untold:
            self._outbox.look_later(command)
        self._wake.set()

    def _join_line(self, command: Command) -> bool:
        """True: no other command of its serial key is before it."""
        if command.serial_key is None:
            return True
        line = self._lines.setdefault(command.serial_key, {})
        line[command] = None
        return next(iter(line)) is command

    def _leave_line(self, command: Command) -> None:
        """It has ended: the next of its serial key may start."""
        if command.serial_key is None or command.serial_key not in self._lines:
            return
        line = self._lines[command.serial_key]
        line.pop(command, None)
        if not line:
            del self._lines[command.serial_key]
        elif (first := next(iter(line))).phase is Phase.QUEUED and first not in self._busy:
            self._queue.setdefault(first)

    def _leave_queue(self, command: Command) -> None:
        self._queue.pop(command, None)
        self._queued_bytes -= command.weight_bytes

    async def _start_queued(self, keeper: Keeper) -> None:
        is_to_go = not keeper.has_pty
        while True:
            self._wake = trio.Event()
            self._expire_queued()
            if is_to_go and not (self._busy or self._forsaken):
                await self._retire(keeper)
                is_to_go = False
            free = max(0, self._policy.commands.max_parallel - len(self._busy))
            batch = list(islice(self._queue, free))
            for command in batch:
                self._leave_queue(command)
                self._busy.add(command)
            if batch:
                await self._start(keeper, batch)
            else:
                with trio.move_on_at(self._next_expiry):
                    await self._wake.wait()

    async def _retire(self, keeper: Keeper) -> None:
        """Have a keeper of an earlier release end: the next one learns all from its log.

        Nothing is started meanwhile, for nobody would know what became of it.
        """
        log.info("the keeper of an earlier release is replaced", extra={"pid": keeper.pid})
        with suppress(ProcessLookupError):
            os.kill(keeper.pid, signal.SIGTERM)
        await trio.sleep(RETIRE_S)  # `_hear` sees it go
        log.warning("the keeper of an earlier release stays", extra={"pid": keeper.pid})

    def _expire_queued(self) -> None:
        now = trio.current_time()
        if now < self._next_expiry:
            return
        for command in [each for each in self._waiting() if each.expires <= now]:
            self._leave_queue(command)
            self._decide(command, Ending(end="expired"))
        self._next_expiry = min((each.expires for each in self._waiting()), default=math.inf)

    def _waiting(self) -> Iterator[Command]:
        yield from self._queue
        for line in self._lines.values():
            yield from islice(line, 1, None)

    async def _start(self, keeper: Keeper, batch: list[Command]) -> None:
        try:
            allowed = await self._allowed(batch)
            if allowed and await self._record_starts(allowed):
                for command in allowed:
                    if command.cancelled:
                        self._decide(command, Ending(end="cancelled"))
                    else:
                        await self._hand_over(keeper, command)
        finally:  # the keeper is gone and has not seen those that are queued still
            again = [command for command in batch if command.phase is Phase.QUEUED]
            for command in again:
                self._busy.discard(command)
                self._queued_bytes += command.weight_bytes
            if again:
                self._queue = dict.fromkeys(again) | self._queue

    async def _allowed(self, batch: list[Command]) -> list[Command]:
        """Those of the batch that agent.toml lets start now; the others have ended."""
        if self._policy.allows_any_command:
            return batch
        specs = [command.spec for command in batch if command.spec is not None]
        verdicts = await trio.to_thread.run_sync(
            judge, self._policy, self._state_dir, specs, abandon_on_cancel=True
        )
        for command, verdict in zip(batch, verdicts, strict=True):
            if isinstance(verdict, Denied):
                log.warning("denied", extra={"command_id": command.id, "reason": verdict.message})
                append_denial(self._state_dir, command.id, verdict.code, verdict.message)
                denial = Ending(end="failed", reason=verdict.code, message=verdict.message)
                self._decide(command, denial)
            else:
                command.spec = verdict
        return [command for command in batch if command.phase is Phase.QUEUED]

    async def _record_starts(self, batch: list[Command]) -> bool:
        """False: it cannot be recorded, so they have ended instead."""
        try:
            self._journal.starting(
                Entry(each.id, each.spec_hash, self.boot_id, serial_key=each.serial_key)
                for each in batch
            )
            await self._sync_journal()
        except OSError as exc:
            message = f"the agent cannot record the start: {exc.strerror}"
            for command in batch:
                self._decide(command, Ending(end="failed", reason="journal", message=message))
            return False
        return True

    async def _sync_journal(self) -> None:
        """In place while the disk is quick: a thread would take longer than the sync itself."""
        begun = time.perf_counter()
        if self._disk_is_quick:
            self._journal.sync()
        else:
            await trio.to_thread.run_sync(self._journal.sync)
        self._disk_is_quick = time.perf_counter() - begun < QUICK_SYNC_S

    async def _hand_over(self, keeper: Keeper, command: Command) -> None:
        spec = command.spec
        assert spec is not None
        command.phase, command.spec = Phase.STARTING, None
        try:
            await keeper.start(
                id=command.id,
                argv=spec.argv,
                env=spec.env,
                cwd=spec.cwd,
                user=spec.user,
                operator=spec.operator,
                stdin=spec.stdin,
                timeout_ms=spec.timeout_ms,
                pty=spec.pty,
            )
        except LocalProtocolError as exc:
            self._decide(command, Ending(end="failed", reason="too_large", message=exc.message))
        except TerminalsNotSupported as exc:
            self._decide(command, Ending(end="failed", reason=exc.code, message=exc.message))

    # ── what the keeper says ─────────────────────────────────────────────────────────────────

    async def _hear(self, keeper: Keeper) -> None:
        while True:
            event = await keeper.next_event()
            if isinstance(event, Record):  # answers only a second start of an id: there is none
                continue
            if isinstance(event, Written | Taken) or not is_id("cmd", event.id):
                await self._terminals.heard(event)
                continue
            command = self._known.get(event.id)
            if command is None:  # a machine that was removed has let go of it while it ran
                if not isinstance(event, Started):
                    self._forsaken.discard(event.id)
                    self._wake.set()
                    await keeper.forget([event.id])
                continue
            match event:
                case Started():
                    command.start(event.started_ms)
                    self._open_output(command, event.slot)
                    self._outbox.look_later(command)
                case Refused():
                    self._finish(command, refusal(event))
                case Exited():
                    self._finish(command, exit_of(event, command.started_ms))

    async def _settle(self, keeper: Keeper) -> None:
        self.keeper_id, self.boot_id = keeper.keeper_id, keeper.boot_id
        self._forsaken.clear()
        done = []
        for command_id, record in keeper.records.items():
            if not is_id("cmd", command_id):
                continue
            if command_id in self._journal.tombstones:
                if record.state == "running":
                    self._forsaken.add(command_id)
                else:
                    done.append(command_id)
            elif command_id not in self._known:  # the journal was damaged; what runs is true
                self._known[command_id] = _under_way(command_id, None, None)
        if done:
            await keeper.forget(done)
        for command in list(self._known.values()):  # more may be dispatched meanwhile
            if command.phase in (Phase.STARTING, Phase.RUNNING):
                self._settle_one(command, keeper.records.get(command.id))
            if command.is_running and command.cancelled:
                await keeper.cancel(command.id)

    def _settle_one(self, command: Command, record: Record | None) -> None:
        if record is not None and record.slot is not None:
            self._open_output(command, record.slot)
        entry = self._journal.entries.get(command.id)
        ending = ending_of(entry, record, self.boot_id, command.outflow.bytes_written())
        if ending is None:
            assert record is not None
            self._busy.add(command)
            self._join_line(command)
            command.start(record.started_ms)
            self._outbox.look_later(command)
        elif ending.end == "lost":
            self._decide(command, ending)
        else:
            self._finish(command, ending)

    # ── ends ─────────────────────────────────────────────────────────────────────────────────

    def _decide(self, command: Command, ending: Ending) -> None:
        """The agent itself ends a command: only its journal knows."""
        self._journal.ended(
            Entry(
                command.id,
                command.spec_hash,
                self.boot_id,
                end=ending.end,
                reason=ending.reason,
                message=ending.message,
            )
        )
        self._finish(command, ending)

    def _finish(self, command: Command, ending: Ending) -> None:
        command.finish(ending)
        self._busy.discard(command)
        self._leave_line(command)
        if self._queue or not self._busy:
            self._wake.set()
        self._outbox.look_at(command)
        log.debug("command ended", extra={"command_id": command.id, "end": ending.end})

    def _open_output(self, command: Command, slot: int) -> None:
        command.outflow.open(
            output_path(self._state_dir, slot, "stdout"),
            output_path(self._state_dir, slot, "stderr"),
        )


def _under_way(command_id: str, spec_hash: bytes | None, serial_key: str | None) -> Command:
    command = Command(command_id, spec_hash, serial_key=serial_key)
    command.phase = Phase.STARTING
    return command
