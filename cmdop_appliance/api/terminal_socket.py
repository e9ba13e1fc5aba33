"""The websocket of a terminal: what is said on it.

Text is JSON, bytes are the screen's or the keyboard's. A client begins with `start`; then it sends
`resize`, and keys: 8 bytes with their offset in all that it types, big-endian, then themselves. It
hears `hello` and then what happens, and the screen: 8 bytes with the offset behind this piece of
output, from which it may start again on another connection, then the piece.
"""

from collections.abc import Awaitable, Callable
from enum import IntEnum
from functools import partial
from typing import Final

import msgspec
import trio
from msgspec import Struct

from cmdop_appliance.api.cmdop.terminal_records import TerminalView, view_of
from cmdop_appliance.api.exchange import first_of, record_refusal
from cmdop_appliance.api.fields import Offset
from cmdop_appliance.api.terminal_handshake import ROUTE, Admission
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import (
    ApplianceError,
    Forbidden,
    RemoteProtocolError,
    TooManyTerminals,
    Unauthorized,
)
from cmdop_appliance.hub import viewed
from cmdop_appliance.hub.connection import Connection, LinkClosed, accept
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.hub.viewing import Viewing
from cmdop_appliance.model import ClientMode, Terminal, TerminalEnding
from cmdop_appliance.protocol.limits import HANDSHAKE_S, HEARTBEAT_S, INPUT_BYTES, SILENT_S
from cmdop_appliance.protocol.terminals import Cells, Size, Writer
from cmdop_appliance.store import api_keys
from cmdop_appliance.transfer import Room

_OFFSET_BYTES: Final = 8
# The last words to a client that may take nothing.
_LAST_WORDS_S: Final = 0.5


class Closing(IntEnum):
    """Why a socket ends (RFC 6455 §7.4; 4000–4999 are ours)."""

    ENDED = 1000  # the terminal has
    STOPPING = 1001  # the hub is, or cannot now: come back
    PROTOCOL = 4400  # the client said what cannot be; the reason says what
    UNAUTHORIZED = 4401  # its key is good no more
    FORBIDDEN = 4403  # its key may not do this
    UNREACHABLE = 4404  # the terminal is gone, or out of its key's reach
    TOO_MANY = 4429  # as many look at terminals of its machine as can


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


class _Told(Struct, frozen=True, kw_only=True, tag_field="type", tag=str.lower):
    """A text message; its `type` is the class name in lower case."""


class Hello(_Told, frozen=True, kw_only=True):
    """It begins. Output comes from `offset` on."""

    terminal: TerminalView
    mode: ClientMode
    offset: int


class Taken(_Told, frozen=True, kw_only=True):
    """What this client typed is typed up to here; what it sent beyond may have been refused."""

    offset: int


class Gap(_Told, frozen=True, kw_only=True):
    """Output goes on here; what stood before is not kept."""

    offset: int


class Resize(_Told, frozen=True, kw_only=True):
    """The terminal has this size: that of the smallest screen of an operator."""

    cols: int
    rows: int


class Viewers(_Told, frozen=True, kw_only=True):
    """So many look at the terminal, this client among them."""

    operators: int
    observers: int


class Away(_Told, frozen=True, kw_only=True):
    """The machine is not connected. What is typed now is not taken."""


class Back(_Told, frozen=True, kw_only=True):
    """The machine is connected again."""


class Error(_Told, frozen=True, kw_only=True):
    """Something was refused. If that ends the socket, the close comes next."""

    code: str
    message: str


class End(_Told, frozen=True, kw_only=True):
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


class _Conversation:
    def __init__(self, hub: Hub, connection: Connection, admission: Admission) -> None:
        self._hub = hub
        self._connection = connection
        self._caller = admission.caller
        self._terminal = admission.terminal
        self._ticket_mode = admission.mode
        self._sending = trio.Lock()
        self._is_over = False  # only the last words are sent yet

    async def run(self) -> None:
        try:
            await first_of(self._converse, partial(self._part, self._watch_key), self._beat)
        except ApplianceError as exc:
            if isinstance(exc, Forbidden):
                await self._record(exc)
            error = Error(code=exc.code, message=exc.message)
            with trio.move_on_after(_LAST_WORDS_S):
                await self._connection.send(msgspec.json.encode(error).decode())
            await self._connection.close(_closing(exc), exc.message)

    async def _part(self, part: Callable[[], Awaitable[None]]) -> None:
        """Run one of several parts: if it fails, what others are sending comes to its end first.

        Half a message would be the last thing that the client hears.
        """
        try:
            await part()
        except ApplianceError:
            self._is_over = True
            with trio.move_on_after(_LAST_WORDS_S):
                async with self._sending:
                    pass
            raise

    async def _converse(self) -> None:
        start = await self._hear_start()
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

    async def _hear_start(self) -> _Start:
        message: str | bytes = b""
        with trio.move_on_after(HANDSHAKE_S):
            message = await self._connection.receive()
        start = _decode(message) if isinstance(message, str) else None
        if not isinstance(start, _Start):
            raise RemoteProtocolError("the first message must be of type start, in JSON")
        return start

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
            match _decode(message):
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

    async def _watch_key(self) -> None:
        """Return never.

        Raises:
            Unauthorized: the key is good no more.
            Unavailable: the hub is stopping.
        """
        with self._hub.bus.subscribe(api_keys.subject_of(self._caller.key_id)) as news:
            while True:
                await self._hub.callers.require_still_good(self._caller)
                await news.next()

    async def _beat(self) -> None:
        """Find out whether the client is there: one that is not must not keep a screen small."""
        while True:
            with trio.move_on_after(SILENT_S - HEARTBEAT_S) as patience:
                await self._connection.ping()
            if patience.cancelled_caught:
                raise LinkClosed
            await trio.sleep(HEARTBEAT_S)

    async def _record(self, error: Forbidden) -> None:
        await record_refusal(self._hub, self._caller, ROUTE, self._terminal.id, error)

    async def _say(self, message: _Told) -> None:
        await self._send(msgspec.json.encode(message).decode())

    async def _send(self, message: str | bytes) -> None:
        async with self._sending:
            if self._is_over:
                await trio.sleep_forever()
            await self._connection.send(message)


def _decode(message: str) -> _Start | _Resize:
    try:
        return _text.decode(message)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise RemoteProtocolError(f"not a message of this protocol: {exc}") from None


def _end_of(terminal: Terminal) -> End:
    assert terminal.end is not None
    return End(
        end=terminal.end,
        exit_code=terminal.exit_code,
        signal=terminal.signal,
        code=terminal.code,
        message=terminal.message,
    )


def _closing(error: ApplianceError) -> Closing:
    match error:
        case RemoteProtocolError():
            return Closing.PROTOCOL
        case Unauthorized():
            return Closing.UNAUTHORIZED
        case Forbidden():
            return Closing.FORBIDDEN
        case TooManyTerminals():
            return Closing.TOO_MANY
    return Closing.STOPPING if error.status >= 500 else Closing.UNREACHABLE
