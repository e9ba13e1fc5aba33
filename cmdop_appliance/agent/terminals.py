"""Every terminal of this machine: opened at most once, its true end told until it is forgotten.

    open → allowed → prepared (coding/) → keeper → opened … ended → forgotten
             └─────────────┴────────────────└→ failed, and nothing is left

The keeper holds terminals and what is typed and written there; an agent that starts anew learns
from its records which there are. Whoever reads output is in watches.py.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import trio

from cmdop_appliance.agent.answers import Answers
from cmdop_appliance.agent.coding.attention import Attention
from cmdop_appliance.agent.coding.spawn import CodingSessions
from cmdop_appliance.agent.command import Ending, Phase
from cmdop_appliance.agent.journal import Journal
from cmdop_appliance.agent.keeper_client import (
    Event,
    Exited,
    Keeper,
    KeeperLost,
    Record,
    Refused,
    Started,
    Taken,
    Written,
    kept_screen,
)
from cmdop_appliance.agent.opener import Opener
from cmdop_appliance.agent.outbox import Outbox
from cmdop_appliance.agent.policy import Policy
from cmdop_appliance.agent.recovery import ending_of, exit_of
from cmdop_appliance.agent.terminal import Terminal
from cmdop_appliance.agent.watches import Watches
from cmdop_appliance.ids import is_id
from cmdop_appliance.protocol.limits import INVENTORY_ITEMS, TERMINALS, WATCHES
from cmdop_appliance.protocol.terminals import (
    FromHub,
    Size,
    TerminalCredit,
    TerminalEnd,
    TerminalEnded,
    TerminalFailed,
    TerminalForget,
    TerminalInput,
    TerminalOpen,
    TerminalResize,
    TerminalTaken,
    TerminalUnwatch,
    TerminalWatch,
)
from cmdop_appliance.protocol.terminals import Terminals as Inventory

log = logging.getLogger("cmdop.agent.terminals")

# What waits to be begun, each a pass of the loop: openings and looks at live terminals, readers.
_TO_DO: Final = 2 * TERMINALS + WATCHES
# The keeper is asked so often whether a coding session writes, however much that is.
_ASK_S: Final = 0.25


class Terminals:
    """The terminals of one state directory; lives as long as the agent."""

    def __init__(
        self,
        state_dir: Path,
        journal: Journal,
        outbox: Outbox,
        policy: Policy,
        coding: CodingSessions,
    ) -> None:
        self._state_dir = state_dir
        self._journal = journal
        self._waiting_s = policy.coding.waiting_ms / 1000
        self._coding = coding
        self._opener = Opener(state_dir, policy, coding, self._wait_keeper)
        self._known: dict[str, Terminal] = {}
        self._watches = Watches(state_dir, outbox, self._wait_output)
        # What was noted must be done though the connection ends, so handing it over never waits.
        self._new, self._to_do = trio.open_memory_channel[Callable[[], Awaitable[None]]](_TO_DO)
        self._keeper: Keeper | None = None
        self._met = trio.Event()  # there is a keeper
        self._was_settled = False  # with a keeper, for the first time
        self._answers = Answers(outbox)

    async def run(self) -> None:
        """Open terminals, serve their readers and tell of them until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answers.run)
            async for job in self._to_do:
                nursery.start_soon(job)

    def begin(self) -> None:
        """A connection is ready: tell which terminals there are, and which ended or wait."""
        known = [terminal.known() for terminal in self._known.values()]
        for start in range(0, len(known) or 1, INVENTORY_ITEMS):
            end = start + INVENTORY_ITEMS
            part = Inventory(terminals=known[start:end], is_last=end >= len(known))
            self._answers.say(part, str(start))
        for terminal in self._known.values():
            if terminal.ended is not None:
                self._tell(terminal)
            elif terminal.is_waiting is not None and terminal.is_coding:
                self._answers.say(terminal.waiting(), terminal.id)

    def hold(self) -> None:
        """The connection has ended, and nobody reads there any more."""
        self._watches.hold()

    async def end_all(self) -> None:
        """The machine was removed from its hub: end every terminal, and let go of all."""
        for terminal in list(self._known.values()):
            self._journal.forget(terminal.id)
            if self._keeper is not None and terminal.ended is None:
                with suppress(KeeperLost):  # it ends with its keeper
                    await self._keeper.cancel(terminal.id)

    # ── what the hub says ────────────────────────────────────────────────────────────────────

    async def hear(self, message: FromHub) -> None:
        """Take what the hub says; waits for no disk.

        Raises:
            RemoteProtocolError: it does not belong here.
        """
        await self._answers.wait_room()
        with suppress(KeeperLost):  # the records of the next keeper tell what became of it
            match message:
                case TerminalOpen():
                    self._take_up(message)
                case TerminalEnd():
                    await self._end(message.id)
                case TerminalForget():
                    await self._forget(message.ids)
                case TerminalResize():
                    await self._resize(message.id, message.size)
                case TerminalInput():
                    await self._type(message)
                case TerminalWatch():
                    await self._watch(message)
                case TerminalCredit():
                    self._watches.allow(message.watch, message.offset)
                case TerminalUnwatch():
                    self._watches.end(message.watch)

    def _take_up(self, message: TerminalOpen) -> None:
        if message.id in self._journal.tombstones:
            self._answers.say(forgotten(message.id), message.id)
        elif (terminal := self._known.get(message.id)) is not None:
            self._tell(terminal)
        elif sum(terminal.ended is None for terminal in self._known.values()) >= TERMINALS:
            text = f"{TERMINALS} terminals are open on this machine: no more can be; end some first"
            self._fail(message.id, "too_many", text)
        else:
            terminal = self._known[message.id] = Terminal(message.id, message.size)
            self._new.send_nowait(partial(self._open, terminal, message))

    async def _end(self, terminal_id: str) -> None:
        terminal = self._known.get(terminal_id)
        if terminal_id in self._journal.tombstones:
            self._answers.say(forgotten(terminal_id), terminal_id)
        elif terminal is None:  # it was never opened, and never will be
            self._journal.forget(terminal_id)
            self._answers.say(TerminalEnded(id=terminal_id, end="cancelled"), terminal_id)
        elif terminal.ended is not None:
            self._tell(terminal)
        else:
            terminal.is_ending = True
            if terminal.phase is not Phase.QUEUED and self._keeper is not None:
                await self._keeper.cancel(terminal_id)

    async def _forget(self, terminal_ids: Iterable[str]) -> None:
        ended = [
            terminal_id
            for terminal_id in dict.fromkeys(terminal_ids)
            if terminal_id in self._known and self._known[terminal_id].ended is not None
        ]
        for terminal_id in ended:
            del self._known[terminal_id]
            self._journal.forget(terminal_id)
        if ended and self._keeper is not None:
            await self._keeper.forget(ended)

    async def _resize(self, terminal_id: str, size: Size) -> None:
        terminal = self._known.get(terminal_id)
        if terminal is None or terminal.ended is not None:
            return
        terminal.size = size
        if terminal.attention is not None:
            terminal.attention.resized(trio.current_time())
        if self._keeper is not None:
            await self._keeper.resize(terminal_id, size.cols, size.rows)

    async def _type(self, message: TerminalInput) -> None:
        terminal = self._known.get(message.id)
        if terminal is None or terminal.phase is not Phase.RUNNING or self._keeper is None:
            return
        if terminal.attention is not None:
            terminal.attention.typed(trio.current_time())
            if terminal.is_waiting is not False:
                terminal.change()
        await self._keeper.type(message.id, message.writer, message.offset, message.data)

    async def _watch(self, message: TerminalWatch) -> None:
        terminal = self._known.get(message.id)
        self._new.send_nowait(self._watches.begin(message.watch, terminal, message.offset))
        await trio.lowlevel.checkpoint()  # readers that come and go in one frame fill no queue
        if terminal is not None and self._keeper is not None and not message.quiet:
            await self._keeper.touch(message.id)

    async def _open(self, terminal: Terminal, message: TerminalOpen) -> None:
        await self._opener.open(terminal, message)
        if terminal.refusal is not None:
            self._fail(terminal.id, *terminal.refusal)
        elif terminal.slot is None:  # its end was wanted sooner
            self._tell(terminal)

    def _fail(self, terminal_id: str, code: str, message: str) -> None:
        log.warning("not opened", extra={"terminal_id": terminal_id, "reason": message})
        self._known.pop(terminal_id, None)
        self._journal.forget(terminal_id)
        self._answers.say(TerminalFailed(id=terminal_id, code=code, message=message), terminal_id)

    async def _wait_keeper(self) -> Keeper:
        while self._keeper is None:
            await self._met.wait()
        return self._keeper

    # ── what the keeper says ─────────────────────────────────────────────────────────────────

    async def settle(self, keeper: Keeper) -> None:
        """There is a keeper, maybe another: learn from its records which terminals there are."""
        done = []
        for terminal_id, record in keeper.records.items():
            if is_id("cmd", terminal_id):
                continue
            if terminal_id in self._known:
                continue
            if record.state == "refused":  # and nobody was told
                self._journal.forget(terminal_id)
            if terminal_id not in self._journal.tombstones:
                self._adopt(record)
            elif record.state == "running":
                await keeper.cancel(terminal_id)
            else:
                done.append(terminal_id)
        if done:
            await keeper.forget(done)
        self._keeper = keeper
        for terminal in list(self._known.values()):
            if terminal.phase in (Phase.STARTING, Phase.RUNNING):
                await self._settle_one(terminal, keeper)
        self._met.set()
        if not self._was_settled:
            self._was_settled = True
            self._new.send_nowait(partial(self._coding.settle, frozenset(self._known)))

    def lose(self) -> None:
        """The keeper has gone, or its connection."""
        self._keeper = None
        self._met = trio.Event()

    async def heard(self, event: Event) -> None:
        """The keeper tells of a terminal. Waits for no link."""
        terminal = self._known.get(event.id)
        if terminal is None:
            await self._let_go(event)
            return
        match event:
            case Started():
                terminal.start(event.slot, event.started_ms)
                terminal.is_waiting = False
                self._attend(terminal)
                self._tell(terminal)
            case Refused():
                if self._keeper is not None:
                    await self._keeper.forget([event.id])
                terminal.refuse(event.code, event.message)
            case Written():
                terminal.write(event.end)
            case Taken():
                taken = TerminalTaken(id=event.id, writer=event.writer, offset=event.offset)
                self._answers.say(taken, event.id, event.writer)
            case Exited():
                self._finish(terminal, exit_of(event, terminal.started_ms))

    async def _let_go(self, event: Event) -> None:
        """Nobody knows of it any more: its machine was removed, or an opening failed midway."""
        if self._keeper is None:
            return
        if isinstance(event, Started):
            await self._keeper.cancel(event.id)
        elif isinstance(event, Exited | Refused):
            await self._keeper.forget([event.id])

    def _adopt(self, record: Record) -> None:
        size = Size(record.cols, record.rows)
        terminal = self._known[record.id] = Terminal(record.id, size)
        terminal.phase = Phase.RUNNING

    async def _settle_one(self, terminal: Terminal, keeper: Keeper) -> None:
        record = keeper.records.get(terminal.id)
        end = 0
        if record is not None and record.slot is not None:
            terminal.slot = record.slot
            end = kept_screen(self._state_dir, record.slot)[1]
        ending = ending_of(None, record, keeper.boot_id, (end, 0))
        if ending is None:
            assert record is not None
            assert record.slot is not None
            terminal.start(record.slot, record.started_ms)
            terminal.write(end)
            self._attend(terminal)
            self._tell(terminal)
            if terminal.is_ending:
                await keeper.cancel(terminal.id)
        elif ending.end == "failed":
            await keeper.forget([terminal.id])
            terminal.refuse(str(ending.reason), str(ending.message))
        else:
            self._finish(terminal, ending)

    async def _wait_output(self, terminal: Terminal, offset: int) -> None:
        """Return once the keeper has told of output behind `offset`, or of its end."""
        while terminal.written <= offset and terminal.end is None:
            changed = terminal.changed
            await self._ask_for_more(terminal, offset)
            await changed.wait()

    async def _ask_for_more(self, terminal: Terminal, offset: int) -> None:
        if self._keeper is not None and not terminal.is_asked_for:
            terminal.is_asked_for = True
            with suppress(KeeperLost):  # asked anew when it is settled
                await self._keeper.watch(terminal.id, offset)

    def _attend(self, terminal: Terminal) -> None:
        """Have it told from now on whether a coding session waits for somebody."""
        if terminal.is_coding and terminal.attention is None:
            terminal.attention = Attention(self._waiting_s)
            if terminal.written:  # an earlier agent saw when
                terminal.attention.wrote(trio.current_time())
            self._new.send_nowait(partial(self._look, terminal, terminal.attention))

    async def _look(self, terminal: Terminal, attention: Attention) -> None:
        begun = attention.deadline
        ask_at = -math.inf
        while terminal.attention is attention:
            changed, now = terminal.changed, trio.current_time()
            on = attention.is_waiting(now)
            # What an earlier agent told holds until something happens.
            is_news = terminal.is_waiting is not None or on or attention.deadline != begun
            if is_news and on is not terminal.is_waiting:
                terminal.is_waiting = on
                self._answers.say(terminal.waiting(), terminal.id)
            if now >= ask_at:
                ask_at = now + _ASK_S
                await self._ask_for_more(terminal, terminal.written)
            due = math.inf if on or attention.deadline is None else attention.deadline
            with trio.move_on_at(due if terminal.is_asked_for else min(due, ask_at)):
                await changed.wait()

    # ── what the hub is told ─────────────────────────────────────────────────────────────────

    def _finish(self, terminal: Terminal, ending: Ending) -> None:
        terminal.finish(ending)
        self._tell(terminal)
        log.debug("terminal ended", extra={"terminal_id": terminal.id, "end": ending.end})

    def _tell(self, terminal: Terminal) -> None:
        """How it is now, once that is known."""
        if terminal.ended is not None:
            self._answers.say(terminal.ended, terminal.id)
        elif terminal.phase is Phase.RUNNING:
            self._answers.say(terminal.opened(), terminal.id)


def forgotten(terminal_id: str) -> TerminalEnded:
    """For a hub that asks for an id it let go of, because it was restored from a backup."""
    return TerminalEnded(
        id=terminal_id,
        end="lost",
        reason="forgotten",
        message="this terminal has ended before, and the hub let go of it",
    )
