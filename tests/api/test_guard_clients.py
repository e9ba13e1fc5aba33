"""What a good client gets: whole answers in order, also where the application fails."""

import re
from collections import Counter

import pytest
import trio
import trio.testing

from cmdop_appliance.api.guard import HttpServer
from cmdop_appliance.front import Front, PeekedStream, open_listeners
from tests.api.hostile_target import (
    BOUND,
    GET,
    TEXT,
    bystander,
    frame,
    get,
    make_app,
    read_all,
    read_until,
    serving,
    until_served,
    upgrade,
)


async def test_the_application_learns_the_real_client_address():
    async with serving() as target:
        answer = await target.answer(get(b"/", b"Connection: close", b"X-Forwarded-For: 6.6.6.6"))
        assert b'{"client":"127.0.0.1"}' in answer


async def test_a_request_in_single_bytes_is_answered():
    sent = get(b"/upload", b"Content-Length: 3", b"Connection: close", method=b"POST") + b"abc"
    async with serving() as target:
        with trio.fail_after(BOUND):
            stream = await target.connect()
            for byte in sent:
                await stream.send_all(bytes([byte]))
            assert b'{"bytes":3}' in await read_all(stream)


async def test_pipelined_requests_are_all_answered_in_order():
    post = get(b"/upload", b"Content-Length: %d", method=b"POST")
    sent = b"".join(post % size + bytes(size) for size in range(30))
    async with serving() as target:
        with trio.fail_after(BOUND):
            stream = await target.connect(sent)
            answer = await read_until(stream, b'{"bytes":29}')
            assert re.findall(rb'"bytes":(\d+)', answer) == [b"%d" % size for size in range(30)]


async def test_a_chunked_body_arrives_whole():
    head = get(b"/upload", b"Transfer-Encoding: chunked", b"Connection: close", method=b"POST")
    async with serving() as target:
        with trio.fail_after(BOUND):
            answer = await target.answer(
                head + b"3\r\nabc\r\n5;x=y\r\ndefgh\r\n0\r\nTrailer: 1\r\n\r\n"
            )
            assert b'{"bytes":8}' in answer


async def test_a_client_that_expects_100_continue_is_told_to():
    head = get(b"/upload", b"Expect: 100-continue", b"Content-Length: 3", method=b"POST")
    async with serving() as target:
        with trio.fail_after(BOUND):
            stream = await target.connect(head)
            await read_until(stream, b"HTTP/1.1 100")
            await stream.send_all(b"abc")
            await read_until(stream, b'{"bytes":3}')


async def test_head_and_body_of_an_answer_leave_in_one_send():
    sends = []

    class Recorded(PeekedStream):
        async def send_all(self, data):
            sends.append(bytes(data))
            await super().send_all(data)

    (listener,) = await open_listeners("127.0.0.1", 0)
    with trio.fail_after(BOUND):
        async with (
            listener,
            await trio.testing.open_stream_to_socket_listener(listener) as client,
            await listener.accept() as accepted,
            trio.open_nursery() as nursery,
        ):
            server = HttpServer(make_app(Counter()))
            nursery.start_soon(server.serve, Recorded(accepted, GET))
            await read_until(client, b"}")
            await client.aclose()
    assert [piece[:12] for piece in sends] == [b"HTTP/1.1 200"]


async def test_the_head_of_an_answer_without_a_length_does_not_wait_for_its_body():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await trio.sleep_forever()

    async with serving(app) as target:
        with trio.fail_after(BOUND):
            await read_until(await target.connect(GET), b"\r\n\r\n")


async def test_an_upload_that_is_refused_gets_to_read_why():
    sent = get(b"/upload", b"Content-Length: 100000000", method=b"POST")
    async with serving() as target:
        with trio.fail_after(BOUND):
            stream = await target.connect(sent)
            await read_until(stream, b"HTTP/1.1 413")
            # Still uploading: a reset would make this fail, and could have eaten the answer.
            for _ in range(16):
                await stream.send_all(bytes(64 * 1024))


@pytest.mark.parametrize("cookie", [b"a=b", b"name=J\xf6rg"])
async def test_messages_are_echoed(cookie):
    async with serving() as target:
        with trio.fail_after(BOUND):
            stream = await target.connect(upgrade(cookie=cookie))
            await read_until(stream, b"\r\n\r\n")
            await stream.send_all(frame(TEXT, b"one") + frame(TEXT, b"two"))
            assert await read_until(stream, b"two") == b"\x81\x03one\x81\x03two"


async def test_a_stream_on_which_requests_have_been_served_can_be_handed_on():
    server = HttpServer(make_app(Counter()))

    async def hot_route_first(stream: PeekedStream) -> None:
        read = await read_until(stream, GET)
        await stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        await server.serve(PeekedStream(stream, read.partition(GET)[2]))

    others = dict.fromkeys(("serve_agent", "serve_terminal", "serve_live"), server.serve)
    front = Front(**others, serve_http=hot_route_first)
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(front.run, await open_listeners("127.0.0.1", 0))
            async with await trio.testing.open_stream_to_socket_listener(listener) as stream:
                await stream.send_all(GET + GET[:10])
                await stream.send_all(GET[10:])
                answers = await read_until(stream, b"}")
                assert answers.startswith(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200")
            nursery.cancel_scope.cancel()


# -- errors of the application ------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ValueError, ExceptionGroup])
async def test_an_exception_of_the_application_is_logged_once_and_ends_only_its_request(
    kind, caplog
):
    async def app(scope, receive, send):
        if scope["path"] != "/":
            raise (
                ValueError("on purpose")
                if kind is ValueError
                else ExceptionGroup(
                    "several", [ValueError("on purpose"), trio.BrokenResourceError()]
                )
            )
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"}"})

    async with serving(app) as target:
        with trio.fail_after(BOUND):
            async with bystander(target) as served:
                assert (await target.answer(get(b"/bad"))).startswith(b"HTTP/1.1 500")
                await until_served(served, more=1)
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.name == "cmdop.http"
    assert record.peer.startswith("127.0.0.1:")
    assert record.exc_info


async def test_an_answer_that_breaks_off_is_seen_to_break_off(caplog):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("on purpose")

    async with serving(app) as target:
        with trio.fail_after(BOUND):
            answer = await target.answer(GET + GET)
            assert b"half" in answer
            assert b"0\r\n\r\n" not in answer  # the end of a chunked body
            await target.until_idle()


async def test_a_websocket_handler_that_raises_closes_its_websocket():
    async with serving() as target:
        with trio.fail_after(BOUND):
            stream = await target.websocket(b"/raise")
            assert (await read_all(stream)).startswith(b"\x88")
            assert await target.is_alive()
