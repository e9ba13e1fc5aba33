"""One attempt: what is sent, and what is made of every kind of answer."""

import logging
import socket

import pytest
import trio

from cmdop_appliance import __version__
from cmdop_appliance.webhooks.sending import Answer, Sender, check_headers
from cmdop_appliance.webhooks.signing import signed_headers
from tests.support.clocks import StepClock
from tests.webhooks.peers import Names, Receiver, answering, receiver, saying, sender

PUBLIC = "93.184.216.34"
BODY = b'{"id":"evt_1"}'
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer SECRET"}
HEAD = b"HTTP/1.1 200 OK\r\n"


async def post(mine: Sender, where: Receiver, host: str = "127.0.0.1") -> Answer:
    """With secrets in each place where people have them; none of them may come back."""
    url = f"http://{host}:{where.port}/SECRET?token=SECRET"
    attempt = await mine.post(url, HEADERS, BODY)
    assert "SECRET" not in repr(attempt)
    return attempt


async def test_the_request_is_what_was_given_and_nothing_more():
    async with receiver(answering(204)) as listener:
        url = f"http://127.0.0.1:{listener.port}/hook/ü?a=b&c"
        signed = signed_headers("12345678", "evt_1", 7, BODY)
        attempt = await sender("127.0.0.1").post(url, {"X-Key": "k"} | signed, BODY)

    assert attempt.status == 204
    assert attempt.error is None
    assert attempt.address == "127.0.0.1"
    head, _, body = listener.requests[0].partition(b"\r\n\r\n")
    assert body == BODY
    assert head.decode().split("\r\n") == [
        "POST /hook/%C3%BC?a=b&c HTTP/1.1",
        f"Host: 127.0.0.1:{listener.port}",
        f"User-Agent: cmdop/{__version__}",
        "Content-Length: 14",
        "Accept-Encoding: identity",
        "Connection: close",
        "X-Key: k",
        "webhook-id: evt_1",
        "webhook-timestamp: 7",
        f"webhook-signature: {signed['webhook-signature']}",
        f"X-Cmdop-Signature: {signed['X-Cmdop-Signature']}",
    ]


@pytest.mark.parametrize(
    ("host", "asked", "named"),
    [
        ("hook.example", "hook.example", b"hook.example"),
        ("HOOK.example.", "hook.example.", b"hook.example."),
        ("büro.example", "xn--bro-hoa.example", b"xn--bro-hoa.example"),
        ("１２７.0.0.1", None, b"127.0.0.1"),
    ],
)
async def test_the_name_is_asked_for_and_named_in_its_one_form(host, asked, named):
    names = Names(hook_example=[["127.0.0.1"]])
    names.answers["xn--bro-hoa.example"] = [["127.0.0.1"]]
    async with receiver(answering(204)) as listener:
        attempt = await post(sender("127.0.0.1", resolve=names), listener, host)
    assert attempt.error is None
    assert names.asked == ([asked] if asked else [])
    assert b"\r\nHost: %b:%d\r\n" % (named, listener.port) in listener.requests[0]


async def test_headers_of_the_connection_are_set_here_whoever_gave_others():
    given = {"host": "evil.example", "CONTENT-LENGTH": "3", "connection": "keep-alive"}
    async with receiver(answering(204)) as listener:
        url = f"http://127.0.0.1:{listener.port}/"
        assert (await sender("127.0.0.1").post(url, given, BODY)).error is None
    assert listener.requests[0].lower().count(b"\r\nhost: ") == 1
    assert b"evil" not in listener.requests[0]
    assert listener.requests[0].lower().count(b"\r\nconnection: ") == 1


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_2xx_is_a_success(status):
    async with receiver(answering(status)) as listener:
        attempt = await post(sender("127.0.0.1"), listener)
    assert (attempt.status, attempt.error) == (status, None)


@pytest.mark.parametrize("status", [304, 400, 404, 410, 429, 500, 503, 600, 999])
async def test_any_other_status_is_a_failure(status):
    async with receiver(answering(status)) as listener:
        attempt = await post(sender("127.0.0.1"), listener)
    assert attempt.status == status
    assert attempt.error.startswith(f"http://127.0.0.1:{listener.port}: it answered {status}")


@pytest.mark.parametrize(
    ("header", "seconds"), [("120", 120.0), ("Thu, 01 Jan 1970 00:01:00 GMT", 50.0), ("x", None)]
)
async def test_retry_after_is_told(header, seconds):
    async with receiver(answering(503, Retry_After=header)) as listener:
        attempt = await post(sender("127.0.0.1", clock=StepClock(10_000)), listener)
    assert attempt.retry_after_s == seconds


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ([b"220 BANNER ESMTP\r\n\r\n"], "what it answered is not HTTP"),
        ([b"\x16\x03\x01\x00\xa5BANNER\r\n\r\n"], "what it answered is not HTTP"),
        ([b"SSH-2.0-BANNER\r\n\r\n"], "what it answered is not HTTP"),
        ([b"HTTP/1.1 2OO BANNER\r\n\r\n"], "what it answered is not HTTP"),
        ([b"HTTP/1.1 200\r\nBAN NER: x\r\n\r\n"], "what it answered is not HTTP"),
        ([HEAD, b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n"], "what it answered is not HTTP"),
        ([b"HTTP/1.1 101 BANNER\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"], "is not HTTP"),
        ([HEAD, b"X: " + b"BANNER" * 20_000], "it sent 16 KiB, and no answer in them"),
        ([HEAD, b"X: BANNER\r\n" * 20_000], "it sent 16 KiB, and no answer in them"),
        ([b"HTTP/1.1 100 BANNER\r\n\r\n" * 5000], "it sent 16 KiB, and no answer in them"),
        ([b"HTTP/1.1 103\r\nLink: BANNER\r\n\r\n" * 5000], "it sent 16 KiB, and no answer"),
    ],
)
async def test_what_is_no_answer_is_a_failure_that_quotes_nothing_of_it(parts, error):
    async with receiver(saying(*parts)) as listener:
        attempt = await post(sender("127.0.0.1"), listener)
        with trio.fail_after(5):
            await listener.gone.wait()
    assert attempt.status is None
    assert error in attempt.error
    assert "BANNER" not in repr(attempt)


class Steps(trio.abc.Instrument):
    """How often a task left the loop to others."""

    def __init__(self) -> None:
        self.number = 0
        self._task = trio.lowlevel.current_task()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.number += task is self._task


async def test_while_much_is_read_others_have_their_turn():
    steps = Steps()
    async with receiver(saying(b"HTTP/1.1 100\r\n\r\n" * 5000)) as listener:
        trio.lowlevel.add_instrument(steps)
        await post(sender("127.0.0.1"), listener)
        trio.lowlevel.remove_instrument(steps)
    assert steps.number >= 16 * 1024 / 256


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nX: y\r\n", b"HTTP/1.1 100\r\n\r\n"])
async def test_a_receiver_that_closes_without_an_answer_has_failed(begin):
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.send_all(begin)
        await stream.send_eof()

    async with receiver(hang_up) as listener:
        attempt = await post(sender("127.0.0.1"), listener)
        with trio.fail_after(5):
            await listener.gone.wait()
    assert attempt.error.endswith("it closed the connection before it answered")


async def test_a_receiver_that_resets_the_connection_has_failed():
    async def reset(stream: trio.SocketStream) -> None:
        linger = b"\x01\0\0\0\0\0\0\0"  # on, for 0 s
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        stream.socket.close()

    async with receiver(reset) as listener:
        attempt = await post(sender("127.0.0.1"), listener)
    assert attempt.error.endswith("it broke the connection before it answered")


@pytest.mark.parametrize("reads_on", [True, False])
async def test_an_answer_to_half_a_request_counts(reads_on):
    """Who refuses a body by its size answers, and closes before it was sent."""

    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some(100)
        await stream.send_all(b"HTTP/1.1 413 Too large\r\nContent-Length: 0\r\n\r\n")
        while reads_on and await stream.receive_some(65536):
            pass
        await stream.aclose()  # with bytes that nobody read, it is a reset

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, refuse, listeners)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        attempt = await sender("127.0.0.1").post(url, {}, bytes(20_000_000))
        nursery.cancel_scope.cancel()
    assert attempt.status == 413


async def silent(stream: trio.abc.Stream) -> None:
    pass


async def trickling_headers(stream: trio.abc.Stream) -> None:
    await stream.send_all(HEAD)
    while True:
        await trio.sleep(1)
        await stream.send_all(b"X: y\r\n")


async def trickling_interim_answers(stream: trio.abc.Stream) -> None:
    while True:
        await trio.sleep(1)
        await stream.send_all(b"HTTP/1.1 102 Processing\r\n\r\n")


@pytest.mark.parametrize("behave", [silent, trickling_headers, trickling_interim_answers])
async def test_a_receiver_that_does_not_answer_in_time_is_left(behave, autojump_clock):
    async with receiver(behave) as listener:
        attempt = await post(sender("127.0.0.1"), listener)
        with trio.fail_after(5):
            await listener.gone.wait()
    assert attempt.error.endswith("the answer took more than 15 s")
    assert attempt.duration_ms == 15_000
    assert attempt.address == "127.0.0.1"


async def test_a_receiver_that_does_not_read_is_left(autojump_clock):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        attempt = await sender("127.0.0.1").post(url, {}, bytes(20_000_000))
    assert attempt.error.endswith("the answer took more than 15 s")


async def test_a_name_server_that_does_not_answer_is_left(dials, autojump_clock):
    async def hanging(host: str) -> list[str]:
        await trio.sleep_forever()
        raise AssertionError

    attempt = await sender(resolve=hanging).post("https://slow.example/", {}, BODY)
    assert attempt.error == "https://slow.example: looking up the name took more than 15 s"
    assert (attempt.status, attempt.address, dials.seen) == (None, None, [])


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service"),
        (OSError(), "no answer"),
    ],
)
async def test_a_name_that_cannot_be_looked_up_is_a_failure(failure, reason):
    names = Names(gone_example=[failure])
    attempt = await sender(resolve=names).post("http://gone.example/SECRET", {}, BODY)
    assert attempt.error.startswith(f"http://gone.example: the name cannot be looked up: {reason}")


async def test_a_port_where_nobody_listens_is_a_failure():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/SECRET"
        attempt = await sender("127.0.0.1").post(url, HEADERS, BODY)
    assert attempt.error.endswith("cannot be reached: 127.0.0.1: connection refused")


async def test_a_url_that_is_none_is_a_failure():
    attempt = await sender().post("http://SECRET@a/", {}, BODY)
    assert attempt.error == "the URL must not have a user or password: give them as a header"


async def test_whoever_waits_for_an_attempt_can_leave_it(autojump_clock):
    async with receiver(silent) as listener:
        with trio.move_on_after(3) as scope:
            await post(sender("127.0.0.1"), listener)
        with trio.fail_after(5):
            await listener.gone.wait()
    assert scope.cancelled_caught


async def test_the_log_has_no_secret(caplog):
    caplog.set_level(logging.DEBUG)
    async with receiver(answering(500)) as listener:
        await post(sender("127.0.0.1"), listener)
    assert "SECRET" not in caplog.text


async def endless_body(stream: trio.abc.Stream) -> None:
    await stream.send_all(HEAD + b"\r\n")
    while True:
        await stream.send_all(b"a" * 4096)


async def pausing_body(stream: trio.abc.Stream) -> None:
    await stream.send_all(HEAD + b"Content-Length: 5000\r\n\r\n" + b"a" * 1024)


async def cut_body(stream: trio.SocketStream) -> None:
    await stream.send_all(HEAD + b"\r\nabc")
    await stream.send_eof()


async def trickling_body(stream: trio.abc.Stream) -> None:
    await stream.send_all(HEAD + b"\r\n")
    while True:
        await stream.send_all(b"a")
        await trio.sleep(1)


async def broken_body(stream: trio.SocketStream) -> None:
    await stream.send_all(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\naaa\r\nBANNER\r\n")


@pytest.mark.parametrize(
    ("behave", "excerpt"),
    [
        (answering(200, b"taken"), "taken"),
        (answering(500, "größer\n\tals 1".encode()), "größer\n\tals 1"),
        (answering(200), ""),
        (
            saying(HEAD, b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"),
            "abc",
        ),
        (answering(200, b"\x1b[2J\x00<b>\xff\xe2\x80\xae"), "\ufffd[2J\ufffd<b>\ufffd\ufffd"),
        (answering(200, b"a" * 5000), "a" * 1024),
        (endless_body, "a" * 1024),
        (trickling_body, "a" * 15),
        (cut_body, "abc"),
        (broken_body, "aaa"),
    ],
)
async def test_how_a_public_receivers_answer_begins_is_kept(behave, excerpt, dials, autojump_clock):
    async with receiver(behave) as listener:
        dials.leads[PUBLIC] = listener.port
        names = Names(public_example=[[PUBLIC]])
        attempt = await post(sender(resolve=names), listener, "public.example")
        with trio.fail_after(5):
            await listener.gone.wait()
    assert attempt.excerpt == excerpt
    assert attempt.duration_ms <= 15_000
    # it is the status that decides, whatever becomes of the body
    assert (attempt.error is None) == (attempt.status == 200)


async def test_nobody_waits_for_more_than_is_kept(dials, autojump_clock):
    async with receiver(pausing_body) as listener:
        dials.leads[PUBLIC] = listener.port
        names = Names(public_example=[[PUBLIC]])
        attempt = await post(sender(resolve=names), listener, "public.example")
    assert attempt.excerpt == "a" * 1024
    assert attempt.duration_ms < 15_000


@pytest.mark.parametrize("behave", [answering(200, b"INTERNAL"), endless_body, trickling_body])
async def test_nothing_of_a_private_receivers_answer_is_read_or_kept(behave, autojump_clock):
    async with receiver(behave) as listener:
        attempt = await post(sender("127.0.0.1"), listener)
        with trio.fail_after(5):
            await listener.gone.wait()
    assert (attempt.status, attempt.error, attempt.excerpt) == (200, None, None)
    assert attempt.duration_ms < 15_000


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer a b", "X-Gotify-Key": "k"},
        {"x" * 64: "y" * 1024},
        {"X-A": "!", "x_b.c": "~"},
        {f"X-{number}": "y" for number in range(16)},
    ],
)
def test_headers_of_ones_own_are_taken(headers):
    assert check_headers(headers) is None


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({f"X-{number}": "y" for number in range(17)}, "at most 16"),
        ({"X-A": "1", "x-a": "2"}, "twice"),
        ({"": "y"}, "names of 1 to 64"),
        ({"x" * 65: "y"}, "names of 1 to 64"),
        ({"X A": "y"}, "names of 1 to 64"),
        ({"X-A:": "y"}, "names of 1 to 64"),
        ({"X-A\r\nX-B": "y"}, "names of 1 to 64"),
        ({"X-Ä": "y"}, "names of 1 to 64"),
        ({"X-A": ""}, "X-A must be 1 to 1024 printable ASCII"),
        ({"X-A": "y\r\nX-B: z"}, "X-A must be"),
        ({"X-A": "y\nz"}, "X-A must be"),
        ({"X-A": "y\n"}, "X-A must be"),
        ({"X-A": "y\0"}, "X-A must be"),
        ({"X-A": "y\tz"}, "X-A must be"),
        ({"X-A": " y"}, "X-A must be"),
        ({"X-A": "y "}, "X-A must be"),
        ({"X-A": "ü"}, "X-A must be"),
        ({"X-A": "y" * 1025}, "X-A must be"),
        *(
            ({name: "y"}, f"must not have {name}: the hub sets it itself")
            for name in (
                "Host", "content-length", "Content-Type", "Transfer-Encoding", "CONNECTION",
                "Keep-Alive", "TE", "Trailer", "Upgrade", "Expect", "User-Agent", "Proxy-X",
                "Proxy-Authorization", "Accept-Encoding", "Content-Encoding", "webhook-id",
                "Webhook-Signature", "webhook-timestamp", "X-Cmdop-Signature", "x-cmdop-other",
            )
        ),
    ],
)  # fmt: skip
def test_headers_that_are_ours_or_no_headers_are_refused(headers, reason):
    assert reason in check_headers(headers)


def test_no_reason_about_headers_repeats_a_value():
    assert "SECRET" not in check_headers({"X-A": "SECRET\n"})
