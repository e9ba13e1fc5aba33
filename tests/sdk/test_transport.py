"""The synchronous client against a listener that misbehaves."""

import socket
import threading
import time

import pytest

from cmdop_appliance.sdk import (
    APIError,
    Client,
    CmdopError,
    Conflict,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    NotFound,
    RateLimited,
    ServerError,
    Unauthorized,
    UnexpectedAnswer,
)
from tests.sdk.scripted_hub import Answer, Asked, answer, http, scripted_hub

KEY = "cmdop_apikey_0123456789"
MACHINE = {"id": "mach_1", "name": "nas", "status": "online", "hostname": "nas"}


def test_one_connection_serves_many_requests():
    with (
        scripted_hub(lambda _: answer(MACHINE)) as hub,
        Client(hub.url, KEY) as client,
    ):
        for _ in range(3):
            assert client.machines.get("mach_1")["name"] == "nas"
    assert hub.connections == 1
    assert hub.asked[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_connection_closed_while_idle_is_replaced_before_a_create_is_sent():
    started = {"id": "cmd_1", "status": "running"}
    with (
        scripted_hub(lambda _: answer(started, close=True)) as hub,
        Client(hub.url, KEY) as client,
    ):
        for _ in range(2):
            client.commands.start("mach_1", "true")
            _wait_until_all_have_left(hub)
    assert [asked.method for asked in hub.asked] == ["POST", "POST"]


def _breaking_once():
    """Answers the first request, drops the second unanswered, answers all others."""
    count = 0

    def script(_: Asked) -> Answer:
        nonlocal count
        count += 1
        return Answer(b"", close=True) if count == 2 else answer(MACHINE)

    return script


def test_a_get_on_a_connection_that_breaks_is_sent_once_more():
    with scripted_hub(_breaking_once()) as hub, Client(hub.url, KEY) as client:
        client.machines.get("mach_1")
        assert client.machines.get("mach_1")["name"] == "nas"
    assert len(hub.asked) == 3


def test_a_create_on_a_connection_that_breaks_is_never_sent_again():
    with scripted_hub(_breaking_once()) as hub, Client(hub.url, KEY) as client:
        client.machines.get("mach_1")
        with pytest.raises(ConnectionFailed):
            client.commands.start("mach_1", "true")
    assert [asked.method for asked in hub.asked] == ["GET", "POST"]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InvalidRequest),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (418, APIError),
        (422, InvalidRequest),
        (429, RateLimited),
        (500, ServerError),
        (507, ServerError),
    ],
)
def test_a_refusal_is_raised_as_its_type_with_all_it_says(status, expected):
    error = {"code": "some_code", "message": "in words", "details": {"field": "why"}}
    with (
        scripted_hub(lambda _: answer(error, status=status, meta={"request_id": "req_1"})) as hub,
        Client(hub.url, KEY) as client,
        pytest.raises(APIError) as caught,
    ):
        client.me()
    refusal = caught.value
    assert type(refusal) is expected
    assert (refusal.status, refusal.code, str(refusal)) == (status, "some_code", "in words")
    assert (refusal.details, refusal.request_id) == ({"field": "why"}, "req_1")


@pytest.mark.parametrize(
    "foreign",
    [
        http(200, b"<html>a router's login page</html>"),
        http(302, b"moved"),
        http(200, b"[]"),
        http(200, b"[" * 100_000),
        http(200, b'{"data": [1]}'),
        Answer(b"SSH-2.0-OpenSSH_9.2\r\n", close=True),
    ],
)
def test_what_is_not_a_hub_is_called_that(foreign):
    with (
        scripted_hub(lambda _: foreign) as hub,
        Client(hub.url, KEY) as client,
        pytest.raises(UnexpectedAnswer),
    ):
        client.me()


def test_a_port_where_nobody_listens_is_named():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        where = "{}:{}".format(*held.getsockname())
        with (
            Client(f"http://{where}", KEY) as client,
            pytest.raises(ConnectionFailed, match=f"{where}: connection refused"),
        ):
            client.me()


def test_a_hub_that_stays_silent_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = "http://{}:{}".format(*silent.getsockname())
        with (
            Client(url, KEY, timeout_s=0.05) as client,
            pytest.raises(ConnectionFailed, match="does not answer"),
        ):
            client.me()


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_ones():
    given_up = threading.Event()

    def script(asked: Asked) -> Answer:
        if asked.path.endswith("late"):
            assert given_up.wait(10)
        return answer({"name": asked.path.rpartition("/")[2]})

    with scripted_hub(script) as hub, Client(hub.url, KEY, timeout_s=0.2) as client:
        with pytest.raises(ConnectionFailed):
            client.machines.get("late")
        given_up.set()
        assert client.machines.get("next")["name"] == "next"


@pytest.mark.parametrize("path", ["", "/", "/api/v1", "/v1/", "/cmdop", "/cmdop/api/v1"])
def test_the_base_url_may_be_written_with_and_without_the_version(path):
    with (
        scripted_hub(lambda _: answer({})) as hub,
        Client(hub.url + path, KEY) as client,
    ):
        client.me()
    prefix = "/cmdop" if "cmdop" in path else ""
    assert hub.asked[0].path == f"{prefix}/api/v1/auth/me"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hub:3006",
        "ftp://hub",
        "http://",
        "http://hub:port",
        "http://hub:99999",
        "http://user:secret@hub",
        "http://hub/?key=secret",
        "http://hub/#secret",
        "http://hub\r\nX: y",
        "http://[::1",
    ],
)
def test_a_url_that_cannot_be_a_hubs_is_refused_without_repeating_it(url):
    with pytest.raises(CmdopError) as caught:
        Client(url, KEY)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "schlüssel"])
def test_a_key_that_cannot_be_one_is_refused_without_repeating_it(key):
    with pytest.raises(CmdopError) as caught:
        Client("http://127.0.0.1:1", key)
    assert not key or key not in str(caught.value)


def test_a_list_goes_on_over_all_pages():
    def script(asked: Asked) -> Answer:
        offset = int(asked.query.rpartition("offset=")[2])
        items = [{"id": f"mach_{number}"} for number in range(offset, min(offset + 100, 250))]
        return answer(items, meta={"has_more": offset + 100 < 250})

    with scripted_hub(script) as hub, Client(hub.url, KEY) as client:
        found = [machine["id"] for machine in client.machines.list(tags=["a", "b"])]
    assert found == [f"mach_{number}" for number in range(250)]
    assert hub.asked[0].query == "tags=a%2Cb&limit=100&offset=0"
    assert len(hub.asked) == 3


def test_an_id_cannot_lead_to_another_route():
    with (
        scripted_hub(lambda _: answer({})) as hub,
        Client(hub.url, KEY) as client,
    ):
        client.machines.delete("../api-keys?x#y")
    assert hub.asked[0].path == "/api/v1/machines/..%2Fapi-keys%3Fx%23y"


def _wait_until_all_have_left(hub):
    give_up = time.monotonic() + 10
    while hub.open_connections:
        assert time.monotonic() < give_up
        time.sleep(0.001)
