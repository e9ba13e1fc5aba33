"""A terminal on a scripted machine, and clients at its socket."""

import json
import struct
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from cmdop_appliance.protocol.frames import Screen
from cmdop_appliance.protocol.terminals import (
    Size,
    TerminalInput,
    TerminalWatch,
    TerminalWatched,
)
from cmdop_appliance.store import audit
from cmdop_appliance.store.listing import Paging
from tests.api.terminal_site import BOUND, Key, Site, site
from tests.hub.scripted_terminals import PtyMachine, joined

WRITER = "0123456789abcdef" * 2
START = {"type": "start", "offset": None, "cols": 80, "rows": 24, "writer": WRITER}
LOOK = {"type": "start", "mode": "observer"}


class Viewer:
    """A client at its socket."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.socket = socket
        self.said: list[dict[str, Any]] = []  # in text

    async def say(self, message: dict[str, Any]) -> None:
        await self.socket.send_message(json.dumps(message))

    async def type(self, offset: int, keys: bytes) -> None:
        await self.socket.send_message(struct.pack(">Q", offset) + keys)

    async def resize(self, cols: int, rows: int) -> None:
        await self.say({"type": "resize", "cols": cols, "rows": rows})

    async def hear(self, kind: str) -> dict[str, Any]:
        """The next message of this kind."""
        with trio.fail_after(BOUND):
            while True:
                message = await self.socket.get_message()
                if isinstance(message, str):
                    self.said.append(json.loads(message))
                    if self.said[-1]["type"] == kind:
                        return self.said[-1]

    async def see(self) -> tuple[int, bytes]:
        """The next piece of output, and the offset behind it."""
        with trio.fail_after(BOUND):
            while not isinstance(message := await self.socket.get_message(), bytes):
                self.said.append(json.loads(message))
        return int.from_bytes(message[:8], "big"), message[8:]

    async def closed(self) -> tuple[int, str]:
        """How the hub ends it."""
        with trio.fail_after(BOUND):
            while True:
                try:
                    message = await self.socket.get_message()
                except ConnectionClosed as closed:
                    return closed.reason.code, closed.reason.reason or ""
                if isinstance(message, str):
                    self.said.append(json.loads(message))


class Room:
    """A terminal on a scripted machine, and its socket."""

    def __init__(self, there: Site, machine: PtyMachine, terminal_id: str, key: Key) -> None:
        self.site = there
        self.hub = there.hub
        self.machine = machine
        self.terminal_id = terminal_id
        self.path = f"/api/v1/terminals/{terminal_id}/socket"
        self.key = key

    async def sit(self, key: Key | None = None, **start: Any) -> Viewer:
        """A client that has connected, and begun."""
        socket = await self.site.connect(self.path, (key or self.key).header)
        viewer = Viewer(socket)
        await viewer.say({**START, **start})
        return viewer

    async def watched(self, offset: int = 0, end: int = 0) -> TerminalWatch:
        """The machine is asked for the screen, and says from where that comes."""
        while not isinstance(asked := await self.machine.link.hear(), TerminalWatch):
            pass
        await self.machine.link.say(
            TerminalWatched(watch=asked.watch, offset=offset, end=end, size=Size())
        )
        return asked

    async def write(self, asked: TerminalWatch, offset: int, data: bytes) -> None:
        await self.machine.link.say(Screen(asked.watch, offset, data))

    async def typed(self) -> TerminalInput:
        """What the machine is given to type next."""
        while not isinstance(message := await self.machine.link.hear(), TerminalInput):
            pass
        return message

    async def refusals(self) -> list[Any]:
        paging = Paging(100, 0, "created_at")
        return (
            await self.hub.store.run(
                audit.page, self.key.caller.workspace_id, paging, outcome="refused"
            )
        ).items


@asynccontextmanager
async def at_a_terminal(path, **options):
    with trio.fail_after(BOUND):
        async with site(path, **options) as there:
            machine = await joined(there.live)
            terminal = await machine.opened()
            yield Room(there, machine, terminal.id, await there.key())
