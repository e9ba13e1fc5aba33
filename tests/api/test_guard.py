"""What strangers can send, and what must hold all the same. Real sockets, one process."""

import random
from collections import Counter
from contextlib import suppress
from importlib.metadata import version

import pytest
import trio
import trio.testing

from tests.api.hostile_target import (
    BINARY,
    BOUND,
    CLOSE,
    GET,
    PING,
    TEXT,
    Target,
    bystander,
    frame,
    get,
    read_all,
    read_until,
    reset,
    send,
    serving,
    until_served,
    upgrade,
)

# What is sent on a new connection, which then stays open.
OPENINGS = {
    "nothing": b"",
    "one byte": b"G",
    "binary noise": bytes(range(128, 256)) + b"\r\n\r\n",
    "tls client hello": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "only line ends": b"\r\n" * 50,
    "half a head": b"GET / HTTP/1.1\r\nHost:",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": get(b"/", b"Host: y"),
    "NUL in a header": get(b"/", b"X: a\0b"),
    "header folding": get(b"/", b"X: a", b" b"),
    "http/0.9": b"GET /\r\n\r\n",
    "http/2.0 in the request line": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "http/9.9": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "an empty path": get(b"?x=1"),
    "an absolute target": get(b"http://[/"),
    "a star": get(b"*", method=b"OPTIONS"),
    "connect": get(b"example.org:443", method=b"CONNECT"),
    "two slashes": get(b"//[::1/"),
    "escaped NUL and broken escapes": get(b"/%00%ff%zz"),
    "raw non-ascii path": get(b"/\xc3\xa9"),
    "non-ascii query": get(b"/?%ff=%fe&=&&%"),
    "non-ascii host": b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
    "a host with a space": b"GET / HTTP/1.1\r\nHost: a b/@:x\r\n\r\n",
    "an unknown method": get(method=b"BREW"),
    "50 pipelined requests": GET * 50,
    "pipelined after close": get(b"/", b"Connection: close") + GET * 3,
    "half a body": get(b"/upload", b"Content-Length: 1000000", method=b"POST") + b"abc",
    "negative length": get(b"/upload", b"Content-Length: -1", method=b"POST"),
    "two lengths": get(b"/upload", b"Content-Length: 1", b"Content-Length: 2", method=b"POST"),
    "length and chunks": get(
        b"/upload", b"Content-Length: 4", b"Transfer-Encoding: chunked", method=b"POST"
    )
    + b"0\r\n\r\n",
    "a broken chunk": get(b"/upload", b"Transfer-Encoding: chunked", method=b"POST") + b"zz\r\n",
    "a huge chunk": get(b"/upload", b"Transfer-Encoding: chunked", method=b"POST") + b"f" * 20,
    "unknown coding": get(b"/upload", b"Transfer-Encoding: gzip, chunked", method=b"POST"),
    "expect, then a broken body": get(
        b"/upload", b"Expect: 100-continue", b"Transfer-Encoding: chunked", method=b"POST"
    )
    + b"-1\r\n",
    "more body than is read": get(b"/", b"Content-Length: 99999999", method=b"POST") + bytes(10**6),
    "a body error while the answer streams": get(b"/stream", b"Transfer-Encoding: chunked")
    + b"nonsense\r\n",
    "pipelined behind a stream": get(b"/stream") + GET,
    "h2c": get(
        b"/", b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: !!!!"
    ),
    "h2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(300),
    "a byte after the upgrade": upgrade() + b"x",
    "a byte after an upgrade that is refused": upgrade(b"/refuse") + b"x",
    "a byte after an upgrade to nowhere": upgrade(b"/nowhere") + b"x",
    "a frame after the upgrade": upgrade() + frame(TEXT, b"early"),
    "a body with the upgrade": upgrade(content_length=b"5") + b"hello",
    "a chunked body with the upgrade": upgrade(transfer_encoding=b"chunked") + b"5\r\n",
    "upgrade without key": upgrade(sec_websocket_key=b""),
    "upgrade with a non-ascii key": upgrade(sec_websocket_key=b"\xff\xfe"),
    "upgrade without version": upgrade(sec_websocket_version=b""),
    "upgrade of another version": upgrade(sec_websocket_version=b"99"),
    "upgrade with non-ascii protocols": upgrade(sec_websocket_protocol=b"\xff\xfe"),
    "upgrade with non-ascii extensions": upgrade(sec_websocket_extensions=b"\xff\xfe"),
    "upgrade with non-ascii connection": upgrade(connection=b"upgrade, \xff"),
    "upgrade with broken extensions": upgrade(
        sec_websocket_extensions=b"permessage-deflate; client_max_window_bits=99; ;;="
    ),
    "upgrade of a raw non-ascii path": upgrade(b"/\xc3\xa9"),
    "upgrade of an empty path": upgrade(b"?"),
    "upgrade by post": upgrade().replace(b"GET", b"POST"),
    "upgrade in http/1.0": upgrade().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "connection upgrade without upgrade": get(
        b"/echo", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13"
    ),
}


# What is sent on a websocket that has been accepted.
FRAMES = {
    "unmasked": frame(TEXT, b"hi", masked=False),
    "unknown opcode": frame(5, b"hi"),
    "bad utf-8": frame(TEXT, b"\xff\xfe\xff"),
    "an orphan continuation": frame(0, b"hi"),
    "a message inside a message": frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
    "a fragmented ping": frame(PING, b"hi", fin=False),
    "an oversized ping": frame(PING, bytes(126)),
    "1000 pings": frame(PING, b"hi") * 1000,
    "1000 empty fragments": frame(TEXT, b"", fin=False) * 1000,
    "an empty binary message": frame(BINARY, b""),
    "reserved bits": bytes([0xF1, 0x80, 0, 0, 0, 0]),
    "close, then data": frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"after") + frame(PING, b"p"),
    "close twice": frame(CLOSE, b"") * 2,
    "close of one byte": frame(CLOSE, b"\x03"),
    "an impossible close code": frame(CLOSE, b"\x00\x01"),
    "a close reason that is no utf-8": frame(CLOSE, b"\x03\xe8\xff\xfe"),
    "a length of 2^62": frame(BINARY, bytes(1000), length=2**62),
    "a length of 2^63": frame(BINARY, bytes(1000), length=2**63),
    "17 MiB": frame(BINARY, bytes(17 * 2**20)),
    "17 MiB in pieces": frame(BINARY, bytes(2**20), fin=False)
    + frame(0, bytes(2**20), fin=False) * 16,
}


async def survives(target: Target, served: Counter[str]) -> None:
    """Others are served while the attackers still hold on, and nothing is left of them after."""
    await until_served(served, more=3)
    assert await target.is_alive()
    await target.hang_up()
    assert await target.is_alive()


@pytest.mark.parametrize("sent", OPENINGS.values(), ids=OPENINGS.keys())
async def test_no_opening_harms_anybody_else(sent, caplog):
    async with serving() as target:
        with trio.fail_after(BOUND):
            async with bystander(target) as served:
                await send(await target.connect(), sent)
                await send(rude := await target.connect(), sent)
                reset(rude)
                half_closed = await target.connect()
                await send(half_closed, sent)
                with suppress(trio.BrokenResourceError):
                    await half_closed.send_eof()
                await survives(target, served)
            await target.until_idle()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("sent", FRAMES.values(), ids=FRAMES.keys())
@pytest.mark.parametrize("path", [b"/echo", b"/deaf", b"/flood"])
async def test_no_frame_harms_anybody_else(path, sent, caplog):
    async with serving() as target:
        with trio.fail_after(BOUND):
            async with bystander(target) as served:
                await send(await target.websocket(path), sent)
                await send(rude := await target.websocket(path), sent)
                reset(rude)
                await survives(target, served)
            await target.until_idle()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    "sent", [b"", get(b"/slow"), upgrade(), get(b"/stream")], ids=["connect", "get", "ws", "stream"]
)
async def test_connections_reset_at_once_leave_nothing_behind(sent, caplog):
    async with serving() as target:
        with trio.fail_after(BOUND):
            async with bystander(target) as served:
                for _ in range(50):
                    reset(await target.connect(sent))
                await survives(target, served)
            await target.until_idle()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_random_bytes_harm_nobody(caplog):
    chance = random.Random(20260214)
    async with serving() as target:
        with trio.fail_after(BOUND):
            async with bystander(target) as served:
                for turn in range(120):
                    if turn % 2:
                        stream = await target.websocket()
                        await send(stream, chance.randbytes(chance.randrange(1, 300)))
                    else:  # a good request with a few bytes changed
                        good = bytearray(chance.choice(list(OPENINGS.values()))[:4000] or b"x")
                        for _ in range(chance.randrange(1, 6)):
                            good[chance.randrange(len(good))] = chance.randrange(256)
                        stream = await target.connect()
                        await send(stream, bytes(good))
                    if turn % 3 == 0:
                        reset(stream)
                await survives(target, served)
            await target.until_idle()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# -- one answer for each wrong ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (OPENINGS["binary noise"], 400),
        (OPENINGS["tls client hello"], 400),
        (OPENINGS["no host"], 400),
        (OPENINGS["http/2.0 in the request line"], 505),
        (OPENINGS["h2 preface"], 505),
        (OPENINGS["an empty path"], 400),
        (OPENINGS["a star"], 400),
        (OPENINGS["an absolute target"], 400),
        (OPENINGS["upgrade without key"], 400),
        (OPENINGS["upgrade of another version"], 400),
        (OPENINGS["upgrade with non-ascii protocols"], 400),
        (OPENINGS["upgrade with non-ascii connection"], 400),
        (OPENINGS["upgrade of an empty path"], 400),
        (upgrade(b"/refuse"), 403),
        (upgrade(b"/nowhere"), 404),
    ],
)
async def test_a_refusal_is_answered_and_the_connection_closed(sent, status):
    async with serving() as target:
        with trio.fail_after(BOUND):
            assert (await target.answer(sent)).startswith(b"HTTP/1.1 %d " % status)


async def test_h2c_is_answered_in_http_1():
    async with serving() as target:
        with trio.fail_after(BOUND):
            stream = await target.connect(OPENINGS["h2c"] + GET)
            answer = await read_until(stream, b"}")
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"upgrade" not in answer.lower()


async def test_a_byte_after_the_upgrade_ends_the_connection():
    async with serving() as target:
        with trio.fail_after(BOUND):
            await target.answer(upgrade(b"/deaf") + b"x")


async def test_a_byte_after_a_refusal_has_begun_ends_the_connection(caplog):
    async def app(scope, receive, send):
        start = {"type": "websocket.http.response.start", "status": 403, "headers": []}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": b"no", "more_body": True})
        await receive()
        assert (await receive())["type"] == "websocket.disconnect"

    async with serving(app) as target:
        with trio.fail_after(BOUND):
            stream = await target.connect(upgrade())
            await read_until(stream, b"no")
            await stream.send_all(b"x")
            await read_all(stream)
            await stream.aclose()
            await target.until_idle()
    assert not caplog.records


@pytest.mark.parametrize("raises", [False, True])
async def test_an_answer_cancelled_in_mid_send_is_not_begun_again(raises, caplog):
    async def app(scope, receive, send):
        with trio.move_on_after(0):
            try:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            finally:
                if raises:
                    raise ValueError("on purpose")

    async with serving(app) as target:
        with trio.fail_after(BOUND):
            assert await target.answer(GET) == b""
            await target.until_idle()
    assert [record.message for record in caplog.records] == ["application failed"] * raises


async def test_compression_is_never_agreed_to():
    async with serving() as target:
        with trio.fail_after(BOUND):
            stream = await target.connect(upgrade(sec_websocket_extensions=b"permessage-deflate"))
            answer = await read_until(stream, b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 101")
            assert b"extensions" not in answer.lower()


async def test_a_message_above_the_limit_ends_the_websocket_with_1009():
    async with serving(message_bytes=1000) as target:
        with trio.fail_after(BOUND):
            stream = await target.websocket()
            await stream.send_all(frame(BINARY, bytes(1001)))
            assert (await read_all(stream)).startswith(b"\x88\x02\x03\xf1")


async def test_a_message_of_exactly_the_limit_passes():
    async with serving(message_bytes=1000) as target:
        with trio.fail_after(BOUND):
            stream = await target.websocket()
            await stream.send_all(frame(TEXT, b"x" * 999 + b"!"))
            await read_until(stream, b"x!")


def test_the_guard_fits_the_installed_hypercorn():
    """Each cure was checked against this version's source; another needs another look."""
    assert version("hypercorn").startswith("0.18.")
