"""A websocket to the hub: frames in and out, and one error for all the ways in which it ends."""

import functools
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from cmdop_appliance.agent.enrolment import link_url
from cmdop_appliance.agent.groups import first_error
from cmdop_appliance.agent.pace import Pace
from cmdop_appliance.masking import mask_in_c
from cmdop_appliance.protocol.closing import REASON_BYTES
from cmdop_appliance.protocol.handshake import binding_of
from cmdop_appliance.protocol.limits import MESSAGE_BYTES
from cmdop_appliance.sockets import QuickStream
from cmdop_appliance.transfer import Room

mask_in_c()

# Reads of 4 KiB, the library's default, cost three times as much on large frames (stack.md §2).
_RECEIVE_BYTES: Final = 64 * 1024


class LinkLost(Exception):
    """The connection could not be made, or has ended; `code` is the hub's close code, or None."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class NotVouchedFor(LinkLost):
    """No authority of this system vouches for whoever answers in the hub's name."""


class Link:
    """One open connection. All but `close` raise `LinkLost` when it ends."""

    def __init__(
        self, ws: WebSocketConnection, room: Room, pace: Pace, bindings: tuple[bytes, ...]
    ) -> None:
        # Of protocol.handshake: what the hub's signature may be bound to, if this is its end.
        self.bindings = bindings
        self._ws = ws
        self._room = room
        self._pace = pace

    async def send(self, frame: str | bytes) -> None:
        """Send one frame; a hub that does not take it in time is gone."""
        try:
            with self._while_taken():
                await self._ws.send_message(frame)
        except ConnectionClosed as exc:
            raise _lost(exc) from None

    async def wait_room(self) -> None:
        """Return when what was sent is on its way, or nearly; else the hub is gone, too."""
        try:
            with self._while_taken():
                await self._room.wait()
        except trio.ClosedResourceError:
            raise LinkLost("the connection was cut") from None

    @contextmanager
    def _while_taken(self) -> Iterator[None]:
        try:
            with trio.fail_after(self._pace.send_s):
                yield
        except trio.TooSlowError:
            raise LinkLost(f"the hub took nothing for {self._pace.send_s:.0f} s") from None

    async def receive(self) -> str | bytes:
        """The next frame."""
        try:
            return await self._ws.get_message()
        except ConnectionClosed as exc:
            raise _lost(exc) from None

    async def close(self, code: int, reason: str) -> None:
        """Tell the hub why this is the end; waits a while for its answer."""
        text = reason.encode()[:REASON_BYTES].decode("utf-8", "ignore")
        with trio.move_on_after(self._pace.close_s), suppress(ConnectionClosed):
            await self._ws.aclose(code, text)


@asynccontextmanager
async def open_link(
    hub_url: str, pace: Pace, *, through_proxy: bool = False
) -> AsyncIterator[Link]:
    """A connection to the hub at `hub_url`, closed on exit.

    By TLS it may end anywhere: that it ends at the hub is what the hub's signature shows, which is
    bound to the certificate. `through_proxy`: it ends at somebody for whom an authority of this
    system vouches, and the hub's signature may be bound to nothing.

    Raises:
        NotVouchedFor: none does.
        LinkLost: there is no hub, or what is there speaks no websocket.
    """
    url = urlsplit(link_url(hub_url))
    is_secure = url.scheme == "wss"
    port = url.port or (443 if is_secure else 80)
    assert url.hostname is not None
    try:
        with trio.fail_after(pace.handshake_s):
            plain = QuickStream(await trio.open_tcp_stream(url.hostname, port))
            room = Room(plain.socket)
    except trio.TooSlowError:
        raise LinkLost(f"no answer within {pace.handshake_s:.0f} s") from None
    except OSError as exc:
        raise LinkLost(str(exc)) from exc
    stream: trio.abc.Stream = plain
    failure: Exception | None = None
    try:
        bindings: tuple[bytes, ...] = (b"",)
        if is_secure:
            with trio.fail_after(pace.handshake_s):
                stream, bindings = await _secured(plain, url.hostname, through_proxy=through_proxy)
        # The library's own client leaves the socket open when the hub closes first, so it is ours.
        async with trio.open_nursery() as nursery:
            with trio.fail_after(pace.handshake_s):
                host = url.netloc.rpartition("@")[2]
                ws = await _upgrade(nursery, _Watched(stream), host, url.path)
            link = Link(ws, room, pace, bindings)
            try:
                yield link
            except Exception as exc:  # noqa: BLE001 - it is raised below
                failure = exc
            await link.close(1000, "")
            nursery.cancel_scope.cancel()
    except* NotVouchedFor as group:
        failure = NotVouchedFor(first_error(group))
    except* LinkLost as group:
        failure = failure or LinkLost(first_error(group))
    except* Exception as group:  # noqa: BLE001
        # The library's task raises whatever its parsers do about bytes that a hub never sends.
        failure = failure or LinkLost(f"what answers is no hub: {first_error(group)}")
    finally:
        await trio.aclose_forcefully(stream)
        room.close()
    if failure is not None:
        raise failure


class _Watched(trio.abc.Stream):
    """A stream that tells when it has ended: the library keeps that to itself in its handshake."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.ended = trio.Event()
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data: bytes | bytearray = b""
        try:
            data = await self._stream.receive_some(max_bytes)
        finally:
            if not data:
                self.ended.set()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            self.ended.set()
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _upgrade(
    nursery: trio.Nursery, stream: _Watched, host: str, path: str
) -> WebSocketConnection:
    """The websocket. Whoever is cut off before it is one must not wait for its answer in vain."""
    async with trio.open_nursery() as attempt:

        async def give_up() -> None:
            await stream.ended.wait()
            attempt.cancel_scope.cancel()

        attempt.start_soon(give_up)
        ws = await wrap_client_stream(
            nursery,
            stream,  # type: ignore[arg-type]  # it takes any stream
            host,
            path,
            max_message_size=MESSAGE_BYTES,
            receive_buffer_size=_RECEIVE_BYTES,
        )
        attempt.cancel_scope.cancel()
        return ws
    raise LinkLost("the connection was cut")


async def _secured(
    plain: QuickStream, host: str, *, through_proxy: bool
) -> tuple[trio.abc.Stream, tuple[bytes, ...]]:
    """TLS on a connection, and what the hub's signature may be bound to."""
    stream = trio.SSLStream(
        plain, _context(through_proxy=through_proxy), server_hostname=host, https_compatible=True
    )
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as exc:
        if isinstance(exc.__cause__, ssl.SSLCertVerificationError):
            raise NotVouchedFor(exc.__cause__.verify_message) from None
        raise LinkLost(f"no TLS: {exc.__cause__ or 'the connection was cut'}") from None
    certificate = stream.getpeercert(binary_form=True)
    assert certificate is not None  # a server must have one
    binding = binding_of(certificate)
    return stream, (binding, b"") if through_proxy else (binding,)


@functools.cache
def _context(*, through_proxy: bool) -> ssl.SSLContext:
    """To read the system's authorities takes 10 ms and a megabyte: once."""
    if through_proxy:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _lost(closed: ConnectionClosed) -> LinkLost:
    if closed.reason is None:
        return LinkLost("the connection was cut")
    said = closed.reason.reason or closed.reason.name
    return LinkLost(f"the hub closed it: {closed.reason.code} {said}", closed.reason.code)
