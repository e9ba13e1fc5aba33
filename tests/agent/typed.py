"""Terminals that a test opens on an agent, types into and looks at."""

from pathlib import Path
from typing import TypeVar

from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.frames import Screen
from cmdop_appliance.protocol.limits import WATCH_BYTES
from cmdop_appliance.protocol.terminals import (
    Shell,
    Size,
    TerminalCredit,
    TerminalDone,
    TerminalGap,
    TerminalInput,
    TerminalOpen,
    TerminalOpened,
    TerminalWatch,
    TerminalWatched,
)
from cmdop_appliance.protocol.words import Message
from tests.support.hub_peer import Peer

M = TypeVar("M", bound=Message)

WRITER = "0f" * 16


async def ask_for(
    peer: Peer,
    *argv: str,
    again: str | None = None,
    size: Size = Size(),  # noqa: B008 - it is frozen
    operator: str | None = None,
    **shell: object,
) -> str:
    """Have a terminal opened; its answer is not waited for."""
    terminal_id = again or new_id("term")
    what = Shell(argv=list(argv), **shell)
    await peer.send(TerminalOpen(id=terminal_id, what=what, size=size, operator=operator))
    return terminal_id


async def open_terminal(peer: Peer, *argv: str, **fields: object) -> str:
    """A terminal that runs."""
    terminal_id = await ask_for(peer, *argv, **fields)
    await told(peer, TerminalOpened, terminal_id)
    return terminal_id


async def told(peer: Peer, kind: type[M], terminal_id: str) -> M:
    """The first message of this kind about this terminal on this connection."""
    while True:
        for item in peer.heard_of(terminal_id):
            if isinstance(item, kind):
                return item
        await peer.receive()


async def type_in(
    peer: Peer, terminal_id: str, data: bytes, offset: int = 0, writer: str = WRITER
) -> None:
    await peer.send(TerminalInput(id=terminal_id, writer=writer, offset=offset, data=data))


class Reader:
    """One watch, as its hub sees it; it may be behind what the hub has heard."""

    def __init__(self, peer: Peer, number: int) -> None:
        self.peer = peer
        self.number = number
        self.watched: TerminalWatched | None = None
        self.at = 0  # offset behind the last byte
        self.data = b""  # since the last gap
        self.gaps = 0
        self.is_done = False
        self._heard = len(peer.heard)

    async def read(self, *, grants: bool = True) -> None:
        """The next that is said to this reader."""
        while True:
            if self._heard == len(self.peer.heard):
                await self.peer.receive()
            item = self.peer.heard[self._heard]
            self._heard += 1
            if getattr(item, "watch", None) != self.number:
                continue
            match item:
                case TerminalWatched():
                    self.watched, self.at = item, item.offset
                case Screen():
                    assert item.offset == self.at
                    self.at += len(item.data)
                    self.data += item.data
                case TerminalGap():
                    assert item.offset > self.at
                    self.at, self.data = item.offset, b""
                    self.gaps += 1
                case TerminalDone():
                    assert item.end == self.at
                    self.is_done = True
            if grants and not self.is_done:
                await self.grant()
            return

    async def grant(self) -> None:
        await self.peer.send(TerminalCredit(watch=self.number, offset=self.at + WATCH_BYTES))

    async def read_until(self, text: bytes) -> None:
        """Until the terminal has written this."""
        while text not in self.data:
            assert not self.is_done, self.data
            await self.read()

    async def read_all(self) -> bytes:
        """All to the end."""
        while not self.is_done:
            await self.read()
        return self.data


async def watch(peer: Peer, terminal_id: str, number: int = 1, offset: int | None = None) -> Reader:
    """A reader that was told from where on it reads."""
    reader = Reader(peer, number)
    await peer.send(TerminalWatch(watch=number, id=terminal_id, offset=offset))
    await reader.read(grants=False)
    return reader


def screens(state_dir: Path) -> list[Path]:
    """What terminals wrote, as far as it is kept."""
    return list((state_dir / "keeper" / "output").glob("*.pty/*"))
