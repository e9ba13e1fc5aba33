"""Terminals and coding sessions as calls of the API."""

import pytest

from cmdop_appliance.sdk import CodingRefused, Conflict, NotFound, UnexpectedAnswer
from tests.sdk.kinds import Client
from tests.sdk.scripted_hub import Answer, answer, asked_of, http, scripted_hub, sent_by

pytestmark = pytest.mark.usefixtures("kind")


def test_a_list_is_asked_for_with_its_filters():
    def call(client):
        return client.terminals.list(machine_id="mach_1", kind="terminal", status="running")

    _, asked = asked_of(call, [])
    assert asked.path == "/api/v1/terminals"
    assert asked.query == "machine_id=mach_1&kind=terminal&status=running&limit=100&offset=0"


def test_a_terminal_is_opened_with_what_was_said_of_it_and_nothing_else():
    def call(client):
        return client.terminals.open("mach_1", name="n", argv=["sh"], cols=90, user=None)

    body = {"name": "n", "argv": ["sh"], "cols": 90}
    assert sent_by(call) == ("POST", "/machines/mach_1/terminals", body)
    with Client("http://127.0.0.1:1", "k") as client, pytest.raises(TypeError, match="colour"):
        client.terminals.open("mach_1", colour="red")


def test_one_is_looked_at_ended_and_opened_to_a_browser():
    assert sent_by(lambda c: c.terminals.get("a/b")) == ("GET", "/terminals/a%2Fb", None)
    _, asked = asked_of(lambda c: c.terminals.end("t"), {"ended": True})
    assert (asked.method, asked.path) == ("DELETE", "/api/v1/terminals/t")
    said = sent_by(lambda c: c.terminals.ticket("t", mode="observer"))
    assert said == ("POST", "/terminals/t/tickets", {"mode": "observer"})


def test_a_machine_that_is_away_is_said_at_once():
    away = {"code": "session_not_active", "message": "away", "details": {}}
    with (
        scripted_hub(lambda _: answer(away, status=409)) as hub,
        Client(hub.url, "k") as client,
        pytest.raises(Conflict),
    ):
        client.terminals.open("mach_1")
    assert len(hub.asked) == 1


def test_a_recording_comes_piece_by_piece_or_not_at_all():
    cast = b'{"version": 2}\n[0.1, "o", "$ "]\n'
    answers = iter([http(200, cast), answer({"code": "recording_not_found"}, status=404)])
    with scripted_hub(lambda _: next(answers)) as hub, Client(hub.url, "k") as client:
        with client.terminals.recording("t") as pieces:
            assert b"".join(pieces) == cast
        with pytest.raises(NotFound), client.terminals.recording("t"):
            pass
    assert hub.asked[0].path == "/api/v1/terminals/t/recording"


def _spawn(reply: Answer, **options):
    with scripted_hub(lambda _: reply) as hub, Client(hub.url, "k") as client:
        made = client.coding.spawn("mach_1", "~/src", **options)
    (asked,) = hub.asked
    assert (asked.method, asked.path) == ("POST", "/api/machines/mach_1/spawn")
    return made, asked.body


STARTED = http(200, b'{"success": true, "type": "success", "sessionId": "session_1"}')


def test_a_coding_session_is_started_as_hapi_has_it():
    plain = b'{"directory": "~/src", "agent": "claude", "yolo": false}'
    assert _spawn(STARTED) == ("session_1", plain)
    whole = (
        b'{"directory": "~/src", "agent": "codex", "model": "m", "yolo": true,'
        b' "sessionType": "worktree", "worktreeName": "w"}'
    )
    options = {"agent": "codex", "model": "m", "yolo": True, "worktree": "w"}
    assert _spawn(STARTED, **options) == ("session_1", whole)


def test_a_machine_that_starts_none_says_why():
    refused = http(200, b'{"success": false, "error": "no codex", "message": "no codex on nas"}')
    with pytest.raises(CodingRefused, match="no codex on nas"):
        _spawn(refused)
    with pytest.raises(UnexpectedAnswer):
        _spawn(http(200, b'{"success": true}'))
