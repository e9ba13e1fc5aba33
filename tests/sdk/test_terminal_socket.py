"""A viewer of a terminal, and a hub that breaks off, refuses and forgets."""

import socket
import struct
import threading
from contextlib import closing, contextmanager

import pytest

from cmdop_appliance.sdk import (
    Conflict,
    ConnectionFailed,
    Forbidden,
    NotFound,
    Unauthorized,
    UnexpectedAnswer,
    terminal_socket,
)
from cmdop_appliance.sdk.aio import terminal_socket as async_terminal_socket
from cmdop_appliance.sdk.errors import Away
from cmdop_appliance.sdk.terminal_events import (
    Back,
    Ended,
    Gap,
    HubAway,
    MachineAway,
    Output,
    Refused,
    Resized,
    Watchers,
)
from cmdop_appliance.sdk.terminal_socket import UNTAKEN_BYTES
from tests.sdk.kinds import Client
from tests.sdk.scripted_hub import Answer, scripted_hub
from tests.sdk.scripted_terminal import RECORD, Seat, scripted_terminal

pytestmark = pytest.mark.usefixtures("kind")

END = Ended("exited", 0, None, None)


@contextmanager
def _attached(*scripts, **options):
    """A viewer whose n-th connection is the n-th script; the test drives it."""
    with (
        scripted_terminal(*scripts) as url,
        Client(url, "k") as client,
        client.terminals.attach("term_1", **options) as viewer,
    ):
        yield viewer


def _events(*scripts, **options):
    with _attached(*scripts, **options) as viewer:
        return list(viewer.events())


def _ending(seat: Seat):
    seat.hello()
    seat.end()


def test_what_happens_comes_in_its_order_until_the_end():
    def talk(seat):
        assert seat.path == "/api/v1/terminals/term_1/socket"
        assert seat.headers["Authorization"] == "Bearer k"
        writer = seat.start.pop("writer")
        assert len(bytes.fromhex(writer)) == 16
        begin = {"type": "start", "offset": None, "mode": "observer", "cols": 90, "rows": 30}
        assert seat.start == begin
        seat.hello()
        seat.show(3, b"abc")
        seat.say("resize", cols=70, rows=20)
        seat.say("viewers", operators=2, observers=1)
        seat.say("something", that="a newer hub says")
        seat.say("away")
        seat.say("back")
        seat.say("error", code="forbidden", message="an observer may only look")
        seat.end(exit_code=137, signal="SIGKILL", message="why")

    assert _events(talk, mode="observer", cols=90, rows=30) == [
        Back(RECORD),
        Output(b"abc"),
        Resized(70, 20),
        Watchers(2, 1),
        MachineAway(),
        Back({}),
        Refused("forbidden", "an observer may only look"),
        Ended("exited", 137, "SIGKILL", "why"),
    ]


def test_a_message_that_comes_in_parts_is_one():
    def talk(seat):
        seat.hello()
        seat.socket.send([(6).to_bytes(8) + b"abc", b"def"])
        seat.end()

    assert _events(talk) == [Back(RECORD), Output(b"abcdef"), END]


def test_a_broken_connection_goes_on_behind_the_last_piece_with_the_same_writer():
    writers = []

    def talk(seat):
        writers.append(seat.start["writer"])
        seat.hello()
        seat.show(3, b"abc")
        seat.show(9, b"d")
        seat.cut()

    def talk_on(seat):
        writers.append(seat.start["writer"])
        assert seat.start["offset"] == 9
        seat.hello(9)
        seat.show(10, b"e")
        seat.end()

    said = [Back(RECORD), Output(b"abc"), Output(b"d"), HubAway()]
    assert _events(talk, talk_on) == [*said, Back(RECORD), Output(b"e"), END]
    assert writers[0] == writers[1]


def test_what_was_not_taken_is_typed_again_on_the_next_connection_and_nothing_else():
    def talk(seat):
        seat.hello()
        assert seat.typed() == (0, b"abc")
        seat.say("taken", offset=2)
        assert seat.typed() == (3, b"d")
        seat.cut()

    def talk_on(seat):
        seat.hello()
        assert seat.typed() == (2, b"cd")
        seat.say("taken", offset=4)
        seat.end()

    with _attached(talk, talk_on) as viewer:
        for event in viewer.events():
            match event:
                case Back() if viewer.untaken_bytes == 0:
                    viewer.type(b"abc")
                    viewer.type(b"d")
        assert viewer.untaken_bytes == 0


def test_what_is_typed_before_hello_or_while_the_machine_is_away_waits_for_it():
    asked = threading.Event()

    def talk(seat):
        assert asked.wait(20)
        seat.hello()
        assert seat.typed() == (0, b"early")
        seat.say("away")
        assert seat.heard() == {"type": "resize", "cols": 1, "rows": 1}  # behind what was typed
        seat.say("back")
        assert seat.typed() == (0, b"earlylate")
        seat.end()

    with _attached(talk) as viewer:
        events = viewer.events()
        viewer.type(b"early")
        asked.set()
        assert [next(events), next(events)] == [Back(RECORD), MachineAway()]
        viewer.type(b"late")
        viewer.resize(1, 1)
        assert list(events) == [Back({}), END]


def test_of_a_long_paste_no_more_is_under_way_than_a_machine_holds():
    paste = bytes(range(256)) * 600

    def talk(seat):
        seat.hello()
        got = bytearray()
        while len(got) < len(paste):
            under_way = bytearray()
            while len(under_way) < min(64 * 1024, len(paste) - len(got)):
                offset, data = seat.typed()
                assert offset == len(got) + len(under_way)
                assert len(data) <= 16 * 1024
                under_way += data
            assert len(under_way) <= 64 * 1024
            with pytest.raises(TimeoutError):
                seat.socket.recv(timeout=0)
            got += under_way
            seat.say("taken", offset=len(got))
        assert got == paste
        seat.end()

    with _attached(talk) as viewer:
        viewer.type(paste)
        assert list(viewer.events()) == [Back(RECORD), END]


def test_what_nobody_takes_is_typed_again_whatever_else_comes(monkeypatch):
    for module in (terminal_socket, async_terminal_socket):
        monkeypatch.setattr(module, "_AGAIN_S", 0.02)

    def talk(seat):
        seat.hello()
        for _ in range(3):
            assert seat.typed() == (0, b"abc")
        seat.say("taken", offset=1)  # the rest was refused, and that is all that is said of it
        while (again := seat.typed()) == (0, b"abc"):
            pass
        assert again == (1, b"bc")
        seat.say("taken", offset=3)
        seat.say("viewers", operators=1, observers=0)
        while (typed := seat.typed()) == (1, b"bc"):
            pass
        assert typed == (3, b"d")
        seat.end()

    with _attached(talk) as viewer:
        viewer.type(b"abc")
        for event in viewer.events():
            if isinstance(event, Watchers):
                viewer.type(b"d")


def test_a_viewer_whom_the_machine_has_forgotten_types_on_as_another_writer():
    writers = []

    def talk(seat):
        writers.append(seat.start["writer"])
        seat.hello()
        assert seat.typed() == (0, b"abc")
        seat.say("taken", offset=3)
        seat.say("viewers", operators=1, observers=0)
        assert seat.typed() == (3, b"de")
        seat.say("taken", offset=0)

    def talk_on(seat):
        writers.append(seat.start["writer"])
        seat.hello()
        assert seat.typed() == (0, b"de")
        seat.end()

    with _attached(talk, talk_on) as viewer:
        viewer.type(b"abc")
        for event in viewer.events():
            if isinstance(event, Watchers):
                viewer.type(b"de")
    assert writers[0] != writers[1]


def test_output_that_is_not_kept_any_more_is_a_gap():
    def talk(seat):
        seat.hello()
        seat.say("gap", offset=900)
        seat.cut()

    def talk_on(seat):
        assert seat.start["offset"] == 900
        _ending(seat)

    assert _events(talk, talk_on) == [Back(RECORD), Gap(), HubAway(), Back(RECORD), END]


def test_a_connection_has_the_size_that_the_window_has_by_then():
    def talk(seat):
        seat.hello()
        assert seat.heard() == {"type": "resize", "cols": 100, "rows": 50}
        seat.cut()

    def talk_on(seat):
        assert (seat.start["cols"], seat.start["rows"]) == (100, 50)
        _ending(seat)

    with _attached(talk, talk_on) as viewer:
        events = viewer.events()
        next(events)
        viewer.resize(100, 50)
        assert list(events)[-1] == END


def test_more_than_can_wait_is_refused_whole():
    with _attached() as viewer:
        viewer.type(bytes(UNTAKEN_BYTES - 1))
        with pytest.raises(ConnectionFailed, match=str(UNTAKEN_BYTES)):
            viewer.type(b"ab")
        assert viewer.untaken_bytes == UNTAKEN_BYTES - 1


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        (4400, UnexpectedAnswer, "why"),
        (4401, Unauthorized, "why"),
        (4403, Forbidden, "why"),
        (4404, NotFound, "why"),
        (4429, Conflict, "why"),
    ],
)
def test_a_connection_that_is_not_to_come_back_ends_it(code, error, says):
    def talk(seat):
        seat.hello()
        seat.say("error", code="its_code", message="why")
        seat.socket.close(code, "why")

    with _attached(talk) as viewer:
        events = viewer.events()
        next(events)
        assert next(events) == Refused("its_code", "why")
        with pytest.raises(error, match=says) as caught:
            next(events)
    assert getattr(caught.value, "code", "its_code") in ("its_code", "unauthorized")


@pytest.mark.parametrize("torn", [b"", b"HTTP/1.1 101 Swi"])
def test_an_answer_that_breaks_off_is_that_of_a_hub_that_is_away(torn):
    with (
        scripted_hub(lambda _: Answer(torn, close=True)) as hub,
        Client(hub.url, "k") as client,
        client.terminals.attach("term_1", patience_s=0) as viewer,
    ):
        events = viewer.events()
        assert next(events) == HubAway()
        with pytest.raises(Away):
            next(events)


def test_a_connection_that_is_reset_at_once_is_that_of_a_hub_that_is_away():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = "http://{}:{}".format(*listener.getsockname())

        def reset():
            connection, _ = listener.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

        thread = threading.Thread(target=reset)
        thread.start()
        with (
            Client(url, "k") as client,
            client.terminals.attach("t", patience_s=0) as viewer,
            closing(viewer.events()) as events,
        ):
            assert next(events) == HubAway()
        thread.join()


STOPPING = b'{"error": {"code": "unavailable", "message": "the hub is stopping"}}'


@pytest.mark.parametrize("away", [(503, STOPPING), (502, b"<html>"), (503, b"busy"), (504, b"")])
def test_a_hub_that_is_away_is_asked_again(away):
    assert _events(away, away, _ending) == [HubAway(), HubAway(), Back(RECORD), END]


def test_a_hub_that_stops_is_come_back_to():
    def talk(seat):
        seat.hello()
        seat.socket.close(1001)

    assert _events(talk, _ending) == [Back(RECORD), HubAway(), Back(RECORD), END]


GONE = b'{"error": {"code": "terminal_not_found", "message": "no such terminal"}}'


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        ((404, GONE), NotFound, "no such terminal"),
        ((200, b"<html>Welcome"), UnexpectedAnswer, "HTTP 200"),
        ((404, b"<html>"), UnexpectedAnswer, "HTTP 404"),
        ((404, b'["error"]'), UnexpectedAnswer, "HTTP 404"),
    ],
)
def test_a_refusal_is_told_and_not_repeated(answer, error, says):
    with _attached(answer) as viewer, pytest.raises(error, match=says):
        next(viewer.events())


@pytest.mark.parametrize("said", ["no json", '{"type": "gap"}', "[]", '{"no": "type"}'])
def test_a_hub_that_cannot_be_understood_ends_it(said):
    with pytest.raises(UnexpectedAnswer):
        _events(lambda seat: seat.socket.send(said))


def test_who_hangs_up_hears_no_more_and_does_not_come_back():
    def talk(seat):
        seat.hello()
        with pytest.raises(Exception, match="1000"):
            seat.heard()

    with _attached(talk) as viewer:
        events = viewer.events()
        next(events)
        viewer.close()
        assert list(events) == []


def test_a_hub_that_stays_away_is_given_up_in_the_end():
    def talk(seat):
        seat.hello()
        seat.cut()

    with _attached(talk, patience_s=0) as viewer:
        events = viewer.events()
        assert [next(events), next(events)] == [Back(RECORD), HubAway()]
        with pytest.raises(ConnectionFailed, match="broke"):
            next(events)
