"""The websocket of an agent, or of a person's terminal: the hub's end of it.

The only import site of trio-websocket here.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio
import wsproto
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from cmdop_appliance.addresses import Proxies
from cmdop_appliance.masking import mask_in_c
from cmdop_appliance.protocol.closing import REASON_BYTES, Close
from cmdop_appliance.protocol.limits import HANDSHAKE_S, MESSAGE_BYTES, SEND_S
from cmdop_appliance.transfer import Room

mask_in_c()

# The library reads 4 KiB at a time by default, which costs large frames a factor of three. As much
# as one frame of a file, which arrive by the thousand.
_RECEIVE_BYTES = 128 * 1024
# A peer that does not answer our close frame is cut off after this.
_CLOSE_S = 0.7


class LinkClosed(Exception):
    """The connection is over, whoever ended it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody says who wants a websocket. Header names are lower case; all of it is text."""

    target: str  # path and query, as they came
    host: str  # whom they believe to ask, and its port; in ASCII
    headers: tuple[tuple[str, str], ...]  # the others, in their order
    subprotocols: tuple[str, ...]  # that they speak
    address: str  # where they are, also behind trusted proxies
    is_secure: bool  # they came by HTTPS, to us or to a trusted proxy


@dataclass(frozen=True, slots=True)
class Answer:
    """What they are told: 101 and a websocket, or another status and why not."""

    status: int = 101
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""  # of a refusal
    subprotocol: str | None = None  # that is spoken; one of theirs


Judge = Callable[[Asked], Awaitable[Answer]]


class Connection:
    """Whole messages in order, both ways. Sends may come from several tasks."""

    def __init__(
        self, websocket: WebSocketConnection, room: Room, address: str, binding: bytes = b""
    ) -> None:
        self.address = address
        self.binding = binding  # of the certificate that the peer was shown (protocol.handshake)
        self._websocket = websocket
        self._room = room

    async def receive(self) -> str | bytes:
        """The next message.

        Raises:
            LinkClosed: there will be none.
        """
        try:
            return await self._websocket.get_message()
        except ConnectionClosed as exc:
            raise LinkClosed from exc

    async def send(self, frame: str | bytes) -> None:
        """Send a message; a peer that does not take it within `SEND_S` is cut off.

        Raises:
            LinkClosed: it did not get through.
        """
        sent = False
        try:
            with trio.move_on_after(SEND_S):
                await self._websocket.send_message(frame)
                sent = True
        except (ConnectionClosed, wsproto.utilities.LocalProtocolError) as exc:
            raise LinkClosed from exc
        finally:
            if not sent:  # half a frame may be on the wire: nothing can follow it
                await trio.aclose_forcefully(self._websocket)
        if not sent:
            raise LinkClosed

    async def wait_room(self) -> None:
        """Return when what was sent is on its way, or nearly.

        Raises:
            LinkClosed: it never will be.
        """
        try:
            await self._room.wait()
        except trio.ClosedResourceError as exc:
            raise LinkClosed from exc

    async def ping(self) -> None:
        """Return when the peer has answered a ping.

        Raises:
            LinkClosed: it never will.
        """
        try:
            await self._websocket.ping()
        except (ConnectionClosed, wsproto.utilities.LocalProtocolError) as exc:
            raise LinkClosed from exc

    async def close(self, code: int, reason: str) -> None:
        """Tell the peer why (RFC 6455 §7.4), and end it; waits for its answer only briefly."""
        text = reason.encode()[:REASON_BYTES].decode(errors="ignore")
        with suppress(wsproto.utilities.LocalProtocolError), trio.CancelScope(shield=True) as scope:
            scope.deadline = trio.current_time() + _CLOSE_S
            await self._websocket.aclose(code, text)


async def _welcome(_: Asked) -> Answer:
    return Answer()


@asynccontextmanager
async def accept(
    stream: trio.abc.Stream,
    room: Room,
    address: str,
    proxies: Proxies,
    judge: Judge = _welcome,
    *,
    message_bytes: int = MESSAGE_BYTES,
    binding: bytes = b"",
) -> AsyncIterator[Connection]:
    """Upgrade a stream whose first bytes ask for it; it is closed when the block ends.

    `room` is that of its socket, `binding` that of its certificate.

    `address` is its peer's; the connection has that of the client, also behind trusted `proxies`.
    `judge` says whether it becomes a websocket; default: it does. A message longer than
    `message_bytes` ends it.

    Raises:
        LinkClosed: it did not become a websocket.
    """
    is_open = False
    try:
        async with trio.open_nursery() as nursery:
            try:
                websocket, client = await _upgrade(
                    stream, nursery, address, proxies, judge, message_bytes
                )
                is_open = True
                connection = Connection(websocket, room, client, binding)
                yield connection
                await connection.close(Close.STOPPING, "")
            finally:
                # In this order: within a cancelled nursery the close would replace what was raised.
                await trio.aclose_forcefully(stream)
                nursery.cancel_scope.cancel()
    except* (ConnectionClosed, wsproto.utilities.LocalProtocolError) as group:
        # The library's reader lets them out when a peer goes, or pings, while we close or refuse.
        raise LinkClosed from group
    except* UnicodeError as group:
        if is_open:
            raise
        raise LinkClosed from group  # from the reader: a header that is no text


async def _upgrade(
    stream: trio.abc.Stream,
    nursery: trio.Nursery,
    address: str,
    proxies: Proxies,
    judge: Judge,
    message_bytes: int,
) -> tuple[WebSocketConnection, str]:
    """The websocket, and the address of its client."""
    try:
        with trio.fail_after(HANDSHAKE_S):
            request = await wrap_server_stream(
                nursery,
                stream,
                max_message_size=message_bytes,
                receive_buffer_size=_RECEIVE_BYTES,
            )
            headers = tuple(
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers
            )
            forwarded = [value for name, value in headers if name == "x-forwarded-for"]
            asked = Asked(
                request.path,
                request._event.host.encode("idna").decode(),  # noqa: SLF001 - told nowhere else
                headers,
                request.proposed_subprotocols,
                proxies.client_of(address, forwarded),
                proxies.are_reached_by_https(address, dict(headers).get("x-forwarded-proto", "")),
            )
            answer = await judge(asked)
            told = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
            if answer.status == 101:
                websocket = await request.accept(subprotocol=answer.subprotocol, extra_headers=told)
                # It has read its last head, and would keep 3 KB for as long as the link stands.
                del websocket._wsproto.handshake._h11_connection  # noqa: SLF001
                return websocket, asked.address
            told.append((b"Connection", b"close"))
            await request.reject(answer.status, extra_headers=told, body=answer.body)
            raise LinkClosed
    except trio.TooSlowError as exc:
        raise LinkClosed from exc
