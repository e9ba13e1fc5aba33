"""How connections end: idle for too long, by a stop, and by a cancel."""

import trio
import trio.testing

from tests.api.hostile_target import (
    BINARY,
    BOUND,
    GET,
    UPGRADE,
    frame,
    get,
    read_all,
    read_until,
    send,
    serving,
)


async def test_an_idle_connection_is_closed_after_the_keep_alive_time():
    async with serving(keep_alive_s=0.1) as target:
        with trio.fail_after(BOUND):
            assert (await target.answer(GET)).startswith(b"HTTP/1.1 200")


async def test_a_request_may_take_longer_than_the_keep_alive_time():
    async def app(scope, receive, send):
        await trio.sleep(0.3)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(app, keep_alive_s=0.1) as target:
        with trio.fail_after(BOUND):
            assert (await target.answer(GET)).startswith(b"HTTP/1.1 204")


async def test_stop_closes_idle_connections_at_once_and_busy_ones_after_their_answer():
    go_on = trio.Event()
    began = trio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/busy":
            began.set()
            await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"}"})

    async with serving(app) as target:
        with trio.fail_after(BOUND):
            idle = await target.connect(GET)
            await read_until(idle, b"0\r\n\r\n")
            busy = await target.connect(get(b"/busy"))
            await began.wait()
            target.server.stop()
            assert await read_all(idle) == b""
            go_on.set()
            answer = await read_all(busy)
            assert b"200" in answer
            assert b"connection: close" in answer.lower()
            await busy.aclose()
            await target.until_idle()


async def test_stop_closes_a_connection_whose_answer_had_begun_before_it():
    go_on = trio.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"whole"})

    async with serving(app) as target:
        with trio.fail_after(BOUND):
            stream = await target.connect(GET)
            await read_until(stream, b"half")
            target.server.stop()
            go_on.set()
            assert b"whole" in await read_all(stream)


async def test_cancelling_ends_stuck_peers_senders_and_requests():
    async with serving() as target:
        with trio.fail_after(BOUND):
            await target.connect(UPGRADE % b"/flood", receive_buffer=4096)
            await target.connect(get(b"/stream"), receive_buffer=4096)
            await target.connect(get(b"/slow"))
            await send(await target.websocket(b"/deaf"), frame(BINARY, bytes(64 * 1024)) * 40)
            for what in ("flood", "stream", "slow", "deaf"):
                await target.until_seen(f"{what} began")
            await trio.testing.wait_all_tasks_blocked(0.1)  # all their buffers are full
        with trio.fail_after(5):
            target.stop.cancel()
            await trio.lowlevel.checkpoint()
    assert not target.server._connections
