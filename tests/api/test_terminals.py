"""Terminals over the API, on a real machine: opened, found, watched, recorded, ended."""

import json
import socket
import time
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.api.onlookers import new_terminal
from tests.api.terminal_site import PROTOCOL, TICKET
from tests.support.appliance import PATIENCE_S, Agent, Hub, running_agent, running_hub, wait_for
from tests.support.quick_hub import ms_of
from tests.support.typist import typist

ECHO = "stty -echo; echo ready; while read line; do eval $line; done"


@pytest.fixture(scope="module")
def terminals(agent: Agent) -> str:
    """Where those of the machine are opened."""
    return f"/machines/{agent.machine_id}/terminals"


def refused(answer, status: int, code: str):
    assert (answer.status, answer.error["code"]) == (status, code), answer
    return answer.error


# ── records ──────────────────────────────────────────────────────────────────────────────────────


def test_a_terminal_is_what_was_asked_for(hub, agent, terminals):
    asked = {"argv": ["sh", "-c", "sleep 60"], "cwd": "/", "cols": 100, "rows": 30}
    made = hub.api.post(terminals, name="main", env={"A": "canary"}, **asked)
    record = hub.api.get(f"/terminals/{made['id']}")
    assert made == {**record, "created": True}
    expected = {
        "kind": "terminal",
        "name": "main",
        "machine_id": agent.machine_id,
        "status": "running",
        "user": None,
        "agent": None,
        "directory": None,
        "worktree": None,
        "user_email": "admin@default",
        "recorded": False,
        "waiting": False,
        "ending": False,
        "viewers": {"operators": 0, "observers": 0},
        "ended_at": None,
        "end": None,
        "error": None,
        **asked,
    }
    assert {name: record[name] for name in expected} == expected
    assert "canary" not in json.dumps(record)
    again = hub.api.post(terminals, name="main", argv=["true"])
    assert again == {**record, "created": False}
    hub.api.delete(f"/terminals/{made['id']}")


def test_terminals_are_found_by_each_filter(hub, agent, terminals):
    made = hub.api.post(terminals, argv=["sleep", "60"])
    for query, found in (
        ("", True),
        (f"machine_id={agent.machine_id}", True),
        ("kind=terminal&status=running&sort=name", True),
        ("machine_id=mach_x", False),
        ("kind=coding_session", False),
        ("status=ended", False),
        ("status=starting", False),
    ):
        listed = [each["id"] for each in hub.api.get(f"/terminals?limit=100&{query}")]
        assert (made["id"] in listed) is found, query
    assert made["name"] == f"term-{made['id'][-6:].lower()}"
    hub.api.delete(f"/terminals/{made['id']}")


def test_a_terminal_that_was_ended_is_ended_and_says_so(hub, terminals):
    path = f"/terminals/{hub.api.post(terminals)['id']}"  # a login shell, which ignores SIGTERM
    assert hub.api.delete(path) == {"ended": True}
    record = wait_for(lambda: (r := hub.api.get(path))["status"] == "ended" and r, "it ends")
    assert (record["end"], record["ending"]) == ("cancelled", True)
    refused(hub.api.call("DELETE", path), 409, "terminal_ended")
    refused(hub.api.call("POST", f"{path}/tickets"), 409, "terminal_ended")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [({"cwd": "/no/such"}, "cwd_missing"), ({"argv": ["/no/such"]}, "exec_failed")],
)
def test_what_the_machine_does_not_open_is_told_with_its_reason(hub, terminals, asked, reason):
    error = refused(hub.api.call("POST", terminals, asked), 409, "terminal_not_started")
    assert error["details"]["reason"] == reason
    record = hub.api.get(f"/terminals/{error['details']['terminal_id']}")
    assert (record["status"], record["end"]) == ("ended", "failed")
    assert record["error"] == {"code": reason, "message": error["message"]}


def test_more_than_a_machine_takes_is_refused(hub, terminals):
    answer = hub.api.call("POST", terminals, {"env": {"A": "x" * 600_000}})
    assert "524288 bytes" in refused(answer, 422, "validation_failed")["details"]["body"]


def test_a_machine_that_is_away_opens_nothing(hub, place):
    with running_agent(hub, place, "away") as away:
        path = f"/machines/{away.machine_id}/terminals"
    wait_for(lambda: hub.api.get(f"/machines/{away.machine_id}")["status"] == "offline", "it went")
    refused(hub.api.call("POST", path), 409, "session_not_active")


# ── looking and typing ───────────────────────────────────────────────────────────────────────────


def test_what_is_typed_is_seen_by_everybody_and_the_end_comes_with_its_exit_code(hub, agent):
    terminal_id = new_terminal(hub, agent.machine_id, "sh", "-c", ECHO)
    path = f"/terminals/{terminal_id}"
    with typist(hub.api, terminal_id) as one:
        one.wait_screen("ready")
        with typist(hub.api, terminal_id, mode="observer") as other:
            other.wait_screen("ready")  # what was there before it came
            assert hub.api.get(path)["viewers"] == {"operators": 1, "observers": 1}
            one.resize(132, 43)
            assert (one.wait_said("resize")["cols"], hub.api.get(path)["cols"]) == (132, 132)
            one.type("stty size\n")
            for person in (one, other):
                person.wait_screen("43 132")
            one.type("exit 7\n")
            for person in (one, other):
                end = person.wait_end()
                assert (end["end"], end["exit_code"]) == ("exited", 7)
            wait_for(lambda: one.close_code == other.close_code == 1000, "both are closed")
    record = hub.api.get(path)
    assert (record["status"], record["exit_code"]) == ("ended", 7)
    assert record["viewers"] == {"operators": 0, "observers": 0}


def test_a_ticket_is_long_random_and_tells_until_when_it_is_good(hub, agent):
    path = f"/terminals/{new_terminal(hub, agent.machine_id, 'sh', '-c', ECHO)}/tickets"
    earliest = int(time.time() * 1000)
    first, second = hub.api.post(path), hub.api.post(path)
    latest = int(time.time() * 1000)
    assert first["ticket"] != second["ticket"]
    assert len(bytes.fromhex(first["ticket"])) == 32
    assert earliest <= ms_of(first["expires_at"]) - 30_000 <= latest


def test_a_browser_opens_the_socket_with_its_ticket_once(hub, agent):
    terminal_id = new_terminal(hub, agent.machine_id, "sh", "-c", ECHO)
    ticket = hub.api.post(f"/terminals/{terminal_id}/tickets")
    assert ticket["mode"] == "operator"
    address = hub.api.url.replace("http:", "ws:", 1)

    def open_socket():
        return connect(
            f"{address}/v1/terminals/{terminal_id}/socket",
            origin=hub.api.url,  # type: ignore[arg-type]
            subprotocols=[PROTOCOL, TICKET + ticket["ticket"]],  # type: ignore[list-item]
        )

    with open_socket() as websocket:
        assert websocket.subprotocol == PROTOCOL
        start = {"type": "start", "cols": 80, "rows": 24, "writer": "0" * 32}
        websocket.send(json.dumps(start))
        assert json.loads(websocket.recv())["type"] == "hello"
        websocket.send(bytes(8) + b"exit 3\n")
        messages = [message for message in websocket if isinstance(message, str)]
    assert json.loads(messages[-1])["exit_code"] == 3
    with pytest.raises(InvalidStatus) as caught:
        open_socket()
    assert caught.value.response.status_code == 401
    assert ticket["ticket"] not in hub.log.read_text()


def test_a_recording_has_what_was_shown_and_nothing_of_another_terminal(hub, agent, terminals):
    script = "stty -echo; echo shown; read secret; echo over"
    made = hub.api.post(terminals, argv=["sh", "-c", script], record=True)
    path = f"/terminals/{made['id']}"
    with typist(hub.api, made["id"]) as person:
        person.wait_screen("shown")
        person.type("canary-18\n")
        person.wait_end()
    answer = wait_for(
        lambda: (a := hub.api.call("GET", f"{path}/recording")).body.count(b"over") and a,
        "all is recorded",
    )
    assert answer.headers["content-type"] == "application/x-asciicast"
    header, *events = map(json.loads, answer.body.splitlines())
    assert (header["version"], header["width"], header["height"]) == (2, 80, 24)
    shown = "".join(text for _, kind, text in events if kind == "o")
    assert shown == "shown\r\nover\r\n"
    assert b"canary" not in answer.body
    other = new_terminal(hub, agent.machine_id, "true")
    refused(hub.api.call("GET", f"/terminals/{other}/recording"), 404, "recording_not_found")


def test_a_hub_stops_in_time_whatever_those_do_who_look(tmp_path):
    with running_hub(tmp_path) as hub, running_agent(hub, tmp_path, "target") as agent:
        quiet = new_terminal(hub, agent.machine_id, "sh", "-c", ECHO)
        flooded = new_terminal(hub, agent.machine_id, "yes")
        with typist(hub.api, quiet) as person, stalled(hub, flooded):
            person.wait_screen("ready")
            hub.stop()
            wait_for(lambda: person.close_code == 1001, "it is told")


def stalled(hub: Hub, terminal_id: str) -> socket.socket:
    """Somebody who begins to look, and then takes nothing."""
    address = urlsplit(hub.api.url)
    client = socket.create_connection((address.hostname, address.port))
    head = (
        f"GET /v1/terminals/{terminal_id}/socket HTTP/1.1",
        f"Host: {address.netloc}",
        f"Authorization: Bearer {hub.api.key}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Sec-WebSocket-Protocol: {PROTOCOL}",
        "\r\n",
    )
    client.sendall("\r\n".join(head).encode())
    client.settimeout(PATIENCE_S)
    answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 101"), answer
    start = b'{"type":"start","mode":"observer"}'
    client.sendall(bytes([0x81, 0x80 | len(start)]) + bytes(4) + start)
    return client
