"""One HTTP connection, over h11 and the streams of anyio."""

import os
import select
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, Self

import anyio
import h11
from anyio.abc import ByteStream, SocketAttribute

from cmdop_appliance.sdk.envelope import Address
from cmdop_appliance.sdk.errors import (
    Away,
    ConnectionFailed,
    Silent,
    UnexpectedAnswer,
    Untrusted,
)
from cmdop_appliance.sdk.pieces import PIECE_BYTES
from cmdop_appliance.sdk.trust import Trust, tls_context, untrusted

_HEAD_BYTES: Final = 64 * 1024  # of an answer: what http.client takes in a line of it
_BEGINNING: Final = b"HTTP/1."
# What a connection raises that is no good any more.
BROKEN: Final = (
    OSError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
)
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


async def open_stream(host: str, port: int, trust: Trust | None) -> ByteStream:
    """A connection to a hub, without TLS where `trust` is None.

    Raises:
        OSError, UnicodeError
    """
    if trust is None:
        return await anyio.connect_tcp(host, port)
    return await anyio.connect_tcp(
        host, port, ssl_context=tls_context(trust), tls_standard_compatible=False
    )


class Response:
    """The head of an answer, whose body is still to come."""

    def __init__(self, connection: "Connection", head: h11.Response) -> None:
        self._connection = connection
        self._headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        self.status = head.status_code
        length = self.header("Content-Length")
        self.length = int(length) if length else None  # in bytes; None: it ends when it ends

    def header(self, name: str) -> str:
        """What the header says; "" if there is none."""
        return self._headers.get(name.lower(), "")

    async def read(self) -> bytes:
        """All of the body.

        Raises:
            ConnectionFailed
        """
        return b"".join([piece async for piece in self.pieces()])

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives.

        Raises:
            ConnectionFailed: also when nothing arrives for too long.
        """
        return self  # no generator: nothing is left open when it is not read to its end

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if isinstance(event := await self._connection.next_event(), h11.Data):
            return bytes(event.data)
        await self._connection.end()
        raise StopAsyncIteration


class Connection:
    """One connection to a hub, for one request at a time."""

    def __init__(self, address: Address, timeout_s: float, silence_s: float) -> None:
        """`timeout_s`: how long a hub is waited for; `silence_s`: one that has been reached."""
        self._address = address
        self._timeout_s = timeout_s
        self._silence_s = silence_s
        self._stream: ByteStream | None = None
        self._begin()

    def _begin(self) -> None:
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
        self._first = b""  # what came of the answer while the request was sent
        self._seen = b""  # the beginning of the answer, until its head is there

    async def open(self) -> None:
        """Connect, unless that is done.

        Raises:
            Away, ConnectionFailed
        """
        if self._stream is None:
            with _failures(self._address, sent=False), anyio.fail_after(self._timeout_s):
                self._stream = await open_stream(
                    self._address.host,
                    self._address.port,
                    self._address.trust if self._address.secure else None,
                )
            self._begin()

    async def aclose(self) -> None:
        """Close it; it can be opened again."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await anyio.aclose_forcefully(stream)

    def is_stale(self) -> bool:
        """True: the idle connection has bytes or an end to read, so the hub has given it up."""
        if self._stream is None:
            return False
        poll = select.poll()  # select() cannot watch descriptors above 1023
        poll.register(self._stream.extra(SocketAttribute.raw_socket), select.POLLIN)  # noqa: S610 - of anyio
        return bool(poll.poll(0))

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], payload: bytes | None
    ) -> None:
        """Send a request; where `headers` tell of a length, its body comes after this.

        Raises:
            ConnectionFailed
        """
        said = {"Host": self._address.authority, "Accept-Encoding": "identity", **headers}
        is_whole = "Content-Length" not in headers
        if is_whole and (payload is not None or method in _WITH_BODY):
            said["Content-Length"] = str(len(payload or b""))
        with _failures(self._address), anyio.fail_after(self._silence_s):
            request = h11.Request(method=method, target=target, headers=[*said.items()])
            raw = self._http.send(request)
            if payload:
                raw += self._http.send(h11.Data(data=payload))
            if is_whole:
                raw += self._http.send(h11.EndOfMessage())
            await self._open_stream.send(raw)

    async def send_file(
        self,
        file: AsyncIterable[memoryview] | None,
        ask_for_life: Callable[[], Awaitable[None]],
    ) -> None:
        """Send this as the body, as far as the hub wants it, and wait until it answers.

        Whenever nothing has moved for as long as a hub is waited for, `ask_for_life` is called,
        which raises if there is none.

        Raises:
            ConnectionFailed
        """
        answered = anyio.Event()
        moved = 0
        failure: Exception | None = None  # bare, not in a group

        async def send() -> None:
            nonlocal moved
            if file is not None:
                async for piece in file:
                    if answered.is_set() or not await self._is_taken(bytes(piece)):
                        break
                    moved += 1
            await answered.wait()

        async def listen() -> None:
            with suppress(*BROKEN):
                self._first = await self._open_stream.receive(PIECE_BYTES)
            answered.set()
            if not self._address.secure:  # half a record of TLS would break the answer, too
                group.cancel_scope.cancel()

        async def watch() -> None:
            while True:
                before = moved
                await anyio.sleep(self._timeout_s)
                if before == moved:
                    await ask_for_life()

        async def heed(task: Callable[[], Awaitable[None]]) -> None:
            nonlocal failure
            try:
                await task()
            except Exception as exc:  # noqa: BLE001 - raised below
                failure = exc
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            group.start_soon(heed, watch)
            await heed(send)
        if failure is not None:
            raise failure

    async def answer(self) -> Response:
        """The head of the answer.

        Raises:
            ConnectionFailed, UnexpectedAnswer
        """
        while not isinstance(event := await self.next_event(), h11.Response):
            pass  # an interim one
        return Response(self, event)

    async def next_event(self) -> object:
        """What comes next of the answer, as h11 tells it.

        Raises:
            ConnectionFailed, UnexpectedAnswer
        """
        has_ended = False
        while True:
            with _failures(self._address):
                try:
                    event = self._http.next_event()
                except h11.RemoteProtocolError as exc:
                    if not has_ended:
                        raise UnexpectedAnswer(_foreign(self._address)) from exc
                    raise Away(f"the hub at {self._address} broke off its answer") from exc
                if event is not h11.NEED_DATA:
                    return event
                data = await self._receive()
            has_ended = not data
            self._http.receive_data(data)

    async def end(self) -> None:
        """The answer has been read: be ready for another request."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            await self.aclose()

    @property
    def _open_stream(self) -> ByteStream:
        assert self._stream is not None
        return self._stream

    async def _is_taken(self, piece: bytes) -> bool:
        """False: the hub wants no more, or is gone; its answer, if there is any, says why."""
        try:
            await self._open_stream.send(piece)
        except BROKEN:
            return False
        return True

    async def _receive(self) -> bytes:
        """What comes next; b"" is the end."""
        data, self._first = self._first, b""
        if not data:
            with suppress(anyio.EndOfStream), anyio.fail_after(self._silence_s):
                data = await self._open_stream.receive(PIECE_BYTES)
        if len(self._seen) < len(_BEGINNING):
            self._seen = (self._seen + data)[: len(_BEGINNING)]
            if not _BEGINNING.startswith(self._seen):
                raise UnexpectedAnswer(_foreign(self._address))
        return data


def _foreign(address: Address) -> str:
    return f"what listens at {address} is not a cmdop hub"


@contextmanager
def _failures(address: Address, *, sent: bool = True) -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        kind = Silent if sent else ConnectionFailed
        raise kind(f"the hub at {address} does not answer") from exc
    except BROKEN as exc:
        if isinstance(cause := _cause_of(exc), ssl.SSLCertVerificationError):
            raise Untrusted(untrusted(str(address), cause)) from exc
        raise Away(f"cannot reach the hub at {address}: {reason_of(exc)}", sent=sent) from exc
    except UnicodeError as exc:  # the resolver's word for a host name that cannot be one
        raise ConnectionFailed(f"cannot reach the hub at {address}: no such host") from exc


def _cause_of(error: BaseException) -> BaseException:
    """What anyio raises has as its cause what the system said."""
    while isinstance(error, BaseExceptionGroup) or error.__cause__ is not None:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif error.__cause__ is not None:
            error = error.__cause__
    return error


def reason_of(error: BaseException) -> str:
    """Why, in the system's words."""
    error = _cause_of(error)
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError | socket.gaierror):
        return os.strerror(error.errno).lower() if error.errno else str(error).lower()
    return (getattr(error, "strerror", None) or str(error) or "the connection broke").lower()
