"""The websocket of a terminal: what is said on it.

Text is JSON, bytes are the screen's or the keyboard's. A client begins with `start`; then it sends
`resize`, and keys: 8 bytes with their offset in all that it types, big-endian, then themselves. It
hears `hello` and then what happens, and the screen: 8 bytes with the offset behind this piece of
output, from which it may start again on another connection, then the piece.
"""

from collections.abc import Awaitable
from functools import partial
from typing import Final

import msgspec
import trio
from msgspec import Struct

from cmdop_appliance.api.cmdop.terminal_records import TerminalView, view_of
from cmdop_appliance.api.conversation import Closing, Conversation, Error, Told, decode
from cmdop_appliance.api.exchange import first_of
from cmdop_appliance.api.fields import Offset
from cmdop_appliance.api.terminal_handshake import ROUTE, Admission
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import Forbidden, RemoteProtocolError
from cmdop_appliance.hub import viewed
from cmdop_appliance.hub.connection import Connection, accept
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.hub.viewing import Viewing
from cmdop_appliance.model import ClientMode, Terminal, TerminalEnding
from cmdop_appliance.protocol.limits import INPUT_BYTES
from cmdop_appliance.protocol.terminals import Cells, Size, Writer
from cmdop_appliance.transfer import Room

_OFFSET_BYTES: Final = 8

# ── client → hub ─────────────────────────────────────────────────────────────────────────────────


class _Start(Struct, frozen=True, tag_field="type", tag="start"):
    """What the client wants to see, and what it may do."""

    offset: Offset | None = None  # of output; null: all that is kept
    cols: Cells | None = None  # of its screen; an operator must say so
    rows: Cells | None = None
    writer: Writer | None = None  # who types, on all its connections; an operator must say so
    mode: ClientMode | None = None  # default: operator, or what the ticket says


class _Resize(Struct, frozen=True, tag_field="type", tag="resize"):
    """The client's screen has this size now."""

    cols: Cells
    rows: Cells


_text: Final[msgspec.json.Decoder[_Start | _Resize]] = msgspec.json.Decoder(_Start | _Resize)

# ── hub → client ─────────────────────────────────────────────────────────────────────────────────


class Hello(Told, frozen=True, kw_only=True):
    """It begins. Output comes from `offset` on."""

    terminal: TerminalView
    mode: ClientMode
    offset: int


class Taken(Told, frozen=True, kw_only=True):
    """What this client typed is typed up to here; what it sent beyond may have been refused."""

    offset: int


class Gap(Told, frozen=True, kw_only=True):
    """Output goes on here; what stood before is not kept."""

    offset: int


class Resize(Told, frozen=True, kw_only=True):
    """The terminal has this size: that of the smallest screen of an operator."""

    cols: int
    rows: int


class Viewers(Told, frozen=True, kw_only=True):
    """So many look at the terminal, this client among them."""

    operators: int
    observers: int


class Away(Told, frozen=True, kw_only=True):
    """The machine is not connected. What is typed now is not taken."""


class Back(Told, frozen=True, kw_only=True):
    """The machine is connected again."""


class End(Told, frozen=True, kw_only=True):
    """The terminal has ended, and this was all."""

    end: TerminalEnding
    exit_code: int | None
    signal: str | None
    code: str | None
    message: str | None


async def serve_terminal_socket(
    hub: Hub, stream: trio.abc.Stream, room: Room, address: str
) -> None:
    """Carry one connection, whose first bytes ask for the socket of a terminal, to its end.

    Raises:
        LinkClosed: the client went away, or was refused.
    """
    admission = Admission(hub)
    async with accept(
        stream,
        room,
        address,
        hub.proxies,
        admission.judge,
        message_bytes=_OFFSET_BYTES + INPUT_BYTES,
    ) as connection:
        await _Conversation(hub, connection, admission).run()


class _Conversation(Conversation):
    def __init__(self, hub: Hub, connection: Connection, admission: Admission) -> None:
        super().__init__(hub, connection, admission.caller, ROUTE, admission.terminal.id)
        self._terminal = admission.terminal
        self._ticket_mode = admission.mode

    async def _converse(self) -> None:
        start = await self._hear_start(_text, _Start)
        mode = self._mode(start)
        size = None
        if start.cols is not None and start.rows is not None:
            size = Size(start.cols, start.rows)
        async with self._hub.viewings.view(
            self._caller,
            self._terminal,
            mode,
            offset=start.offset,
            size=size,
            writer=start.writer,
        ) as view:
            terminal = view_of(self._hub, view.terminal)
            await self._say(Hello(terminal=terminal, mode=view.mode, offset=view.begins))
            await first_of(
                partial(self._part, partial(self._listen, view)),
                partial(self._part, partial(self._show, view)),
            )

    def _mode(self, start: _Start) -> ClientMode:
        """What the client may do.

        Raises:
            Forbidden: its key may not.
            RemoteProtocolError: a part of what it says is missing, or does not fit.
        """
        mode = start.mode or self._ticket_mode or "operator"
        if self._ticket_mode not in (None, mode):
            raise RemoteProtocolError(f"mode: the ticket is for an {self._ticket_mode}")
        if mode == "operator":
            self._caller.require(Scope.COMMANDS_EXECUTE)
            for name in ("cols", "rows", "writer"):
                if getattr(start, name) is None:
                    raise RemoteProtocolError(f"{name}: an operator must say so")
        return mode

    async def _listen(self, view: Viewing) -> None:
        while True:
            message = await self._connection.receive()
            if isinstance(message, bytes):
                if len(message) <= _OFFSET_BYTES:
                    raise RemoteProtocolError("keys are 8 bytes of offset, then at least one more")
                offset = int.from_bytes(message[:_OFFSET_BYTES], "big")
                if offset >= 2**63:
                    raise RemoteProtocolError("offset: is beyond all that anybody types")
                await self._try(view.type(offset, message[_OFFSET_BYTES:]))
                continue
            match decode(_text, message):
                case _Resize(cols, rows):
                    await self._try(view.resize(Size(cols, rows)))
                case _Start():
                    raise RemoteProtocolError("a second start")

    async def _try(self, act: Awaitable[None]) -> None:
        """Do as the client says; if it may not, it is told so, and may go on to look."""
        try:
            await act
        except Forbidden as exc:
            await self._record(exc)
            await self._say(Error(code=exc.code, message=exc.message))

    async def _show(self, view: Viewing) -> None:
        while True:
            match await view.next():
                case viewed.Shown(data=data, offset=offset):
                    await self._send(offset.to_bytes(_OFFSET_BYTES, "big") + data)
                case viewed.Taken(offset=offset):
                    await self._say(Taken(offset=offset))
                case viewed.Gap(offset=offset):
                    await self._say(Gap(offset=offset))
                case viewed.Resized(size=size):
                    await self._say(Resize(cols=size.cols, rows=size.rows))
                case viewed.Viewers(operators=operators, observers=observers):
                    await self._say(Viewers(operators=operators, observers=observers))
                case viewed.Away():
                    await self._say(Away())
                case viewed.Back():
                    await self._say(Back())
                case viewed.Ended(terminal=terminal):
                    await self._say(_end_of(terminal))
                    await self._connection.close(Closing.ENDED, "")
                    return


def _end_of(terminal: Terminal) -> End:
    assert terminal.end is not None
    return End(
        end=terminal.end,
        exit_code=terminal.exit_code,
        signal=terminal.signal,
        code=terminal.code,
        message=terminal.message,
    )
