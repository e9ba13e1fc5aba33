"""What one connection of a machine carries of commands: which it may speak of, and how far each is.

Each is looked up as (command id, machine of this connection): an agent can speak only of its own.
"""

import logging
from contextlib import suppress
from typing import Final

from cmdop_appliance.errors import RemoteProtocolError, StorageFull, TerminalsNotSupported
from cmdop_appliance.hub import lifecycle
from cmdop_appliance.hub.lifecycle import StaleConnection
from cmdop_appliance.hub.line import Line
from cmdop_appliance.hub.live_stream import OutputGap
from cmdop_appliance.hub.output import Streams
from cmdop_appliance.hub.services import SessionServices
from cmdop_appliance.hub.terminal_link import NOT_SUPPORTED, TerminalLink
from cmdop_appliance.hub.wakes import Grown, output_subject
from cmdop_appliance.model import Command, Machine
from cmdop_appliance.protocol.frames import Output
from cmdop_appliance.protocol.limits import INVENTORY_ITEMS, WINDOW_BYTES
from cmdop_appliance.protocol.messages import (
    Accepted,
    Acknowledge,
    Cancel,
    Dispatch,
    Finished,
    Inventory,
    Rejected,
    Resume,
    Started,
    Stored,
)
from cmdop_appliance.store import commands as command_rows

# Tell the agent what is stored at least this often: half of what it may have under way.
_STORED_EVERY: Final = WINDOW_BYTES // 2
# Commands that an agent may name in its inventory: some 10 MB of ids while it connects.
_INVENTORY: Final = 100_000

_GROWN: Final = Grown()

_log = logging.getLogger("cmdop.hub.command_link")


class CommandLink:
    """The commands of a machine, as one connection of it knows them."""

    def __init__(
        self,
        services: SessionServices,
        line: Line,
        terminals: TerminalLink,
        machine: Machine,
        session_id: str,
        epoch: int,
    ) -> None:
        self._services = services
        self._line = line
        self._terminals = terminals
        self._machine = machine
        self._machine_id = machine.id
        self._session_id = session_id
        self._epoch = epoch
        self._inventory: set[str] = set()
        self._sent: set[str] = set()  # dispatched on this connection
        self._own: set[str] = set()  # open commands, known to be this machine's
        self._unreported: dict[str, int] = {}  # bytes stored since the last `stored`
        self._left: set[str] = set()  # commands whose output was left with the machine

    @property
    def open_ids(self) -> set[str]:
        """The open commands that are known to be this machine's."""
        return self._own

    def take_inventory(self, message: Inventory) -> None:
        """Take a part of what the agent knows, before it is ready.

        Raises:
            RemoteProtocolError: it is too much.
        """
        self._inventory.update(known.id for known in message.commands)
        if len(self._inventory) > _INVENTORY:
            raise RemoteProtocolError(f"an inventory of more than {_INVENTORY} commands")

    async def begin(self) -> None:
        """Hold what the agent knows against what the store knows, and mend the difference."""
        services = self._services
        now_ms = services.clock.now_ms()
        before = await services.store.run(
            lifecycle.ready, self._session_id, self._epoch, self._machine_id, now_ms
        )
        if before is None:
            raise StaleConnection
        waiting = [
            command.id
            for command in before
            if command.id in self._inventory
            and command.status == "pending"
            and not command.is_bounded
        ]
        if waiting:
            await services.store.run(lifecycle.accepted, self._machine_id, self._epoch, waiting)
        for command in before:
            if command.id in self._inventory:
                self._own.add(command.id)
                self._sent.add(command.id)
                await self._resume(command.id)
                if command.cancel_requested_ms is not None:
                    await self._line.say(Cancel(id=command.id))
            elif command.status == "pending" and not command.is_unknown_to_hub:
                await self.dispatch(command)
                await self._line.send()
            else:
                await services.commands.lose(
                    self._machine_id, self._epoch, command.id, "start_unknown"
                )
        await self._settle_ended(self._inventory.difference(command.id for command in before))
        self._inventory.clear()
        _log.info("machine connected", extra={"machine_id": self._machine_id})

    async def _settle_ended(self, command_ids: set[str]) -> None:
        """The agent may forget what ended here; what this hub never knew is kept, and followed."""
        waiting, unknown, kept = sorted(command_ids), 0, 0
        while waiting:
            part, waiting = waiting[:INVENTORY_ITEMS], waiting[INVENTORY_ITEMS:]
            ours = set(
                await self._services.store.run(command_rows.ids_of_machine, self._machine_id, part)
            )
            others = [command_id for command_id in part if command_id not in ours]
            unknown += len(others)
            kept += await self._adopt(others) if others else 0
            for command_id in ours:
                await self._line.say(Acknowledge(id=command_id))
        if unknown:
            _log.warning(
                "agent names commands that this hub does not know",
                extra={"machine_id": self._machine_id, "count": unknown, "kept": kept},
            )

    async def _adopt(self, unknown: list[str]) -> int:
        now_ms = self._services.clock.now_ms()
        adopted = await self._services.store.run(
            lifecycle.adopt,
            self._machine,
            self._epoch,
            self._session_id,
            unknown,
            now_ms,
        )
        for command in adopted:
            self._own.add(command.id)
            self._sent.add(command.id)
            await self._resume(command.id)
        return len(adopted)

    async def take_output(self, output: Output) -> None:
        """Keep a piece of output; what does not go on where the last ended is asked for again."""
        streams = await self._streams(output.id)
        if streams is None:
            return
        outputs = self._services.outputs
        if outputs.is_held:  # nothing of it is acknowledged: the machine keeps it
            self._left.add(output.id)
            return
        if not streams[output.stream].has_room(len(output.data)):
            await outputs.flush([output.id])
            await self.take_output(output)  # anew: meanwhile the command may have ended
            return
        try:
            outputs.append(output.id, output.stream, output.offset, output.data)
        except OutputGap:
            await self._resume(output.id)
            return
        except OSError as exc:
            raise self._services.store.fail(exc) from exc
        self._services.bus.publish(output_subject(output.id), _GROWN)
        waiting = self._unreported.get(output.id, 0) + len(output.data)
        if waiting >= _STORED_EVERY:
            waiting = 0
            stdout, stderr = streams["stdout"].size, streams["stderr"].size
            await self._line.say(Stored(id=output.id, stdout=stdout, stderr=stderr))
        self._unreported[output.id] = waiting

    async def is_whole(self, message: Finished) -> bool:
        """True: all output of this end is here. Else it is said again, after what is missing."""
        streams = await self._streams(message.id)
        if streams is None:
            return False
        held = (streams["stdout"].size, streams["stderr"].size)
        if held[0] < message.stdout.bytes or held[1] < message.stderr.bytes:
            if self._services.outputs.is_held:
                self._left.add(message.id)
            else:
                await self._resume(message.id)
            return False
        return True

    async def _streams(self, command_id: str) -> Streams | None:
        """Those of a command of this machine; None: it has ended, and is acknowledged once more.

        Raises:
            CommandNotFound: it is not this machine's.
            StaleConnection: a newer connection speaks for the machine.
        """
        outputs = self._services.outputs
        streams = outputs.live(command_id)
        if command_id in self._own and streams is not None:
            return streams
        command = await self._services.store.run(
            lifecycle.own, self._machine_id, self._epoch, command_id
        )
        streams = await outputs.resume(command_id) if command.finished_ms is None else None
        if streams is None:
            await self._line.say(Acknowledge(id=command_id))
        else:
            self._own.add(command_id)
        return streams

    async def accepted(self, message: Accepted) -> None:
        """Record that the machine holds it, to be started when there is room."""
        await self._services.store.run(
            lifecycle.accepted, self._machine_id, self._epoch, [message.id]
        )

    async def started(self, message: Started) -> None:
        """Record that it runs."""
        await self._services.commands.started(self._machine_id, self._epoch, message)

    async def ended(self, messages: list[Finished]) -> None:
        """Record how they went, all or none, and let the machine forget them."""
        await self._services.commands.finished(self._machine_id, self._epoch, messages)
        for message in messages:
            self._own.discard(message.id)
            self._sent.discard(message.id)
            self._unreported.pop(message.id, None)
            self._line.say_later(Acknowledge(id=message.id))

    async def rejected(self, message: Rejected) -> None:
        """Record that the machine did not start it, and why."""
        await self._services.commands.rejected(self._machine_id, self._epoch, message)
        self._own.discard(message.id)

    async def resume_left(self) -> None:
        """Ask for the output that was left with the machine, if there is room for it."""
        while self._left and not self._services.outputs.is_held:
            command_id = self._left.pop()
            try:
                await self._resume(command_id)
            except StorageFull:
                self._left.add(command_id)
                return

    async def sweep(self) -> None:
        """Find what a lost wake-up left behind."""
        await self.resume_left()
        for command in await self._services.store.run(command_rows.sent_to, self._machine_id):
            if command.id in self._sent and command.cancel_requested_ms is not None:
                await self._line.say(Cancel(id=command.id))
            await self.dispatch(command)
            await self._line.send()

    async def dispatch(self, command: Command) -> None:
        """Queue a command for its machine, once on this connection.

        One that needs a terminal has failed where there is none: an agent of an earlier release
        would run it without.
        """
        if command.id in self._sent:
            return
        is_wanted = command.cancel_requested_ms is None
        if is_wanted and command.spec.pty is not None and not self._terminals.is_supported:
            # Else another connection finds it, or the next sweep of this one.
            with suppress(StaleConnection, StorageFull):
                await self._services.commands.refuse(
                    self._machine_id,
                    self._epoch,
                    command.id,
                    TerminalsNotSupported.code,
                    NOT_SUPPORTED,
                )
            return
        self._sent.add(command.id)
        self._own.add(command.id)
        if command.cancel_requested_ms is not None:
            self._line.queue(Cancel(id=command.id))  # so that it never starts
            return
        left_ms = max(0, command.start_until_ms - self._services.clock.now_ms())
        self._line.queue(
            Dispatch(
                id=command.id,
                spec_hash=command.spec_hash,
                # 0: too late for a first start; an agent that knows it tells how it went. What
                # nobody waits for may wait on the machine for as long as that is busy.
                ttl_ms=left_ms if command.is_bounded or not left_ms else None,
                spec=command.spec,
                is_restored=command.created_ms <= self._services.restored_ms,
            )
        )

    async def _resume(self, command_id: str) -> None:
        streams = await self._services.outputs.resume(command_id)
        if streams is None:  # it has ended meanwhile
            await self._line.say(Acknowledge(id=command_id))
            return
        stdout, stderr = streams["stdout"].size, streams["stderr"].size
        await self._line.say(Resume(id=command_id, stdout=stdout, stderr=stderr))
