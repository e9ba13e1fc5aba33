"""Every route of the table with everything that a caller can get wrong: contract.md §1.

The table here is the second opinion on the one in `api/registry.py`: a route that is not in it
fails a test.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmdop_appliance.api import cmdop as cmdop  # fills the table
from cmdop_appliance.api.exchange import Paged
from cmdop_appliance.api.registry import PREFIXES, ROUTES
from cmdop_appliance.errors import (
    BatchNotFound,
    CommandNotFound,
    InvalidRequest,
    MachineNotFound,
    NotFound,
    SessionNotFound,
)
from tests.support.appliance import Api, Hub, running_hub

ID = "01JZZZZZZZZZZZZZZZZZZZZZZZ"  # of nothing
UNKNOWN_KEY = "cmdop_apikey_" + "x" * 43
BODY_BYTES = 1024 * 1024  # the default of [limits] body_bytes


@dataclass(frozen=True)
class Expected:
    """What a route answers to each kind of mistake."""

    permission: str  # that a key must have; "": any key will do
    unknown: type[NotFound] | None = None  # for an id of nothing
    body: Mapping[str, object] = field(default_factory=dict)  # a good one
    wrong: Mapping[str, object] = field(default_factory=dict)  # field → a value it cannot have
    required: tuple[str, ...] = ()
    bad_query: tuple[str, ...] = ()  # beside those that every list refuses


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
}
TABLE = {
    ("GET", "/machines"): Expected("machines:read", bad_query=("status=on", "status=")),
    ("GET", "/machines/:id"): Expected("machines:read", MachineNotFound),
    ("DELETE", "/machines/:id"): Expected("machines:write", MachineNotFound),
    ("GET", "/machines/:id/session"): Expected("sessions:read", MachineNotFound),
    ("GET", "/machines/:id/commands"): Expected("sessions:read", MachineNotFound),
    ("GET", "/sessions"): Expected("sessions:read", bad_query=("status=connected", "status=")),
    ("GET", "/sessions/:id"): Expected("sessions:read", SessionNotFound),
    ("GET", "/sessions/:id/history"): Expected("sessions:read", SessionNotFound),
    ("GET", "/sessions/:id/metrics"): Expected("sessions:read", SessionNotFound),
    ("POST", "/commands"): Expected(
        "commands:execute",
        MachineNotFound,
        body={"machine_id": f"mach_{ID}", "command": "true"},
        wrong={"machine_id": 1, **RUN_WRONG},
        required=("machine_id", "command"),
    ),
    ("POST", "/commands/async"): Expected(
        "commands:execute",
        MachineNotFound,
        body={"machine_id": f"mach_{ID}", "command": "true"},
        wrong={"machine_id": None, **RUN_WRONG},
        required=("machine_id", "command"),
    ),
    ("POST", "/commands/batch"): Expected(
        "commands:execute",
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
    ("GET", "/commands/batch/:id"): Expected("sessions:read", BatchNotFound),
    ("POST", "/commands/batch/:id/resume"): Expected(
        "commands:execute", BatchNotFound, bad_query=("wait=perhaps",)
    ),
    ("GET", "/commands"): Expected(
        "sessions:read", bad_query=("status=done", "since=1", "since=2026-13-01T00:00:00Z")
    ),
    ("GET", "/commands/:id"): Expected("sessions:read", CommandNotFound),
    ("DELETE", "/commands/:id"): Expected("commands:execute", CommandNotFound),
    ("GET", "/commands/:id/output"): Expected("sessions:read", CommandNotFound),
    ("GET", "/commands/:id/stream"): Expected("sessions:read", CommandNotFound),
    ("POST", "/api-keys"): Expected(
        "admin",
        body={"name": "table", "scopes": ["machines:read"]},
        wrong={"name": "", "scopes": [], "expires_in_days": 0},
        required=("name", "scopes"),
    ),
    ("GET", "/api-keys"): Expected("admin"),
    ("DELETE", "/api-keys/:id"): Expected("admin", NotFound),
    ("GET", "/auth/me"): Expected(""),
    ("POST", "/enrollment-tokens"): Expected(
        "machines:write", wrong={"ttl": 1, "max_uses": 0, "tags": ["not a tag"]}
    ),
    ("GET", "/enrollment-tokens"): Expected("machines:write"),
    ("DELETE", "/enrollment-tokens/:id"): Expected("machines:write", NotFound),
}

EVERY = [pytest.param(route, id=f"{route.method} {route.path}") for route in ROUTES]
WITH_BODY = [param for param in EVERY if param.values[0].body]
LISTS = [param for param in EVERY if (query := param.values[0].query) and issubclass(query, Paged)]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """At its end, nothing that was asked of it may have surprised it."""
    with running_hub(tmp_path_factory.mktemp("routes"), config='[log]\nlevel = "debug"\n') as hub:
        yield hub
    log = hub.log.read_text()
    assert '"level": "error"' not in log
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def powerless(hub: Hub) -> Api:
    """A key whose one right no route here asks for."""
    return hub.new_key("webhooks:manage")


def _expected(route):
    return TABLE[route.method, route.path]


def _path(route):
    return route.path.replace(":id", ID)


def _good(route):
    return dict(_expected(route).body) if route.body else None


def error_of(answer, status, code):
    """The error of an answer in the shape that the contract gives it."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json) == {"error", "meta"}
    error, meta = answer.json["error"], answer.json["meta"]
    assert set(error) - {"hint"} == {"code", "message", "details"}
    assert error["code"] == code
    assert error["message"]
    assert isinstance(error["details"], dict)
    assert "Traceback" not in answer.body.decode()
    has_meta(answer, meta)
    return error


def has_meta(answer, meta):
    assert {"request_id", "timestamp"} <= set(meta)
    assert meta["request_id"] == answer.headers["x-request-id"]
    assert re.fullmatch(r"req_[0-9A-HJKMNP-TV-Z]{26}", meta["request_id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", meta["timestamp"])


def test_this_table_and_the_hubs_are_the_same():
    assert set(TABLE) == {(route.method, route.path) for route in ROUTES}
    for route in ROUTES:
        assert bool(_expected(route).wrong) == bool(route.body), route.path


# ── who asks ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("route", EVERY)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_without_a_good_key_nothing_is_answered(hub, route, prefix):
    for authorization in (
        None,
        "Bearer",
        "Bearer ",
        f"Bearer {UNKNOWN_KEY}",
        f"Basic {hub.api.key}",
        f"Bearer {hub.api.key}x",
        f"Bearer x{hub.api.key}",
        hub.api.key,
        "Bearer \xff\xfe",
    ):
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = Api(hub.api.url, "").call(
            route.method, prefix + _path(route), _good(route), headers=headers
        )
        error_of(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("route", EVERY)
def test_a_key_without_the_permission_is_told_which(powerless, route):
    answer = powerless.call(route.method, _path(route), _good(route))
    permission = _expected(route).permission
    if not permission:
        assert answer.status == 200
        return
    error = error_of(answer, 403, "forbidden")
    assert error["message"] == f"Token lacks required permission: {permission}"


@pytest.mark.parametrize("route", EVERY)
def test_credentials_in_an_address_are_refused_and_not_logged(hub, route):
    secret = f"canary-{route.name}"
    for name in ("token", "access_token", "api_key", "API_KEY", "key", "password", "k%65y"):
        query = f"?{name}={secret}&limit=5"
        error = error_of(
            hub.api.call(route.method, _path(route) + query, _good(route)), 400, "invalid_request"
        )
        assert "credentials" in error["message"]
        assert secret not in json.dumps(error)
    assert secret not in hub.log.read_text()


def test_a_key_cannot_make_a_key_with_more_rights(hub):
    made = hub.api.post("/api-keys", name="x", scopes=["admin", "admin"])
    assert made["scopes"] == ["admin"]
    answer = hub.api.call("POST", "/api-keys", {"name": "x", "scopes": ["machines:read", "root"]})
    assert "scopes" in error_of(answer, 422, "validation_failed")["details"]


# ── what is asked for ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("route", [p for p in EVERY if _expected(p.values[0]).unknown])
def test_what_is_not_there_is_not_found(hub, route):
    code = _expected(route).unknown.code
    for unknown in (ID, f"mach_{ID}", "x", "%00", "%F0%9F%98%80", "%ED%A0%80", "'--", "a" * 4000):
        path = route.path.replace(":id", unknown)
        error_of(hub.api.call(route.method, path, _good(route)), 404, code)


@pytest.mark.parametrize("route", EVERY)
def test_another_method_is_refused_with_those_that_are_not(hub, route):
    path = _path(route)
    allowed = {
        other.method for other in ROUTES if re.fullmatch(re.sub(r":\w+", "[^/]+", other.path), path)
    }
    if "GET" in allowed:
        allowed.add("HEAD")
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"} - allowed:
        answer = hub.api.call(method, path)
        error_of(answer, 405, "method_not_allowed")
        assert set(answer.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize("route", [p for p in EVERY if p.values[0].method == "GET"])
def test_head_is_get_without_its_body(hub, route):
    path = _path(route)
    got, head = hub.api.call("GET", path), hub.api.call("HEAD", path)
    assert (head.status, head.body) == (got.status, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert Api(hub.api.url, "").call("HEAD", path).status == 401


# ── what is sent ─────────────────────────────────────────────────────────────────────────────────

MALFORMED = {
    "nothing": b"",
    "text": b"run ls",
    "half": b'{"command": "ls"',
    "trailing comma": b'{"command": "ls",}',
    "two": b"{}{}",
    "single quotes": b"{'command': 'ls'}",
    "bare NaN": b'{"timeout": NaN}',
    "not UTF-8": b'{"command": "\xff"}',
    "a surrogate as UTF-8": b'{"command": "\xed\xa0\x80"}',
    "a lone high surrogate": rb'{"command": "\ud800", "name": "\ud800"}',
    "a lone low surrogate": rb'{"command": "\udc00", "name": "\udc00"}',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "deep in an unknown field": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "UTF-16": '{"command": "ls"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
}


def _send(hub, route, body, content_type="application/json"):
    headers = {} if content_type is None else {"Content-Type": content_type}
    return hub.api.call(route.method, _path(route), body, headers=headers)


@pytest.mark.parametrize("route", WITH_BODY)
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed_json_is_refused(hub, route, body):
    error = error_of(_send(hub, route, body), 400, "invalid_request")
    assert "JSON" in error["message"]


@pytest.mark.parametrize("route", WITH_BODY)
@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/jsonx", "application/x-www-form-urlencoded", "json", ";"],
)
def test_another_content_type_is_refused(hub, route, content_type):
    body = json.dumps(_good(route)).encode()
    error = error_of(_send(hub, route, body, content_type), 400, "invalid_request")
    assert "Content-Type: application/json" in error["hint"]


@pytest.mark.parametrize("route", WITH_BODY)
def test_json_with_a_charset_is_json(hub, route):
    body = json.dumps(_good(route)).encode()
    answer = _send(hub, route, body, "Application/JSON; charset=utf-8")
    assert answer.status not in (400, 422)


@pytest.mark.parametrize("route", WITH_BODY)
@pytest.mark.parametrize("body", [[], "text", 1, 1.5, True, None])
def test_json_that_is_no_object_is_not_valid(hub, route, body):
    error = error_of(_send(hub, route, json.dumps(body).encode()), 422, "validation_failed")
    assert set(error["details"]) == {"body"}


@pytest.mark.parametrize("route", WITH_BODY)
def test_a_wrong_value_is_named_with_the_reason(hub, route):
    for name, value in _expected(route).wrong.items():
        error = error_of(
            hub.api.call(route.method, _path(route), {**_good(route), name: value}),
            422,
            "validation_failed",
        )
        (place,) = error["details"]
        assert re.split(r"[.\[]", place)[0] == name
        assert isinstance(error["details"][place], str)


@pytest.mark.parametrize("route", WITH_BODY)
def test_a_missing_field_is_named(hub, route):
    for name in _expected(route).required:
        body = {key: value for key, value in _good(route).items() if key != name}
        error = error_of(hub.api.call(route.method, _path(route), body), 422, "validation_failed")
        assert error["details"] == {name: "is required"}


def _strings(kind):
    """(name, value with NUL) for the fields of a body that become names or words of a command."""
    for name in kind.__struct_fields__:
        if name in ("machine_id", "command", "cwd", "user", "shell", "name"):
            yield name, "a\0b"
        if name == "env":
            yield name, {"A": "b\0c"}
            yield name, {"A\0B": "c"}
        if name in ("machine_ids", "tags", "scopes"):
            yield name, ["a\0b"]


@pytest.mark.parametrize("route", WITH_BODY)
def test_nul_is_not_valid_where_it_would_end_the_text(hub, route):
    for name, value in _strings(route.body):
        answer = hub.api.call(route.method, _path(route), {**_good(route), name: value})
        error = error_of(answer, 422, "validation_failed")
        (place,) = error["details"]
        assert re.split(r"[.\[]", place)[0] == name


@pytest.mark.parametrize("route", WITH_BODY)
def test_a_huge_number_is_refused(hub, route):
    for name in ("timeout", "queue_timeout", "ttl", "max_uses", "expires_in_days"):
        if name not in route.body.__struct_fields__:
            continue
        for number in ("9" * 30, "9" * 5000, "1e400", "-1", "1.5", "9007199254740993"):
            body = json.dumps({**_good(route), name: 0}).replace(
                f'"{name}": 0', f'"{name}": {number}'
            )
            answer = _send(hub, route, body.encode())
            assert answer.status in (400, 422), (name, number)
            code = "invalid_request" if answer.status == 400 else "validation_failed"
            error_of(answer, answer.status, code)


@pytest.mark.parametrize("route", WITH_BODY)
def test_a_body_over_the_limit_is_too_large(hub, route):
    body = json.dumps({**_good(route), "command": "x" * BODY_BYTES}).encode()
    assert len(body) > BODY_BYTES
    error_of(_send(hub, route, body), 413, "payload_too_large")


@pytest.mark.parametrize("route", WITH_BODY)
def test_fields_that_nobody_knows_are_passed_over(hub, route):
    body = {**_good(route), "no_such_field": {"deep": [1, {"er": None}]}}
    assert hub.api.call(route.method, _path(route), body).status not in (400, 422)


@pytest.mark.parametrize("route", [p for p in EVERY if not p.values[0].body])
def test_a_body_that_no_route_reads_is_passed_over(hub, route):
    plain = hub.api.call(route.method, _path(route))
    for body in (b"{", b"\xff" * 1000, b"[" * 100_000):
        answer = _send(hub, route, body)
        assert answer.status == plain.status
        if answer.status >= 400:
            assert answer.error == plain.error


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@pytest.mark.parametrize("route", WITH_BODY)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_json_surprises_the_hub(hub, route, data):
    names = st.sampled_from(route.body.__struct_fields__)
    body = {**_good(route), **data.draw(st.dictionaries(names, JSON, min_size=1, max_size=3))}
    body.pop("timeout", None)
    answer = hub.api.call(route.method, _path(route), body)
    assert answer.status in (200, 201, 400, 404, 422), answer
    has_meta(answer, answer.json["meta"])
    if answer.status == 422:
        assert error_of(answer, 422, "validation_failed")["details"]


# ── lists ────────────────────────────────────────────────────────────────────────────────────────


def _list(hub, route, query):
    return hub.api.call("GET", f"{_path(route)}?{query}")


BAD_PAGING = (  # for every list
    *(
        f"limit={bad}"
        for bad in ("0", "-1", "x", "", "1.5", "1e3", "%D9%A1", "9" * 17, "+1", "%2B1")
    ),
    *(f"offset={bad}" for bad in ("-1", "x", "", "9" * 20)),
    *(f"sort={bad}" for bad in ("nonsense", "", "-", "--created_at", "id;drop", "created_at%00")),
)


@pytest.mark.parametrize("route", [p for p in LISTS if not _expected(p.values[0]).unknown])
def test_a_bad_query_is_refused(hub, route):
    """The lists below one object, which is looked up first, are in test_shapes.py."""
    for query in (*BAD_PAGING, *_expected(route).bad_query):
        error = error_of(_list(hub, route, query), 400, "invalid_request")
        assert query.partition("=")[0] in error["message"]


@pytest.mark.parametrize("route", [p for p in LISTS if not _expected(p.values[0]).unknown])
def test_a_list_tells_its_page_and_a_limit_that_is_too_large_is_clamped(hub, route):
    for query, limit, offset in (("", 20, 0), ("limit=7&offset=3", 7, 3), ("limit=101", 100, 0)):
        answer = _list(hub, route, query)
        meta = answer.json["meta"]
        has_meta(answer, meta)
        assert (meta["limit"], meta["offset"]) == (limit, offset)
        assert meta["total"] >= len(answer.data)
        assert meta["has_more"] is (offset + len(answer.data) < meta["total"])


def test_pages_follow_each_other_without_gap_or_repeat(hub):
    for number in range(5):
        hub.api.post("/api-keys", name=f"page-{number}", scopes=["machines:read"])
    whole = hub.api.get("/api-keys?limit=100&sort=created_at")
    pages, offset = [], 0
    while True:
        answer = hub.api.call("GET", f"/api-keys?limit=2&offset={offset}&sort=created_at")
        pages += answer.data
        offset += 2
        assert answer.json["meta"]["total"] == len(whole)
        if not answer.json["meta"]["has_more"]:
            break
    assert pages == whole
    assert hub.api.get("/api-keys?limit=100&sort=-created_at") == whole[::-1]
    assert hub.api.get("/api-keys?limit=100") == whole[::-1]
    beyond = hub.api.call("GET", "/api-keys?offset=9007199254740992")
    assert beyond.data == []
    assert beyond.json["meta"]["has_more"] is False


def test_a_request_id_that_is_well_formed_is_kept(hub):
    for offered, kept in (
        ("my-trace_1", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
    ):
        answer = hub.api.call("GET", "/auth/me", headers={"X-Request-Id": offered})
        assert (answer.headers["x-request-id"] == offered) is kept
        assert answer.json["meta"]["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "since",
    [
        "2026-02-14T10:30:00Z",
        "2026-02-14T10:30:00.123456Z",
        "2026-02-14T10:30:00+05:30",
        "2026-02-14T10:30:00%2B05:30",
        "2026-02-14T10:30:00-00:00",
        "2026-02-14t10:30:00z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
    ],
)
def test_since_takes_any_offset(hub, since):
    assert hub.api.call("GET", f"/commands?since={since}").status == 200


@pytest.mark.parametrize(
    "since",
    [
        "",
        "now",
        "1700000000",
        "2026-02-14",
        "2026-02-14T10:30:00",
        "0001-01-01T00:00:00%2B01:00",
        "9999-12-31T23:59:59-01:00",
        "2026-02-30T00:00:00Z",
        "%00",
    ],
)
def test_since_without_an_offset_or_a_sense_is_refused(hub, since):
    answer = hub.api.call("GET", f"/commands?since={since}")
    assert "since" in error_of(answer, 400, "invalid_request")["message"]


@pytest.mark.parametrize("route", [p for p in EVERY if p.values[0].method == "POST"])
def test_a_bad_query_of_an_action_is_refused(hub, route):
    for query in _expected(route).bad_query:
        answer = hub.api.call("POST", f"{_path(route)}?{query}", _good(route))
        assert query.partition("=")[0] in error_of(answer, 400, "invalid_request")["message"]


def test_the_first_of_many_mistakes_is_the_key(powerless, hub):
    """Whoever may not call learns nothing of how to call."""
    nobody = Api(hub.api.url, UNKNOWN_KEY)
    for path in ("/commands", "/commands/async", "/api-keys"):
        assert nobody.call("POST", path, b"{", headers={"Content-Type": "x"}).status == 401
        assert powerless.call("POST", path, b"{", headers={"Content-Type": "x"}).status == 403


def test_every_code_that_is_answered_here_is_documented():
    assert InvalidRequest.code == "invalid_request"
    for route in ROUTES:
        unknown = _expected(route).unknown
        if unknown is not None:
            assert unknown in route.errors, route.path


@pytest.mark.parametrize("path", ["/commands", "/commands/async", "/commands/batch"])
def test_what_this_version_does_not_do_is_refused_not_passed_over(hub, path):
    body = dict(TABLE["POST", path].body) | {"pty": True}
    error = error_of(hub.api.call("POST", path, body), 422, "validation_failed")
    assert error["details"] == {"pty": "is not supported by this version"}


@pytest.mark.parametrize("path", ["/commands", "/commands/async", "/commands/batch"])
def test_a_time_to_wait_needs_the_wish_to_wait(hub, path):
    body = dict(TABLE["POST", path].body) | {"queue_timeout": 1000}
    error = error_of(hub.api.call("POST", path, body), 422, "validation_failed")
    assert set(error["details"]) == {"queue_timeout"}


@pytest.mark.parametrize("field", ["concurrency", "max_errors"])
def test_a_number_of_machines_is_a_number_or_a_share(hub, field):
    body = dict(TABLE["POST", "/commands/batch"].body)
    for good in (1, 1000, "1%", "25%", "100%", None):
        answer = hub.api.call("POST", "/commands/batch", body | {field: good})
        assert answer.status == 200, good
    for bad in (-1, 2**31, 1.5, "0%", "101%", "%", "25", " 25%", "25%\n", "1e1%", "\u0661%", True):
        answer = hub.api.call("POST", "/commands/batch", body | {field: bad})
        assert set(error_of(answer, 422, "validation_failed")["details"]) == {field}, bad
    answer = hub.api.call("POST", "/commands/batch", body | {field: "0%"})
    assert "1%" in answer.error["details"][field]


def test_none_at_a_time_is_refused_and_no_error_allowed_is_not(hub):
    body = dict(TABLE["POST", "/commands/batch"].body)
    assert hub.api.call("POST", "/commands/batch", body | {"concurrency": 0}).status == 422
    assert hub.api.call("POST", "/commands/batch", body | {"max_errors": 0}).status == 200


def test_a_key_is_not_made_wider_than_it_was_asked_for(hub):
    body = dict(TABLE["POST", "/api-keys"].body) | {"tags": ["web"]}
    error = error_of(hub.api.call("POST", "/api-keys", body), 422, "validation_failed")
    assert set(error["details"]) == {"tags"}


def test_reasons_are_words_not_patterns(hub):
    body = {"machine_id": "m", "command": "a\0b", "env": {}}
    error = error_of(hub.api.call("POST", "/commands", body), 422, "validation_failed")
    assert error["details"] == {"command": "must not contain NUL"}
    body = {"machine_id": "m", "command": "a", "env": {"a=b": ""}}
    error = error_of(hub.api.call("POST", "/commands", body), 422, "validation_failed")
    assert list(error["details"].values()) == ["must be the name of a variable, without = and NUL"]
