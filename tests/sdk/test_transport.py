"""The synchronous client against a listener that misbehaves."""

import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cmdop_appliance.sdk import (
    APIError,
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
from cmdop_appliance.sdk.errors import Away
from tests.sdk.kinds import Client
from tests.sdk.scripted_hub import Answer, Asked, answer, http, scripted_hub

pytestmark = pytest.mark.usefixtures("kind")

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


STARTED = {"id": "cmd_1", "status": "running"}
STOPPING = answer({"code": "unavailable", "message": "the hub is stopping"}, status=503)
BROKEN = Answer(b"", close=True)


def _call(call, *answers: Answer, timeout_s: float = 60.0):
    """What a call gives whose n-th request gets the n-th answer, the last for good; all asked."""
    waiting = iter(answers)
    with (
        scripted_hub(lambda _: next(waiting, answers[-1])) as hub,
        Client(hub.url, KEY, timeout_s=timeout_s) as client,
    ):
        return call(client), hub.asked


def _start(client):
    return client.commands.start("mach_1", "true")


AWAY = [
    BROKEN,
    STOPPING,
    http(502, b"<html>bad gateway"),
    http(503, b'{"error": {"code": "unavailable"}}'),
    http(504, b'{"message": "gateway timeout"}'),
    Answer(b"HTTP/1.1 20", close=True),
    Answer(b"HTTP/1.1 200 OK\r\nContent-", close=True),
    Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", close=True),
]


@pytest.mark.parametrize("away", AWAY)
def test_a_create_is_sent_again_with_the_same_key_until_the_hub_is_back(away):
    started, asked = _call(_start, away, away, answer(STARTED))
    assert started == STARTED
    assert [request.method for request in asked] == ["POST"] * 3
    assert len({request.headers["idempotency-key"] for request in asked}) == 1
    assert len({request.body for request in asked}) == 1


@pytest.mark.parametrize("away", AWAY)
def test_a_get_and_a_delete_are_sent_again(away):
    machine, asked = _call(lambda client: client.machines.get("mach_1"), away, answer(MACHINE))
    assert (machine["name"], len(asked)) == ("nas", 2)
    _, asked = _call(lambda client: client.commands.cancel("cmd_1"), away, answer({}))
    assert [request.method for request in asked] == ["DELETE"] * 2


def _call_over_a_restart(monkeypatch, call, after: Answer):
    """What a call gives, or raises, that is refused first because nobody listens."""
    refused, uniform = threading.Event(), random.uniform
    monkeypatch.setattr(random, "uniform", lambda *ends: (refused.set(), uniform(*ends))[1])
    with scripted_hub(lambda _: answer({}, close=True)) as before:
        client = Client(before.url, KEY)
        client.me()
    port = int(before.url.rpartition(":")[2])
    with ThreadPoolExecutor(1) as caller, client:
        called = caller.submit(call, client)
        assert refused.wait(10)
        with scripted_hub(lambda _: after, port) as hub:
            return called.result(30), hub.asked


def test_a_hub_that_restarts_is_waited_for_while_nobody_listens(monkeypatch):
    started, asked = _call_over_a_restart(monkeypatch, _start, answer(STARTED))
    assert (started, len(asked)) == (STARTED, 1)


def test_what_is_missing_after_a_restart_was_not_taken_away_by_a_delete_that_nobody_heard(
    monkeypatch,
):
    gone = answer({"code": "machine_not_found", "message": "no such machine"}, status=404)
    with pytest.raises(NotFound):
        _call_over_a_restart(monkeypatch, lambda client: client.machines.delete("m"), gone)


@pytest.mark.parametrize("change", [{"name": "n"}, {"tags": []}, {"name": "n", "tags": ["a"]}])
def test_a_change_of_a_machine_leaves_out_what_stays(change):
    _, (asked,) = _call(lambda client: client.machines.edit("mach_1", **change), answer(MACHINE))
    assert json.loads(asked.body) == change


def test_every_call_has_a_key_of_its_own_or_the_callers():
    def calls(client):
        _start(client)
        _start(client)
        client.commands.start("mach_1", "true", idempotency_key="mine 1")
        client.keys.create("k", [], idempotency_key="mine 2")
        client.enrollment_tokens.create(idempotency_key="mine 3")
        client.commands.run("mach_1", "true", idempotency_key="mine 4")
        client.commands.batch(["mach_1"], "true", idempotency_key="mine 5")
        client.commands.resume_batch("batch_1", idempotency_key="mine 6")
        client.machines.get("mach_1")

    _, asked = _call(calls, answer(STARTED))
    first, second, *others, get = [r.headers.get("idempotency-key") for r in asked]
    assert first != second
    assert others == [f"mine {number}" for number in range(1, 7)]
    assert get is None
    assert all(b"mine" not in request.body for request in asked)


@pytest.mark.parametrize("key", ["", "x" * 201, "a\r\nb", "schlüssel"])
def test_a_key_that_cannot_be_one_is_refused(key):
    with pytest.raises(CmdopError, match="1 to 200 printable"):
        _call(lambda client: client.commands.start("m", "x", idempotency_key=key), answer({}))


@pytest.mark.parametrize("away", [BROKEN, STOPPING])
def test_a_hub_that_stays_away_is_given_up(away):
    with pytest.raises(CmdopError):
        _call(_start, away, timeout_s=0.2)


@pytest.mark.parametrize("status", [500, 507])
def test_a_failure_is_not_asked_for_again(status):
    failed = answer({"code": "some_code", "message": "failed"}, status=status)
    with pytest.raises(ServerError):
        _call(_start, failed, answer(STARTED))


def test_a_failure_after_an_attempt_of_unknown_end_does_not_claim_that_nothing_was_recorded():
    failed = answer({"code": "storage_full", "message": "the disk is full"}, status=507)
    with pytest.raises(ConnectionFailed, match="the disk is full"):
        _call(_start, BROKEN, failed)
    with pytest.raises(ConnectionFailed):
        _call(_start, BROKEN, STOPPING, timeout_s=0.2)
    with pytest.raises(ServerError):  # the hub told that the first had not been recorded
        _call(_start, BROKEN, _not_active("GRACE_PERIOD"), failed)


def _not_active(status):
    error = {"code": "session_not_active", "message": "-", "details": {"current_status": status}}
    return answer(error, status=409)


def test_after_a_restart_a_machine_that_comes_back_is_waited_for():
    back = [_not_active("GRACE_PERIOD"), _not_active("PENDING"), answer(STARTED)]
    started, asked = _call(_start, BROKEN, *back)
    assert (started, len(asked)) == (STARTED, 4)
    with pytest.raises(Conflict):
        _call(_start, BROKEN, _not_active("DISCONNECTED"), answer(STARTED))
    with pytest.raises(Conflict):
        _call(_start, *back)
    with pytest.raises(Conflict):
        _call(_start, BROKEN, _not_active("GRACE_PERIOD"), timeout_s=0.5)


def test_what_an_attempt_before_took_away_is_gone_and_not_missing():
    gone = answer({"code": "machine_not_found", "message": "no such machine"}, status=404)
    _call(lambda client: client.machines.delete("mach_1"), BROKEN, gone)
    with pytest.raises(NotFound):
        _call(lambda client: client.machines.delete("mach_1"), STOPPING, gone)
    with pytest.raises(NotFound):
        _call(lambda client: client.machines.get("mach_1"), BROKEN, gone)


def test_a_call_that_waits_for_an_end_asks_whether_the_hub_is_there_and_waits_on():
    ended = {"id": "cmd_1", "status": "completed", "exit_code": 0}
    asked_before = []

    def script(asked: Asked) -> Answer:
        if asked.method == "GET":
            return answer({})
        asked_before.append(asked.headers["idempotency-key"])
        return answer(ended) if len(asked_before) == 3 else Answer(b"")

    with scripted_hub(script) as hub, Client(hub.url, KEY, timeout_s=0.5) as client:
        assert client.commands.run("mach_1", "true") == ended
    assert len(set(asked_before)) == 1
    assert [(r.method, r.path) for r in hub.asked][:2] == [
        ("POST", "/api/v1/commands"),
        ("GET", "/api/v1/auth/me"),
    ]


def test_a_call_that_waits_for_an_end_gives_up_a_hub_that_says_nothing_at_all():
    with pytest.raises(ConnectionFailed, match="does not answer"):
        _call(lambda client: client.commands.run("mach_1", "true"), Answer(b""), timeout_s=0.1)


def test_options_of_commands_have_the_names_of_the_api():
    def calls(client):
        client.commands.run("mach_1", "a", timeout_ms=1, queue=True, queue_timeout_ms=2, cwd=None)
        client.commands.batch(
            ["mach_1"],
            "b",
            concurrency="25%",
            canary=True,
            max_errors=0,
            wait=False,
            serial_key="s",
        )
        client.commands.get_batch("batch_1")
        client.commands.resume_batch("batch_1", wait=False)

    _, asked = _call(calls, answer(STARTED))
    assert [(request.method, request.path, request.query) for request in asked] == [
        ("POST", "/api/v1/commands", ""),
        ("POST", "/api/v1/commands/batch", "wait=false"),
        ("GET", "/api/v1/commands/batch/batch_1", ""),
        ("POST", "/api/v1/commands/batch/batch_1/resume", "wait=false"),
    ]
    assert json.loads(asked[0].body) == {
        "machine_id": "mach_1",
        "command": "a",
        "timeout": 1,
        "queue": True,
        "queue_timeout": 2,
    }
    assert json.loads(asked[1].body) == {
        "machine_ids": ["mach_1"],
        "command": "b",
        "concurrency": "25%",
        "canary": True,
        "max_errors": 0,
        "serial_key": "s",
    }


def test_no_tags_at_all_are_told_from_tags_that_nothing_is_said_of():
    with scripted_hub(lambda _: answer({})) as hub, Client(hub.url, KEY) as client:
        for create in (
            lambda **fields: client.keys.create("ci", [], **fields),
            client.enrollment_tokens.create,
        ):
            create(tags=[])
            create()
    said = [json.loads(asked.body).get("tags", "nothing") for asked in hub.asked]
    assert said == [[], "nothing"] * 2


def test_a_copy_is_a_client_of_its_own_that_knows_that_the_hub_was_there():
    with (
        scripted_hub(lambda _: answer(MACHINE)) as hub,
        Client(hub.url, KEY, timeout_s=0.5) as client,
    ):
        client.machines.get("mach_1")
        with client.copy() as copy:
            assert copy.machines.get("mach_1") == MACHINE
        assert hub.connections == 2
        late = client.copy()
    with pytest.raises(Away):
        late.machines.get("mach_1")


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
    error = {"code": "some_code", "message": "in words", "details": {"field": "why"}, "hint": "do"}
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
    assert refusal.hint == "do"


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
            pytest.raises(ConnectionFailed, match=f"{where}: connection refused") as caught,
        ):
            client.me()
    assert not isinstance(caught.value, Away), "a wrong address is not waited for"


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

    with scripted_hub(script) as hub, Client(hub.url, KEY, timeout_s=0.5) as client:
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


def test_hub_and_key_are_those_of_the_environment_unless_others_are_passed(monkeypatch):
    with scripted_hub(lambda _: answer({})) as hub:
        monkeypatch.setenv("CMDOP_URL", hub.url)
        monkeypatch.setenv("CMDOP_API_KEY", "k1")
        with Client() as client:
            client.me()
        with Client(api_key="k2") as client:
            client.me()
    said = [asked.headers["authorization"] for asked in hub.asked]
    assert said == ["Bearer k1", "Bearer k2"]
    for name in ("CMDOP_API_KEY", "CMDOP_URL"):
        monkeypatch.delenv(name)
        with pytest.raises(CmdopError, match=name):
            Client()


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
