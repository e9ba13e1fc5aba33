"""What is said on the websocket of a person, whatever it is for: how it begins, goes on and ends.

Text is JSON. The client begins with `start`; the hub's messages are told apart by their `type`, and
its last words say why it ends.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from enum import IntEnum
from functools import partial
from typing import Final, TypeVar

import msgspec
import trio
from msgspec import Struct

from cmdop_appliance.api.exchange import first_of, record_refusal
from cmdop_appliance.api.registry import Route
from cmdop_appliance.auth import Caller
from cmdop_appliance.errors import (
    ApplianceError,
    Forbidden,
    RemoteProtocolError,
    TooManyTerminals,
    Unauthorized,
)
from cmdop_appliance.hub.connection import Connection, LinkClosed
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.protocol.limits import HANDSHAKE_S
from cmdop_appliance.store import api_keys

# A client hears us this often; one that answers no ping for as long as remains of this is gone.
HEARTBEAT_S: Final = 10.0
SILENT_S: Final = 25.0
# The last words to a client that may take nothing.
_LAST_WORDS_S: Final = 0.5

Part = Callable[[], Awaitable[None]]
M = TypeVar("M")
S = TypeVar("S")


class Closing(IntEnum):
    """Why a socket ends (RFC 6455 §7.4; 4000–4999 are ours)."""

    ENDED = 1000  # the terminal has
    STOPPING = 1001  # the hub is, or cannot now: come back
    PROTOCOL = 4400  # the client said what cannot be; the reason says what
    UNAUTHORIZED = 4401  # its key is good no more
    FORBIDDEN = 4403  # its key may not do this
    UNREACHABLE = 4404  # the terminal is gone, or out of its key's reach
    TOO_MANY = 4429  # as many look at terminals of its machine as can


class Told(Struct, frozen=True, kw_only=True, tag_field="type", tag=str.lower):
    """A text message; its `type` is the class name in lower case."""


class Error(Told, frozen=True, kw_only=True):
    """Something was refused. If that ends the socket, the close comes next."""

    code: str
    message: str


class Beat(Told, frozen=True, kw_only=True):
    """The hub is there. Pages do not see pings; one that hears nothing at all connects anew."""


class Conversation(ABC):
    """One socket of `route`, from its start to its end. `target`: the id that it is about, if any.

    It ends with what a subclass has to say, with the caller's key, or when nobody is there.
    """

    def __init__(
        self, hub: Hub, connection: Connection, caller: Caller, route: Route, target: str = ""
    ) -> None:
        self._hub = hub
        self._connection = connection
        self._caller = caller
        self._route = route
        self._target = target
        self._sending = trio.Lock()
        self._has_begun = False  # something was said
        self._is_over = False  # only the last words are sent yet

    @abstractmethod
    async def _converse(self) -> None:
        """All of it, beginning with what the client says first."""

    async def run(self) -> None:
        """Carry it to its end.

        Raises:
            LinkClosed: the client went away.
        """
        try:
            await first_of(self._converse, partial(self._part, self._watch_key), self._beat)
        except ApplianceError as exc:
            if isinstance(exc, Forbidden):
                await self._record(exc)
            error = Error(code=exc.code, message=exc.message)
            with trio.move_on_after(_LAST_WORDS_S):
                await self._connection.send(msgspec.json.encode(error).decode())
            await self._connection.close(_closing(exc), exc.message)

    async def _part(self, part: Part) -> None:
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

    async def _hear_start(self, decoder: msgspec.json.Decoder[M], start: type[S]) -> S:
        """The first message, a `start` as `decoder` knows it.

        Raises:
            RemoteProtocolError: it is another one, or does not come.
        """
        message: str | bytes = b""
        with trio.move_on_after(HANDSHAKE_S):
            message = await self._connection.receive()
        first = decode(decoder, message) if isinstance(message, str) else None
        if not isinstance(first, start):
            raise RemoteProtocolError("the first message must be of type start, in JSON")
        return first

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
        """Find out whether the client is there, and let it know that we are.

        One that is not keeps nothing for itself.
        """
        while True:
            with trio.move_on_after(SILENT_S - HEARTBEAT_S) as patience:
                await self._connection.ping()
            if patience.cancelled_caught:
                raise LinkClosed
            await trio.sleep(HEARTBEAT_S)
            if self._has_begun:
                await self._say(Beat())

    async def _record(self, error: Forbidden) -> None:
        await record_refusal(self._hub, self._caller, self._route, self._target, error)

    async def _say(self, message: Told) -> None:
        await self._send(msgspec.json.encode(message).decode())

    async def _send(self, message: str | bytes) -> None:
        async with self._sending:
            if self._is_over:
                await trio.sleep_forever()
            self._has_begun = True
            await self._connection.send(message)


def decode(decoder: msgspec.json.Decoder[M], message: str) -> M:
    """What a client says, in JSON.

    Raises:
        RemoteProtocolError: it is none of what `decoder` knows.
    """
    try:
        return decoder.decode(message)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise RemoteProtocolError(f"not a message of this protocol: {exc}") from None


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
