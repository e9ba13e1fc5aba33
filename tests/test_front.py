"""The listener: who is handed what, and what a stranger may take before having said a word."""

import os
import resource
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from cmdop_appliance.errors import StartupError
from cmdop_appliance.front import Front, FrontLimits, PeekedStream, Tls, open_listeners

BOUND = 20  # seconds any of this may take on a busy machine; nothing here waits for it

AGENT = b"GET /agent HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
TERMINAL = AGENT.replace(b"/agent", b"/v1/terminals/term_1/socket")
LIVE = AGENT.replace(b"/agent", b"/api/v1/live")
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Door:
    """A front whose handlers say who they are, then echo."""

    def __init__(self, port: int, front: Front) -> None:
        self.port = port
        self.front = front

    async def connect(self, send: bytes = b"") -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        if send:
            await stream.send_all(send)
        return stream

    async def until_waiting(self, count: int) -> None:
        while self.front._waiting.total() != count:  # noqa: ASYNC110 - has no event
            await trio.sleep(0.005)


@asynccontextmanager
async def front(tls: Tls | None = None, **limits) -> AsyncIterator[Door]:
    async def serve(name: bytes, stream: PeekedStream) -> None:
        await stream.send_all(name)
        with suppress(trio.BrokenResourceError):  # the test has what it wants, and hangs up
            while chunk := await stream.receive_some():
                if b"fail" in chunk:
                    raise ValueError("on purpose")
                await stream.send_all(chunk)

    async def serve_agent(stream: PeekedStream) -> None:
        await serve(b"agent:", stream)

    async def serve_terminal(stream: PeekedStream) -> None:
        await serve(b"terminal:", stream)

    async def serve_live(stream: PeekedStream) -> None:
        await serve(b"live:", stream)

    async def serve_http(stream: PeekedStream) -> bytes:
        await serve(b"http:", stream)
        return b""

    door = Front(
        serve_agent=serve_agent,
        serve_terminal=serve_terminal,
        serve_live=serve_live,
        serve_http=serve_http,
        limits=FrontLimits(**limits),
        tls=tls,
    )
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(door.run, await open_listeners("127.0.0.1", 0))
        yield Door(listeners[0].socket.getsockname()[1], door)
        nursery.cancel_scope.cancel()


async def read_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    read = b""
    while len(read) < size and (chunk := await stream.receive_some(size - len(read))):
        read += chunk
    return read


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    read = b""
    with suppress(trio.BrokenResourceError):  # a reset ends it as well
        async for chunk in stream:
            read += chunk
    return read


@pytest.mark.parametrize(
    ("sent", "served_by"),
    [
        (AGENT, b"agent:"),
        (AGENT + b"first frame", b"agent:"),
        (AGENT.replace(b"\r\n", b"\n"), b"agent:"),
        (AGENT.replace(b"Upgrade: websocket", b"UPGRADE:\tWebSocket "), b"agent:"),
        (AGENT.replace(b"/agent", b"/agent?x=1"), b"http:"),
        (AGENT.replace(b"/agent", b"/agents"), b"http:"),
        (AGENT.replace(b"/agent", b"/agent/"), b"http:"),
        (AGENT.replace(b"GET", b"POST"), b"http:"),
        (AGENT.replace(b"1.1", b"1.0"), b"http:"),
        (AGENT.replace(b"websocket", b"h2c"), b"http:"),
        (AGENT.replace(b"Upgrade: websocket\r\n", b"") + b"Upgrade: websocket\r\n\r\n", b"http:"),
        (TERMINAL, b"terminal:"),
        (TERMINAL + b"first frame", b"terminal:"),
        (TERMINAL.replace(b"/v1", b"/api/v1"), b"terminal:"),
        (TERMINAL.replace(b"/v1", b"/api/v1").replace(b"\r\n", b"\n"), b"terminal:"),
        (TERMINAL.replace(b"/socket", b"/socket?token=x"), b"terminal:"),
        (TERMINAL.replace(b"term_1", b"%2e%2e"), b"terminal:"),
        (TERMINAL.replace(b"/v1", b"/v2"), b"http:"),
        (TERMINAL.replace(b"/v1", b"/x/v1"), b"http:"),
        (TERMINAL.replace(b"term_1", b""), b"http:"),
        (TERMINAL.replace(b"term_1", b"a/b"), b"http:"),
        (TERMINAL.replace(b"/socket", b""), b"http:"),
        (TERMINAL.replace(b"/socket", b"/socket/"), b"http:"),
        (TERMINAL.replace(b"/socket", b"/sockets"), b"http:"),
        (TERMINAL.replace(b"GET", b"POST"), b"http:"),
        (TERMINAL.replace(b"1.1", b"1.0"), b"http:"),
        (TERMINAL.replace(b"Upgrade: websocket\r\n", b""), b"http:"),
        (LIVE, b"live:"),
        (LIVE.replace(b"/api", b""), b"live:"),
        (LIVE.replace(b"/live", b"/live?token=x"), b"live:"),
        (LIVE.replace(b"/live", b"/lives"), b"http:"),
        (LIVE.replace(b"/live", b"/live/"), b"http:"),
        (LIVE.replace(b"/live", b"/live/socket"), b"http:"),
        (LIVE.replace(b"Upgrade: websocket\r\n", b""), b"http:"),
        (GET, b"http:"),
        (GET + TERMINAL, b"http:"),
        (GET + GET + b"half a he", b"http:"),
        (b"\x16\x03\x01 a TLS client", b"http:"),
        (b"\r\n", b"http:"),
        (b"\0", b"http:"),
    ],
)
async def test_a_connection_goes_to_its_handler_with_every_byte_it_sent(sent, served_by):
    async with front() as door:
        with trio.fail_after(BOUND):
            async with await door.connect(sent) as stream:
                assert await read_exactly(stream, len(served_by + sent)) == served_by + sent
                await stream.send_all(b"and more")
                assert await read_exactly(stream, 8) == b"and more"


async def test_a_head_in_single_bytes_is_understood():
    async with front() as door:
        with trio.fail_after(BOUND):
            async with await door.connect() as stream:
                for byte in AGENT:
                    await stream.send_all(bytes([byte]))
                assert await read_exactly(stream, 6) == b"agent:"


@pytest.mark.parametrize("sent", [b"", b"G", AGENT[:-2]])
async def test_half_a_head_is_closed_at_the_deadline(sent):
    async with front(head_timeout_s=0.1) as door:
        with trio.fail_after(BOUND):
            async with await door.connect(sent) as stream:
                assert await read_all(stream) == b""


async def test_bytes_that_keep_coming_do_not_move_the_deadline():
    async with front(head_timeout_s=0.2) as door:
        with trio.fail_after(BOUND):
            async with await door.connect(b"GET / HTTP/1.1\r\n") as stream:
                with pytest.raises(trio.BrokenResourceError):  # noqa: PT012 - until it breaks
                    while True:
                        await stream.send_all(b"x")
                        await trio.sleep(0.01)


async def test_the_deadline_is_over_once_the_head_is_there():
    async with front(head_timeout_s=0.1) as door:
        with trio.fail_after(BOUND):
            async with await door.connect(GET) as stream, await door.connect(b"half") as late:
                await read_exactly(stream, len(b"http:" + GET))
                assert await read_all(late) == b""  # its deadline came later than ours did
                await stream.send_all(b"still here")
                assert await read_exactly(stream, 10) == b"still here"


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\nX: " + b"x" * 2000, b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n"],
)
async def test_a_head_above_the_limit_is_answered_with_431(sent):
    async with front(head_bytes=1000) as door:
        with trio.fail_after(BOUND):
            async with await door.connect(sent) as stream:
                answer = await read_all(stream)
                assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
                await stream.send_eof()
                await door.until_waiting(0)


async def test_a_caller_that_does_not_wait_for_its_431_is_no_error_of_ours(caplog):
    async with front(head_bytes=1000) as door:
        with trio.fail_after(BOUND):
            with socket.create_connection(("127.0.0.1", door.port)) as rude:
                await door.until_waiting(1)
                rude.sendall(b"x" * 2000)
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await door.until_waiting(0)
    assert not caplog.records


async def test_a_head_of_exactly_the_limit_and_a_body_behind_it_pass():
    async with front(head_bytes=len(GET)) as door:
        with trio.fail_after(BOUND):
            async with await door.connect(GET + bytes(1000)) as stream:
                assert await read_exactly(stream, 5) == b"http:"


async def test_silent_connections_of_one_address_are_limited_and_others_unharmed():
    async with front(waiting_per_address=3) as door:
        with trio.fail_after(BOUND):
            established = [await door.connect(GET) for _ in range(10)]
            for stream in established:
                await read_exactly(stream, len(b"http:" + GET))
            silent = [await door.connect() for _ in range(3)]
            await door.until_waiting(3)
            async with await door.connect(GET) as one_too_many:
                assert await read_all(one_too_many) == b""
            for stream in established:
                await stream.send_all(b"still here")
                assert await read_exactly(stream, 10) == b"still here"
            await silent.pop().aclose()
            await door.until_waiting(2)
            async with await door.connect(GET) as next_one:
                assert await read_exactly(next_one, 5) == b"http:"
            for stream in established + silent:
                await stream.aclose()
            await door.until_waiting(0)
            assert not door.front._waiting  # no address is remembered


async def test_silent_connections_of_all_addresses_together_are_limited():
    async with front(waiting_total=3) as door:
        with trio.fail_after(BOUND):
            silent = [await door.connect() for _ in range(3)]
            await door.until_waiting(3)
            async with await door.connect() as one_too_many:
                assert await read_all(one_too_many) == b""
            for stream in silent:
                await stream.aclose()


async def test_a_handler_that_raises_is_logged_once_and_ends_only_its_connection(caplog):
    async with front() as door:
        with trio.fail_after(BOUND):
            async with await door.connect(GET) as other, await door.connect(GET) as stream:
                await read_exactly(other, len(b"http:" + GET))
                host, port = stream.socket.getsockname()
                await stream.send_all(b"fail")
                await read_all(stream)
                await other.send_all(b"still here")
                assert await read_exactly(other, 10) == b"still here"
    (record,) = caplog.records
    assert record.name == "cmdop.front"
    assert record.peer == f"{host}:{port}"
    assert record.exc_info


async def test_a_handler_that_raises_while_it_is_cancelled_does_not_stop_the_stop(caplog):
    async def serve(stream: PeekedStream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("on purpose")

    door = Front(serve_agent=serve, serve_terminal=serve, serve_live=serve, serve_http=serve)
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(door.run, await open_listeners("127.0.0.1", 0))
            async with await trio.testing.open_stream_to_socket_listener(listener) as stream:
                await stream.send_all(GET)
                await trio.testing.wait_all_tasks_blocked(0.05)
                nursery.cancel_scope.cancel()
    assert [record.name for record in caplog.records] == ["cmdop.front"]


async def test_no_free_file_descriptor_stops_nobody_who_is_served_and_is_recovered_from(caplog):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with front() as door:
        with trio.fail_after(BOUND):
            async with (
                await door.connect(GET) as established,
                trio.SocketStream(trio.socket.socket()) as refused,
            ):
                await read_exactly(established, len(b"http:" + GET))
                lowest_free = os.open(os.devnull, os.O_RDONLY)
                os.close(lowest_free)
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
                try:
                    await refused.socket.connect(("127.0.0.1", door.port))
                    await refused.send_all(GET)
                    while not caplog.records:  # noqa: ASYNC110 - a log has no event
                        await trio.sleep(0.005)
                    await established.send_all(b"still here")
                    assert await read_exactly(established, 10) == b"still here"
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                assert await read_exactly(refused, 5) == b"http:"
    assert {record.name for record in caplog.records} == {"trio.serve_listeners"}


# -- PeekedStream ---------------------------------------------------------------------------------


async def test_a_peeked_stream_gives_back_in_pieces_what_was_read():
    near, far = trio.testing.memory_stream_pair()
    async with near, far:
        await far.send_all(b"three")
        stream = PeekedStream(PeekedStream(near, b"two"), b"one")  # type: ignore[arg-type]
        sizes = [2, 2, None, 1, None]
        got = [await stream.receive_some(size) for size in sizes]
        assert got == [b"on", b"e", b"two", b"t", b"hree"]


async def test_a_closed_peeked_stream_gives_back_nothing():
    near, _ = trio.testing.memory_stream_pair()
    stream = PeekedStream(near, b"one")  # type: ignore[arg-type]
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()


# -- open_listeners -------------------------------------------------------------------------------


async def test_a_taken_port_is_said_in_one_line():
    (listener,) = await open_listeners("127.0.0.1", 0)
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(StartupError) as caught:
            await open_listeners("127.0.0.1", port)
    assert caught.value.message == f"cannot listen on 127.0.0.1:{port}: address already in use"


@pytest.mark.parametrize(
    "host",
    [
        "192.0.2.1",  # RFC 5737: nobody's address
        "no such host",
        "a" * 70,  # longer than a DNS label
        "nul\0",
    ],
)
async def test_an_address_that_cannot_be_is_a_startup_error(host):
    with pytest.raises(StartupError, match="cannot listen on"):
        await open_listeners(host, 0)


async def test_a_port_can_be_opened_again_at_once():
    counted = Counter()
    for _ in range(3):
        (listener,) = await open_listeners("127.0.0.1", counted["port"])
        counted["port"] = listener.socket.getsockname()[1]
        async with (
            listener,
            await trio.testing.open_stream_to_socket_listener(listener),
            await listener.accept() as accepted,
        ):
            await accepted.send_eof()  # the side that closes first holds the port in TIME_WAIT
