"""Following a command: every byte once, whatever happens to the connection."""

import json
import threading
from contextlib import closing

import pytest

from cmdop_appliance.sdk import (
    ConnectionFailed,
    EventGap,
    Gap,
    NotFound,
    Output,
    ServerError,
    UnexpectedAnswer,
)
from cmdop_appliance.sdk.aio.resources import resource as async_resource
from cmdop_appliance.sdk.resources import resource
from tests.sdk.kinds import Client
from tests.sdk.scripted_hub import Answer, answer, end, http, output, scripted_hub, stream

pytestmark = pytest.mark.usefixtures("kind")

KEY = "cmdop_apikey_0123456789"
UNAVAILABLE = answer({"code": "unavailable", "message": "stopping"}, status=503)


def _follow(*answers: Answer, timeout_s: float = 60.0):
    """All items of a stream whose n-th request gets the n-th answer, the last one for good."""
    waiting = iter(answers)
    with (
        scripted_hub(lambda _: next(waiting, answers[-1])) as hub,
        Client(hub.url, KEY, timeout_s=timeout_s) as client,
    ):
        items = list(client.commands.stream("cmd_1"))
    return items, hub.asked


def test_output_comes_as_the_exact_bytes_and_ends_with_the_record():
    items, asked = _follow(
        stream(output("stdout", b"\xff\x00\n", "3-0"), output("stderr", b"e", "3-1"), end())
    )
    assert items[:2] == [Output("stdout", b"\xff\x00\n"), Output("stderr", b"e")]
    assert items[2].command["exit_code"] == 0
    assert asked[0].path == "/api/v1/commands/cmd_1/stream"


def test_a_gap_is_told_and_not_asked_for_again():
    told = b'event: gap\nid: 9-0\ndata: {"stream":"stdout","from":3,"to":9}\n\n'
    items, asked = _follow(
        stream(output("stdout", b"abc", "3-0"), told, whole=False),
        stream(output("stdout", b"jkl", "12-0"), end()),
    )
    assert items[:-1] == [Output("stdout", b"abc"), Gap("stdout", 6), Output("stdout", b"jkl")]
    assert asked[1].headers["last-event-id"] == "9-0"


@pytest.mark.parametrize("whole", [True, False])
def test_a_broken_stream_goes_on_at_the_same_byte(whole):
    items, asked = _follow(
        stream(output("stdout", b"abc", "3-0"), b": keep-alive\n\n", whole=whole),
        UNAVAILABLE,
        Answer(b"", close=True),
        stream(output("stdout", b"def", "6-0"), end()),
    )
    assert b"".join(item.data for item in items[:-1]) == b"abcdef"
    assert "last-event-id" not in asked[0].headers
    assert [request.headers["last-event-id"] for request in asked[1:]] == ["3-0"] * 3


def test_an_event_cut_in_the_middle_is_not_delivered_twice():
    whole = output("stdout", b"def", "6-0")
    items, asked = _follow(
        stream(output("stdout", b"abc", "3-0"), whole[:-1], whole=False),
        stream(whole, end()),
    )
    assert b"".join(item.data for item in items[:-1]) == b"abcdef"
    assert asked[1].headers["last-event-id"] == "3-0"


def test_patience_counts_from_the_last_sign_of_life():
    restart = stream(b": keep-alive\n\n", whole=False)
    items, _ = _follow(*[restart] * 20, stream(end()), timeout_s=0.2)
    assert items[0].command["status"] == "completed"


@pytest.mark.parametrize(
    ("away", "error"),
    [
        (UNAVAILABLE, ServerError),
        (http(502, b"<html>bad gateway"), ConnectionFailed),
        (stream(), ConnectionFailed),
        (Answer(b"HTTP/1.1 2", close=True), ConnectionFailed),
    ],
)
def test_a_hub_that_stays_away_is_given_up(away, error):
    with pytest.raises(error):
        _follow(away, timeout_s=0.2)


def _take_for_dead_after(seconds, monkeypatch):
    for module in (resource, async_resource):
        monkeypatch.setattr(module, "STREAM_IDLE_S", seconds)


def test_a_hub_that_falls_silent_is_asked_again_at_the_same_byte(monkeypatch):
    _take_for_dead_after(0.1, monkeypatch)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    event = output("stdout", b"abc", "3-0")
    silent = Answer(head + b"%x\r\n%b\r\n" % (len(event), event))
    items, asked = _follow(silent, stream(end()))
    assert items[0] == Output("stdout", b"abc")
    assert asked[1].headers["last-event-id"] == "3-0"


def test_a_hub_that_stays_silent_is_given_up_and_its_silence_counts(monkeypatch):
    _take_for_dead_after(0.2, monkeypatch)
    with (
        scripted_hub(lambda _: Answer(b"")) as hub,
        Client(hub.url, KEY, timeout_s=0.3) as follower,
        pytest.raises(ConnectionFailed, match="does not answer"),
    ):
        list(follower.commands.stream("cmd_1"))
    assert len(hub.asked) <= 2


def test_a_quiet_command_is_not_a_silent_hub():
    def script(_):
        threading.Event().wait(0.5)
        return stream(end())

    with scripted_hub(script) as hub, Client(hub.url, KEY, timeout_s=0.1) as follower:
        assert len(list(follower.commands.stream("cmd_1"))) == 1
    assert len(hub.asked) == 1


def test_a_refusal_is_not_tried_again():
    gone = answer({"code": "command_not_found", "message": "no such command"}, status=404)
    with pytest.raises(NotFound):
        _follow(gone)


@pytest.mark.parametrize(
    "event",
    [
        b"event: end\ndata: nothing\n\n",
        b"event: end\ndata: []\n\n",
        b"event: stdout\ndata: {}\n\n",
        b'event: gap\ndata: {"stream": "stdin", "from": 0, "to": 9}\n\n',
        b'event: stdout\ndata: {"data": 1}\n\n',
        b'event: stdout\ndata: {"data": "***"}\n\n',
    ],
)
def test_an_event_that_no_hub_sends_is_an_error(event):
    with pytest.raises(UnexpectedAnswer):
        _follow(stream(event))


def test_a_stream_that_is_html_is_given_up():
    with pytest.raises(ConnectionFailed):
        _follow(http(200, b"<html>", close=True), timeout_s=0.2)


def test_events_go_on_behind_the_last_one_over_a_broken_connection():
    def told(seq):
        event = {"id": f"evt_{seq}", "type": "command.started", "seq": seq, "data": {}}
        return f"event: command.started\nid: {seq}\ndata: {json.dumps(event)}\n\n".encode()

    gap = b'event: gap\nid: 8\ndata: {"from":7,"to":8}\n\n'
    waiting = iter([stream(told(6), whole=False), stream(b": keep-alive\n\n", gap, told(9))])
    with scripted_hub(lambda _: next(waiting)) as hub, Client(hub.url, KEY) as client:
        items = client.events.follow(types=["command.*"], machine_id="mach_1", after=5)
        with closing(items):
            first, missed, second = (next(items) for _ in range(3))
    assert (first["seq"], missed, second["seq"]) == (6, EventGap(7, 8), 9)
    assert [request.headers["last-event-id"] for request in hub.asked] == ["5", "6"]
    assert {(request.path, request.query) for request in hub.asked} == {
        ("/api/v1/events", "types=command.%2A&machine_id=mach_1")
    }
