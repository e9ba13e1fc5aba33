"""Every route of the hub: what is sent to it, and everything that can be wrong with that."""

import json
import re

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from cmdop_appliance.api.reading import needs_body
from cmdop_appliance.api.registry import HAPI
from tests.api.contract_table import (
    WITH_BODY,
    WITHOUT_BODY,
    ask,
    error_of,
    expected,
    good,
    has_meta,
    send,
)
from tests.support.appliance import Hub

JSON = "application/json"
MALFORMED = {
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


@pytest.fixture(scope="module")
def hub(strict_hub: Hub) -> Hub:
    return strict_hub


def not_valid_status(route):
    """contract.md §1: on HAPI's plane always 400."""
    return 400 if route.plane is HAPI else 422


def not_valid(answer, route, name):
    """The reason, if the plane tells any, why this field is not valid."""
    error = error_of(answer, not_valid_status(route), "validation_failed", route.plane)
    if "details" not in error:
        assert error["message"].startswith(f"Validation failed; {name}")
        return None
    ((place, reason),) = error["details"].items()
    assert re.split(r"[.\[]", place)[0] == name
    assert isinstance(reason, str)
    return reason


@pytest.mark.parametrize("route", WITH_BODY)
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed_json_is_refused(hub, route, body):
    error = error_of(send(hub.api, route, body, JSON), 400, "invalid_request", route.plane)
    assert "JSON" in error["message"]


@pytest.mark.parametrize("route", WITH_BODY)
@pytest.mark.parametrize("content_type", [None, JSON])
def test_no_body_is_one_without_fields(hub, route, content_type):
    answer = send(hub.api, route, b"", content_type)
    if needs_body(route.body):
        error = error_of(answer, 400, "invalid_request", route.plane)
        assert "JSON" in error["message"]
    elif expected(route).required:  # one of several that can stand for each other
        not_valid(answer, route, expected(route).required[0])
    else:
        assert answer.status not in (400, 422)


@pytest.mark.parametrize("route", WITH_BODY)
def test_null_stands_for_a_default_and_for_nothing_else(hub, route):
    fields = msgspec.structs.fields(route.body)
    may_be_null = {f.encode_name for f in fields if not f.required and f.default is not UNSET}
    may_be_null |= set(expected(route).nullable)
    body = {**good(route), **dict.fromkeys(may_be_null)}
    assert ask(hub.api, route, body=body).status not in (400, 422)
    for name in {f.encode_name for f in fields} - may_be_null:
        not_valid(ask(hub.api, route, body={**good(route), name: None}), route, name)


@pytest.mark.parametrize("route", WITH_BODY)
@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/jsonx", "application/x-www-form-urlencoded", "json", ";"],
)
def test_another_content_type_is_refused(hub, route, content_type):
    answer = send(hub.api, route, good(route), content_type)
    error = error_of(answer, 400, "invalid_request", route.plane)
    if "hint" in error:
        assert "Content-Type: application/json" in error["hint"]


@pytest.mark.parametrize("route", WITH_BODY)
def test_json_with_a_charset_is_json(hub, route):
    answer = send(hub.api, route, good(route), "Application/JSON; charset=utf-8")
    assert answer.status not in (400, 422)


@pytest.mark.parametrize("route", WITH_BODY)
@pytest.mark.parametrize("body", [[], "text", 1, 1.5, True, None])
def test_json_that_is_no_object_is_not_valid(hub, route, body):
    not_valid(send(hub.api, route, body, JSON), route, "body")


@pytest.mark.parametrize("route", WITH_BODY)
def test_a_wrong_value_is_named_with_the_reason(hub, route):
    for name, value in expected(route).wrong.items():
        not_valid(ask(hub.api, route, body={**good(route), name: value}), route, name)


@pytest.mark.parametrize("route", WITH_BODY)
def test_where_few_words_are_known_all_are_named(hub, route):
    words = {"encoding", "misfire", "overlap", "preset", "status"}
    for name in words & set(route.body.__struct_encode_fields__):
        for value in ("no such word", 1):
            reason = not_valid(ask(hub.api, route, body={**good(route), name: value}), route, name)
            assert reason is None or reason.startswith("must be one of ")


@pytest.mark.parametrize("route", WITH_BODY)
def test_every_field_has_a_value_that_it_cannot_have(hub, route):
    fields = set(route.body.__struct_encode_fields__)
    assert set(expected(route).wrong) == fields
    assert set(expected(route).body) <= fields


@pytest.mark.parametrize("route", WITH_BODY)
def test_a_missing_field_is_named(hub, route):
    for name in expected(route).required:
        body = {key: value for key, value in good(route).items() if key != name}
        reason = not_valid(ask(hub.api, route, body=body), route, name)
        assert reason in ("is required", None)


def _strings(kind):
    """(name, value with NUL) for the fields of a body that become names or words of a command."""
    for name in kind.__struct_encode_fields__:
        if name in ("machine_id", "command", "cwd", "user", "shell", "name", "client_id"):
            yield name, "a\0b"
        if name == "env":
            yield name, {"A": "b\0c"}
            yield name, {"A\0B": "c"}
        if name in ("machine_ids", "tags", "scopes"):
            yield name, ["a\0b"]


@pytest.mark.parametrize("route", WITH_BODY)
def test_nul_is_not_valid_where_it_would_end_the_text(hub, route):
    for name, value in _strings(route.body):
        not_valid(ask(hub.api, route, body={**good(route), name: value}), route, name)


@pytest.mark.parametrize("route", WITH_BODY)
def test_a_huge_number_is_refused(hub, route):
    names = ("timeout", "queue_timeout", "ttl", "max_uses", "expires_in_days")
    for name in (*names, "misfire_window", "count"):
        if name not in route.body.__struct_encode_fields__:
            continue
        for number in ("9" * 30, "9" * 5000, "1e400", "-1", "1.5", "9007199254740993"):
            body = json.dumps({**good(route), name: 0}).replace(
                f'"{name}": 0', f'"{name}": {number}'
            )
            answer = send(hub.api, route, body.encode(), JSON)
            assert answer.status in (400, 422), (name, number)
            code = "invalid_request" if answer.status == 400 else "validation_failed"
            error_of(answer, answer.status, code, route.plane)


BUNDLE = "/upgrades/bundle"  # reads whatever comes, and says where it is wrong


@pytest.mark.parametrize("route", WITH_BODY)
def test_a_body_over_the_limit_is_too_large(hub, route):
    limit = expected(route).body_bytes
    body = json.dumps({**good(route), "command": "x" * limit}).encode()
    assert len(body) > limit
    error_of(send(hub.api, route, body, JSON), 413, "payload_too_large", route.plane)


@pytest.mark.parametrize("route", WITH_BODY)
def test_fields_that_nobody_knows_are_passed_over(hub, route):
    body = {**good(route), "no_such_field": {"deep": [1, {"er": None}]}}
    assert ask(hub.api, route, body=body).status not in (400, 422)


@pytest.mark.parametrize("route", [p for p in WITHOUT_BODY if p.values[0].path != BUNDLE])
def test_a_body_that_no_route_reads_is_passed_over(hub, route):
    plain = ask(hub.api, route)
    for body in (b"{", b"\xff" * 1000, b"[" * 100_000):
        answer = send(hub.api, route, body, JSON)
        assert answer.status == plain.status
        if answer.status >= 400:
            assert answer.error == plain.error


ANYTHING = st.recursive(
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
    names = st.sampled_from(route.body.__struct_encode_fields__)
    body = {**good(route), **data.draw(st.dictionaries(names, ANYTHING, min_size=1, max_size=3))}
    body.pop("timeout", None)
    answer = ask(hub.api, route, body=body)
    foreseen = {route.status, 400, 404, 422, *(error.status for error in route.errors)}
    assert answer.status in foreseen, answer
    if route.plane.has_envelope:
        has_meta(answer, answer.json["meta"])
    if answer.status == 422:
        error_of(answer, 422, "validation_failed", route.plane)
