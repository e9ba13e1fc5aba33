"""Every route of the hub: who may ask, in what way, and what about something that is not there."""

import json
import re

import pytest

from cmdop_appliance.api.registry import CMDOP, ROUTES
from cmdop_appliance.auth import GRANTABLE
from tests.api.contract_table import (
    ANY_KEY,
    EVERY,
    ID,
    KEYED,
    OF_A_THING,
    OPEN,
    PUBLIC,
    TABLE,
    ask,
    error_of,
    expected,
    good,
    has_meta,
    path_of,
    with_query,
)
from tests.support.appliance import Api, Hub

UNKNOWN_KEY = "cmdop_apikey_" + "x" * 43
UNKNOWN_TOKEN = "cmdop_token_" + "x" * 123


@pytest.fixture(scope="module")
def hub(strict_hub: Hub) -> Hub:
    return strict_hub


@pytest.fixture(scope="module")
def key_with(hub: Hub):
    """Keys by what they may do, made once."""
    made: dict[frozenset[str], Api] = {}

    def key(*scopes: str) -> Api:
        if (rights := frozenset(scopes)) not in made:
            made[rights] = hub.new_key(*sorted(rights))
        return made[rights]

    return key


@pytest.fixture(scope="module")
def token(hub: Hub) -> Api:
    """The API by a token for the admin's key."""
    body = {"accessToken": hub.api.key}
    return Api(hub.api.url, hub.api.call("POST", "/api/auth", body).json["token"])


def test_this_table_and_the_hubs_are_the_same():
    for plane, table in TABLE.items():
        assert set(table) == {(r.method, r.path) for r in ROUTES if r.plane is plane}, plane.name
    assert {route.plane for route in ROUTES} <= set(TABLE)
    for route in ROUTES:
        assert bool(expected(route).wrong) == bool(route.body), route.path
        assert set(map(str, route.scopes)) == set(expected(route).permissions), route.path


# ── who asks ─────────────────────────────────────────────────────────────────────────────────────


def bad_keys(hub: Hub) -> list[dict[str, str]]:
    """Headers of callers whom nobody knows."""
    return [
        {} if value is None else {"Authorization": value}
        for value in (
            None,
            "Bearer",
            "Bearer ",
            f"Bearer {UNKNOWN_KEY}",
            f"Basic {hub.api.key}",
            f"Bearer {hub.api.key}x",
            f"Bearer x{hub.api.key}",
            f"Bearer {UNKNOWN_TOKEN}",
            hub.api.key,
            "Bearer \xff\xfe",
        )
    ]


@pytest.mark.parametrize("route", KEYED)
def test_without_a_good_key_nothing_is_answered(hub, route):
    nobody = Api(hub.api.url, "")
    for prefix in route.plane.prefixes:
        for headers in bad_keys(hub):
            path = path_of(route, prefix=prefix)
            answer = ask(nobody, route, path, good(route), headers=headers)
            error_of(answer, 401, "unauthorized", route.plane)
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("route", KEYED)
def test_a_token_is_as_good_as_its_key(token, route):
    # But for what would outlive it: a workspace comes with a key for ever (hapi/test_auth.py).
    outlives = route.name in ("create_workspace", "create_sign_in_link")
    refused = (401,) if outlives else (401, 403)
    assert ask(token, route, body=good(route)).status not in refused


@pytest.mark.parametrize("route", OPEN)
def test_what_is_public_needs_no_key_and_looks_at_none(hub, route):
    nobody = Api(hub.api.url, "")
    known = ask(hub.api, route)
    for headers in bad_keys(hub):
        answer = ask(nobody, route, headers=headers)
        assert (answer.status, answer.headers["content-type"]) == (
            known.status,
            known.headers["content-type"],
        )
        if known.status < 400:
            assert answer.body == known.body


@pytest.mark.parametrize("route", KEYED)
def test_a_key_without_the_permission_is_told_which(key_with, route):
    permissions = expected(route).permissions
    others = [scope for scope in GRANTABLE if scope not in (*permissions, "admin")]
    answer = ask(key_with(*others), route, body=good(route))
    if permissions == ANY_KEY:
        assert answer.status not in (401, 403)
        return
    error = error_of(answer, 403, "forbidden", route.plane)
    assert error["message"] == f"Token lacks required permission: {permissions[0]}"


@pytest.mark.parametrize("route", KEYED)
def test_any_one_of_the_permissions_is_enough(key_with, route):
    permissions = expected(route).permissions
    for permission in [] if permissions == ANY_KEY else permissions:
        answer = ask(key_with(permission), route, body=good(route))
        assert answer.status not in (401, 403)


@pytest.mark.parametrize("route", EVERY)
def test_credentials_in_an_address_are_refused_and_not_logged(hub, route):
    secret = f"canary-{route.name}"
    for name in ("token", "access_token", "api_key", "API_KEY", "key", "password", "k%65y"):
        path = f"{path_of(route)}?{name}={secret}&limit=5"
        error = error_of(
            ask(hub.api, route, path, good(route)), 400, "invalid_request", route.plane
        )
        assert "credentials" in error["message"]
        assert secret not in json.dumps(error)
    assert secret not in hub.log.read_text()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/", "/nothing", "/v1/nothing", "/api/nothing"])
def test_credentials_in_an_address_of_no_route_are_refused_and_not_logged(hub, method, path):
    secret = "canary-of-no-route"
    answer = hub.api.call(method, f"{path}?limit=5&token={secret}", prefix="")
    assert answer.status == 400
    assert b"credentials" in answer.body
    assert secret.encode() not in answer.body
    assert secret not in hub.log.read_text()


def test_a_key_cannot_make_a_key_with_more_rights(hub):
    made = hub.api.post("/api-keys", name="x", scopes=["admin", "admin"])
    assert made["scopes"] == ["admin"]
    answer = hub.api.call("POST", "/api-keys", {"name": "x", "scopes": ["machines:read", "root"]})
    assert "scopes" in error_of(answer, 422, "validation_failed")["details"]


# ── what is asked for ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("route", OF_A_THING)
def test_what_is_not_there_is_not_found(hub, route):
    code = expected(route).unknown.code
    for unknown in (ID, f"mach_{ID}", "x", "%00", "%F0%9F%98%80", "%ED%A0%80", "'--", "a" * 4000):
        answer = ask(hub.api, route, path_of(route, unknown), good(route))
        error_of(answer, 404, code, route.plane)


def _methods_of(path: str) -> set[str]:
    """The methods that routes have on a whole path."""
    methods = {
        route.method
        for route in ROUTES
        for prefix in route.plane.prefixes
        if re.fullmatch(path_of(route, "[^/]+", prefix), path)
    }
    return methods | ({"HEAD"} if "GET" in methods else set())


@pytest.mark.parametrize("route", EVERY)
def test_another_method_is_refused_with_those_that_are_not(hub, route):
    path = path_of(route)
    allowed = _methods_of(path)
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"} - allowed:
        answer = hub.api.call(method, path, prefix="")
        error_of(answer, 405, "method_not_allowed", route.plane)
        assert set(answer.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize("route", [p for p in EVERY if p.values[0].method == "GET"])
def test_head_is_get_without_its_body(hub, route):
    path = path_of(route)
    got, head = ask(hub.api, route), hub.api.call("HEAD", with_query(route, path), prefix="")
    assert (head.status, head.body) == (got.status, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    if expected(route).permissions != PUBLIC:
        assert Api(hub.api.url, "").call("HEAD", path, prefix="").status == 401


def test_every_prefix_of_a_plane_is_the_same_plane(hub):
    for path in ("/machines", "/auth/me", "/sessions/x", "/nothing"):
        answers = [hub.api.call("GET", prefix + path, prefix="") for prefix in CMDOP.prefixes]
        assert len({answer.status for answer in answers}) == 1
        bodies = [{k: v for k, v in answer.json.items() if k != "meta"} for answer in answers]
        assert bodies[0] == bodies[1]


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/v1/nothing", "/nothing", "/api/v1", "/v1"])
def test_what_is_no_route_is_not_found_in_the_shape_of_its_plane(hub, path):
    error_of(hub.api.call("GET", path, prefix=""), 404, "not_found")
    bare = hub.api.call("GET", "/api/nothing", prefix="")
    assert (bare.status, set(bare.json)) == (404, {"error", "code"})


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


def test_every_answer_says_which_request_it_answers(hub):
    for path in ("/auth/me", "/machines", "/nothing"):
        answer = hub.api.call("GET", path)
        has_meta(answer, answer.json["meta"])
