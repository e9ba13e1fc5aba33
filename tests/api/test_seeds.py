"""Every example of the published documents, asked of a real hub with real agents.

The examples stand verbatim in `seeds/`, a file for each document, under the question that they
answer. The same request gives the same status, keys and types, and the same words where the
documents show a constant.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cmdop_appliance.api import app as app  # fills the registry
from cmdop_appliance.api.registry import CMDOP, ROUTES
from tests.api.shapes import fits, says
from tests.api.worlds import new_workspace
from tests.support.appliance import (
    Agent,
    Answer,
    Api,
    Hub,
    running_hub,
    stopped_agent,
    wait_for,
)

PAGES: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text())
    for path in sorted(Path(__file__).with_name("seeds").glob("*.json"))
}


@dataclass(frozen=True)
class Example:
    """A request of the documents. `same`: where the answer is word for word that of the page."""

    page: str
    question: str
    method: str
    path: str
    same: tuple[str, ...] = ()
    status: int = 200
    body: str = ""  # the question whose example is sent
    null: tuple[str, ...] = ()  # of `data`: here, unlike in the example of another moment


EXAMPLES = [
    Example("api_reference", "What is the response format?", "GET", "/api/v1/sessions/sess_abc123"),
    Example(
        "api_reference",
        "What does a success response look like?",
        "GET",
        "/api/v1/sessions/sess_abc123",
        ("data",),
    ),
    Example(
        "api_reference",
        "What does an error response look like?",
        "GET",
        "/api/v1/sessions/sess_invalid",
        ("error",),
        404,
    ),
    Example(
        "api_reference",
        "How does pagination work?",
        "GET",
        "/v1/sessions?limit=10&offset=0",
        ("meta.limit", "meta.offset"),
    ),
    Example(
        "sessions",
        "How do I list sessions?",
        "GET",
        "/v1/sessions?status=CONNECTED&limit=10",
        ("data.0.status", "meta.limit", "meta.offset", "meta.has_more"),
    ),
    Example(
        "sessions",
        "How do I get a specific session?",
        "GET",
        "/v1/sessions/sess_abc123",
        (
            "data.session_id",
            "data.status",
            "data.machine_id",
            "data.attached_clients.0.mode",
            "data.attached_clients.1.mode",
        ),
    ),
    Example(
        "sessions",
        "How do I get the active session for a machine?",
        "GET",
        "/v1/machines/mach_xyz789/session",
        ("data.session_id", "data.status"),
    ),
    Example(
        "sessions",
        "Error: No Active Session",
        "GET",
        "/v1/machines/mach_gone/session",
        ("error",),
        404,
    ),
    Example(
        "sessions",
        "How do I get session command history?",
        "GET",
        "/v1/sessions/sess_abc123/history?limit=50",
    ),
    Example(
        "sessions",
        "How do I get session telemetry metrics?",
        "GET",
        "/v1/sessions/sess_abc123/metrics",
        ("data.session_id",),
    ),
    Example(
        "sessions",
        "Session Not Found (404)",
        "GET",
        "/v1/sessions/sess_invalid",
        ("error",),
        404,
    ),
    Example(
        "sessions",
        "Session Not Active (409)",
        "GET",
        "/v1/sessions/sess_gone/metrics",
        ("error",),
        409,
    ),
    Example(
        "commands",
        "How do I execute a command?",
        "POST",
        "/v1/commands",
        ("data.machine_id", "data.command", "data.stderr", "data.exit_code"),
        body="How do I execute a command? (request)",
    ),
    Example(
        "commands",
        "How do I execute a long-running command asynchronously?",
        "POST",
        "/v1/commands/async",
        ("data.status",),
        body="How do I execute a long-running command asynchronously? (request)",
    ),
    Example(
        "commands",
        "How do I check command status and results?",
        "GET",
        "/v1/commands/cmd_built",
        ("data.status", "data.exit_code", "data.stdout", "data.stderr"),
    ),
    Example(
        "commands",
        "How do I cancel a running command?",
        "DELETE",
        "/v1/commands/cmd_sleeps",
        ("data",),
    ),
    Example(
        "commands",
        "How do I execute commands on multiple machines at once?",
        "POST",
        "/v1/commands/batch",
        ("data",),
        body="How do I execute commands on multiple machines at once? (request)",
    ),
    Example(
        "commands",
        "How do I view command history for a machine?",
        "GET",
        "/v1/machines/mach_abc123/commands?since=2024-01-20T15:45:00Z&limit=20&offset=0",
        ("meta.limit", "meta.offset"),
    ),
    Example(
        "schedules",
        "List Schedules",
        "GET",
        "/v1/schedules?machine_id=mach_listed&enabled=true&limit=20&offset=0",
        ("data.0.command", "data.0.cron", "meta.limit", "meta.offset"),
    ),
    Example(
        "schedules", "Get Schedule", "GET", "/v1/schedules/sched_abc123", ("data.id", "data.notify")
    ),
    Example(
        "schedules",
        "Get Schedule",
        "POST",
        "/v1/schedules",
        ("data.name", "data.machine_id", "data.command", "data.cron", "data.notify"),
        status=201,
        body="Create Schedule (request)",
        null=("timeout",),
    ),
    Example(
        "schedules",
        "Get Schedule",
        "PATCH",
        "/v1/schedules/sched_edited",
        ("data.command", "data.timeout", "data.notify"),
        body="Update Schedule (request)",
        null=("next_run",),
    ),
    Example("schedules", "Delete Schedule", "DELETE", "/v1/schedules/sched_old", ("data",)),
    Example("schedules", "Run Now", "POST", "/v1/schedules/sched_abc123/run", ("data.status",)),
    Example(
        "schedules",
        "Schedule History",
        "GET",
        "/v1/schedules/sched_abc123/history?since=2024-01-20T03:00:00Z&limit=20",
        ("data.0.exit_code", "data.0.stderr", "meta.limit", "meta.offset"),
    ),
    Example("machines", "GET /api/machines", "GET", "/api/machines", ("machines.0.namespace",)),
    *(
        Example(
            "machines",
            "Example: Spawn Claude Session",
            "POST",
            "/api/machines/machine_abc123/spawn",
            ("success",),
            body=f"Example: Spawn {kind} (request)",
        )
        for kind in ("Claude Session", "Worktree Session")
    ),
    Example(
        "machines",
        "Example: Spawn Claude Session",
        "POST",
        "/api/machines/machine_abc123/spawn",
        ("success",),
        body="Example: Spawn with YOLO Mode (request)",
    ),
    Example(
        "machines",
        "POST /api/machines/:id/paths/exists",
        "POST",
        "/api/machines/machine_abc123/paths/exists",
        ("exists",),
        body="POST /api/machines/:id/paths/exists (request)",
    ),
]
# “What endpoints are available?”, of the API reference.
ENDPOINTS = {
    ("GET", "/sessions"),
    ("GET", "/sessions/:id"),
    ("POST", "/sessions/:id/attach"),
    ("POST", "/sessions/:id/detach"),
    ("GET", "/machines"),
    ("GET", "/machines/:id"),
    ("DELETE", "/machines/:id"),
    ("POST", "/commands"),
    ("GET", "/commands/:id"),
    ("GET", "/files"),
    ("GET", "/files/content"),
    ("PUT", "/files/content"),
    ("DELETE", "/files"),
    ("GET", "/webhooks"),
    ("POST", "/webhooks"),
    ("DELETE", "/webhooks/:id"),
}

# What the documents' commands are on our machines, by the machine's name.
PROGRAMS = {
    "npm": {"": "printf 'Build successful'"},
    "apt": {"": "printf ...", "mach_3": "printf 'Permission denied' >&2; exit 1"},
    "pg_dump": {"": "printf ..."},
    "claude": {"": "exec sleep 300"},
    "codex": {"": "exec sleep 300"},
}


@dataclass(frozen=True)
class Stage:
    """A hub, and real things for those that the documents speak of, by their ids there."""

    hub: Hub
    real: dict[str, str]

    def with_real_ids(self, example: Any) -> Any:
        text = json.dumps(example)
        for example_id, real_id in self.real.items():
            text = text.replace(f'"{example_id}"', f'"{real_id}"')
        return json.loads(text)

    def ask(self, example: Example) -> Answer:
        path = example.path
        for example_id, real_id in self.real.items():
            path = path.replace(example_id, real_id)
        body = PAGES[example.page][example.body] if example.body else None
        return self.hub.api.call(example.method, path, self.with_real_ids(body))

    def settle(self) -> None:
        """Wait until nothing is under way on the machine that histories are about."""
        machine_id = self.real["mach_abc123"]

        def is_quiet() -> bool:
            totals = [
                self.hub.api.call("GET", f"/commands?machine_id={machine_id}&status={status}")
                for status in ("pending", "running")
            ]
            return not any(answer.json["meta"]["total"] for answer in totals)

        wait_for(is_quiet, "nothing is under way")


def _with_programs(agent: Agent, place: Path) -> Agent:
    """Give a machine the programs that the documents run."""
    directory = place / f"{agent.name}-programs"
    directory.mkdir()
    for name, by_machine in PROGRAMS.items():
        program = directory / name
        program.write_text(f"#!/bin/sh\n{by_machine.get(agent.name, by_machine[''])}\n")
        program.chmod(0o755)
    agent.variables["PATH"] = f"{directory}:/usr/bin:/bin"
    return agent


def _repository(path: Path) -> Path:
    """A new git repository, with a commit."""
    path.mkdir()
    me = ("-c", "user.name=x", "-c", "user.email=x@localhost")
    for words in (("init",), (*me, "commit", "--allow-empty", "--message=x")):
        subprocess.run(["git", "-C", path, *words], check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Iterator[Stage]:
    place = tmp_path_factory.mktemp("seeds")
    with running_hub(place) as hub, ExitStack() as stack:
        api = hub.api
        agents = {}
        for name in ("mach_1", "mach_2", "mach_3", "mach_gone"):
            agents[name] = _with_programs(stack.enter_context(stopped_agent(place, name)), place)
            if name == "mach_3":
                agents[name].state_dir.mkdir(mode=0o700)
                (agents[name].state_dir / "agent.toml").write_text("[files]\nread = false\n")
            agents[name].join(hub)
        real = {name: agent.machine_id for name, agent in agents.items()}
        real["sess_gone"] = agents["mach_gone"].wait_connected(hub)
        agents["mach_gone"].stop()
        path = f"/sessions/{real['sess_gone']}"
        wait_for(lambda: api.get(path)["status"] == "DISCONNECTED", "it is gone")
        for name in ("mach_abc123", "mach_xyz789", "machine_abc123"):
            real[name] = real["mach_1"]
        session_id = real["sess_abc123"] = agents["mach_1"].wait_connected(hub)
        for command in ("ls -la", "cat /etc/hostname"):
            api.run(real["mach_1"], command)
        real["cmd_built"] = api.run(real["mach_1"], "npm run build")["id"]
        real["cmd_sleeps"] = api.start(real["mach_2"], "sleep 300")
        for number in (1, 2, 3):
            project = place / f"project{number}"
            real[f"/home/user/{project.name}"] = str(project)
            if number != 2:
                project.mkdir()
        real["/home/user/myproject"] = str(_repository(place / "myproject"))
        for mode in ("operator", "observer"):
            api.post(f"/sessions/{session_id}/attach", mode=mode)
        wait_for(lambda: api.get(f"/sessions/{session_id}")["telemetry"], "there is a sample")
        real["mach_listed"] = real["mach_2"]
        backup = PAGES["schedules"]["Get Schedule"]["data"]
        real[backup["command"]] = f"pg_dump mydb > {place}/db.sql"
        asked = ("name", "description", "cron", "timezone", "timeout", "notify")
        body = {name: backup[name] for name in asked} | {"command": real[backup["command"]]}
        for name in ("abc123", "edited", "old", "listed"):
            machine_id = real["mach_listed" if name == "listed" else "mach_xyz789"]
            real[f"sched_{name}"] = api.post("/schedules", machine_id=machine_id, **body)["id"]
        for name in ("abc123", "listed"):
            run = api.post(f"/schedules/{real[f'sched_{name}']}/run")
            assert api.wait_end(run["command_id"])["exit_code"] == 0
        yield Stage(hub, real)


def test_every_example_of_the_documents_is_replayed():
    replayed = {(each.page, each.question) for each in EXAMPLES}
    replayed |= {(each.page, each.body) for each in EXAMPLES if each.body}
    replayed.add(("api_reference", "What are the rate limits?"))
    assert replayed == {(page, question) for page in PAGES for question in PAGES[page]}


def _named(example: Example) -> str:
    return f"{example.page}: {example.body or example.question}"


@pytest.mark.parametrize("example", EXAMPLES, ids=_named)
def test_an_example_of_the_documents_is_true(stage, example):
    stage.settle()
    answer = stage.ask(example)
    assert answer.status == example.status, answer
    shown = stage.with_real_ids(PAGES[example.page][example.question])
    for name in example.null:
        assert answer.data[name] is None
        del shown["data"][name]
    fits(answer.json, shown)
    for place in example.same:
        says(answer.json, shown, place)


# ── failures of HAPI's routes ────────────────────────────────────────────────────────────────────

SPAWN, EXISTS = "spawn", "paths/exists"
ASKED = {SPAWN: {"directory": "/tmp"}, EXISTS: {"paths": ["/"]}}
TOO_MANY = {"paths": ["/"] * 1001}


@pytest.mark.parametrize(
    ("action", "machine", "status", "body"),
    [
        *((SPAWN, "mach_1", 400, body) for body in ({}, {"directory": ""}, {"directory": 1})),
        (SPAWN, "mach_1", 400, {"directory": "/", "agent": "emacs"}),
        (SPAWN, "mach_1", 400, {"directory": "/", "sessionType": "room"}),
        (SPAWN, "mach_1", 400, {"directory": "/", "sessionType": "worktree"}),
        *((EXISTS, "mach_1", 400, body) for body in ({"paths": []}, TOO_MANY, {"paths": [1]})),
        *((action, "mach_unknown", 404, None) for action in ASKED),
        *((action, "mach_gone", 503, None) for action in ASKED),
        (EXISTS, "mach_3", 500, None),  # whose owner lets nobody look
    ],
)
def test_a_failure_of_the_documents_is_produced(stage, action, machine, status, body):
    path = f"/api/machines/{stage.real.get(machine, machine)}/{action}"
    answer = stage.hub.api.call("POST", path, ASKED[action] if body is None else body)
    assert (answer.status, set(answer.json)) == (status, {"error", "code"})


@pytest.mark.parametrize("action", ASKED)
def test_a_machine_of_a_second_namespace_is_access_denied(stage, action):
    path = f"/api/machines/{stage.real['mach_1']}/{action}"
    answer = new_workspace(stage.hub).call("POST", path, ASKED[action])
    assert (answer.status, answer.json["error"]) == (403, "Machine access denied")


@pytest.mark.parametrize("action", ASKED)
def test_what_the_documents_want_a_token_for_is_refused_without_one(stage, action):
    path = f"/api/machines/{stage.real['mach_1']}/{action}"
    for method, asked, body in (("POST", path, ASKED[action]), ("GET", "/api/machines", None)):
        answer = Api(stage.hub.api.url, "").call(method, asked, body)
        assert (answer.status, answer.json["error"]) == (401, "Invalid access token")


@pytest.mark.parametrize(("method", "path"), sorted(ENDPOINTS))
def test_every_endpoint_of_the_documents_is_there(method, path):
    assert (CMDOP, method, path) in {(r.plane, r.method, r.path) for r in ROUTES}


# ── rate limits ──────────────────────────────────────────────────────────────────────────────────

LIMIT_HEADERS = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")


def test_without_a_limit_no_answer_carries_headers_about_one(stage):
    answer = stage.hub.api.call("GET", "/auth/me")
    assert not [name for name in answer.headers if "ratelimit" in name]


def test_the_limit_of_the_documents_is_true(tmp_path):
    config = "[rate_limit]\nrequests_per_minute = 2\n"
    with running_hub(tmp_path, config=config) as hub:
        api = hub.api
        for left in (1, 0):
            answer = api.call("GET", "/auth/me")
            assert answer.status == 200
            limit, remaining, reset = (int(answer.headers[name]) for name in LIMIT_HEADERS)
            assert (limit, remaining) == (2, left)
            assert reset > 1_700_000_000  # “Unix timestamp when limit resets”
        refused = api.call("GET", "/auth/me")
        shown = PAGES["api_reference"]["What are the rate limits?"]
        assert refused.status == 429
        fits(refused.json, shown)
        says(refused.json, shown, "error.code")
        says(refused.json, shown, "error.message")
        retry_after = refused.json["error"]["details"]["retry_after"]
        assert 0 < retry_after <= 60
        assert refused.headers["retry-after"] == str(retry_after)
        assert set(LIMIT_HEADERS) <= set(refused.headers)
