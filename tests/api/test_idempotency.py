"""Idempotency-Key (contract.md §1): the same request again is the first answer again."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cmdop_appliance.api import cmdop as cmdop  # fills the table
from cmdop_appliance.api.registry import CMDOP, ROUTES
from cmdop_appliance.auth import Scope
from tests.support.appliance import PATIENCE_S, Agent, Answer, Api, Hub, running_agent, running_hub

# Forms are sent again in test_transfers.py.
ASKED = [
    r
    for r in ROUTES
    if r.plane is CMDOP and r.method == "POST" and not r.takes and Scope.PUBLIC not in r.scopes
]
POSTS = [route.path for route in ASKED]
WITH_BODY = [route.path for route in ASKED if route.body]
RESUME, DETACH = "/commands/batch/:id/resume", "/sessions/:id/detach"
RUN, PREVIEW = "/schedules/:id/run", "/schedules/preview"
TEST = "/webhooks/:id/test"
TERMINALS, TICKETS = "/machines/:id/terminals", "/terminals/:id/tickets"
AGAIN, AGAIN_ONE = "/webhooks/:id/redeliver", "/webhooks/:id/deliveries/:delivery/redeliver"
MAKES_NOTHING = (PREVIEW, AGAIN, AGAIN_ONE)
# What can be done once, whoever asks; the next one is told so.
FILES = [
    f"{files}{path}"
    for files in ("/files", "/machines/:id/files")
    for path in ("/move", "/copy", "/mkdir")
]
ONLY_ONCE = {
    **dict.fromkeys(FILES, (409, "file_exists")),
    **{path: (404, "file_not_found") for path in FILES if path.endswith("/move")},
    RESUME: (409, "conflict"),
    DETACH: (404, "client_not_found"),
    "/workspaces": (409, "conflict"),
}
NOBODY = "mach_01JZZZZZZZZZZZZZZZZZZZZZZZ"
_numbers = count()


@dataclass(frozen=True)
class Place:
    """A hub, and an agent that is connected."""

    hub: Hub
    agent: Agent

    @property
    def api(self) -> Api:
        return self.hub.api

    def body(self, path: str) -> dict[str, object]:
        """A good body for a POST; each time another one where it can be used once only."""
        if path == DETACH:
            attached = self.api.post(f"/sessions/{self.session_id}/attach")
            return {"client_id": attached["client_id"]}
        if path in FILES:
            return self.paths(path)
        command = {"command": "echo $CMDOP_COMMAND_ID", "env": {"A": "1", "B": "2"}}
        return {
            "/commands": {"machine_id": self.agent.machine_id, **command},
            "/commands/async": {"machine_id": self.agent.machine_id, **command},
            "/commands/batch": {"machine_ids": [self.agent.machine_id, NOBODY], **command},
            "/commands/batch/:id/resume": {},
            "/schedules": {
                "name": "leap day",
                "machine_id": self.agent.machine_id,
                "cron": "0 0 29 2 *",
                "notify": {"on_success": True, "on_failure": True},
                **command,
            },
            RUN: {},
            "/webhooks": {"url": "http://localhost:1/", "events": ["webhook.disabled"]},
            TEST: {},
            TERMINALS: {"argv": ["sleep", "300"], "cols": 100},
            TICKETS: {},
            AGAIN: {"since": "2020-01-01T00:00:00Z", "status": "pending"},
            AGAIN_ONE: {},
            PREVIEW: {"cron": "* * * * *", "count": 2},
            "/sessions/:id/attach": {},
            "/workspaces": {"namespace": f"team-{next(_numbers)}"},
            "/api-keys": {"name": "bot", "scopes": ["machines:read", "sessions:read"]},
            "/enrollment-tokens": {"ttl": 60_000, "tags": ["a"]},
            "/sign-in-links": {},
        }[path]

    def paths(self, path: str) -> dict[str, object]:
        """A good body for a POST about files."""
        folder = self.agent.state_dir.parent
        source, new = (str(folder / f"file-{next(_numbers)}") for _ in range(2))
        if path.endswith("/mkdir"):
            return {"path": new, "mode": "0750"}
        Path(source).write_text("content")
        return {"source": source, "destination": new}

    def target(self, path: str) -> str:
        """Where to send a POST; for what it is about, there is something."""
        if path.startswith("/files"):
            return f"{path}?machine_id={self.agent.machine_id}"
        if path.startswith("/machines/"):
            return path.replace(":id", self.agent.machine_id)
        if path.startswith("/sessions/"):
            return path.replace(":id", self.session_id)
        if path == RUN:
            made = self.api.post("/schedules", **self.body("/schedules"))
            return path.replace(":id", made["id"])
        if path == TEST:
            made = self.api.post("/webhooks", **self.body("/webhooks"))
            return path.replace(":id", made["id"])
        if path == TICKETS:
            made = self.api.post(self.target(TERMINALS), **self.body(TERMINALS))
            return path.replace(":id", made["id"])
        if path in (AGAIN, AGAIN_ONE):
            events = ["session.client_attached", "session.client_detached"]
            made = self.api.post("/webhooks", url="http://localhost:1/", events=events)
            for way in ("attach", "detach"):
                self.api.post(f"/sessions/{self.session_id}/{way}", client_id="cli_passing")
            # The second of two waits behind the first, which fails again and again.
            delivery, _ = self.api.get(f"/webhooks/{made['id']}/deliveries")
            return path.replace(":id", made["id"]).replace(":delivery", delivery["id"])
        if path != RESUME:
            return path
        # More errors than allowed from the start: the one machine that is there is skipped.
        body = {**self.body("/commands/batch"), "max_errors": 0}
        batch = self.api.post("/commands/batch", **body)
        skipped = batch[self.agent.machine_id]
        assert skipped["status"] == "skipped"
        return path.replace(":id", skipped["batch_id"])

    @property
    def session_id(self) -> str:
        return str(self.api.get(f"/machines/{self.agent.machine_id}/session")["session_id"])

    def recorded(self) -> list[int]:
        """How many of everything there are."""
        lists = ("/commands", "/api-keys", "/enrollment-tokens", "/workspaces", "/schedules")
        lists += ("/webhooks", "/terminals")
        totals = [self.api.call("GET", path).json["meta"]["total"] for path in lists]
        return [*totals, len(self.api.get(f"/sessions/{self.session_id}")["attached_clients"])]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("once")
    with running_hub(directory) as hub, running_agent(hub, directory, "target") as agent:
        yield Place(hub, agent)


@pytest.fixture
def key():
    return f"key-{next(_numbers)}"


def send(api: Api, path: str, body: object, key: str) -> Answer:
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    return api.call("POST", path, body, headers=headers)


def refused(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.error["code"]) == (status, code), answer


def spelled_otherwise(body: dict[str, object]) -> bytes:
    """The same JSON: every object backwards, with spaces, an unknown field and a default."""

    def turned(value):
        if isinstance(value, dict):
            return {name: turned(value[name]) for name in reversed(value)}
        return value

    return json.dumps({"no_such_field": 1, **turned(body)}, indent=3).encode()


# ── the same again ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", POSTS)
def test_the_same_request_again_is_the_first_answer_again(place, key, path):
    target, body = place.target(path), place.body(path)
    first = send(place.api, target, body, key)
    assert first.status in (200, 201), first
    before = place.recorded()
    for again in (
        send(place.api, target, body, key),
        send(place.api, target, spelled_otherwise(body), key),
        send(place.api, f"/v1{target}", body, key),
        send(place.api, f"/api/v1{target}", body, key),
    ):
        assert again.status == first.status
        assert again.data == first.data
    assert place.recorded() == before


def test_an_attach_that_is_sent_again_after_the_detach_attaches_nobody(place, key):
    path = f"/sessions/{place.session_id}"
    before = place.api.get(path)["attached_clients"]
    first = send(place.api, f"{path}/attach", {}, key).data
    place.api.post(f"{path}/detach", client_id=first["client_id"])
    assert send(place.api, f"{path}/attach", {}, key).data == first
    assert place.api.get(path)["attached_clients"] == before


@pytest.mark.parametrize("path", [path for path in POSTS if path not in MAKES_NOTHING])
def test_without_a_key_or_with_another_one_it_is_another_request(place, key, path):
    target, body = place.target(path), place.body(path)
    if path in ONLY_ONCE:
        assert send(place.api, target, body, key).status in (200, 201)
        refused(send(place.api, target, body, f"{key}-other"), *ONLY_ONCE[path])
        refused(place.api.call("POST", target, body), *ONLY_ONCE[path])
        return
    answers = [
        send(place.api, target, body, key),
        send(place.api, target, body, key.upper()),
        place.api.call("POST", target, body),
        place.api.call("POST", target, body),
    ]
    assert len({json.dumps(each.data, sort_keys=True) for each in answers}) == 4


@pytest.mark.parametrize("path", WITH_BODY)
def test_another_body_is_a_conflict_and_nothing_is_recorded(place, key, path):
    target, body = place.target(path), place.body(path)
    first = send(place.api, target, body, key).data
    before = place.recorded()
    changed = {
        "/api-keys": {"name": "other"},
        "/enrollment-tokens": {"tags": ["b"]},
        "/sessions/:id/attach": {"mode": "observer"},
        DETACH: {"client_id": "cli_other"},
        "/workspaces": {"namespace": "other"},
        PREVIEW: {"cron": "1 * * * *"},
        "/webhooks": {"description": "other"},
        AGAIN: {"status": "dead"},
        TERMINALS: {"cols": 101},
        TICKETS: {"mode": "observer"},
        **{each: {"overwrite": True, "parents": True} for each in FILES},
    }.get(path, {"command": "echo other"})
    for other in ({**body, **changed}, {**body, "timeout": 1234} if "command" in body else None):
        if other is not None:
            answer = send(place.api, target, other, key)
            refused(answer, 409, "idempotency_conflict")
            assert "hint" in answer.error
    assert place.recorded() == before
    assert send(place.api, target, body, key).data == first


def test_another_route_or_object_is_a_conflict(place, key):
    body = place.body("/commands")
    send(place.api, "/commands", body, key)
    before = place.recorded()
    refused(send(place.api, "/commands/async", body, key), 409, "idempotency_conflict")
    one, other = (place.target(RESUME) for _ in range(2))
    assert send(place.api, one, {}, f"{key}-2").status == 200
    after = place.recorded()
    refused(send(place.api, other, {}, f"{key}-2"), 409, "idempotency_conflict")
    assert place.recorded() == after
    assert before[1:] == after[1:]


def test_the_same_key_of_another_api_key_is_another_request(place, key):
    other = place.hub.new_key("commands:execute")
    body = place.body("/commands")
    mine, theirs = (send(api, "/commands", body, key).data for api in (place.api, other))
    assert mine["id"] != theirs["id"]
    assert send(other, "/commands", body, key).data == theirs


@pytest.mark.parametrize(
    "key", ["x" * 201, "", "a\tb", "a\x7fb", "\u00e9"], ids=["long", "none", "tab", "del", "latin"]
)
@pytest.mark.parametrize("path", POSTS)
def test_what_is_no_key_is_refused(place, path, key):
    body = place.body(path)
    before = place.recorded()
    refused(send(place.api, path.replace(":id", "x"), body, key), 400, "invalid_request")
    assert place.recorded() == before


def test_a_key_may_have_200_characters_of_every_printable_kind(place):
    kinds = "".join(map(chr, range(33, 127)))
    for key in ("x" * 200, kinds, "a b"):
        first = send(place.api, "/commands", place.body("/commands"), key).data
        assert send(place.api, "/commands", place.body("/commands"), key).data == first


def test_what_only_reads_or_deletes_passes_a_key_over(place, key):
    for _ in range(2):
        headers = {"Idempotency-Key": key}
        assert place.api.call("GET", "/commands", headers=headers).status == 200
        answer = place.api.call("DELETE", "/commands/cmd_x", headers=headers)
        refused(answer, 404, "command_not_found")


# ── refused, at once, over both ways ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/commands", "/commands/async"])
def test_a_request_that_was_refused_leaves_its_key_free(place, key, path):
    good = place.body(path)
    refused(send(place.api, path, good | {"machine_id": NOBODY}, key), 404, "machine_not_found")
    refused(send(place.api, path, good | {"timeout": 0}, key), 422, "validation_failed")
    refused(send(place.api, path, b"{", key), 400, "invalid_request")
    first = send(place.api, path, good, key).data
    assert send(place.api, path, good, key).data == first


def test_two_at_once_are_one_command_and_both_get_its_end(place, key, tmp_path):
    marks = tmp_path / "marks"
    body = place.body("/commands") | {"command": f"echo mark >>{marks}; sleep 0.3; exit 3"}
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda _: send(place.api, "/commands", body, key), range(8)))
    assert len({each.data["id"] for each in answers}) == 1
    assert {(each.data["status"], each.data["exit_code"]) for each in answers} == {("failed", 3)}
    assert marks.read_text() == "mark\n"


def test_both_ways_to_the_hub_know_the_same_keys(place, key):
    """The second request of this connection goes through the framework, a first one does not."""
    body = place.body("/commands")
    first = send(place.api, "/commands", body, key).data
    connection = HTTPConnection(urlsplit(place.api.url).netloc, timeout=PATIENCE_S)
    headers = {"Authorization": f"Bearer {place.api.key}", "Content-Type": "application/json"}
    try:
        connection.request("GET", "/api/v1/auth/me", headers=headers)
        assert connection.getresponse().read()
        headers["Idempotency-Key"] = key
        connection.request("POST", "/api/v1/commands", json.dumps(body), headers)
        assert json.loads(connection.getresponse().read())["data"] == first
        connection.request("POST", "/api/v1/commands", json.dumps(body | {"cwd": "/"}), headers)
        assert connection.getresponse().status == 409
    finally:
        connection.close()
    refused(send(place.api, "/commands", body | {"cwd": "/"}, key), 409, "idempotency_conflict")


# ── secrets, and a hub that dies ─────────────────────────────────────────────────────────────────


def secrets_of(place: Place, key: str) -> list[str]:
    """Two API keys and an enrolment token, as asked for with `key`."""
    made = send(place.api, "/api-keys", place.body("/api-keys"), f"{key}-a").data
    token = send(place.api, "/enrollment-tokens", place.body("/enrollment-tokens"), f"{key}-b").data
    workspace = send(place.api, "/workspaces", {"namespace": key}, f"{key}-c").data
    return [made["key"], workspace["api_key"]["key"], token["token"]]


def test_secrets_come_again_the_same_and_are_kept_nowhere(place, key):
    secrets = secrets_of(place, key)
    assert secrets_of(place, key) == secrets
    for secret in secrets[:2]:
        assert Api(place.api.url, secret).call("GET", "/auth/me").status == 200
    kept = [path for path in place.hub.data_dir.rglob("*") if path.is_file()]
    assert len(kept) > 2
    for secret in secrets:
        text = secret.removeprefix("cmdop_apikey_").removeprefix("cmdop_enroll_")[:24]
        for path in (*kept, place.hub.log):
            content = path.read_bytes()
            assert text.encode() not in content, path
            assert base64.urlsafe_b64decode(text) not in content, path


def test_what_a_dead_hub_was_asked_the_next_one_remembers(place, key):
    secrets = secrets_of(place, key)
    asked = {path: (place.target(path), place.body(path)) for path in POSTS}
    first = {
        path: send(place.api, target, body, key + path).data
        for path, (target, body) in asked.items()
    }
    before = place.recorded()
    place.hub.kill()
    place.hub.start()
    place.agent.wait_connected(place.hub)
    for path, (target, body) in asked.items():
        assert send(place.api, target, body, key + path).data == first[path]
    assert secrets_of(place, key) == secrets
    assert place.recorded()[:2] == before[:2]  # each start makes an enrolment token, for its banner
