"""A scripted machine with terminals, and what is asked of it."""

from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import trio

from cmdop_appliance.hub.terminal_link import find_terminal_link
from cmdop_appliance.hub.terminals import Opened, Opening
from cmdop_appliance.model import AuditEntry, Terminal
from cmdop_appliance.protocol.terminals import (
    Coding,
    KnownTerminal,
    Shell,
    TerminalEnded,
    TerminalOpen,
    TerminalOpened,
)
from cmdop_appliance.store import audit, events, terminals
from cmdop_appliance.store.listing import Paging
from tests.support.live_hub import BOUND, CALLER, Link, LiveHub, ScriptedAgent
from tests.support.records import NOW, REACH, WORKSPACE

SHELL = Opening(kind="terminal", what=Shell(argv=["vim"]))
NAMED = Opening(kind="terminal", what=Shell(), name="main")
CODING = Opening(kind="coding_session", what=Coding(directory="~", flavour="codex", yolo=True))


@dataclass
class PtyMachine:
    """A machine whose agent knows terminals, and the link that it has now."""

    live: LiveHub
    agent: ScriptedAgent
    link: Link
    machine_id: str

    async def ask(self, opening: Opening = SHELL, **more) -> Opened:
        with trio.fail_after(BOUND):
            return await self.live.hub.terminals.open(CALLER, self.machine_id, opening, **more)

    async def opened(self, opening: Opening = SHELL, **said) -> Terminal:
        """A terminal that the machine has opened."""
        async with self.answering(**said):
            return (await self.ask(opening)).terminal

    @asynccontextmanager
    async def answering(self, **said):
        """The machine opens what it is asked for next."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(self.open_next, **said))
            yield

    async def open_next(self, **said) -> TerminalOpen:
        asked = await self.link.expect(TerminalOpen)
        await self.link.say(TerminalOpened(id=asked.id, **{"started_ms": NOW, **said}))
        return asked

    async def ended(self, terminal_id: str, **said) -> Terminal:
        """The machine tells of an end, and it is recorded."""
        said = {"end": "exited", **said}
        await self.link.say(TerminalEnded(id=terminal_id, **said))
        return await self.until(terminal_id, status="ended")

    async def again(self, *known: tuple[str, str]) -> None:
        """The machine comes back, and names these terminals."""
        self.agent.terminals = [KnownTerminal(id=name, phase=phase) for name, phase in known]
        if not self.link.over.is_set():
            await self.link.cut()
        self.link = await self.agent.connect()

    async def settled(self) -> None:
        """What the machine has named is recorded."""
        with trio.fail_after(BOUND):
            await find_terminal_link(self.live.hub.bus, self.machine_id)

    async def row(self, terminal_id: str) -> Terminal:
        row = await self.live.hub.store.run(terminals.find, terminal_id)
        assert row is not None
        return row

    async def until(self, terminal_id: str, **fields) -> Terminal:
        """The record, once it is so."""
        with trio.fail_after(BOUND):
            with self.live.hub.bus.subscribe(terminals.subject_of(terminal_id)) as changes:
                while True:
                    row = await self.row(terminal_id)
                    if all(getattr(row, name) == value for name, value in fields.items()):
                        return row
                    await changes.next()

    async def recorded(self) -> list[AuditEntry]:
        paging = Paging(limit=100, sort="created_at")
        page = await self.live.hub.store.run(audit.page, WORKSPACE, paging)
        return [each for each in page.items if each.action.startswith(("terminal", "coding"))]

    async def told(self) -> list[str]:
        found = await self.live.hub.store.run(events.after, REACH, 0, 100)
        return [each.type for each in found if each.type.startswith("coding")]


async def joined(live: LiveHub) -> PtyMachine:
    """A new machine."""
    agent = ScriptedAgent(live)
    agent.features = ["files", "terminals"]
    link = await agent.join()
    return PtyMachine(live, agent, link, (await agent.machine()).id)
