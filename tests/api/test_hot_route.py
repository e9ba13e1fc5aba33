"""POST /commands is served apart from the framework, and nobody can tell: contract.md §1.

A connection that began with another request is served by the framework for good; so each request
is sent both ways here, and the answers compared.
"""

import json
import re
import socket
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from cmdop_appliance.api.app import make_app
from cmdop_appliance.api.guard import HttpServer
from cmdop_appliance.api.hot import HotRoute
from cmdop_appliance.front import PeekedStream, open_listeners
from tests.support.appliance import PATIENCE_S, running_agent, running_hub, wait_for
from tests.support.live_hub import live_hub

BODY_BYTES = 1024 * 1024  # the default of [limits] body_bytes
VARYING = {"id", "request_id", "timestamp", "created_at", "started_at", "finished_at", "duration"}


@pytest.fixture(scope="module")
def hub(place):
    with running_hub(place) as hub:
        yield hub
    assert '"level": "error"' not in hub.log.read_text()


@pytest.fixture(scope="module")
def machine(hub, place):
    with running_agent(hub, place, "target") as agent:
        yield agent.machine_id


class Wire:
    """A connection on which a test says and hears bytes."""

    def __init__(self, connection):
        self.socket = connection
        self._unread = b""

    def send(self, data):
        self.socket.sendall(data)

    def answer(self):
        """(status, headers, body) of the next answer; None when the hub has closed."""
        while b"\r\n\r\n" not in self._unread:
            if not self._more():
                assert not self._unread
                return None
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        headers = dict(re.match(r"([^:]+): ?(.*)", line).groups() for line in lines)
        headers = {name.lower(): value for name, value in headers.items()}
        size = int(headers["content-length"]) if "content-length" in headers else 0
        while len(self._unread) < size:
            assert self._more(), "the hub closed within an answer"
        body, self._unread = self._unread[:size], self._unread[size:]
        return int(first.split()[1]), headers, body

    def _more(self):
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self._unread += data
        return bool(data)


@contextmanager
def _wire(hub, *, framework=False):
    """A connection; with `framework`, one whose first request was for another route."""
    with socket.create_connection(hub.address, PATIENCE_S) as connection:
        wire = Wire(connection)
        if framework:
            wire.send(b"GET /v1/auth/me HTTP/1.1\r\nHost: hub\r\n\r\n")
            assert wire.answer()[0] == 401
        yield wire


def _request(hub, body, *, target="/v1/commands", length=None, **headers):
    head = {
        "Host": "hub",
        "Authorization": f"Bearer {hub.api.key}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)) if length is None else length,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items() if value is not None)
    return f"POST {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def _run(machine, command="echo out; exit 3", **fields):
    return json.dumps({"machine_id": machine, "command": command, **fields}).encode()


def _compared(answer):
    """What must not depend on the way."""
    if answer is None:
        return None
    status, headers, body = answer
    names = {name: value for name, value in headers.items() if name not in ("x-request-id", "date")}
    names.pop("content-length", None)  # a number in the body may have one more digit

    def plain(value):
        if isinstance(value, dict):
            return {k: type(v) if k in VARYING else plain(v) for k, v in value.items()}
        return value

    return status, names, plain(json.loads(body)) if body else body


CASES = {
    "good": lambda hub, good: _request(hub, good),
    "the other prefix": lambda hub, good: _request(hub, good, target="/api/v1/commands"),
    "a request id": lambda hub, good: _request(hub, good, X_Request_Id="mine-1"),
    "a bad request id": lambda hub, good: _request(hub, good, X_Request_Id="not mine"),
    "no key": lambda hub, good: _request(hub, good, Authorization=None),
    "a bad key": lambda hub, good: _request(hub, good, Authorization="Bearer nonsense"),
    "no text as key": lambda hub, good: _request(hub, good, Authorization="Bearer \xff\xfe"),
    "two keys": lambda hub, good: _request(hub, good, AUTHORIZATION="Bearer nonsense"),
    "no content type": lambda hub, good: _request(hub, good, Content_Type=None),
    "another content type": lambda hub, good: _request(hub, good, Content_Type="text/plain"),
    "malformed": lambda hub, good: _request(hub, good[:-1]),
    "not valid": lambda hub, good: _request(hub, _run("mach_x", "")),
    "empty": lambda hub, good: _request(hub, b""),
    "no length": lambda hub, good: _request(hub, b"", Content_Length=None),
    "unknown machine": lambda hub, good: _request(hub, _run("mach_x")),
    "deep": lambda hub, good: _request(hub, b"[" * 60_000),
    "large": lambda hub, good: _request(hub, good[:-1] + b" " * 90_000 + good[-1:]),
    "too large": lambda hub, good: _request(hub, b"x" * (BODY_BYTES + 1)),
    "expect": lambda hub, good: _request(hub, good, Expect="200-ok"),
    "close": lambda hub, good: _request(hub, good, Connection="close"),
    "a query": lambda hub, good: _request(hub, good, target="/v1/commands?x=1"),
    "a credential": lambda hub, good: _request(hub, good, target="/v1/commands?token=canary"),
    "an odd header": lambda hub, good: _request(hub, good, X_Odd='"\t;,=\xe9'),
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_both_ways_answer_alike(hub, machine, make):
    request = make(hub, _run(machine))
    answers = []
    for framework in (False, True):
        with _wire(hub, framework=framework) as wire:
            wire.send(request)
            answers.append(_compared(wire.answer()))
    assert answers[0] == answers[1]
    assert answers[0][0] < 500


def test_each_answer_has_its_date(hub, machine):
    """RFC 9110 §6.6.1: a server with a clock must send it."""
    for framework in (False, True):
        with _wire(hub, framework=framework) as wire:
            wire.send(_request(hub, _run(machine)))
            _, headers, _ = wire.answer()
            assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", headers["date"])


def test_a_connection_is_kept_and_can_go_on_to_any_route(hub, machine):
    with _wire(hub) as wire:
        for number in range(3):
            wire.send(_request(hub, _run(machine, f"echo {number}")))
            status, _, body = wire.answer()
            assert (status, json.loads(body)["data"]["stdout"]) == (200, f"{number}\n")
        key = f"Authorization: Bearer {hub.api.key}\r\n"
        wire.send(f"GET /v1/auth/me HTTP/1.1\r\nHost: hub\r\n{key}\r\n".encode())
        status, _, body = wire.answer()
        assert (status, json.loads(body)["data"]["name"]) == (200, "admin")
        wire.send(_request(hub, _run(machine, "echo back")))
        assert json.loads(wire.answer()[2])["data"]["stdout"] == "back\n"


def test_requests_that_are_sent_in_one_go_are_answered_in_their_order(hub, machine):
    with _wire(hub) as wire:
        me = f"GET /v1/auth/me HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {hub.api.key}\r\n\r\n"
        wire.send(
            _request(hub, _run(machine, "echo 1"))
            + _request(hub, _run(machine, ""))
            + _request(hub, _run(machine, "echo 3"))
            + me.encode()
            + _request(hub, _run(machine, "echo 5"))
        )
        answers = [wire.answer() for _ in range(5)]
        assert [answer[0] for answer in answers] == [200, 422, 200, 200, 200]
        told = [json.loads(answer[2])["data"] for answer in answers if answer[0] == 200]
        assert [one.get("stdout", one.get("name")) for one in told] == [
            "1\n",
            "3\n",
            "admin",
            "5\n",
        ]


@pytest.mark.parametrize("framework", [False, True])
def test_a_request_in_single_bytes_is_a_request(hub, machine, framework):
    with _wire(hub, framework=framework) as wire:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in _request(hub, _run(machine, "echo slowly")):
            wire.send(bytes([byte]))
        assert json.loads(wire.answer()[2])["data"]["stdout"] == "slowly\n"


@pytest.mark.parametrize("framework", [False, True])
def test_a_chunked_body_is_a_body(hub, machine, framework):
    body = _run(machine, "echo chunked")
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:7], body[7:]))
    with _wire(hub, framework=framework) as wire:
        head = _request(hub, b"", length=None, Content_Length=None, Transfer_Encoding="chunked")
        wire.send(head + chunks + b"0\r\n\r\n")
        status, _, answer = wire.answer()
        assert (status, json.loads(answer)["data"]["stdout"]) == (200, "chunked\n")
        wire.send(_request(hub, _run(machine)))
        assert wire.answer()[0] == 200


@pytest.mark.parametrize("framework", [False, True])
def test_who_expects_a_continue_gets_it(hub, machine, framework):
    body = _run(machine, "echo continued")
    with _wire(hub, framework=framework) as wire:
        wire.send(_request(hub, b"", length=str(len(body)), Expect="100-continue"))
        assert wire.answer()[0] == 100
        wire.send(body)
        status, _, answer = wire.answer()
        assert (status, json.loads(answer)["data"]["stdout"]) == (200, "continued\n")


@pytest.mark.parametrize("framework", [False, True])
@pytest.mark.parametrize("sent", ["said", "streamed"])
def test_a_body_over_the_limit_is_refused_without_being_kept(hub, machine, framework, sent):
    with _wire(hub, framework=framework) as wire:
        if sent == "said":
            wire.send(_request(hub, b"", length=str(10**9)) + b"x" * 1000)
        else:
            head = _request(hub, b"", Content_Length=None, Transfer_Encoding="chunked")
            piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
            wire.send(head + piece * (BODY_BYTES // 0x10000 + 1))
        status, _, body = wire.answer()
        assert (status, json.loads(body)["error"]["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize("framework", [False, True])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_half_a_request_runs_nothing(hub, machine, framework, part):
    mark = f"half-{framework}-{part}"
    request = _request(hub, _run(machine, f": {mark}"))
    with _wire(hub, framework=framework) as wire:
        wire.send(request[: int(len(request) * part)])
        wire.socket.shutdown(socket.SHUT_WR)
        answer = wire.answer()
        assert answer is None or answer[0] == 400
    assert mark not in json.dumps(hub.api.get("/commands?limit=100"))


@pytest.mark.parametrize("known", ["the whole head", "a part of the head"])
async def test_a_request_that_comes_in_bit_by_bit_is_not_waited_for(
    tmp_path, autojump_clock, known
):
    head = b"POST /v1/commands HTTP/1.1\r\nHost: hub\r\nContent-Length: 65000\r\n"
    (listener,) = await open_listeners("127.0.0.1", 0)
    async with (
        live_hub(tmp_path) as live,
        listener,
        await trio.testing.open_stream_to_socket_listener(listener) as client,
        await listener.accept() as accepted,
        trio.open_nursery() as nursery,
    ):

        async def dribble():
            await client.send_all(head + b"\r\n" * (known == "the whole head"))
            while True:
                await client.send_all(b"x")
                await trio.sleep(5)

        nursery.start_soon(dribble)
        hot = HotRoute(live.hub, HttpServer(make_app(live.hub)))
        with trio.fail_after(30):
            await hot.serve(PeekedStream(accepted, b""))
        nursery.cancel_scope.cancel()


def test_a_caller_that_leaves_does_not_end_its_command(hub, machine, tmp_path):
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    with _wire(hub) as wire:
        command = f"until [ -e {gate} ]; do sleep 0.02; done; touch {mark}"
        wire.send(_request(hub, _run(machine, command)))
        (running,) = wait_for(lambda: hub.api.get("/commands?status=running"), "it runs")
    gate.touch()
    assert hub.api.wait_end(running["id"])["status"] == "completed"
    assert mark.exists()


@pytest.mark.parametrize(
    "line",
    [
        "POST /v1/commands HTTP/1.0",
        "POST /v1/commands HTTP/2.0",
        "POST  /v1/commands HTTP/1.1",
        "post /v1/commands HTTP/1.1",
        "POST /v1/commands",
        "POST /v1/commands HTTP/1.1 x",
    ],
)
def test_an_odd_request_line_is_answered_or_refused_but_never_fatal(hub, machine, line):
    request = _request(hub, _run(machine)).partition(b"\r\n")[2]
    with _wire(hub) as wire:
        wire.send(line.encode() + b"\r\n" + request)
        answer = wire.answer()
        assert answer is None or answer[0] in (200, 400, 405, 505)
    assert hub.api.call("GET", "/auth/me").status == 200
