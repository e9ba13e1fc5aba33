"""Every route of the hub with what it answers to each kind of mistake: contract.md §1.

The table here is the second opinion on the one in `api/registry.py`: a route that is not in it
fails a test.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from cmdop_appliance.api import app as app  # fills the registry
from cmdop_appliance.api.exchange import Window
from cmdop_appliance.api.registry import CMDOP, HAPI, ROOT, ROUTES, SDK2, Plane, Route
from cmdop_appliance.errors import (
    BatchNotFound,
    CommandNotFound,
    MachineNotFound,
    NotFound,
    ScheduleNotFound,
    SessionNotFound,
    TerminalNotFound,
    UpgradeNotFound,
    WebhookNotFound,
)
from tests.support.appliance import Answer, Api

ID = "01JZZZZZZZZZZZZZZZZZZZZZZZ"  # of nothing
BODY_BYTES = 1024 * 1024  # the default of [limits] body_bytes
CONTENT_BYTES = 10 * 1024 * 1024  # of a file in JSON, contract.md §5
FILE_BODY_BYTES = 14_046_548  # that as base64, and 64 KiB
PUBLIC = ("public",)
ANY_KEY = ("any key",)
SOCKET = "/terminals/:id/socket"  # 426 for whoever asks for no websocket
READ_COMMANDS = ("sessions:read", "commands:execute")


@dataclass(frozen=True)
class Expected:
    """What a route answers to each kind of mistake."""

    permissions: tuple[str, ...]  # any one of them is enough; a refusal names the first
    unknown: type[NotFound] | None = None  # for an id of nothing
    about: str = ""  # what kind of thing the id in the path names
    body: Mapping[str, object] = field(default_factory=dict)  # a good one
    wrong: Mapping[str, object] = field(default_factory=dict)  # field → a value it cannot have
    required: tuple[str, ...] = ()
    nullable: tuple[str, ...] = ()  # fields without a default for which null is a value
    bad_query: tuple[str, ...] = ()  # beside those that every list refuses
    query: Mapping[str, str] = field(default_factory=dict)  # what a good one must have
    body_bytes: int = BODY_BYTES  # how long a body may be


def of_files(
    scope: str, *, query: Mapping[str, str] | None = None, **more: Any
) -> Callable[[str], dict[tuple[str, str], Expected]]:
    """The two addresses of a route for files, below which `path` is."""
    query = query or {}

    def at(line: str) -> dict[tuple[str, str], Expected]:
        method, _, path = line.partition(" ")
        flat = {"machine_id": f"mach_{ID}", **query}
        return {
            (method, f"/machines/:id/files{path}"): Expected(
                (scope,), MachineNotFound, "machine", query=query, **more
            ),
            (method, f"/files{path}"): Expected((scope,), MachineNotFound, query=flat, **more),
        }

    return at


RUN_WRONG = {
    "command": 1,
    "cwd": "",
    "env": {"A=B": "c"},
    "timeout": 0,
    "user": ["root"],
    "stdin": 3,
    "shell": "",
    "queue": "yes",
    "queue_timeout": 0,
    "supersede_key": "",
    "serial_key": "a\nb",
    "pty": 1,
}
SCHEDULE_WRONG = {
    "name": "",
    "description": "x" * 2001,
    "machine_id": "",
    "machine_ids": [],
    "tags": ["not a tag"],
    "command": 1,
    "cron": "0 3 * *",
    "timezone": "Mars/Base",
    "enabled": "yes",
    "timeout": 0,
    "cwd": "",
    "env": {"A=B": "c"},
    "user": ["root"],
    "overlap": "perhaps",
    "misfire": "run_twice",
    "misfire_window": 999,
    "notify": {"on_failure": 1},
}
# Nothing is dialled there, and no name server is asked.
WEBHOOK = {"url": "http://localhost:1/", "events": ["webhook.disabled"]}
WEBHOOK_WRONG = {
    "url": "http://127.0.0.1/",
    "events": ["command.finished"],
    "secret": "short",
    "enabled": "yes",
    "description": "x" * 2001,
    "preset": "pigeon",
    "headers": {"Host": "x"},
}
BAD_UPLOAD = (
    *("path=", "path_base64=*", "sha256=0", "if_match=x", "mode=888", "mode=", "owner=", "group="),
    *("create_parents=perhaps", "overwrite=perhaps"),
)
FORM = b'--x7\r\nContent-Disposition: form-data; name="file"\r\n\r\ncontent\r\n--x7--\r\n'
FROM_TO = {"source": f"/{ID}", "destination": f"/{ID}-2"}
FROM_TO_WRONG = {
    "source": 1,
    "source_base64": "*",
    "destination": [],
    "destination_base64": "====",
    "overwrite": "yes",
}
TABLE: dict[Plane, dict[tuple[str, str], Expected]] = {
    CMDOP: {
        ("GET", "/machines"): Expected(
            ("machines:read",),
            bad_query=(
                *("status=on", "status=", "tags=", "tags=a,,b", "tags=a,b%20c"),
                "tags=" + ",".join(["a"] * 51),
                "tags=" + ",".join(["a"] * 2000),
            ),
        ),
        ("GET", "/machines/:id"): Expected(("machines:read",), MachineNotFound, "machine"),
        ("PATCH", "/machines/:id"): Expected(
            ("machines:write",),
            MachineNotFound,
            "machine",
            body={"name": "renamed", "tags": ["a", "b"]},
            wrong={"name": "", "tags": ["not a tag"]},
        ),
        ("DELETE", "/machines/:id"): Expected(("machines:write",), MachineNotFound, "machine"),
        ("GET", "/machines/:id/session"): Expected(("sessions:read",), MachineNotFound, "machine"),
        ("GET", "/machines/:id/commands"): Expected(
            ("sessions:read",), MachineNotFound, "machine", bad_query=("since=1",)
        ),
        ("GET", "/machines/:id/status"): Expected(("machines:read",), MachineNotFound, "machine"),
        ("GET", "/machines/:id/metrics"): Expected(
            ("machines:read",),
            MachineNotFound,
            "machine",
            bad_query=("from=1", "to=now", "step=0", "step=x", "step=1"),
        ),
        ("GET", "/sessions"): Expected(
            ("sessions:read",), bad_query=("status=connected", "status=")
        ),
        ("GET", "/sessions/:id"): Expected(("sessions:read",), SessionNotFound, "session"),
        ("POST", "/sessions/:id/attach"): Expected(
            ("sessions:read", "sessions:write"),
            SessionNotFound,
            "session",
            body={"mode": "observer"},
            wrong={"mode": "root", "client_id": "cli 1"},
        ),
        ("POST", "/sessions/:id/detach"): Expected(
            ("sessions:read", "sessions:write"),
            SessionNotFound,
            "session",
            body={"client_id": f"cli_{ID}"},
            wrong={"client_id": None},
            required=("client_id",),
        ),
        ("GET", "/sessions/:id/history"): Expected(("sessions:read",), SessionNotFound, "session"),
        ("GET", "/sessions/:id/metrics"): Expected(("sessions:read",), SessionNotFound, "session"),
        ("GET", "/terminals"): Expected(
            ("sessions:read",), bad_query=("kind=shell", "kind=", "status=dead", "status=")
        ),
        ("POST", "/machines/:id/terminals"): Expected(
            ("commands:execute",),
            MachineNotFound,
            "machine",
            body={"argv": ["sleep", "300"]},
            wrong={
                "name": "a\nb",
                "argv": "sh",
                "cwd": "",
                "env": {"A=B": "c"},
                "user": ["root"],
                "cols": 0,
                "rows": 2001,
                "record": "yes",
            },
        ),
        ("GET", "/terminals/:id"): Expected(("sessions:read",), TerminalNotFound, "terminal"),
        ("DELETE", "/terminals/:id"): Expected(("commands:execute",), TerminalNotFound, "terminal"),
        ("POST", "/terminals/:id/tickets"): Expected(
            ("sessions:read",),
            TerminalNotFound,
            "terminal",
            body={"mode": "observer"},
            wrong={"mode": "root"},
        ),
        ("GET", "/terminals/:id/recording"): Expected(
            ("sessions:read",), TerminalNotFound, "terminal"
        ),
        ("GET", SOCKET): Expected(("sessions:read",), TerminalNotFound, "terminal"),
        ("POST", "/commands"): Expected(
            ("commands:execute",),
            MachineNotFound,
            body={"machine_id": f"mach_{ID}", "command": "true"},
            wrong={"machine_id": 1, **RUN_WRONG},
            required=("machine_id", "command"),
        ),
        ("POST", "/commands/async"): Expected(
            ("commands:execute",),
            MachineNotFound,
            body={"machine_id": f"mach_{ID}", "command": "true"},
            wrong={"machine_id": None, **RUN_WRONG},
            required=("machine_id", "command"),
        ),
        ("POST", "/commands/batch"): Expected(
            ("commands:execute",),
            body={"machine_ids": [f"mach_{ID}"], "command": "true"},
            wrong={
                "machine_ids": [],
                "concurrency": "0%",
                "canary": -1,
                "max_errors": "101%",
                **RUN_WRONG,
            },
            required=("machine_ids", "command"),
            bad_query=("wait=perhaps", "wait="),
        ),
        ("GET", "/commands/batch/:id"): Expected(READ_COMMANDS, BatchNotFound, "batch"),
        ("POST", "/commands/batch/:id/resume"): Expected(
            ("commands:execute",), BatchNotFound, "batch", bad_query=("wait=perhaps",)
        ),
        ("GET", "/commands"): Expected(
            READ_COMMANDS,
            bad_query=(
                *("status=done", "status=", "status=running,done", "status=running,"),
                *("since=1", "since=2026-13-01T00:00:00Z"),
            ),
        ),
        ("GET", "/commands/:id"): Expected(READ_COMMANDS, CommandNotFound, "command"),
        ("DELETE", "/commands/:id"): Expected(("commands:execute",), CommandNotFound, "command"),
        ("GET", "/commands/:id/output"): Expected(
            READ_COMMANDS, CommandNotFound, "command", bad_query=("stream=both", "offset=-1")
        ),
        ("GET", "/commands/:id/stream"): Expected(READ_COMMANDS, CommandNotFound, "command"),
        ("GET", "/schedules"): Expected(
            ("schedules:read",), bad_query=("enabled=perhaps", "enabled=")
        ),
        ("POST", "/schedules"): Expected(
            ("schedules:write",),
            MachineNotFound,
            body={
                "name": "table",
                "machine_id": f"mach_{ID}",
                "command": "true",
                "cron": "0 0 29 2 *",
            },
            wrong=SCHEDULE_WRONG,
            required=("name", "command", "cron"),
            nullable=("machine_ids", "tags"),
        ),
        ("GET", "/schedules/:id"): Expected(("schedules:read",), ScheduleNotFound, "schedule"),
        ("PATCH", "/schedules/:id"): Expected(
            ("schedules:write",),
            ScheduleNotFound,
            "schedule",
            body={"name": "renamed"},
            wrong=SCHEDULE_WRONG,
            nullable=tuple(SCHEDULE_WRONG.keys() - {"name", "command", "cron"}),
        ),
        ("DELETE", "/schedules/:id"): Expected(("schedules:write",), ScheduleNotFound, "schedule"),
        ("POST", "/schedules/:id/run"): Expected(
            ("schedules:write",), ScheduleNotFound, "schedule"
        ),
        ("GET", "/schedules/:id/history"): Expected(
            ("schedules:read",), ScheduleNotFound, "schedule", bad_query=("since=1",)
        ),
        ("GET", "/schedules/:id/preview"): Expected(
            ("schedules:read",),
            ScheduleNotFound,
            "schedule",
            bad_query=("count=0", "count=1001", "count=x"),
        ),
        ("POST", "/schedules/preview"): Expected(
            ("schedules:read",),
            body={"cron": "0 3 * * *"},
            wrong={"cron": "", "timezone": "Mars/Base", "count": 1001},
            required=("cron",),
        ),
        ("GET", "/webhooks"): Expected(
            ("webhooks:manage",), bad_query=("enabled=perhaps", "enabled=")
        ),
        ("POST", "/webhooks"): Expected(
            ("webhooks:manage",), body=WEBHOOK, wrong=WEBHOOK_WRONG, required=tuple(WEBHOOK)
        ),
        ("GET", "/webhooks/:id"): Expected(("webhooks:manage",), WebhookNotFound, "webhook"),
        ("PATCH", "/webhooks/:id"): Expected(
            ("webhooks:manage",),
            WebhookNotFound,
            "webhook",
            body={"description": "changed"},
            wrong=WEBHOOK_WRONG,
            nullable=("preset",),
        ),
        ("DELETE", "/webhooks/:id"): Expected(("webhooks:manage",), WebhookNotFound, "webhook"),
        ("POST", "/webhooks/:id/test"): Expected(("webhooks:manage",), WebhookNotFound, "webhook"),
        ("GET", "/webhooks/:id/deliveries"): Expected(
            ("webhooks:manage",),
            WebhookNotFound,
            "webhook",
            bad_query=("status=lost", "event=command.finished", "event=", "since=1"),
        ),
        ("GET", "/webhooks/:id/deliveries/:delivery"): Expected(
            ("webhooks:manage",), WebhookNotFound, "webhook"
        ),
        ("POST", "/webhooks/:id/deliveries/:delivery/redeliver"): Expected(
            ("webhooks:manage",), WebhookNotFound, "webhook"
        ),
        ("POST", "/webhooks/:id/redeliver"): Expected(
            ("webhooks:manage",),
            WebhookNotFound,
            "webhook",
            body={"since": "2026-01-01T00:00:00Z"},
            wrong={"since": "yesterday", "until": "2026-01-01", "status": "lost"},
            required=("since",),
        ),
        ("GET", "/live"): Expected(ANY_KEY),  # 426 for whoever asks for no websocket
        ("GET", "/events"): Expected(
            ANY_KEY, bad_query=("types=session", "types=", "types=session.*,x")
        ),
        ("POST", "/api-keys"): Expected(
            ("admin",),
            body={"name": "table", "scopes": ["machines:read"]},
            wrong={"name": "", "scopes": [], "expires_in_days": 0, "tags": ["not a tag"]},
            required=("name", "scopes"),
        ),
        ("GET", "/api-keys"): Expected(("admin",)),
        ("GET", "/api-keys/:id"): Expected(("admin",), NotFound, "key"),
        ("DELETE", "/api-keys/:id"): Expected(("admin",), NotFound, "key"),
        ("GET", "/auth/me"): Expected(ANY_KEY),
        ("POST", "/sign-ins"): Expected(
            PUBLIC, body={"link": "x"}, wrong={"link": 1, "key": "x" * 201}
        ),
        ("GET", "/sign-ins"): Expected(ANY_KEY),
        ("DELETE", "/sign-ins/:id"): Expected(ANY_KEY, NotFound, "sign-in"),
        ("POST", "/sign-in-links"): Expected(ANY_KEY),
        ("POST", "/enrollment-tokens"): Expected(
            ("machines:write",), wrong={"ttl": 1, "max_uses": 0, "tags": ["not a tag"]}
        ),
        ("GET", "/enrollment-tokens"): Expected(("machines:write",)),
        ("DELETE", "/enrollment-tokens/:id"): Expected(("machines:write",), NotFound, "token"),
        ("POST", "/workspaces"): Expected(
            ("admin",),
            body={"namespace": "table"},
            wrong={"namespace": "Not A Name"},
            required=("namespace",),
        ),
        ("GET", "/workspaces"): Expected(("admin",)),
        ("PUT", "/upgrades/bundle"): Expected(
            ("admin",), bad_query=("check=perhaps", "hub_only=1x", "machine_ids=", "machine_ids=x")
        ),
        ("GET", "/upgrades"): Expected(("admin",)),
        ("GET", "/upgrades/:id"): Expected(("admin",), UpgradeNotFound, "upgrade"),
        ("GET", "/upgrades/:id/machines"): Expected(
            ("admin",), UpgradeNotFound, "upgrade", bad_query=("state=done",)
        ),
        **of_files(
            "files:read",
            bad_query=("limit=0", "offset=-1", "hidden=perhaps", "path_base64=*", "path_base64=YQ"),
        )("GET "),
        **of_files("files:read", bad_query=("checksum=perhaps", "path_base64=*"))("GET /stat"),
        **of_files(
            "files:read",
            query={"path": "/"},
            bad_query=(
                *("path=", "path_base64=*", "path_base64=Lw==", "offset=-1", "offset=x"),
                *("length=-1", "length=x", f"length={CONTENT_BYTES + 1}"),
            ),
        )("GET /content"),
        **of_files(
            "files:write",
            body={"path": "/", "content": ""},
            wrong={
                "path": 1,
                "path_base64": "*",
                "content": 1,
                "encoding": "latin-1",
                "mode": "888",
                "owner": "",
                "group": "a\nb",
                "create_parents": "yes",
                "overwrite": 1,
                "if_match": "0" * 63,
            },
            required=("path", "content"),
            body_bytes=FILE_BODY_BYTES,
        )("PUT /content"),
        **of_files(
            "files:write",
            query={"path": f"/{ID}"},
            bad_query=("path=", "path_base64=*", "recursive=perhaps"),
        )("DELETE "),
        **of_files("files:write", body=FROM_TO, wrong=FROM_TO_WRONG, required=tuple(FROM_TO))(
            "POST /move"
        ),
        **of_files("files:write", body=FROM_TO, wrong=FROM_TO_WRONG, required=tuple(FROM_TO))(
            "POST /copy"
        ),
        **of_files(
            "files:write",
            body={"path": f"/{ID}"},
            wrong={"path": None, "path_base64": "*", "parents": "yes", "mode": 0o755},
            required=("path",),
        )("POST /mkdir"),
        **of_files(
            "files:write",
            query={"path": f"/{ID}"},
            bad_query=(*BAD_UPLOAD, "offset=1", "upload_id=", "upload_id=a/b"),
        )("PUT /upload"),
        **of_files("files:write", query={"path": f"/{ID}"}, bad_query=BAD_UPLOAD)("POST /upload"),
        **of_files(
            "files:write",
            query={"path": f"/{ID}", "upload_id": "u"},
            bad_query=("path=", "path_base64=*", "upload_id="),
        )("GET /upload"),
        **of_files("files:read", query={"path": f"/{ID}"}, bad_query=("path=", "path_base64=*"))(
            "GET /download"
        ),
        ("GET", "/backup"): Expected(("admin",)),
        ("GET", "/backups"): Expected(("admin",)),
        ("GET", "/audit"): Expected(("admin",), bad_query=("outcome=good", "action=x", "since=1")),
        ("GET", "/audit/verify"): Expected(("admin",), bad_query=("head=1", "head=x:y")),
    },
    SDK2: {
        ("GET", "/bootstrap"): Expected(ANY_KEY),
        ("GET", "/admin/machines/snapshot"): Expected(("machines:read",)),
        ("GET", "/admin/machines/:id/messages"): Expected(
            READ_COMMANDS,
            MachineNotFound,
            "machine",
            bad_query=("limit=0", "limit=501", "limit=x", "session="),
        ),
        ("POST", "/admin/machines/:id/ask"): Expected(
            ("commands:execute",),
            MachineNotFound,
            "machine",
            body={"prompt": "true"},
            wrong={
                "prompt": "",
                "session": "a\nb",
                "working_dir": "",
                "attachment_ids": ["x"],
                "project_root_id": "x",
            },
            required=("prompt",),
        ),
    },
    HAPI: {
        ("GET", "/health"): Expected(PUBLIC),
        ("POST", "/api/auth"): Expected(
            PUBLIC,
            body={"accessToken": "x"},
            wrong={"accessToken": 1},
            required=("accessToken",),
        ),
        ("GET", "/api/machines"): Expected(("machines:read",)),
        ("POST", "/api/machines/:id/spawn"): Expected(
            ("commands:execute",),
            MachineNotFound,
            "machine",
            body={"directory": f"/{ID}"},
            wrong={
                "directory": "",
                "agent": 1,
                "model": "",
                "yolo": "yes",
                "sessionType": "room",
                "worktreeName": "a\0b",
            },
            required=("directory",),
        ),
        ("GET", "/api/sessions"): Expected(("sessions:read",)),
        ("GET", "/api/sessions/:id"): Expected(("sessions:read",), SessionNotFound, "coding"),
        ("DELETE", "/api/sessions/:id"): Expected(("commands:execute",), SessionNotFound, "coding"),
        ("POST", "/api/machines/:id/paths/exists"): Expected(
            ("files:read",),
            MachineNotFound,
            "machine",
            body={"paths": ["/"]},
            wrong={"paths": []},
            required=("paths",),
        ),
    },
    ROOT: {
        ("GET", "/openapi.json"): Expected(PUBLIC),
        ("GET", "/docs"): Expected(PUBLIC),
        ("GET", "/docs/:file"): Expected(PUBLIC, NotFound, "file"),
        ("GET", "/dl"): Expected(PUBLIC),
        ("GET", "/dl/:file"): Expected(PUBLIC, NotFound, "program"),
        ("GET", "/healthz"): Expected(PUBLIC),
        ("GET", "/readyz"): Expected(PUBLIC),
        ("GET", "/metrics"): Expected(("metrics:read",)),
        ("POST", "/mcp"): Expected(ANY_KEY),
    },
}

# ── the routes, for parametrize ──────────────────────────────────────────────────────────────────


def expected(route: Route) -> Expected:
    """What the table says of a route."""
    return TABLE[route.plane][route.method, route.path]


def params(routes: Iterable[Route]) -> list[Any]:
    """Routes with their names as ids."""
    return [
        pytest.param(route, id=f"{route.method} {route.plane.prefixes[-1]}{route.path}")
        for route in routes
    ]


def lists(route: Route) -> bool:
    """True: it answers with a page."""
    return route.query is not None and issubclass(route.query, Window)


# What the table does not have fails one test, and is left out of the others.
KNOWN = [route for route in ROUTES if (route.method, route.path) in TABLE[route.plane]]
EVERY = params(KNOWN)
KEYED = params(route for route in KNOWN if expected(route).permissions != PUBLIC)
OPEN = params(route for route in KNOWN if expected(route).permissions == PUBLIC)
WITH_BODY = params(route for route in KNOWN if route.body)
WITHOUT_BODY = params(route for route in KNOWN if not route.body)
OF_A_THING = params(route for route in KNOWN if expected(route).unknown)
TOP_LISTS = params(
    route
    for route in KNOWN
    if lists(route) and ":" not in route.path and not expected(route).unknown
)


# ── requests and answers ─────────────────────────────────────────────────────────────────────────


def path_of(route: Route, of: str = ID, prefix: str | None = None, **within: str) -> str:
    """The whole path of a route about the thing `of`; `within` has what is a part of that."""
    prefix = route.plane.prefixes[0] if prefix is None else prefix
    return prefix + re.sub(r":(\w+)", lambda name: within.get(name[1], of), route.path)


def with_query(route: Route, path: str) -> str:
    """The path with all that a good query must have, but for what it has already."""
    there = parse_qs(urlsplit(path).query, keep_blank_values=True)
    missing = {k: v for k, v in expected(route).query.items() if k not in there}
    if not missing:
        return path
    return f"{path}{'&' if '?' in path else '?'}{urlencode(missing)}"


def good(route: Route) -> dict[str, Any] | None:
    """A good body, about nothing that is there."""
    return dict(expected(route).body) if route.body else None


def ask(api: Api, route: Route, path: str | None = None, body: object = None, **how: Any) -> Answer:
    """One request for a route, with what its query must have; of a stream without end, the head."""
    whole = route.media != "text/event-stream"
    path = with_query(route, path_of(route) if path is None else path)
    if route.takes == "multipart/form-data" and body is None:
        body, form = FORM, {"Content-Type": f"{route.takes}; boundary=x7"}
        how["headers"] = {**form, **how.get("headers", {})}
    return api.call(route.method, path, body, prefix="", whole=whole, **how)


def error_of(answer: Answer, status: int, code: str, plane: Plane = CMDOP) -> dict[str, Any]:
    """The error of an answer, which must have the shape that the contract gives it there."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    assert "Traceback" not in answer.body.decode()
    if plane.has_bare_errors:
        assert set(answer.json) == {"error", "code"}
        error = {"code": answer.json["code"], "message": answer.json["error"]}
    else:
        assert set(answer.json) == {"error", "meta"}
        error = answer.json["error"]
        assert set(error) - {"hint"} == {"code", "message", "details"}
        assert isinstance(error["details"], dict)
        has_meta(answer, answer.json["meta"])
    assert error["code"] == code
    assert isinstance(error["message"], str)
    assert error["message"]
    return error


def has_meta(answer: Answer, meta: Mapping[str, Any]) -> None:
    """Every answer of the CMDOP plane says which request it answers, and when."""
    assert {"request_id", "timestamp"} <= set(meta)
    assert meta["request_id"] == answer.headers["x-request-id"]
    assert re.fullmatch(r"req_[0-9A-HJKMNP-TV-Z]{26}", meta["request_id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", meta["timestamp"])


def send(api: Api, route: Route, body: object, content_type: str | None) -> Answer:
    """A body of any kind; bytes as they are."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {} if content_type is None else {"Content-Type": content_type}
    return ask(api, route, body=raw, headers=headers)
