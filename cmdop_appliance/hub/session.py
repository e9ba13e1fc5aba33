"""One agent socket that was welcomed, to its end: what it hears, what it may say.

Each frame is looked up as (command id, machine of this socket): an agent can speak only of its
own. A connection that was replaced is fenced: the store takes no change of session or command from
an older epoch, and the bus tells it to go.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from cmdop_appliance.clock import Clock
from cmdop_appliance.errors import (
    ApplianceError,
    CommandNotFound,
    ProtocolError,
    RemoteProtocolError,
    StorageFull,
    Unavailable,
)
from cmdop_appliance.hub import lifecycle
from cmdop_appliance.hub.audit import Audit
from cmdop_appliance.hub.bus import Bus, Request, Subscription
from cmdop_appliance.hub.commands import (
    CancelRequested,
    Commands,
    Dispatched,
    Grown,
    Removed,
    link_subject,
    machine_subject,
    output_subject,
)
from cmdop_appliance.hub.connection import Connection, LinkClosed
from cmdop_appliance.hub.enrolment import Enrolments, Proof
from cmdop_appliance.hub.lifecycle import StaleConnection
from cmdop_appliance.hub.line import Line
from cmdop_appliance.hub.output import OutputGap, Outputs, Streams
from cmdop_appliance.hub.reports import Reports
from cmdop_appliance.model import Command
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.conversation import Conversation, State, split
from cmdop_appliance.protocol.frames import Output
from cmdop_appliance.protocol.limits import INVENTORY_ITEMS, WINDOW_BYTES
from cmdop_appliance.protocol.messages import (
    Accepted,
    Acknowledge,
    Background,
    Bye,
    Cancel,
    Dispatch,
    Finished,
    FromAgent,
    Heartbeat,
    Heartbeatack,
    Inventory,
    Message,
    Notice,
    Ready,
    Rejected,
    Resume,
    Sampled,
    Samples,
    Started,
    Stored,
)
from cmdop_appliance.store import commands as command_rows
from cmdop_appliance.store import sessions
from cmdop_appliance.store.engine import Store

# A removed machine is told so within this; with the close it is 1 s in all (contract.md §3).
_LAST_WORD_S: Final = 0.25
# The holder of a key has so long to answer a ping before another may take its place.
PROBE_S: Final = 5.0
# Tell the agent what is stored at least this often: half of what it may have under way.
_STORED_EVERY: Final = WINDOW_BYTES // 2
# Starts and ends of one machine that are being recorded at a time; the reader waits beyond.
_RECORDING: Final = 64
# Commands that an agent may name in its inventory: some 10 MB of ids while it connects.
_INVENTORY: Final = 100_000

_GROWN: Final = Grown()

M = TypeVar("M", bound=Message)

_log = logging.getLogger("cmdop.hub.session")


@dataclass(frozen=True, slots=True)
class Probe:
    """Bus question: is this machine's key held by a live connection of another agent?"""

    keeper_id: str


@dataclass(frozen=True, slots=True)
class Replaced:
    """Bus: a newer connection of this machine has taken over."""

    epoch: int


@dataclass(frozen=True, slots=True)
class SessionServices:
    """What a session works with."""

    store: Store
    bus: Bus
    outputs: Outputs
    commands: Commands
    enrolments: Enrolments
    audit: Audit
    clock: Clock
    grace_ms: int
    silent_ms: int


async def blame(connection: Connection, error: ApplianceError) -> None:
    """Close the connection of an agent that broke the protocol, and tell it how."""
    _log.warning("agent broke the protocol", extra={"peer": connection.address, "why": str(error)})
    await connection.close(Close.PROTOCOL, error.message)


class AgentSession:
    """A machine's live connection."""

    def __init__(
        self,
        services: SessionServices,
        connection: Connection,
        conversation: Conversation,
        proof: Proof,
        session_id: str,
        epoch: int,
    ) -> None:
        self._services = services
        self._connection = connection
        self._conversation = conversation
        self._line = Line(connection, conversation)
        self._proof = proof
        self._machine_id = proof.machine.id
        self._session_id = session_id
        self._epoch = epoch
        self._inventory: set[str] = set()
        self._sent: set[str] = set()  # dispatched on this connection
        self._own: set[str] = set()  # open commands, known to be this machine's
        self._unreported: dict[str, int] = {}  # bytes stored since the last `stored`
        self._recording = trio.Semaphore(_RECORDING)
        self._reports = Reports(
            services.store, services.audit, services.clock, proof.machine, session_id, epoch
        )
        self._said_bye = False
        self._broke_protocol = False

    async def run(self) -> None:
        """Serve until the link ends; then the session is in its grace period, over, or ERROR."""
        try:
            bus = self._services.bus
            with (
                bus.subscribe(machine_subject(self._machine_id)) as wakes,
                bus.subscribe(link_subject(self._machine_id)) as news,
            ):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._hear_bus, wakes, nursery)
                    nursery.start_soon(self._hear_end, news, nursery)
                    nursery.start_soon(self._line.run)
                    await self._hear_agent(nursery)
                    nursery.cancel_scope.cancel()
        finally:
            # What cannot be recorded is put right by the next connection, or the next hub start.
            with trio.CancelScope(shield=True), suppress(Unavailable, StorageFull):
                await self._record_end()

    async def _record_end(self) -> None:
        now_ms = self._services.clock.now_ms()
        run = self._services.store.run
        if self._broke_protocol:
            await run(sessions.fail, self._session_id, self._epoch, now_ms)
        elif self._said_bye:
            await run(sessions.end, self._session_id, self._epoch, now_ms)
        else:
            await run(
                sessions.lose,
                self._session_id,
                self._epoch,
                now_ms=now_ms,
                grace_until_ms=now_ms + self._services.grace_ms,
            )
        await self._services.outputs.park(self._own)

    # ── what the agent says ──────────────────────────────────────────────────────────────────

    async def _hear_agent(self, nursery: trio.Nursery) -> None:
        try:
            while not self._said_bye:
                with trio.fail_after(self._services.silent_ms / 1000):
                    frame = await self._connection.receive()
                for part in split(frame):
                    if self._conversation.state is State.OVER:
                        return  # removed meanwhile; it cannot know yet
                    await self._handle(self._conversation.receive_from_agent(part), nursery)
            await self._connection.close(Close.STOPPING, "goodbye")
        except LinkClosed:
            pass
        except trio.TooSlowError:
            await self._connection.close(Close.SILENT, "nothing was heard for too long")
        except (ProtocolError, CommandNotFound) as exc:
            await self._blame(exc)
        except StaleConnection:
            await self._close_stale()
        except (Unavailable, StorageFull) as exc:
            await self._connection.close(Close.STOPPING, exc.message)

    async def _blame(self, error: ApplianceError) -> None:
        self._broke_protocol = True
        await blame(self._connection, error)

    async def _handle(self, message: FromAgent | Output, nursery: trio.Nursery) -> None:
        match message:
            case Output():
                await self._take_output(message)
            case Finished():
                await self._take_end(message, nursery)
            case Accepted():
                await self._record(nursery, self._accept, message)
            case Started():
                await self._record(nursery, self._services.commands.started, message)
            case Heartbeat():
                head = await self._reports.heartbeat(message)
                await self._line.say(Heartbeatack(audit_head=head))
            case Samples():
                await self._record(nursery, self._sample, message)
            case Background():
                await self._reports.background(message)
            case Inventory():
                self._inventory.update(known.id for known in message.commands)
                if len(self._inventory) > _INVENTORY:
                    raise RemoteProtocolError(f"an inventory of more than {_INVENTORY} commands")
            case Ready():
                if message.audit_head is not None:
                    await self._services.audit.hear(self._proof.machine, message.audit_head)
                await self._begin()
            case Rejected():
                await self._services.commands.rejected(self._machine_id, self._epoch, message)
                self._own.discard(message.id)
            case Notice():
                await self._reports.notice(message)
            case Bye():
                self._said_bye = True

    async def _begin(self) -> None:
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
                self._dispatch(command)
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
            self._proof.machine,
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

    async def _close_stale(self) -> None:
        """Our session is over, or has a newer connection; an agent that is alive comes back."""
        await self._connection.close(Close.REPLACED, "the session of this connection is over")

    async def _take_output(self, output: Output) -> None:
        streams = await self._streams(output.id)
        if streams is None:
            return
        outputs = self._services.outputs
        if not streams[output.stream].has_room(len(output.data)):
            await outputs.flush([output.id])
            await self._take_output(output)  # anew: meanwhile the command may have ended
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

    async def _take_end(self, message: Finished, nursery: trio.Nursery) -> None:
        streams = await self._streams(message.id)
        if streams is None:
            return
        held = (streams["stdout"].size, streams["stderr"].size)
        if held[0] < message.stdout.bytes or held[1] < message.stderr.bytes:
            await self._resume(message.id)  # the end is said again after what is missing
        else:
            await self._record(nursery, self._end, message)

    async def _sample(self, machine_id: str, epoch: int, message: Samples) -> None:
        await self._reports.samples(message)
        self._line.say_later(Sampled(number=message.samples[-1].number))

    async def _accept(self, machine_id: str, epoch: int, message: Accepted) -> None:
        await self._services.store.run(lifecycle.accepted, machine_id, epoch, [message.id])

    async def _end(self, machine_id: str, epoch: int, message: Finished) -> None:
        await self._services.commands.finished(machine_id, epoch, message)
        self._own.discard(message.id)
        self._sent.discard(message.id)
        self._unreported.pop(message.id, None)
        self._line.say_later(Acknowledge(id=message.id))

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

    async def _record(
        self,
        nursery: trio.Nursery,
        record: Callable[[str, int, M], Awaitable[None]],
        message: M,
    ) -> None:
        """Record beside the reader, so that the ends of many commands share one commit."""
        try:
            self._recording.acquire_nowait()  # without a pass through the scheduler
        except trio.WouldBlock:
            await self._recording.acquire()

        async def task() -> None:
            try:
                await record(self._machine_id, self._epoch, message)
            except (LinkClosed, Unavailable, StorageFull):
                nursery.cancel_scope.cancel()
            except StaleConnection:
                await self._close_stale()
            except CommandNotFound as exc:
                await self._blame(exc)
            finally:
                self._recording.release()

        nursery.start_soon(task)

    # ── what the hub says ────────────────────────────────────────────────────────────────────

    async def _hear_bus(self, wakes: Subscription, nursery: trio.Nursery) -> None:
        try:
            while True:
                await self._obey(await wakes.next())
                if not wakes.waiting or self._line.is_crowded:
                    await self._line.send()  # several wake-ups, one frame
        except LinkClosed:
            pass
        except Unavailable:
            await self._connection.close(Close.STOPPING, "the hub is stopping")
        nursery.cancel_scope.cancel()

    async def _hear_end(self, news: Subscription, nursery: trio.Nursery) -> None:
        """Cut a link that is replaced or whose machine is removed, even one that takes nothing."""
        with suppress(LinkClosed, Unavailable):
            while True:
                match await news.next():
                    case Request(question=Probe(keeper_id)) as probe:
                        if keeper_id == self._proof.prove.keeper_id:
                            probe.answer(value=False)  # the same agent, back before we missed it
                        else:
                            nursery.start_soon(self._answer_probe, probe)
                    case Replaced(epoch) if epoch > self._epoch:
                        nursery.cancel_scope.cancel()  # nothing more is heard of it
                        reason = "replaced by a newer connection"
                        await self._connection.close(Close.REPLACED, reason)
                        return
                    case Removed():
                        await self._say_revoked()
                        nursery.cancel_scope.cancel()
                        await self._connection.close(Close.REMOVED, "this machine was removed")
                        return

    async def _say_revoked(self) -> None:
        with trio.move_on_after(_LAST_WORD_S):
            nonce = self._proof.agent_nonce
            self._line.queue(self._services.enrolments.revoked(nonce, self._machine_id))
            await self._line.send_all()

    async def _obey(self, wake: object) -> None:
        # Before the agent is ready nothing may be sent, and `_begin` will find it in the store.
        ready = self._conversation.state is State.READY
        match wake:
            case Dispatched(command) if ready:
                self._dispatch(command)
            case CancelRequested(command_id) if ready:
                self._line.queue(Cancel(id=command_id))
            case None if ready:
                await self._sweep()

    async def _answer_probe(self, request: Request) -> None:
        try:
            with trio.fail_after(PROBE_S):
                await self._connection.ping()
        except (LinkClosed, trio.TooSlowError):
            request.answer(value=False)
        else:
            request.answer(value=True)

    async def _sweep(self) -> None:
        """Find what a lost wake-up left behind."""
        for command in await self._services.store.run(command_rows.sent_to, self._machine_id):
            if command.id in self._sent and command.cancel_requested_ms is not None:
                await self._line.say(Cancel(id=command.id))
            self._dispatch(command)
            await self._line.send()

    def _dispatch(self, command: Command) -> None:
        """Queue a command for its machine, once on this connection."""
        if command.id in self._sent:
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
            )
        )

    async def _resume(self, command_id: str) -> None:
        streams = await self._services.outputs.resume(command_id)
        if streams is None:  # it has ended meanwhile
            await self._line.say(Acknowledge(id=command_id))
            return
        stdout, stderr = streams["stdout"].size, streams["stderr"].size
        await self._line.say(Resume(id=command_id, stdout=stdout, stderr=stderr))
