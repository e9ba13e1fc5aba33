"""The websocket of one agent, over real websocket bytes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from cmdop_appliance.addresses import Proxies
from cmdop_appliance.hub.connection import Answer, Asked, Connection, LinkClosed, accept
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.limits import HANDSHAKE_S, MESSAGE_BYTES, SEND_S

PEER = "192.0.2.7"
BOUND = 100  # seconds, of a mock clock too

Serve = Callable[[Connection], Awaitable[None]]


class Roomy:
    """The socket that these streams have not got takes all at once."""

    async def wait(self) -> None:
        await trio.lowlevel.checkpoint()


class Served:
    """How serving one stream ended."""

    def __init__(self, *trusted: str) -> None:
        self.proxies = Proxies(trusted)
        self.over = trio.Event()
        self.was_closed = False  # LinkClosed came out of it

    async def serve(self, stream: trio.abc.Stream, serve: Serve) -> None:
        try:
            async with accept(stream, Roomy(), PEER, self.proxies) as connection:
                await serve(connection)
        except* LinkClosed:
            self.was_closed = True
        self.over.set()

    async def wait(self) -> None:
        with trio.fail_after(BOUND):
            await self.over.wait()


@asynccontextmanager
async def served(
    serve: Serve, pair=memory_stream_pair, *, forwarded: Sequence[str] = (), trusted: str = "::1"
) -> AsyncIterator[tuple[WebSocketConnection, Served, trio.abc.Stream]]:
    """A client whose peer is served by `serve`; how that ended; the client's raw stream."""
    ours, theirs = pair()
    ended = Served(trusted)
    headers = [(b"X-Forwarded-For", value.encode("latin-1")) for value in forwarded]
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ended.serve, ours, serve)
            client = await wrap_client_stream(
                nursery, theirs, "hub", "/agent", message_queue_size=100, extra_headers=headers
            )
            yield client, ended, theirs
            await trio.aclose_forcefully(theirs)
            await ended.wait()
            nursery.cancel_scope.cancel()


async def echo(connection: Connection) -> None:
    while True:
        await connection.send(await connection.receive())


async def stay(connection: Connection) -> None:
    await trio.sleep_forever()


async def test_messages_go_both_ways_whole_and_in_order():
    async with served(echo) as (client, _, _):
        for message in ("text", b"bytes", "", b"", "é" * 50_000, b"\0" * (MESSAGE_BYTES - 1)):
            await client.send_message(message)
            assert await client.get_message() == message


async def test_messages_of_several_tasks_do_not_mix():
    async def send_all(connection: Connection) -> None:
        async with trio.open_nursery() as nursery:
            for letter in "abcdefgh":
                nursery.start_soon(connection.send, letter * 100_000)

    async with served(send_all) as (client, _, _):
        got = [await client.get_message() for _ in range(8)]
    assert sorted(message[0] for message in got) == list("abcdefgh")
    assert all(message == message[0] * 100_000 for message in got)


async def test_a_close_tells_why_in_what_a_close_frame_can_carry():
    async def close(connection: Connection) -> None:
        await connection.close(Close.PROTOCOL, "é" * 100)
        with pytest.raises(LinkClosed):
            await connection.send("more")
        with pytest.raises(LinkClosed):
            await connection.receive()
        with pytest.raises(LinkClosed):
            await connection.ping()
        await connection.close(Close.PROTOCOL, "again")

    async with served(close) as (client, ended, _):
        with pytest.raises(ConnectionClosed) as caught:
            await client.get_message()
        await ended.wait()
    assert (caught.value.reason.code, caught.value.reason.reason) == (4400, "é" * 61)


async def test_a_block_that_ends_closes_its_connection():
    async def nothing(connection: Connection) -> None:
        return

    async with served(nothing) as (client, ended, _):
        with pytest.raises(ConnectionClosed) as caught:
            await client.get_message()
        await ended.wait()
    assert caught.value.reason.code == Close.STOPPING
    assert not ended.was_closed


@pytest.mark.parametrize("politely", [True, False])
async def test_a_peer_that_leaves_ends_the_link(politely):
    async with served(echo) as (client, ended, stream):
        if politely:
            await client.aclose()
        else:
            await trio.aclose_forcefully(stream)
        await ended.wait()
    assert ended.was_closed


async def test_a_message_that_is_too_large_ends_the_link():
    async with served(echo) as (client, ended, _):
        await client.send_message(b"\0" * (MESSAGE_BYTES + 1))
        with pytest.raises(ConnectionClosed) as caught:
            await client.get_message()
        await ended.wait()
    assert caught.value.reason.code == 1009  # RFC 6455: message too big
    assert ended.was_closed


async def test_bytes_that_are_no_websocket_frame_end_the_link():
    async with served(echo) as (_, ended, stream):
        await stream.send_all(b"\xff" * 50)
        await ended.wait()
    assert ended.was_closed


async def test_a_ping_returns_when_the_peer_has_answered():
    pinged = trio.Event()

    async def ping(connection: Connection) -> None:
        await connection.ping()
        pinged.set()

    async with served(ping):
        await pinged.wait()


async def test_a_ping_to_a_peer_that_leaves_ends(autojump_clock: MockClock):
    async def ping(connection: Connection) -> None:
        await connection.receive()
        await connection.ping()

    async with served(ping) as (client, ended, stream):
        await client.send_message("now")
        await trio.aclose_forcefully(stream)
        await ended.wait()
    assert ended.was_closed


async def test_a_peer_that_pings_while_we_close_does_no_harm():
    async def close(connection: Connection) -> None:
        await connection.close(Close.STOPPING, "")

    ours, theirs = memory_stream_pair()
    ended = Served()
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery, theirs:
            nursery.start_soon(ended.serve, ours, close)
            await theirs.send_all(REQUEST)
            heard = b""
            while b"\x88" not in heard.partition(b"\r\n\r\n")[2]:  # the close frame
                heard += await theirs.receive_some()
            await theirs.send_all(b"\x89\x80\0\0\0\0" * 3)  # pings
            await ended.wait()


async def test_a_peer_that_takes_nothing_is_cut_off(autojump_clock: MockClock):
    spent: list[float] = []

    async def send(connection: Connection) -> None:
        before = trio.current_time()
        try:
            await connection.send(b"\0" * 100_000)
        finally:
            spent.append(trio.current_time() - before)

    ours, theirs = lockstep_stream_pair()
    ended = Served()
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery, theirs:
            nursery.start_soon(ended.serve, ours, send)
            await theirs.send_all(REQUEST)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += await theirs.receive_some(1)
            await ended.wait()
    assert ended.was_closed
    assert spent == [pytest.approx(SEND_S)]


async def test_a_send_that_is_cancelled_ends_the_connection():
    """Half a frame may be on the wire: nothing can follow it."""

    async def send(connection: Connection) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.send("x")
        await connection.send("y")

    async with served(send) as (client, ended, _):
        await ended.wait()
        with pytest.raises(ConnectionClosed):
            await client.get_message()
    assert ended.was_closed


async def test_a_peer_that_does_not_answer_a_close_is_cut_off(autojump_clock: MockClock):
    spent: list[float] = []

    async def close(connection: Connection) -> None:
        before = trio.current_time()
        await connection.close(Close.SILENT, "")
        spent.append(trio.current_time() - before)

    ours, theirs = memory_stream_pair()
    ended = Served()
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery, theirs:
            nursery.start_soon(ended.serve, ours, close)
            await theirs.send_all(REQUEST)
            await ended.wait()
    assert spent[0] <= 1


async def test_what_is_raised_while_serving_comes_out():
    """A bug in a session is logged by whoever serves the stream: it must not get lost here."""

    async def fail(connection: Connection) -> None:
        raise ValueError("on purpose")

    ours, theirs = memory_stream_pair()
    async with theirs:
        with trio.fail_after(BOUND):
            await theirs.send_all(REQUEST)
            with pytest.raises(ExceptionGroup) as caught:
                await Served().serve(ours, fail)
    assert caught.group_contains(ValueError, match="on purpose")


# ── the upgrade ──────────────────────────────────────────────────────────────────────────────────

REQUEST = (
    b"GET /agent HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\0" * 100,
        b"\xff" * 100_000,
        b"GET /agent HTTP/1.1\r\nHost: hub\r\n\r\n",
        REQUEST.replace(b"GET", b"POST"),
        REQUEST.replace(b"Sec-WebSocket-Key", b"X"),
        REQUEST.replace(b"Version: 13", b"Version: 12"),
        REQUEST[:-2],
        REQUEST[:-2] + b"X: " + b"y" * 200_000,
    ],
)
@pytest.mark.parametrize("leaves", [True, False])
async def test_what_does_not_become_a_websocket_ends_without_a_trace(
    sent, leaves, autojump_clock: MockClock
):
    ours, theirs = memory_stream_pair()
    ended = Served()
    before = trio.current_time()
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery, theirs:
            nursery.start_soon(ended.serve, ours, stay)
            if sent:
                await theirs.send_all(sent)
            if leaves:
                await theirs.aclose()
            await ended.wait()
    assert ended.was_closed
    assert trio.current_time() - before <= HANDSHAKE_S + 5


@pytest.mark.parametrize(
    ("trusted", "forwarded", "address"),
    [
        ("::1", [], PEER),
        ("::1", ["203.0.113.9"], PEER),
        (PEER, [], PEER),
        (PEER, ["203.0.113.9"], "203.0.113.9"),
        (PEER, ["127.0.0.1", "203.0.113.9"], "203.0.113.9"),
        (PEER, ["\xe4"], PEER),
    ],
)
async def test_an_agent_has_its_own_address_behind_a_trusted_proxy(trusted, forwarded, address):
    async def tell(connection: Connection) -> None:
        await connection.send(connection.address)
        await connection.receive()

    async with served(tell, forwarded=forwarded, trusted=trusted) as (client, _, _):
        assert await client.get_message() == address


# ── who judges the request ───────────────────────────────────────────────────────────────────────

ASKING = REQUEST.replace(
    b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: a.v1, b.v1\r\nX-Name: \xe9\r\n\r\n"
)


async def judged(request: bytes, answer: Answer) -> tuple[list[Asked], bytes, bool]:
    """What the judge was shown; all that the client got; whether there was a connection."""
    asked: list[Asked] = []
    opened = False

    async def judge(question: Asked) -> Answer:
        asked.append(question)
        return answer

    async def serve(stream: trio.abc.Stream) -> None:
        nonlocal opened
        try:
            async with accept(stream, Roomy(), PEER, Proxies(["::1"]), judge):
                opened = True
        except* LinkClosed:
            pass

    ours, theirs = memory_stream_pair()
    got = b""
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery, theirs:
            nursery.start_soon(serve, ours)
            await theirs.send_all(request)
            while chunk := await theirs.receive_some():
                got += chunk
                if got.startswith(b"HTTP/1.1 101") and b"\x88" in got.partition(b"\r\n\r\n")[2]:
                    await theirs.send_all(b"\x88\x80\0\0\0\0")
    return asked, got, opened


async def test_a_judge_sees_the_whole_request_and_chooses_what_is_spoken():
    answer = Answer(101, {"X-Request-Id": "req_1"}, subprotocol="b.v1")
    request = ASKING.replace(b"/agent", b"/a/%C3%A9?q=1").replace(b"Host: hub", b"Host: HUB:3006")
    (asked,), got, opened = await judged(request, answer)
    assert asked.target == "/a/%C3%A9?q=1"
    assert asked.host.lower() == "hub:3006"
    assert asked.subprotocols == ("a.v1", "b.v1")
    assert asked.address == PEER
    assert ("x-name", "\xe9") in asked.headers
    head = got.partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 101 ")
    assert b"sec-websocket-protocol: b.v1" in head
    assert b"x-request-id: req_1" in head
    assert opened


async def test_who_is_refused_is_told_why_and_gets_no_connection():
    answer = Answer(403, {"Content-Type": "application/json"}, b'{"error":1}')
    _, got, opened = await judged(ASKING, answer)
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.lower().startswith(b"http/1.1 403 ")
    assert b"connection: close" in head.lower()
    assert body == b'{"error":1}'
    assert not opened


@pytest.mark.parametrize(
    "request_",
    [
        ASKING.replace(b"Host: hub", b"Host: \xff"),
        ASKING.replace(b"Host: hub", b"Host: " + b"a" * 64),
        ASKING.replace(b"a.v1", b"\xff"),
        ASKING.replace(b"Connection: Upgrade", b"Connection: \xff"),
    ],
)
async def test_a_header_that_is_no_text_ends_it_without_a_trace(request_):
    asked, got, opened = await judged(request_, Answer())
    assert (asked, got, opened) == ([], b"", False)


async def test_a_name_of_another_script_is_told_as_it_is_dialled():
    request = ASKING.replace(b"Host: hub", b"Host: xn--bcher-kva.example:81")
    (asked,), _, _ = await judged(request, Answer(403))
    assert asked.host == "xn--bcher-kva.example:81"


async def test_a_message_may_be_as_long_as_it_was_said():
    got: list[str | bytes] = []

    async def serve(stream: trio.abc.Stream) -> None:
        try:
            async with accept(stream, Roomy(), PEER, Proxies([]), message_bytes=10) as connection:
                while True:
                    got.append(await connection.receive())
        except* LinkClosed:
            pass

    ours, theirs = memory_stream_pair()
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, ours)
            client = await wrap_client_stream(nursery, theirs, "hub", "/agent")
            await client.send_message(b"x" * 10)
            await client.send_message(b"x" * 11)
            with pytest.raises(ConnectionClosed) as closed:
                await client.get_message()
    assert closed.value.reason.code == 1009
    assert got == [b"x" * 10]
