"""/api/auth: whoever has a key gets a token, and is by that whom the key says."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.clock import rfc3339
from cmdop_appliance.hub.rate_limits import RateLimits
from tests.api.local_api import LocalApi

HOURS_MS = 4 * 3_600_000
CHILD = {"name": "child", "scopes": ["machines:read"]}
WRONG = {"error": "Invalid access token", "code": "unauthorized"}


async def sign_in(api: LocalApi, access_token: object):
    return await api.call("POST", "/api/auth", {"accessToken": access_token})


async def with_token(api: LocalApi) -> LocalApi:
    """The API by a token for its key."""
    return LocalApi(api.hub, (await sign_in(api, api.secret)).json["token"])


async def test_a_key_gets_a_token_and_is_told_whose_it_is(live, autojump_clock: MockClock):
    api = await LocalApi.of(live.hub, "machines:read", id="key_1", name="ci bot")
    nobody = LocalApi(live.hub, "")
    answer = await sign_in(nobody, api.secret)
    assert answer.status == 200
    assert answer.json["user"] == {
        "id": "key_1",
        "username": "ci-bot@default",
        "firstName": "ci bot",
        "name": "ci bot",
        "email": "ci-bot@default",
        "namespace": "default",
    }
    assert answer.json["expiresAt"] == live.hub.clock.now_ms() + HOURS_MS
    assert answer.json["token"].startswith("cmdop_token_")
    assert api.secret.removeprefix("cmdop_apikey_")[:8] not in answer.body.decode()


async def test_a_key_may_name_its_namespace(live, api):
    assert (await sign_in(api, f"{api.secret}:default")).status == 200


@pytest.mark.parametrize("wrong", ["{}:other", "{}:", "{}x", "x", ""])
async def test_what_is_no_key_of_that_namespace_gets_none(live, api, wrong):
    answer = await sign_in(api, wrong.format(api.secret))
    assert (answer.status, answer.json) == (401, WRONG)
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_token_gets_no_token(live, api):
    by_token = await with_token(api)
    answer = await sign_in(by_token, by_token.secret)
    assert (answer.status, answer.json) == (401, WRONG)


@pytest.mark.parametrize("body", [{}, {"accessToken": None}, {"accessToken": 1}, [], "x"])
async def test_a_body_of_another_form_is_a_bad_request(api, body):
    answer = await api.call("POST", "/api/auth", body)
    assert (answer.status, set(answer.json)) == (400, {"error", "code"})


async def test_a_sign_in_may_be_sent_again(api):
    answer = await api.call("POST", "/api/auth", {"accessToken": api.secret}, once="again")
    assert answer.status == 200


async def test_a_sign_in_is_a_request_of_its_key(live, api):
    limited = LocalApi(replace(live.hub, rate_limits=RateLimits(2)), api.secret)
    assert (await limited.call("GET", "/auth/me")).status == 200
    assert (await sign_in(limited, api.secret)).status == 200
    refused = await sign_in(limited, api.secret)
    assert (refused.status, refused.json["code"]) == (429, "rate_limited")


# ── a token, on every plane ──────────────────────────────────────────────────────────────────────


async def test_a_token_is_its_key_on_every_plane(live, autojump_clock: MockClock):
    api = await LocalApi.of(live.hub, "machines:read", id="key_1", tags=["a"], expires_ms=2**41)
    by_token = await with_token(api)
    me = await by_token.get("/auth/me")
    until = rfc3339(live.hub.clock.now_ms() + HOURS_MS)
    assert me == {**await api.get("/auth/me"), "expires_at": until}
    assert (await by_token.call("GET", "/machines")).status == 200
    assert (await by_token.call("GET", "/api/machines")).status == 200
    refused = await by_token.call("GET", "/api/sessions")
    assert (refused.status, refused.json["code"]) == (403, "forbidden")
    assert refused.json["error"] == "Token lacks required permission: sessions:read"


@pytest.mark.parametrize("days", [None, 2])
async def test_nothing_that_a_token_makes_outlives_it(live, autojump_clock: MockClock, days):
    now_ms = live.hub.clock.now_ms()
    expires_ms = None if days is None else now_ms + days * 86_400_000
    api = await LocalApi.of(live.hub, tags=["a"], expires_ms=expires_ms)
    by_token = await with_token(api)
    until = rfc3339(now_ms + HOURS_MS)
    child = await by_token.post("/api-keys", **CHILD)
    assert (child["tags"], child["expires_at"]) == (["a"], until)
    for wider in ({"tags": []}, {"expires_in_days": 1}):
        answer = await by_token.call("POST", "/api-keys", {**CHILD, **wider})
        assert answer.status == 403
    assert answer.error["message"].startswith("this token expires ")
    enrolment = await by_token.post("/enrollment-tokens", ttl=2 * HOURS_MS)
    assert enrolment["expires_at"] == until


async def test_a_token_makes_no_workspace(api):
    by_token = await with_token(api)
    assert (await by_token.call("POST", "/workspaces", {"namespace": "other"})).status == 403


async def test_what_its_token_made_once_a_key_asks_for_again(api):
    """The secret that was made is made again, though the hub keeps none."""
    by_token = await with_token(api)
    first = await by_token.call("POST", "/api-keys", CHILD, once="k")
    again = await api.call("POST", "/api-keys", CHILD, once="k")
    assert again.data == first.data
    assert (await LocalApi(api.hub, again.data["key"]).call("GET", "/auth/me")).status == 200


@pytest.mark.parametrize(
    ("path", "body"), [("/api-keys", CHILD), ("/enrollment-tokens", {"ttl": 2 * HOURS_MS})]
)
async def test_a_token_is_not_told_again_what_would_outlive_it(api, path, body):
    by_token = await with_token(api)
    assert (await api.call("POST", path, body, once="k")).status == 201
    again = await by_token.call("POST", path, body, once="k")
    assert (again.status, again.error["code"]) == (403, "forbidden")


async def test_a_token_is_refused_from_its_end_on(live, api, autojump_clock: MockClock):
    by_token = await with_token(api)
    await trio.sleep(HOURS_MS / 1000 - 1)
    assert (await by_token.call("GET", "/auth/me")).status == 200
    await trio.sleep(1)
    answer = await by_token.call("GET", "/auth/me")
    assert (answer.status, answer.error["code"]) == (401, "unauthorized")
    assert "POST /api/auth" in answer.error["hint"]
    assert (await by_token.call("GET", "/api/machines")).json == WRONG
    assert (await api.call("GET", "/auth/me")).status == 200


async def test_a_token_is_refused_once_its_key_is_revoked(live, api):
    other = await LocalApi.of(live.hub, "machines:read", id="key_other")
    by_token = await with_token(other)
    assert (await by_token.call("GET", "/auth/me")).status == 200
    assert (await api.call("DELETE", "/api-keys/key_other")).status == 200
    assert (await by_token.call("GET", "/auth/me")).status == 401


@pytest.mark.parametrize("name", ["token", "access_token"])
async def test_a_token_in_a_url_is_refused(live, api, name):
    token = (await with_token(api)).secret
    answer = await LocalApi(live.hub, "").call("GET", f"/api/machines?{name}={token}")
    assert answer.status == 400
    assert token not in answer.body.decode()
