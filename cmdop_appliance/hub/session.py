"""One agent socket that was welcomed, to its end: what it hears, what it may say.

An agent can speak only of its own machine. A connection that was replaced is fenced: the store
takes no change of session or command from an older epoch, and the bus tells it to go.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Final, TypeVar

import trio

from cmdop_appliance.errors import (
    ApplianceError,
    CommandNotFound,
    ProtocolError,
    StorageFull,
    TerminalNotFound,
    Unavailable,
)
from cmdop_appliance.hub.bus import Request, Subscription
from cmdop_appliance.hub.command_link import CommandLink
from cmdop_appliance.hub.connection import Connection, LinkClosed
from cmdop_appliance.hub.disk import ROOM_SUBJECT, Room
from cmdop_appliance.hub.enrolment import Proof
from cmdop_appliance.hub.lifecycle import StaleConnection
from cmdop_appliance.hub.line import Line
from cmdop_appliance.hub.reports import Reports, Sign
from cmdop_appliance.hub.services import SessionServices
from cmdop_appliance.hub.terminal_link import FindTerminalLink, terminals_subject
from cmdop_appliance.hub.terminal_reports import TerminalReports
from cmdop_appliance.hub.transfers import FileLink, FindLink, files_subject
from cmdop_appliance.hub.upgrade_link import UpgradeLink
from cmdop_appliance.hub.wakes import (
    CancelRequested,
    Dispatched,
    Look,
    Removed,
    link_subject,
    machine_subject,
)
from cmdop_appliance.hub.waves import Offered
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.conversation import Conversation, State, split
from cmdop_appliance.protocol.frames import Data, Output, Screen
from cmdop_appliance.protocol.messages import (
    Accepted,
    Background,
    Bye,
    Cancel,
    FileAnswer,
    FileCredit,
    FileEnd,
    FileFailed,
    Finished,
    FromAgent,
    Heartbeat,
    Inventory,
    Notice,
    Ready,
    Rejected,
    Samples,
    Started,
)
from cmdop_appliance.protocol.terminals import (
    TerminalDone,
    TerminalEnded,
    TerminalFailed,
    TerminalGap,
    TerminalOpened,
    Terminals,
    TerminalTaken,
    TerminalWaiting,
    TerminalWatched,
)
from cmdop_appliance.protocol.upgrades import Upgrading
from cmdop_appliance.protocol.words import Message
from cmdop_appliance.store import sessions
from cmdop_appliance.store.audit import Entry

# A removed machine is told so within this; with the close it is 1 s in all (contract.md §3).
_LAST_WORD_S: Final = 0.25
# The holder of a key has so long to answer a ping before another may take its place.
PROBE_S: Final = 5.0
# Starts and ends of one machine that are being recorded at a time; the reader waits beyond.
_RECORDING: Final = 64
# Ends, or signs of life, that are recorded in one transaction: some ms of the writer.
_TOGETHER: Final = 64

M = TypeVar("M", bound=Message | list[Finished] | list[Sign])

_log = logging.getLogger("cmdop.hub.session")


@dataclass(frozen=True, slots=True)
class Probe:
    """Bus question: is this machine's key held by a live connection of another agent?"""

    keeper_id: str


@dataclass(frozen=True, slots=True)
class Replaced:
    """Bus: a newer connection of this machine has taken over."""

    epoch: int


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
        self._files = FileLink(self._line)
        self._terminals = TerminalReports(services, self._line, proof.machine, epoch)
        self._upgrade = UpgradeLink(services, self._line, proof.machine, epoch)
        self._commands = CommandLink(
            services, self._line, self._terminals.link, proof.machine, session_id, epoch
        )
        # Of the proof, which is not kept: it takes 2 KB.
        self._machine = proof.machine
        self._machine_id = proof.machine.id
        self._keeper_id = proof.prove.keeper_id
        self._agent_nonce = proof.agent_nonce
        self._session_id = session_id
        self._epoch = epoch
        self._recording = trio.Semaphore(_RECORDING)
        # Of this frame, to be recorded together.
        self._ends: list[Finished] = []
        self._signs: list[Sign] = []
        self._reports = Reports(
            services.store,
            services.bus,
            services.audit,
            services.clock,
            proof.machine,
            session_id,
            epoch,
        )
        self._said_bye = False
        self._broke_protocol = False
        self._ready = trio.Event()  # the agent is

    async def run(self) -> None:
        """Serve until the link ends; then the session is in its grace period, over, or ERROR."""
        try:
            bus = self._services.bus
            with (
                bus.subscribe(machine_subject(self._machine_id), ROOM_SUBJECT) as wakes,
                bus.subscribe(
                    link_subject(self._machine_id),
                    files_subject(self._machine_id),
                    terminals_subject(self._machine_id),
                ) as news,
            ):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._hear_bus, wakes, nursery)
                    nursery.start_soon(self._hear_news, news, nursery)
                    with self._line.carried_by(nursery):
                        await self._hear_agent(nursery)
                    nursery.cancel_scope.cancel()
        finally:
            self._files.shut()
            self._terminals.link.shut()
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
        await self._services.outputs.park(self._commands.open_ids)

    # ── what the agent says ──────────────────────────────────────────────────────────────────

    async def _hear_agent(self, nursery: trio.Nursery) -> None:
        try:
            while not self._said_bye:
                if not await self._take(await self._next_frame(), nursery):
                    return
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

    async def _next_frame(self) -> str | bytes:
        with trio.fail_after(self._services.silent_ms / 1000):
            return await self._connection.receive()

    async def _take(self, frame: str | bytes, nursery: trio.Nursery) -> bool:
        """False: the agent was removed meanwhile, which it cannot know yet."""
        for part in split(frame):
            if self._conversation.state is State.OVER:
                return False
            await self._handle(self._conversation.receive_from_agent(part), nursery)
        if self._ends:
            await self._record_ends(nursery)
        if self._signs:
            await self._record_signs(nursery)
        return True

    async def _blame(self, error: ApplianceError) -> None:
        self._broke_protocol = True
        if isinstance(error, CommandNotFound | TerminalNotFound):
            (named,) = error.details.values()
            machine, now_ms = self._machine, self._services.clock.now_ms()
            entry = Entry.by_machine(machine, now_ms, "machine.trespassed", str(named))
            await self._services.audit.record_refusal(machine.id, entry.refused())
        await blame(self._connection, error)

    async def _handle(
        self, message: FromAgent | Output | Data | Screen, nursery: trio.Nursery
    ) -> None:
        match message:
            case Output():
                await self._commands.take_output(message)
            case Data() | FileAnswer() | FileFailed() | FileCredit() | FileEnd():
                self._files.hear(message)
            case Screen() | TerminalWatched() | TerminalGap() | TerminalDone():
                self._terminals.link.hear(message)
            case (
                Terminals()
                | TerminalOpened()
                | TerminalFailed()
                | TerminalEnded()
                | TerminalTaken()
                | TerminalWaiting()
            ):
                if await self._terminals.hear(message):
                    nursery.start_soon(self._record_terminals, nursery)
            case Finished():
                if await self._commands.is_whole(message):
                    self._ends.append(message)
                    if len(self._ends) == _TOGETHER:
                        await self._record_ends(nursery)
            case Accepted():
                await self._record(nursery, self._commands.accepted, message)
            case Started():
                await self._record(nursery, self._commands.started, message)
            case Heartbeat() | Samples():
                self._signs.append(message)
                if len(self._signs) == _TOGETHER:
                    await self._record_signs(nursery)
            case Background():
                await self._reports.background(message)
            case Inventory():
                self._commands.take_inventory(message)
            case Ready():
                if message.audit_head is not None:
                    await self._services.audit.hear(self._machine, message.audit_head)
                self._files.is_supported = "files" in message.features
                self._terminals.link.is_supported = "terminals" in message.features
                self._upgrade.is_supported = "upgrade" in message.features
                self._ready.set()
                await self._commands.begin()
                await self._upgrade.offer()
            case Rejected():
                await self._commands.rejected(message)
            case Upgrading():
                await self._upgrade.hear(message)
            case Notice():
                await self._reports.notice(message)
            case Bye():
                await self._record_ends(nursery)
                self._said_bye = True

    async def _close_stale(self) -> None:
        """Our session is over, or has a newer connection; an agent that is alive comes back."""
        await self._connection.close(Close.REPLACED, "the session of this connection is over")

    async def _record_signs(self, nursery: trio.Nursery) -> None:
        """Record the signs of life that came in one frame, in one transaction."""
        signs, self._signs = self._signs, []
        await self._record(nursery, self._take_signs, signs)

    async def _take_signs(self, signs: list[Sign]) -> None:
        for answer in await self._reports.signs(signs):
            self._line.queue(answer)
        await self._line.send()

    async def _record_ends(self, nursery: trio.Nursery) -> None:
        """Record the ends that came in one frame, in one transaction."""
        ends, self._ends = self._ends, []
        await self._record(nursery, self._commands.ended, ends)

    async def _record(
        self,
        nursery: trio.Nursery,
        record: Callable[[M], Awaitable[None]],
        message: M,
    ) -> None:
        """Record beside the reader, so that the ends of many commands share one commit."""
        try:
            self._recording.acquire_nowait()  # without a pass through the scheduler
        except trio.WouldBlock:
            await self._recording.acquire()

        async def task() -> None:
            try:
                if not await self._recorded(record(message)):
                    nursery.cancel_scope.cancel()
            finally:
                self._recording.release()

        nursery.start_soon(task)

    async def _record_terminals(self, nursery: trio.Nursery) -> None:
        if not await self._recorded(self._terminals.record(nursery)):
            nursery.cancel_scope.cancel()

    async def _recorded(self, act: Awaitable[None]) -> bool:
        """False: it could not be, and the connection is over; the agent was told if it is why."""
        try:
            await act
        except (LinkClosed, Unavailable, StorageFull):
            pass
        except StaleConnection:
            await self._close_stale()
        except (ProtocolError, CommandNotFound, TerminalNotFound) as exc:
            await self._blame(exc)
        else:
            return True
        return False

    # ── what the hub says ────────────────────────────────────────────────────────────────────

    async def _hear_bus(self, wakes: Subscription, nursery: trio.Nursery) -> None:
        try:
            while True:
                await self._obey(await wakes.next(inf))  # `Commands.look` does so for all
                if not wakes.waiting or self._line.is_crowded:
                    await self._line.send()  # several wake-ups, one frame
        except LinkClosed:
            pass
        except Unavailable:
            await self._connection.close(Close.STOPPING, "the hub is stopping")
        nursery.cancel_scope.cancel()

    async def _hear_news(self, news: Subscription, nursery: trio.Nursery) -> None:
        """Answer who asks for this link, and cut it when it is replaced or its machine removed.

        Also one that takes nothing: nothing here waits for that.
        """
        with suppress(LinkClosed, Unavailable):
            while True:
                match await news.next(inf):
                    case Request(question=FindLink()) as request:
                        nursery.start_soon(self._show_files, request)
                    case Request(question=FindTerminalLink()) as request:
                        nursery.start_soon(self._show_terminals, request)
                    case Request(question=Probe(keeper_id)) as probe:
                        if keeper_id == self._keeper_id:
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

    async def _show_files(self, request: Request) -> None:
        """Tell who carries calls for this machine's files, once it has said whether it can."""
        await self._ready.wait()  # as long as it was not, its session is CONNECTED
        is_ready = self._conversation.state is State.READY
        request.answer(self._files if is_ready else None)

    async def _show_terminals(self, request: Request) -> None:
        """Tell who carries its terminals, once it has said which there are."""
        await self._ready.wait()
        link = self._terminals.link
        if link.is_supported:
            await self._terminals.settled.wait()
        is_ready = self._conversation.state is State.READY
        request.answer(link if is_ready else None)

    async def _say_revoked(self) -> None:
        with trio.move_on_after(_LAST_WORD_S):
            revoked = self._services.enrolments.revoked(self._agent_nonce, self._machine_id)
            self._line.queue(revoked)
            await self._line.send_all()

    async def _obey(self, wake: object) -> None:
        # Before the agent is ready nothing may be sent, and `_begin` will find it in the store.
        ready = self._conversation.state is State.READY
        match wake:
            case Dispatched(command) if ready:
                await self._commands.dispatch(command)
            case Offered() if ready:
                await self._upgrade.offer()
            case CancelRequested(command_id) if ready:
                self._line.queue(Cancel(id=command_id))
            case Room() if ready:
                await self._commands.resume_left()
            case None | Look() if ready:
                await self._commands.sweep()

    async def _answer_probe(self, request: Request) -> None:
        try:
            with trio.fail_after(PROBE_S):
                await self._connection.ping()
        except (LinkClosed, trio.TooSlowError):
            request.answer(value=False)
        else:
            request.answer(value=True)
