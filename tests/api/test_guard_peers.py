"""Peers that are slow, stuck or gone: nothing runs for them without end, and nothing is left."""

from collections import Counter

import pytest
import trio
import trio.testing

from tests.api.hostile_target import (
    BINARY,
    BOUND,
    CLOSE,
    FLOOD,
    GET,
    TEXT,
    UPGRADE,
    bystander,
    frame,
    get,
    read_all,
    read_until,
    send,
    serving,
    until,
    until_served,
)


@pytest.mark.parametrize("last_words", [frame(CLOSE, b"\x03\xe8"), b""], ids=["close", "eof"])
async def test_a_handler_that_only_sends_stops_when_its_peer_is_gone(last_words):
    async with serving() as target:
        with trio.fail_after(BOUND):
            async with bystander(target) as served:
                stream = await target.websocket(b"/flood")
                await stream.send_all(last_words)
                await stream.send_eof()
                await read_all(stream)
                await target.until_seen("flood ended")
                await until_served(served, more=3)
        assert not target.seen["flood ran dry"]


async def test_a_handler_that_only_sends_does_not_spin_while_the_close_is_under_way():
    async with serving() as target:
        with trio.fail_after(BOUND):
            async with bystander(target) as served:
                stream = await target.websocket(b"/flood", receive_buffer=4096)
                await stream.send_all(frame(CLOSE, b"\x03\xe8"))  # and never reads
                await until_served(served, more=20)
        assert target.seen["flood"] < FLOOD // 100


async def test_an_application_that_never_receives_is_stopped_at_its_next_send():
    seen = Counter()

    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})
        try:
            for _ in range(FLOOD):
                await send({"type": "websocket.send", "bytes": b"x", "text": None})
            seen["ran dry"] += 1
        finally:
            seen["ended"] += 1

    async with serving(app) as target:
        with trio.fail_after(BOUND):
            stream = await target.websocket(b"/")
            await stream.send_all(frame(CLOSE, b"\x03\xe8"))
            await read_all(stream)
            await target.until_idle()
    assert seen == {"ended": 1}


async def test_an_application_that_answers_a_broken_request_on_and_on_is_stopped():
    seen = Counter()

    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(FLOOD):
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
            seen["ran dry"] += 1
        finally:
            seen["ended"] += 1

    async with serving(app) as target:
        with trio.fail_after(BOUND):
            sent = get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"nonsense\r\n"
            assert (await target.answer(sent)).startswith(b"HTTP/1.1 400")
            await target.until_idle()
    assert seen == {"ended": 1}


@pytest.mark.parametrize("opening", [get(b"/stream"), UPGRADE % b"/flood"], ids=["http", "ws"])
async def test_a_peer_that_stops_reading_is_dropped_after_the_send_timeout(opening):
    async with serving(send_timeout_s=0.2) as target:
        with trio.fail_after(BOUND):
            await target.connect(opening, receive_buffer=4096)
            await until(lambda: target.seen["stream ended"] + target.seen["flood ended"] == 1)
            await target.until_idle()
        # What was sent went into socket buffers; the rest of FLOOD was never made.
        assert target.seen["flood"] < FLOOD // 100


async def test_a_slow_reader_is_not_cut_off_while_it_keeps_moving():
    size = 4 * 1024 * 1024

    async def app(scope, receive, send):
        head = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": bytes(size)})

    async with serving(app, send_timeout_s=0.5) as target:
        with trio.fail_after(BOUND):
            stream = await target.connect(GET, receive_buffer=64 * 1024)
            received = len((await read_until(stream, b"\r\n\r\n")).partition(b"\r\n\r\n")[2])
            while received < size:
                await trio.sleep(0.02)  # more than a second for all, far less for any one piece
                chunk = await stream.receive_some(64 * 1024)
                assert chunk
                received += len(chunk)


async def test_a_flooding_peer_is_held_back_by_a_handler_that_does_not_read():
    async with serving() as target:
        with trio.fail_after(BOUND):
            stream = await target.websocket(b"/deaf")
            sent = Counter()

            async def flood():
                while sent["messages"] < 200:
                    await stream.send_all(frame(BINARY, bytes(64 * 1024)))
                    sent["messages"] += 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)
                await target.until_seen("deaf began")
                await trio.testing.wait_all_tasks_blocked(0.1)
                assert sent["messages"] < 200
                nursery.cancel_scope.cancel()


async def test_a_handler_that_returns_while_its_peer_floods_leaves_nothing_behind():
    async with serving() as target:
        with trio.fail_after(BOUND):
            stream = await target.websocket(b"/leave")
            await send(stream, frame(TEXT, b"x") * 200_000)
            await stream.aclose()
            await target.until_idle()


async def test_an_answer_that_does_not_wait_for_its_body_leaves_nothing_behind():
    async def app(scope, receive, send):
        head = [(b"content-length", b"0")]
        await trio.sleep(0.05)  # lets the queue of body pieces fill up
        await send({"type": "http.response.start", "status": 401, "headers": head})
        await send({"type": "http.response.body", "body": b""})

    async with serving(app) as target:
        with trio.fail_after(BOUND):
            stream = await target.connect(get(b"/", b"Content-Length: 9999999", method=b"POST"))
            await send(stream, bytes(2**20))
            assert (await read_all(stream)).startswith(b"HTTP/1.1 401")
            await stream.aclose()
            await target.until_idle()


async def test_a_request_whose_caller_has_gone_is_cancelled():
    async with serving() as target:
        with trio.fail_after(BOUND):
            stream = await target.connect(get(b"/slow"))
            await target.until_seen("slow began")
            await stream.aclose()
            await target.until_seen("slow ended")
            await target.until_idle()


async def test_a_send_that_is_cancelled_ends_the_connection():
    """Half a frame may be on the wire: nothing that follows could be understood."""

    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})
        with trio.move_on_after(0.1):
            while True:
                await send({"type": "websocket.send", "bytes": bytes(2**20), "text": None})
        await trio.sleep_forever()

    async with serving(app, send_timeout_s=BOUND * 2) as target:
        with trio.fail_after(BOUND):
            await target.websocket(b"/", receive_buffer=4096)
            assert target.server._connections
            await target.until_idle()
