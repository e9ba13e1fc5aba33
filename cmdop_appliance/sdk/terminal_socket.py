"""A viewer of one terminal: what is written there as it comes, and keys on their way.

The connection may break, and the hub or the machine go away and come back: what is written is read
on at the byte where it broke off, and what was typed arrives once.
"""

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self

from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
)
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

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
    error_class,
)
from cmdop_appliance.sdk.patience import STOPPING, Patience
from cmdop_appliance.sdk.terminal_types import Mode
from cmdop_appliance.sdk.transport import Transport

_PROTOCOL: Final = Subprotocol("cmdop.terminal.v1")
_OFFSET_BYTES: Final = 8
_INPUT_BYTES: Final = 16 * 1024  # the most the hub takes in one message
# As much as a machine holds for a program that does not read. What is sent beyond is refused.
_UNDER_WAY_BYTES: Final = 64 * 1024
_MESSAGE_BYTES: Final = 1024 * 1024
# Typed and not taken yet: whoever types on while the machine is away for long is told so.
UNTAKEN_BYTES: Final = 1024 * 1024
_AGAIN_S: Final = 1.0  # after so long without a word what is under way is sent again
_OPEN_S: Final = 10.0
_CLOSE_S: Final = 1.0
# A hub that does not answer within both is away: 25 s, as for agents.
_PING_S: Final = 10.0
_PONG_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes that were written to the terminal, fit for one that a person looks at."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """What was written before is not kept any more: the screen begins anew."""


@dataclass(frozen=True, slots=True)
class Resized:
    """The terminal has this size from now on: the smallest of its operators'."""

    cols: int
    rows: int


@dataclass(frozen=True, slots=True)
class Watchers:
    """So many look at the terminal from now on."""

    operators: int
    observers: int


@dataclass(frozen=True, slots=True)
class MachineAway:
    """The machine is away: what is typed waits for it."""


@dataclass(frozen=True, slots=True)
class HubAway:
    """The connection to the hub is broken, or not made yet; it is made again."""


@dataclass(frozen=True, slots=True)
class Back:
    """Hub and machine are there; the terminal goes on."""

    terminal: dict[str, Any]  # its record as the connection found it; {}: only the machine was away


@dataclass(frozen=True, slots=True)
class Refused:
    """The hub did not do what was asked, such as to type for an observer."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The terminal has ended; nothing comes after this."""

    end: str  # exited, failed, cancelled, idle or lost
    exit_code: int | None  # ended by signal n: 128 + n
    signal: str | None
    message: str | None


Event = Output | Gap | Resized | Watchers | MachineAway | HubAway | Back | Refused | Ended


class TerminalSocket:
    """One viewer of one terminal. One thread takes its events, any thread may type."""

    def __init__(
        self,
        transport: Transport,
        terminal_id: str,
        mode: Mode,
        cols: int,
        rows: int,
        patience: Patience,
    ) -> None:
        self._url, self._headers = transport.websocket(f"/terminals/{terminal_id}/socket")
        self._mode = mode
        self._patience = patience
        self._offset: int | None = None  # of the output: where to go on
        self._refused = ""  # the code of what the hub refused last
        self._lock = threading.Lock()  # of all that follows
        self._size = {"cols": cols, "rows": rows}
        self._writer = secrets.token_hex(16)
        self._typed = bytearray()  # what is not taken yet
        self._taken = 0  # how much is
        self._sent = 0  # up to where it was sent
        self._again_at = 0.0  # when what nobody has taken is sent again
        self._connection: ClientConnection | None = None
        self._is_heard = False  # hub and machine are there, and take what is typed
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. The terminal goes on."""
        with self._lock:
            self._is_closed = True
            connection = self._connection
        if connection is not None:
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
        """The window has this size from now on."""
        with self._lock:
            self._size = {"cols": cols, "rows": rows}
            self._send(json.dumps({"type": "resize", **self._size}))

    def events(self) -> Iterator[Event]:
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
                for event in self._converse():
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

    def _converse(self) -> Iterator[Event]:
        connection = self._connect()
        try:
            start = {"offset": self._offset, "writer": self._writer, "mode": self._mode}
            with self._lock:
                if self._is_closed:
                    return
                self._connection = connection
                self._send(json.dumps({"type": "start", **start, **self._size}))
            while True:
                with suppress(TimeoutError):
                    yield from self._hear(connection.recv(timeout=_AGAIN_S))
                self._send_refused()
        except ConnectionClosed:
            pass
        except (ValueError, KeyError, TypeError) as exc:
            raise UnexpectedAnswer("the hub sent what is no message of a terminal") from exc
        finally:
            with self._lock:
                self._connection = None
                self._is_heard = False
            connection.close()
        self._judge(connection.close_code, connection.close_reason or "")

    def _connect(self) -> ClientConnection:
        try:
            return connect(
                self._url,
                additional_headers=self._headers,
                subprotocols=[_PROTOCOL],
                compression=None,
                max_size=_MESSAGE_BYTES,
                open_timeout=_OPEN_S,
                close_timeout=_CLOSE_S,
                ping_interval=_PING_S,
                ping_timeout=_PONG_S,
                proxy=None,
                legacy=True,
            )
        except InvalidStatus as exc:
            raise _refusal(exc.response.status_code, bytes(exc.response.body or b"")) from None
        except (OSError, ConnectionClosed) as exc:  # also TimeoutError
            raise Away(f"cannot reach the hub: {exc}") from exc
        except InvalidHandshake as exc:
            if isinstance(exc, InvalidMessage) and isinstance(exc.__cause__, EOFError):
                raise Away("the hub broke off its answer") from exc
            raise UnexpectedAnswer(f"what answers is no hub with terminals: {exc}") from exc

    def _hear(self, message: str | bytes) -> Iterator[Event]:
        if isinstance(message, bytes):
            self._offset = int.from_bytes(message[:_OFFSET_BYTES])
            yield Output(message[_OFFSET_BYTES:])
            return
        said = json.loads(message)
        match said["type"]:
            case "hello":
                self._type_again()
                yield Back(said["terminal"])
            case "back":
                self._type_again()
                yield Back({})
            case "away":
                self._is_heard = False
                yield MachineAway()
            case "taken":
                self._hear_taken(int(said["offset"]))
            case "gap":
                self._offset = int(said["offset"])
                yield Gap()
            case "resize":
                yield Resized(said["cols"], said["rows"])
            case "viewers":
                yield Watchers(said["operators"], said["observers"])
            case "error":
                self._refused = said["code"]
                yield Refused(said["code"], said["message"])
            case "end":
                yield Ended(said["end"], said["exit_code"], said["signal"], said["message"])
        # Any other kind is from a newer hub.

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
            self._send(self._sent.to_bytes(_OFFSET_BYTES) + part)
            self._sent += len(part)

    def _send(self, message: str | bytes) -> None:
        if self._connection is not None:
            with suppress(ConnectionClosed):  # its reader notices, and what matters is said again
                self._connection.send(message)

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


def _refusal(status: int, body: bytes) -> CmdopError:
    """The hub's answer to who asked for a websocket, or that of a proxy before it."""
    try:
        error = json.loads(body)["error"]
        return error_class(status)(
            status,
            str(error["code"]),
            str(error["message"]),
            error.get("details"),
            hint=str(error.get("hint") or ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        if status in (502, 503, 504):
            return Away(f"the hub does not answer (HTTP {status})")
        return UnexpectedAnswer(f"what answers is no hub with terminals: HTTP {status}")
