"""What one connection of a machine tells of its terminals, recorded in the order it was said.

Each is looked up as (terminal id, machine of this connection): an agent can speak only of its own.
"""

import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Concatenate, Final, ParamSpec, TypeVar

import trio

from cmdop_appliance.errors import RemoteProtocolError, TerminalNotFound
from cmdop_appliance.hub.connection import LinkClosed
from cmdop_appliance.hub.lifecycle import StaleConnection, between
from cmdop_appliance.hub.line import Line
from cmdop_appliance.hub.services import SessionServices
from cmdop_appliance.hub.terminal_link import TerminalLink, Typed, typed_subject
from cmdop_appliance.hub.terminals import lose_opening, name_of, opening_of
from cmdop_appliance.ids import made_ms
from cmdop_appliance.model import Machine, Terminal
from cmdop_appliance.protocol.limits import INVENTORY_ITEMS, TERMINALS
from cmdop_appliance.protocol.messages import clean
from cmdop_appliance.protocol.terminals import (
    Coding,
    KnownTerminal,
    Shell,
    Size,
    TerminalEnd,
    TerminalEnded,
    TerminalFailed,
    TerminalForget,
    TerminalOpen,
    TerminalOpened,
    TerminalResize,
    Terminals,
    TerminalTaken,
    TerminalWaiting,
    Worktree,
)
from cmdop_appliance.store import machines
from cmdop_appliance.store import terminals as rows
from cmdop_appliance.store.transaction import Tx, brief, reads

P = ParamSpec("P")
T = TypeVar("T")

# What a machine tells of its terminals themselves.
Told = Terminals | TerminalOpened | TerminalFailed | TerminalEnded | TerminalTaken | TerminalWaiting
M = TypeVar("M", bound=Told)

# Reports that wait to be recorded; the reader waits beyond.
_UNRECORDED: Final = 64
# Terminals that an agent may name while it connects: far more than end while a hub is away.
_NAMED: Final = 10_000
# A session that waits makes an event each time: a connection can have one in so long.
_ATTENTION_S: Final = 0.1
# What has ended is kept by its machine until nobody reads it, but at least for so long, in which
# whoever reads may come back, and at most for so long.
_KEPT_S: Final = 5.0
_KEPT_MOST_S: Final = 60.0
_LOOK_S: Final = 1.0
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")

_log = logging.getLogger("cmdop.hub.terminal_reports")


@dataclass(slots=True)
class _Mended:
    """What the store knows of a machine's terminals, and what is to be said to the machine."""

    live: list[str] = field(default_factory=list)  # ids of those that have not ended
    strange: set[str] = field(default_factory=set)  # of those that run, and are not kept here
    to_say: list[TerminalOpen | TerminalResize | TerminalEnd] = field(default_factory=list)


class TerminalReports:
    """The terminals of a machine, as one connection of it knows them."""

    def __init__(self, services: SessionServices, line: Line, machine: Machine, epoch: int) -> None:
        self.link = TerminalLink(line)
        self.settled = trio.Event()  # what the agent knows was held against what the store knows
        self._services = services
        self._line = line
        self._machine = machine
        self._epoch = epoch
        self._named: dict[str, KnownTerminal] = {}  # until it is settled
        self._own: set[str] = set()  # live, and known to be this machine's
        self._strange: set[str] = set()  # that run there, and are not kept here
        self._ended: dict[str, float] = {}  # and not forgotten there; when that was recorded
        self._attention_from = 0.0  # when the next session may be said to wait
        self._told: list[Told] = []  # and not recorded
        self._is_recording = False
        self._room: trio.Event | None = None  # set when there is some for more to be told

    async def hear(self, message: Told) -> bool:
        """Take what the machine says; waits while there is much to be recorded.

        True: it is time to `record`.
        """
        if isinstance(message, TerminalTaken) and message.id in self._own:
            subject = typed_subject(message.id, message.writer)
            self._services.bus.publish(subject, Typed(message.offset))
            return False
        while len(self._told) >= _UNRECORDED:
            self._room = trio.Event()
            await self._room.wait()
        self._told.append(message)
        is_idle, self._is_recording = not self._is_recording, True
        return is_idle

    async def record(self, nursery: trio.Nursery) -> None:
        """Record what was said, in its order, until there is nothing left.

        What has ended is forgotten by a task of `nursery`.

        Raises:
            RemoteProtocolError, TerminalNotFound: it is not this machine's to say.
            StaleConnection: a newer connection speaks for the machine.
        """
        while self._told:
            message = self._told.pop(0)
            if self._room is not None:
                self._room.set()
            match message:
                case Terminals():
                    await self._take_named(message)
                case TerminalEnded():
                    await self._take_end(message, nursery)
                case _ if message.id in self._strange:
                    pass
                case TerminalOpened():
                    await self._opened(message)
                case TerminalFailed():
                    await self._record(_failed, message)
                case TerminalWaiting():
                    await self._take_waiting(message)
                case TerminalTaken():  # it has ended, or is another machine's
                    await self._record(_require_own, message)
        self._is_recording = False

    async def _let_forget(self) -> None:
        """Have the machine forget what has ended once nobody reads it.

        What it was not told before the connection is over it tells again on the next.
        """
        while self._ended:
            now = trio.current_time()
            done = [each for each, since in self._ended.items() if self._is_done(each, now - since)]
            for start in range(0, len(done), INVENTORY_ITEMS):
                ids = done[start : start + INVENTORY_ITEMS]
                with suppress(LinkClosed):
                    self._line.say_later(TerminalForget(ids=ids))
            for each in done:
                del self._ended[each]
            if self._ended:
                await trio.sleep(_LOOK_S)

    def _is_done(self, terminal_id: str, ended_s: float) -> bool:
        return ended_s >= (_KEPT_MOST_S if self.link.is_read(terminal_id) else _KEPT_S)

    async def _take_end(self, message: TerminalEnded, nursery: trio.Nursery) -> None:
        is_known = await self._record(_ended, message)
        self._own.discard(message.id)
        if is_known:
            if not self._ended:
                nursery.start_soon(self._let_forget)
            self._ended.setdefault(message.id, trio.current_time())
        else:  # nobody can read it
            self._line.say_later(TerminalForget(ids=[message.id]))

    async def _take_named(self, message: Terminals) -> None:
        if self.settled.is_set():
            raise RemoteProtocolError("terminals are named once on each connection")
        self._named |= {known.id: known for known in message.terminals}
        if len(self._named) > _NAMED:
            raise RemoteProtocolError(f"an inventory of more than {_NAMED} terminals")
        if message.is_last:
            await self._settle()

    async def _settle(self) -> None:
        """Hold what the agent knows against what the store knows, and mend the difference."""
        running = sum(known.phase == "running" for known in self._named.values())
        if running > TERMINALS:
            raise RemoteProtocolError(f"more than {TERMINALS} terminals that run")
        services = self._services
        now_ms = services.clock.now_ms()
        mended = await services.store.run(_mend, self._machine, self._epoch, self._named, now_ms)
        self._named.clear()
        self._own.update(mended.live)
        self._strange = mended.strange
        for message in mended.to_say:
            self.link.post(message)
        self.settled.set()

    async def _opened(self, message: TerminalOpened) -> None:
        terminal = await self._record(_opened, message)
        if not self.settled.is_set():
            self._named[message.id] = KnownTerminal(id=message.id, phase="running")
        if terminal.is_ending or terminal.status == "ended":
            self.link.post(TerminalEnd(id=message.id))
        else:
            self._own.add(message.id)

    async def _take_waiting(self, message: TerminalWaiting) -> None:
        if message.on:
            await trio.sleep_until(self._attention_from)
            self._attention_from = trio.current_time() + _ATTENTION_S
        operators, _ = self._services.viewings.count(message.id)
        await self._record(_waiting, message, is_attended=operators > 0)

    async def _record(
        self,
        fn: Callable[Concatenate[Tx, Machine, int, M, int, P], T],
        message: M,
        *args: P.args,
        **more: P.kwargs,
    ) -> T:
        services = self._services
        now_ms = services.clock.now_ms()
        return await services.store.run(
            fn, self._machine, self._epoch, message, now_ms, *args, **more
        )


# ── as transactions ──────────────────────────────────────────────────────────────────────────────


def _mend(
    tx: Tx, machine: Machine, epoch: int, named: Mapping[str, KnownTerminal], now_ms: int
) -> _Mended:
    """What its machine does not name has ended; what is not known here is kept, if it runs.

    Raises:
        TerminalNotFound: it names another machine's.
        StaleConnection: a newer connection speaks for the machine.
    """
    _require_newest(tx, machine, epoch)
    mended = _Mended()
    for terminal in rows.live_of(tx, machine.id):
        known = named.get(terminal.id)
        if known is None:
            _lose(tx, terminal, now_ms)
            continue
        mended.live.append(terminal.id)
        tx.notify(rows.subject_of(terminal.id))  # its machine is back
        if known.phase == "running":
            mended.to_say.append(_word_for(terminal))
    running = {known.id for known in named.values() if known.phase == "running"}
    for terminal_id in sorted(running.difference(mended.live)):
        if rows.find(tx, terminal_id) is None:
            adopted = []
            if len(mended.live) < TERMINALS:
                adopted = _adopt(tx, machine, terminal_id, now_ms)
            mended.live += adopted
            mended.strange |= {terminal_id}.difference(adopted)
        else:
            _own(tx, machine, epoch, terminal_id)
            mended.to_say.append(TerminalEnd(id=terminal_id))  # it has ended here
    return mended


def _word_for(terminal: Terminal) -> TerminalOpen | TerminalResize | TerminalEnd:
    """What its machine may not have heard while it was away."""
    if terminal.is_ending:
        return TerminalEnd(id=terminal.id)
    if terminal.status == "starting":
        return opening_of(terminal)  # once more, so that it says how it went
    return TerminalResize(id=terminal.id, size=Size(terminal.cols, terminal.rows))


def _lose(tx: Tx, terminal: Terminal, now_ms: int) -> None:
    if terminal.status == "starting":
        lose_opening(tx, terminal, now_ms)
        return
    rows.end(
        tx,
        terminal,
        "lost",
        ended_ms=now_ms,
        now_ms=now_ms,
        code="keeper_killed",
        message="what held the machine's terminals was ended, and this one with it",
    )


def _adopt(tx: Tx, machine: Machine, terminal_id: str, now_ms: int) -> list[str]:
    """Keep one of which only its machine knows: this hub was restored from a backup.

    No event tells of it: else a machine could make up as many as it likes.
    """
    is_coding = terminal_id.startswith("session_")
    what = Coding(directory="", flavour="unknown") if is_coding else Shell()
    name, made = name_of(terminal_id, what), min(made_ms(terminal_id), now_ms)
    if rows.named(tx, machine.id, name) is not None:
        return []
    rows.insert(
        tx,
        Terminal(
            id=terminal_id,
            workspace_id=machine.workspace_id,
            machine_id=machine.id,
            kind="coding_session" if is_coding else "terminal",
            name=name,
            status="running",
            what=what,
            cols=Size().cols,
            rows=Size().rows,
            caller_email="",
            is_recorded=False,
            created_ms=made,
            started_ms=made,
            changed_ms=now_ms,
        ),
    )
    _log.warning("terminal adopted", extra={"machine_id": machine.id, "terminal_id": terminal_id})
    return [terminal_id]


@brief
def _opened(tx: Tx, machine: Machine, epoch: int, message: TerminalOpened, now_ms: int) -> Terminal:
    """The record as it was before."""
    terminal = _own(tx, machine, epoch, message.id)
    tree = message.worktree
    rows.start(
        tx,
        terminal,
        started_ms=between(terminal.created_ms, message.started_ms, now_ms),
        directory=_clean(message.directory),
        worktree=tree
        and Worktree(
            repository=clean(tree.repository),
            path=clean(tree.path),
            branch=clean(tree.branch),
            name=clean(tree.name),
        ),
        now_ms=now_ms,
    )
    return terminal


@brief
def _failed(tx: Tx, machine: Machine, epoch: int, message: TerminalFailed, now_ms: int) -> None:
    terminal = _own(tx, machine, epoch, message.id)
    if terminal.status == "starting":
        rows.end(
            tx,
            terminal,
            "failed",
            ended_ms=now_ms,
            now_ms=now_ms,
            code=_code_of(message.code),
            message=clean(message.message),
        )


@brief
def _ended(tx: Tx, machine: Machine, epoch: int, message: TerminalEnded, now_ms: int) -> bool:
    """Record an end, unless one was there before. False: it is kept no longer."""
    if rows.find(tx, message.id) is None:
        return False
    terminal = _own(tx, machine, epoch, message.id)
    started_ms = terminal.started_ms
    if started_ms is None and message.started_ms is not None:  # that it was open was not heard
        started_ms = between(terminal.created_ms, message.started_ms, now_ms)
        rows.start(
            tx, terminal, started_ms=started_ms, directory=None, worktree=None, now_ms=now_ms
        )
    ended_ms = now_ms
    if started_ms is not None and message.duration_ms is not None:
        ended_ms = between(started_ms, started_ms + message.duration_ms, now_ms)
    rows.end(
        tx,
        terminal,
        message.end,
        ended_ms=ended_ms,
        now_ms=now_ms,
        exit_code=message.exit_code,
        signal=_clean(message.signal),
        code=_code_of(message.reason),
        message=_clean(message.message),
    )
    return True


@brief
def _waiting(
    tx: Tx,
    machine: Machine,
    epoch: int,
    message: TerminalWaiting,
    now_ms: int,
    *,
    is_attended: bool,
) -> None:
    terminal = _own(tx, machine, epoch, message.id)
    rows.set_waiting(tx, terminal, on=message.on, now_ms=now_ms, is_attended=is_attended)


@brief
@reads
def _require_own(tx: Tx, machine: Machine, epoch: int, message: TerminalTaken, now_ms: int) -> None:
    _own(tx, machine, epoch, message.id)


def _own(tx: Tx, machine: Machine, epoch: int, terminal_id: str) -> Terminal:
    """A terminal of which this connection of its machine may speak.

    Raises:
        TerminalNotFound: it is not this machine's.
        StaleConnection: a newer connection speaks for the machine.
    """
    _require_newest(tx, machine, epoch)
    terminal = rows.find(tx, terminal_id)
    if terminal is None or terminal.machine_id != machine.id:
        raise TerminalNotFound("not a terminal of this machine", terminal_id=terminal_id)
    return terminal


def _require_newest(tx: Tx, machine: Machine, epoch: int) -> None:
    if machines.epoch_of(tx, machine.id) != epoch:
        raise StaleConnection


# ── as it may be shown ───────────────────────────────────────────────────────────────────────────


def _clean(text: str | None) -> str | None:
    return None if text is None else clean(text)


def _code_of(text: str | None) -> str | None:
    """A machine's stable word, if it is one."""
    return text if text is None or _CODE.fullmatch(text) else "unknown"
