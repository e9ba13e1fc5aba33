"""GET /events: what happens is told once, in order, to whom it concerns, whatever dies."""

import json
import threading
from contextlib import closing
from http.client import HTTPException
from typing import Any

import apsw
import pytest

from cmdop_appliance.api.cmdop.events import _SCOPES
from cmdop_appliance.model import EVENT_TYPES
from cmdop_appliance.sdk.sse import EventParser
from cmdop_appliance.store.engine import DATABASE_FILE
from tests.support.appliance import (
    Answer,
    Api,
    Event,
    Hub,
    running_agent,
    running_hub,
    stopped_agent,
    wait_for,
)

ENDS = tuple(kind for kind in EVENT_TYPES if kind.startswith("command.") and "started" not in kind)


def data(event: Event) -> Any:
    return event.data["data"]


def until(api: Api, name: str, *, after: str = "0", query: str = "", **about: str) -> list[Event]:
    """The events behind `after`, up to the first of this name about something."""
    heard = []
    with closing(api.follow(f"/events{query}", after)) as stream:
        for event in stream:
            heard.append(event)
            if event.name == name and about.items() <= data(event).items():
                return heard
    raise AssertionError(f"the stream ended without {name}")


def names(heard: list[Event], family: str, **about: str) -> list[str]:
    """The types of a family that were heard about something."""
    return [
        event.name
        for event in heard
        if event.name.startswith(family) and about.items() <= data(event).items()
    ]


def now(api: Api, machine_id: str) -> str:
    """The id of an event that is newer than all before."""
    command_id = api.run(machine_id, "true")["id"]
    return until(api, "command.completed", command_id=command_id)[-1].id


def is_numbered(heard: list[Event], first: int) -> bool:
    """True: no number is missing, none comes twice."""
    return [int(event.id) for event in heard] == list(range(first, first + len(heard)))


def test_what_an_event_says(hub, agent):
    command_id = hub.api.run(agent.machine_id, "exit 3")["id"]
    event = until(hub.api, "command.failed", command_id=command_id)[-1]
    assert set(event.data) == {"id", "type", "timestamp", "seq", "data"}
    assert (event.data["type"], str(event.data["seq"])) == (event.name, event.id)
    assert event.data["id"].startswith("evt_")
    assert event.data["timestamp"].endswith("Z")
    record = hub.api.get(f"/commands/{command_id}")
    for name in ("machine_id", "session_id", "status", "exit_code", "duration", "user_email"):
        assert data(event)[name] == record[name]


# ── sessions and machines ────────────────────────────────────────────────────────────────────────


def test_each_transition_of_a_session_is_told_once(hub, place):
    with stopped_agent(place, "restless") as agent:
        agent.join(hub)
        machine_id, session_id = agent.machine_id, agent.wait_connected(hub)
        path = f"/sessions/{session_id}"
        client = {"client_id": "cli_one"}
        for mode in ("observer", "observer", "operator"):
            hub.api.post(f"{path}/attach", mode=mode, **client)
        hub.api.post(f"{path}/detach", **client)
        agent.kill()
        wait_for(lambda: hub.api.get(path)["status"] == "GRACE_PERIOD", "its link is missed")
        agent.rejoin(hub)
        agent.stop()
        wait_for(lambda: hub.api.get(path)["status"] == "DISCONNECTED", "it said goodbye")
        agent.rejoin(hub)
        newer = agent.wait_connected(hub)
        heard = until(hub.api, "session.connected", session_id=newer)
    assert names(heard, "session.", session_id=session_id) == [
        "session.created",
        "session.connected",
        "session.client_attached",
        "session.client_attached",  # as an operator now
        "session.client_detached",
        "session.grace_period",
        "session.connected",
        "session.disconnected",
    ]
    assert names(heard, "session.", session_id=newer) == ["session.created", "session.connected"]
    heard += until(hub.api, "machine.online", after=heard[-1].id, machine_id=machine_id)
    assert names(heard, "machine.", machine_id=machine_id) == [
        "machine.registered",
        "machine.online",
        "machine.offline",
        "machine.online",
    ]


def test_a_grace_period_that_is_over_is_told_and_so_is_the_machine_that_went(tmp_path):
    with (
        running_hub(tmp_path, config="[sessions]\ngrace_ms = 300\n") as hub,
        running_agent(hub, tmp_path, "gone") as agent,
    ):
        machine_id, session_id = agent.machine_id, agent.wait_connected(hub)
        agent.kill()
        heard = until(hub.api, "machine.offline", machine_id=machine_id)
        assert names(heard, "session.", session_id=session_id) == [
            "session.created",
            "session.connected",
            "session.grace_period",
            "session.disconnected",
        ]
        assert names(heard, "machine.", machine_id=machine_id) == [
            "machine.registered",
            "machine.online",
            "machine.offline",
        ]
        assert is_numbered(heard, 1)


# ── commands ─────────────────────────────────────────────────────────────────────────────────────


def test_a_command_is_told_to_have_started_before_its_end_however_quick_it_is(hub, agent):
    after = now(hub.api, agent.machine_id)
    commands = [hub.api.run(agent.machine_id, "true")["id"] for _ in range(10)]
    commands.append(hub.api.run(agent.machine_id, "false")["id"])
    heard = until(hub.api, "command.failed", after=after, command_id=commands[-1])
    for command_id in commands[:-1]:
        told = names(heard, "command.", command_id=command_id)
        assert told == ["command.started", "command.completed"]
    assert names(heard, "command.", command_id=commands[-1]) == [
        "command.started",
        "command.failed",
    ]


def test_every_end_of_a_command_is_told_once(hub, agent, place):
    api, machine_id = hub.api, agent.machine_id
    ends: dict[str, tuple[str, bool]] = {}  # command → (its end, whether it had started)
    ends[api.run(machine_id, "sleep 60", timeout=100)["id"]] = ("command.timeout", True)
    ends[api.run(machine_id, "true", cwd="/nowhere")["id"]] = ("command.failed", False)
    cancelled = api.start(machine_id, "sleep 60")
    api.delete(f"/commands/{cancelled}")
    api.wait_end(cancelled)
    ends[cancelled] = ("command.cancelled", True)
    with running_agent(hub, place, "leaving") as leaving:
        away = leaving.machine_id
        lost = api.start(away, "sleep 60")
        leaving.stop()
        wait_for(
            lambda: api.call("GET", f"/machines/{away}/session").status == 404, "it said goodbye"
        )
        unsent = api.post("/commands/async", machine_id=away, command="true", queue=True)["id"]
        api.delete(f"/commands/{unsent}")
        ends[unsent] = ("command.cancelled", False)
        late = {"command": "true", "queue": True, "queue_timeout": 1}
        expired = api.post("/commands/async", machine_id=away, **late)["id"]
        api.wait_end(expired)
        ends[expired] = ("command.expired", False)
        api.delete(f"/machines/{away}")
    ends[lost] = ("command.lost", True)
    heard = until(api, "command.lost", command_id=lost)
    for command_id, (end, has_started) in ends.items():
        told = names(heard, "command.", command_id=command_id)
        assert told == ["command.started", end] if has_started else [end], command_id
    assert {end for end, _ in ends.values()} | {"command.completed"} == set(ENDS)


# ── a hub that dies ──────────────────────────────────────────────────────────────────────────────


class Reader:
    """Follows the events as a client does it: whenever the stream breaks, from the last id on."""

    def __init__(self, api: Api) -> None:
        self.heard: list[Event] = []
        self.breaks = 0
        self._api = api
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """It ends with the next event, or break."""
        self._is_over.set()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.is_set():
            last = self.heard[-1].id if self.heard else "0"
            try:
                for event in self._api.follow("/events", last):
                    self.heard.append(event)
                    if self._is_over.is_set():
                        return
            except (OSError, HTTPException, AssertionError):
                self._is_over.wait(0.02)
            self.breaks += 1


@pytest.mark.long
def test_over_kills_of_the_hub_no_event_is_lost_or_comes_twice(tmp_path):
    with running_hub(tmp_path) as hub, running_agent(hub, tmp_path, "steady") as agent:
        machine_id, session_id = agent.machine_id, agent.wait_connected(hub)
        commands = []
        with Reader(hub.api) as reader:
            for _ in range(3):
                commands += [hub.api.start(machine_id, "echo x") for _ in range(5)]
                hub.kill()
                hub.start()
                assert agent.wait_connected(hub) == session_id
            for command_id in commands:
                hub.api.wait_end(command_id)
            last = now(hub.api, machine_id)
            wait_for(lambda: int(reader.heard[-1].id) >= int(last), "all is heard")
        now(hub.api, machine_id)
        reader.join()
        assert reader.breaks >= 3
        heard = reader.heard[: int(last)]
        assert is_numbered(heard, 1)
        command_id = data(heard[-1])["command_id"]
        again = until(hub.api, "command.completed", command_id=command_id)
        assert [event.data for event in again] == [event.data for event in heard]
        for command_id in commands:
            told = names(heard, "command.", command_id=command_id)
            assert told == ["command.started", "command.completed"]
        assert names(heard, "session.", session_id=session_id) == [
            "session.created",
            "session.connected",
            *["session.grace_period", "session.connected"] * 3,
        ]


def test_a_reader_resumes_behind_any_event(hub, agent):
    command_id = hub.api.run(agent.machine_id, "true")["id"]
    whole = until(hub.api, "command.completed", command_id=command_id)
    for number, event in enumerate(whole[:-1]):
        again = until(hub.api, "command.completed", after=event.id, command_id=command_id)
        assert again == whole[number + 1 :]


def test_without_an_id_a_reader_hears_what_happens_from_now_on(hub, agent):
    before = now(hub.api, agent.machine_id)
    with hub.api._open("GET", "/events", None, {}) as answer:
        assert answer.read1() == b": keep-alive\n\n"
        hub.api.run(agent.machine_id, "true")
        parser, heard = EventParser(), []
        while not heard:
            heard = [event for event in parser.feed(answer.read1()) if event.name]
    assert heard[0].id == str(int(before) + 1)


def test_an_id_of_the_future_is_now(hub, agent):
    with hub.api._open("GET", "/events", None, {"Last-Event-ID": "9" * 16}) as answer:
        assert answer.read1() == b": keep-alive\n\n"
        command_id = hub.api.run(agent.machine_id, "true")["id"]
        assert command_id.encode() in answer.read1()


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 17, "1-2", "\xb2"])
def test_an_id_that_no_stream_gave_is_refused(hub, last):
    answer = hub.api.call("GET", "/events", headers={"Last-Event-ID": last})
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")


def test_numbers_that_are_not_kept_any_more_are_a_gap(tmp_path):
    with running_hub(tmp_path) as hub, running_agent(hub, tmp_path, "old") as agent:
        machine_id = agent.machine_id
        last = now(hub.api, machine_id)
        hub.stop()
        with closing(apsw.Connection(str(hub.data_dir / DATABASE_FILE))) as store:
            store.execute("DELETE FROM event WHERE seq <= 3")  # as a sweep does after 7 days
        hub.start()
        command_id = hub.api.run(machine_id, "true")["id"] if agent.wait_connected(hub) else ""

        first, *rest = until(hub.api, "command.completed", command_id=command_id)
        assert first.name == "gap"
        assert (first.id, first.data) == ("3", {"from": 1, "to": 3})
        assert is_numbered(rest, 4)
        assert int(rest[-1].id) > int(last)
        behind = until(hub.api, "command.completed", after="3", command_id=command_id)
        assert behind == rest


# ── who hears what ───────────────────────────────────────────────────────────────────────────────


def heard_until_revoked(hub: Hub, api: Api, path: str, after: str = "0") -> Answer:
    """All of a stream, whose key is revoked as soon as it has begun."""
    key_id = api.get("/auth/me")["id"]
    with api._open("GET", path, None, {"Last-Event-ID": after}) as answer:
        assert answer.status == 200
        hub.api.delete(f"/api-keys/{key_id}")
        return Answer(answer.status, {}, answer.read())


def events_in(answer: Answer) -> list[tuple[str, Any]]:
    events = [event for event in EventParser().feed(answer.body) if event.name]
    return [(event.name, json.loads(event.data)) for event in events]


@pytest.mark.parametrize(
    ("scope", "families"),
    [
        ("admin", {"session", "machine", "command"}),
        ("sessions:read", {"session", "command"}),
        ("machines:read", {"machine"}),
        ("commands:execute", {"command"}),
        ("sessions:write", set()),
        ("machines:write", set()),
        ("webhooks:manage", set()),
    ],
)
def test_a_key_hears_what_it_may_read(hub, agent, scope, families):
    now(hub.api, agent.machine_id)
    answer = heard_until_revoked(hub, hub.new_key(scope), "/events")
    assert {name.partition(".")[0] for name, _ in events_in(answer)} == families


def test_every_event_has_a_scope_that_lets_a_key_hear_it():
    assert {kind.partition(".")[0] for kind in EVENT_TYPES} == set(_SCOPES)


def test_a_reader_hears_only_the_types_and_the_machine_that_it_asked_for(hub, agent, place):
    with running_agent(hub, place, "second") as second:
        hub.api.run(second.machine_id, "true")
    now(hub.api, agent.machine_id)

    def heard(query: str) -> list[tuple[str, Any]]:
        return events_in(heard_until_revoked(hub, hub.new_key("admin"), f"/events?{query}"))

    assert {name for name, _ in heard("types=machine.online")} == {"machine.online"}
    assert {name for name, _ in heard("types=command.*,session.created")} >= {
        "command.started",
        "command.completed",
        "session.created",
    }
    assert not [name for name, _ in heard("types=command.*") if not name.startswith("command.")]
    mine = heard(f"machine_id={second.machine_id}")
    assert {event["data"]["machine_id"] for _, event in mine} == {second.machine_id}
    assert {name for name, _ in heard(f"types=command.*&machine_id={second.machine_id}")} == {
        "command.started",
        "command.completed",
    }
    assert heard("machine_id=mach_x") == []
    assert heard("types=*")[:9] == heard("")[:9] != []


def test_the_open_streams_of_a_key_end_at_once_when_it_is_revoked(hub, agent, tmp_path):
    """What happens from then on is not in them."""
    gate, api = tmp_path / "gate", hub.new_key("admin")
    key_id = api.get("/auth/me")["id"]
    command_id = hub.api.start(
        agent.machine_id, f"echo early; until [ -e {gate} ]; do sleep 0.02; done; echo late"
    )
    with (
        api._open("GET", "/events", None, {}) as happening,
        api._open("GET", f"/commands/{command_id}/stream", None, {}) as output,
    ):
        assert happening.read1() == b": keep-alive\n\n"
        assert b"event: stdout" in output.read1()
        hub.api.delete(f"/api-keys/{key_id}")
        gate.touch()
        assert hub.api.wait_end(command_id)["stdout"] == "early\nlate\n"
        assert b"command.completed" not in happening.read()
        assert b"event: " not in output.read()
