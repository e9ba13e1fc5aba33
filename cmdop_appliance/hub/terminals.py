"""Terminals and coding sessions, for callers: opened, resized, ended.

What is asked for is on disk before the machine hears of it, and so is what the machine tells before
anybody else does. Whoever waits is woken by the store, on `store.terminals.subject_of`.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import trio

from cmdop_appliance.auth import Caller
from cmdop_appliance.clock import Clock
from cmdop_appliance.config import TerminalsConfig
from cmdop_appliance.errors import (
    ApplianceError,
    Conflict,
    SessionNotActive,
    TerminalEnded,
    TerminalNotStarted,
    TerminalsNotSupported,
    TooManyTerminals,
    Unavailable,
)
from cmdop_appliance.hub.bus import Bus
from cmdop_appliance.hub.connection import LinkClosed
from cmdop_appliance.hub.terminal_link import TerminalLink, find_terminal_link
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Terminal, TerminalKind
from cmdop_appliance.protocol.limits import TERMINALS
from cmdop_appliance.protocol.terminals import (
    Coding,
    Shell,
    Size,
    TerminalEnd,
    TerminalOpen,
    TerminalResize,
)
from cmdop_appliance.store import audit, clients, commands, idempotency
from cmdop_appliance.store import terminals as rows
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.idempotency import Once
from cmdop_appliance.store.transaction import Tx, brief, reads

# A machine that has not opened a terminal within this has failed to.
OPEN_S: Final = 60.0
# Why an opening failed of which its machine said nothing.
NO_ANSWER: Final = "no_answer"
CONNECTION_LOST: Final = "connection_lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What is to be opened."""

    kind: TerminalKind
    what: Shell | Coding
    size: Size = field(default_factory=Size)
    name: str | None = None  # unique on its machine; default: made of its id
    is_recorded: bool | None = None  # default: as the hub is configured


@dataclass(frozen=True, slots=True)
class Opened:
    """A terminal that was opened, now or before."""

    terminal: Terminal
    created: bool  # False: one of this name was there, or the same request came before


class Terminals:
    """Opens and ends terminals."""

    def __init__(self, store: Store, bus: Bus, clock: Clock, config: TerminalsConfig) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self._config = config

    async def open(
        self, caller: Caller, machine_id: str, opening: Opening, once: Once | None = None
    ) -> Opened:
        """Open a terminal on a machine, or find the one of this name; waits until it runs.

        Raises:
            MachineNotFound, SessionNotActive, TerminalsNotSupported, Forbidden (an observer),
            TooManyTerminals, Conflict (the name is taken by another kind), IdempotencyConflict:
                nothing was recorded.
            TerminalNotStarted: the machine did not open it; `details.reason` is its word for why.
            Unavailable: the hub is stopping; nothing was recorded.
        """
        new = self._new(caller, machine_id, opening)
        made = await self._store.run(_let_in, caller, machine_id, once)
        if made is None:
            link = await find_terminal_link(self._bus, machine_id)
            made = await self._store.run(_enter, caller, new, once)
            if made.id == new.id:
                await self._ask(link, new)
        return Opened(await self._wait_opened(made), created=made.id == new.id)

    async def end(self, caller: Caller, terminal_id: str) -> Terminal:
        """Have a terminal ended; its machine is told now, or when it is back.

        Raises:
            TerminalNotFound, Forbidden, TerminalEnded: nothing was recorded.
        """
        terminal = await self._store.run(_request_end, caller, terminal_id, self._clock.now_ms())
        await self._say(terminal, TerminalEnd(id=terminal.id))
        return terminal

    async def resize(self, terminal: Terminal, size: Size) -> None:
        """Record how large its screen is; its machine is told now, or when it is back."""
        await self._store.run(rows.set_size, terminal.id, size)
        await self._say(terminal, TerminalResize(id=terminal.id, size=size))

    async def sweep(self) -> None:
        """Give up on what no machine has opened in time; should one do so yet, it is ended."""
        now_ms = self._clock.now_ms()
        await self._store.run(_give_up, now_ms - int(OPEN_S * 1000), now_ms)

    def _new(self, caller: Caller, machine_id: str, opening: Opening) -> Terminal:
        what = opening.what
        terminal_id = new_id("session" if opening.kind == "coding_session" else "term")
        now_ms = self._clock.now_ms()
        is_recorded = opening.is_recorded
        return Terminal(
            id=terminal_id,
            workspace_id=caller.workspace_id,
            machine_id=machine_id,
            kind=opening.kind,
            name=opening.name or name_of(terminal_id, what),
            status="starting",
            what=what,
            cols=opening.size.cols,
            rows=opening.size.rows,
            caller_email=caller.email,
            is_recorded=self._config.record if is_recorded is None else is_recorded,
            created_ms=now_ms,
            changed_ms=now_ms,
        )

    async def _ask(self, link: TerminalLink, new: Terminal) -> None:
        """Have the machine open what was recorded; a link that is lost before has lost it."""
        try:
            link.post(opening_of(new))
        except LinkClosed:
            with suppress(Unavailable):  # lost, when its machine is back and does not name it
                await self._store.run(lose_opening, new, self._clock.now_ms())

    async def _say(self, terminal: Terminal, message: TerminalEnd | TerminalResize) -> None:
        """Tell the machine; one that is away is told when it is back."""
        with suppress(SessionNotActive, TerminalsNotSupported, LinkClosed):
            (await find_terminal_link(self._bus, terminal.machine_id)).post(message)

    async def _wait_opened(self, terminal: Terminal) -> Terminal:
        """The record once its machine has opened it.

        Sooner when the hub is stopping: it is recorded, whatever becomes of the wait.
        """
        with self._bus.subscribe(rows.subject_of(terminal.id)) as changes, suppress(Unavailable):
            with trio.move_on_after(OPEN_S):
                while (terminal := await self._look(terminal.id)).status == "starting":
                    await changes.next()
            if terminal.status == "starting":
                await self.sweep()
                terminal = await self._look(terminal.id)
        _require_started(terminal)
        return terminal

    async def _look(self, terminal_id: str) -> Terminal:
        terminal = await self._store.run(rows.find, terminal_id)
        assert terminal is not None  # it was there a moment ago, and is kept for days
        return terminal


def name_of(terminal_id: str, what: Shell | Coding) -> str:
    """What a terminal is called for which no name was given."""
    kind = what.flavour if isinstance(what, Coding) else "term"
    return f"{kind}-{terminal_id[-6:].lower()}"


def opening_of(terminal: Terminal) -> TerminalOpen:
    """What its machine is told, the first time and again."""
    return TerminalOpen(
        id=terminal.id,
        what=terminal.what,
        size=Size(terminal.cols, terminal.rows),
        operator=terminal.caller_email,
    )


def lose_opening(tx: Tx, terminal: Terminal, now_ms: int) -> None:
    """Its machine has not opened it, and will not."""
    message = "the connection to the machine was lost before it was open"
    _fail(tx, terminal, CONNECTION_LOST, message, now_ms)


def _fail(tx: Tx, terminal: Terminal, code: str, message: str, now_ms: int) -> None:
    rows.end(tx, terminal, "failed", ended_ms=now_ms, now_ms=now_ms, code=code, message=message)


def _require_started(terminal: Terminal) -> None:
    """Pass if it runs, or did, or nobody knows.

    Raises:
        TooManyTerminals, TerminalsNotSupported, TerminalNotStarted: it never did.
    """
    if terminal.started_ms is not None or terminal.status == "starting":
        return
    message = terminal.message or "it was ended before it was open"
    refusals: dict[str | None, type[ApplianceError]] = {
        "too_many": TooManyTerminals,
        TerminalsNotSupported.code: TerminalsNotSupported,
    }
    kind = refusals.get(terminal.code, TerminalNotStarted)
    raise kind(message, reason=terminal.code or terminal.end, terminal_id=terminal.id)


@brief
@reads
def _let_in(tx: Tx, caller: Caller, machine_id: str, once: Once | None) -> Terminal | None:
    """What came of the same request before; None: it is new, and may be carried out."""
    if once is not None and (claim := idempotency.find(tx, once)) is not None:
        return rows.get(tx, caller.reach, claim.made_id)
    commands.live_session(tx, caller.reach, machine_id)
    clients.require_operator(tx, caller.key_id, machine_id)
    return None


@brief
def _enter(tx: Tx, caller: Caller, new: Terminal, once: Once | None) -> Terminal:
    """The terminal of this name, which is `new` unless one was there."""
    first = _let_in(tx, caller, new.machine_id, once)
    if first is not None:
        return first
    made = rows.named(tx, new.machine_id, new.name)
    if made is None:
        made = new
        if len(rows.live_of(tx, new.machine_id)) >= TERMINALS:
            raise TooManyTerminals(
                f"{TERMINALS} terminals are open on this machine, and no more can be",
                hint="end some that nobody needs: GET /api/v1/terminals?status=running",
            )
        rows.insert(tx, new)
        _record(tx, caller, new, new.created_ms)
    elif made.kind != new.kind:
        raise Conflict(
            f"a {made.kind.replace('_', ' ')} on this machine has the name {made.name}",
            hint="choose another name",
            terminal_id=made.id,
        )
    elif made.is_ending:
        raise Conflict(
            f"the {made.kind.replace('_', ' ')} {made.name} is about to end",
            hint="try again in a moment, or choose another name",
            terminal_id=made.id,
        )
    if once is not None:
        idempotency.claim(tx, once, made.id)
    return made


def _record(tx: Tx, caller: Caller, new: Terminal, now_ms: int) -> None:
    details: dict[str, object] = {"machine_id": new.machine_id, "name": new.name}
    match new.what:
        case Coding(flavour=flavour, yolo=yolo):
            details |= {"agent": flavour, "yolo": yolo}
            entry = Entry.by(caller, now_ms, "coding_session.opened", new.id, **details)
        case Shell(user=user):
            details |= {} if user is None else {"user": user}
            entry = Entry.by(caller, now_ms, "terminal.opened", new.id, **details)
    audit.append(tx, entry)


@brief
def _request_end(tx: Tx, caller: Caller, terminal_id: str, now_ms: int) -> Terminal:
    terminal = rows.get(tx, caller.reach, terminal_id)
    clients.require_operator(tx, caller.key_id, terminal.machine_id)
    if terminal.status == "ended":
        raise TerminalEnded("the terminal has ended already", terminal_id=terminal_id)
    if rows.request_end(tx, terminal):
        details = {"machine_id": terminal.machine_id, "name": terminal.name}
        audit.append(tx, Entry.by(caller, now_ms, "terminal.ended", terminal_id, **details))
    return rows.get(tx, caller.reach, terminal_id)


def _give_up(tx: Tx, until_ms: int, now_ms: int) -> None:
    for terminal in rows.unanswered(tx, until_ms):
        message = f"the machine did not open it within {OPEN_S:g} s"
        _fail(tx, terminal, NO_ANSWER, message, now_ms)
