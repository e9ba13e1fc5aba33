# Made from sdk/aio/terminal_socket.py by scripts/fix: change it there.
"""A viewer of one terminal: what is written there as it comes, and keys on their way.

The connection may break, and the hub or the machine go away and come back: what is written is read
on at the byte where it broke off, and what was typed arrives once.
"""

import json
import secrets
import time
from collections.abc import Generator
from contextlib import closing
from typing import Final, Self

from cmdop_appliance.sdk.errors import (
    Away,
    CmdopError,
    Conflict,
    ConnectionFailed,
    Forbidden,
    NotFound,
    ServerError,
    Unauthorized,
    UnexpectedAnswer,
)
from cmdop_appliance.sdk.patience import STOPPING, Patience
from cmdop_appliance.sdk.terminal_events import (
    Back,
    Ended,
    Event,
    Gap,
    HubAway,
    MachineAway,
    Output,
    Refused,
    Resized,
    Watchers,
)
from cmdop_appliance.sdk.terminal_types import Mode
from cmdop_appliance.sdk.transport import Transport
from cmdop_appliance.sdk.waiting import Lock
from cmdop_appliance.sdk.websocket import WebSocket
from cmdop_appliance.sdk.websocket_terms import Closed

_OFFSET_BYTES: Final = 8
_INPUT_BYTES: Final = 16 * 1024  # the most the hub takes in one message
# As much as a machine holds for a program that does not read. What is sent beyond is refused.
_UNDER_WAY_BYTES: Final = 64 * 1024
# Typed and not taken yet: whoever types on while the machine is away for long is told so.
UNTAKEN_BYTES: Final = 1024 * 1024
_AGAIN_S: Final = 1.0  # after so long without a word what is under way is sent again


class TerminalSocket:
    """A viewer of one terminal. One takes its events; others may type meanwhile."""

    def __init__(
        self,
        transport: Transport,
        terminal_id: str,
        mode: Mode,
        cols: int,
        rows: int,
        patience: Patience,
    ) -> None:
        self._target = transport.websocket(f"/terminals/{terminal_id}/socket")
        self._mode = mode
        self._patience = patience
        self._offset: int | None = None  # of the output: where to go on
        self._refused = ""  # the code of what the hub refused last
        self._connection: WebSocket | None = None
        self._is_closed = False
        self._is_heard = False  # hub and machine are there, and take what is typed
        self._lock = Lock()  # of all that follows
        self._size = {"cols": cols, "rows": rows}
        self._writer = secrets.token_hex(16)
        self._typed = bytearray()  # what is not taken yet
        self._taken = 0  # how much is
        self._sent = 0  # up to where it was sent
        self._again_at = 0.0  # when what nobody has taken is sent again

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. The terminal goes on."""
        self._is_closed = True
        if (connection := self._connection) is not None:
            connection.close()

    @property
    def untaken_bytes(self) -> int:
        """How much was typed that has not arrived yet, as far as is known."""
        return len(self._typed)

    def type(self, data: bytes) -> None:
        """Type; it arrives once, at the latest when hub and machine are back.

        Raises:
            ConnectionFailed: `UNTAKEN_BYTES` would wait then. Nothing of `data` is typed.
        """
        with self._lock:
            if len(self._typed) + len(data) > UNTAKEN_BYTES:
                raise ConnectionFailed(
                    f"{len(self._typed)} bytes were typed that are not taken; no more than"
                    f" {UNTAKEN_BYTES} can wait"
                )
            self._typed += data
            self._send_typed()

    def resize(self, cols: int, rows: int) -> None:
        """The window has `cols` columns and `rows` rows from now on."""
        with self._lock:
            self._size = {"cols": cols, "rows": rows}
            self._send(json.dumps({"type": "resize", **self._size}))

    def events(self) -> Generator[Event]:
        """What happens, until the terminal has ended or this was closed; `Back` comes first.

        Only `HubAway` may come before it.

        Raises:
            APIError: the hub refused: no such terminal, a key that may not, or may no longer.
            ConnectionFailed: the hub stayed away for too long.
            UnexpectedAnswer: it is none, or says what cannot be understood.
        """
        while not self._is_closed:
            began, is_met = time.monotonic(), False
            try:
                with closing(self._converse()) as events:
                    for event in events:
                        self._patience.renew()
                        is_met = True
                        yield event
                        if isinstance(event, Ended):
                            return
                failure: CmdopError = Away("the connection to the hub broke")
            except Away as exc:
                failure = exc
            except ServerError as exc:
                if exc.status != STOPPING:
                    raise
                failure = exc
            if self._is_closed:
                return
            yield HubAway()
            self._patience.pause(failure, 0 if is_met else time.monotonic() - began)

    def _converse(self) -> Generator[Event]:
        connection = WebSocket.open(*self._target)
        try:
            self._begin(connection)
            while not self._is_closed:
                message = connection.receive(_AGAIN_S)
                if message is not None and (event := self._hear(message)) is not None:
                    yield event
                self._send_refused()
        except Closed as exc:
            self._judge(exc.code, exc.reason)
        except (ValueError, KeyError, TypeError) as exc:
            raise UnexpectedAnswer("the hub sent what is no message of a terminal") from exc
        finally:
            self._connection = None
            self._is_heard = False
            connection.close()

    def _begin(self, connection: WebSocket) -> None:
        start = {"offset": self._offset, "writer": self._writer, "mode": self._mode}
        with self._lock:
            self._connection = connection
            self._send(json.dumps({"type": "start", **start, **self._size}))

    def _hear(self, message: str | bytes) -> Event | None:
        if isinstance(message, bytes):
            self._offset = int.from_bytes(message[:_OFFSET_BYTES])
            return Output(message[_OFFSET_BYTES:])
        said = json.loads(message)
        match said["type"]:
            case "hello":
                self._type_again()
                return Back(said["terminal"])
            case "back":
                self._type_again()
                return Back({})
            case "away":
                self._is_heard = False
                return MachineAway()
            case "taken":
                self._hear_taken(int(said["offset"]))
            case "gap":
                self._offset = int(said["offset"])
                return Gap()
            case "resize":
                return Resized(said["cols"], said["rows"])
            case "viewers":
                return Watchers(said["operators"], said["observers"])
            case "error":
                self._refused = said["code"]
                return Refused(said["code"], said["message"])
            case "end":
                return Ended(said["end"], said["exit_code"], said["signal"], said["message"])
        return None  # any other kind is from a newer hub

    def _type_again(self) -> None:
        with self._lock:
            self._is_heard = True
            self._sent = self._taken
            self._send_typed()

    def _hear_taken(self, offset: int) -> None:
        with self._lock:
            if offset < self._taken:  # after many other writers the machine has forgotten this one
                self._writer = secrets.token_hex(16)
                self._taken = self._sent = 0
                raise Away("what is typed begins anew on another connection")
            if offset > self._taken:
                del self._typed[: offset - self._taken]
                self._taken = offset
                self._sent = max(self._sent, offset)
                self._again_at = time.monotonic() + _AGAIN_S
                self._send_typed()

    def _send_refused(self) -> None:
        """Send again what nobody took in time: it may have been refused, and nobody says so."""
        with self._lock:
            if self._sent > self._taken and time.monotonic() >= self._again_at:
                self._sent = self._taken
                self._send_typed()

    def _send_typed(self) -> None:
        """Send what was typed, as far as that may be under way."""
        while self._is_heard:
            at = self._sent - self._taken
            part = bytes(self._typed[at : min(at + _INPUT_BYTES, _UNDER_WAY_BYTES)])
            if not part:
                return
            if not at:
                self._again_at = time.monotonic() + _AGAIN_S
            self._sent += len(part)
            self._send((self._sent - len(part)).to_bytes(_OFFSET_BYTES) + part)

    def _send(self, message: str | bytes) -> None:
        if (connection := self._connection) is not None:
            connection.send(message)

    def _judge(self, code: int | None, reason: str) -> None:
        """Pass if the connection may be made again.

        Raises:
            APIError, UnexpectedAnswer: it may not.
        """
        match code:  # see docs/terminals.md
            case 4401:
                raise Unauthorized(401, "unauthorized", reason or "the API key is good no more")
            case 4403:
                raise Forbidden(403, self._refused or "forbidden", reason or "this key may not")
            case 4404:
                gone = self._refused or "terminal_not_found"
                raise NotFound(404, gone, reason or "the terminal is out of reach")
            case 4429:
                many = self._refused or "too_many_terminals"
                raise Conflict(409, many, reason or "too many look at terminals of this machine")
            case 4400:
                raise UnexpectedAnswer(f"the hub did not understand us: {reason}")
