"""Browsers that act as a key: in by a link or a key, on every way to the hub, and out again."""

import json
from contextlib import suppress

import pytest
import trio
from trio_websocket import ConnectionClosed

from cmdop_appliance.auth import new_key
from cmdop_appliance.config import ServerConfig
from cmdop_appliance.store import audit, terminals
from cmdop_appliance.store.listing import Paging
from tests.api.browsers import FIREFOX, Browser
from tests.api.terminal_site import BOUND, PROTOCOL, Key, Site, site, terminal
from tests.support import records
from tests.support.records import WORKSPACE

ME, SIGN_INS, LINKS = "/api/v1/auth/me", "/api/v1/sign-ins", "/api/v1/sign-in-links"
COMMAND = {"machine_id": "mach_x", "command": "true"}
# A route on each way to the hub: the framework, the hot one, and those for bodies of any size.
WAYS = (
    ("GET", ME, None, 200),
    ("DELETE", "/v1/machines/mach_x", None, 404),
    ("POST", "/api/v1/commands", COMMAND, 404),
    ("GET", "/v1/files/download?machine_id=mach_x&path=/x", None, 404),
    ("PUT", "/v1/files/upload?machine_id=mach_x&path=/x", {}, 404),
)


@pytest.fixture
async def place(tmp_path):
    async with site(tmp_path) as place:
        yield place


async def signed_in(place: Site, key: Key, **of: str) -> Browser:
    browser = Browser(place, **of)
    await browser.data("POST", SIGN_INS, {"key": key.secret})
    return browser


async def actions(place: Site) -> list[str]:
    page = await place.hub.store.run(audit.page, WORKSPACE, Paging(100))
    return [entry.action for entry in page.items if entry.action.startswith("sign_in")]


# ── in ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_link_signs_one_browser_in_as_the_key_that_made_it(place):
    key = await place.key("machines:read", tags=["a"])
    program = Browser(place, more={"Authorization": key.header[1]})
    link = await program.data("POST", LINKS)
    assert link["url"] is None
    browser = Browser(place)
    answer = await browser.ask("POST", SIGN_INS, {"link": link["token"]})
    assert answer.status == 201
    made = json.loads(answer.body)["data"]
    assert made["key_id"] == key.caller.key_id
    assert (made["permissions"], made["tags"]) == (["machines:read"], ["a"])
    name, _, rules = answer.headers["set-cookie"].partition("=")
    assert name == "cmdop"
    assert rules.endswith("; Max-Age=2592000; Path=/; HttpOnly; SameSite=Strict")
    assert answer.headers["cache-control"] == "no-store"
    me = await browser.data("GET", ME)
    assert (me["id"], me["sign_in_id"]) == (key.caller.key_id, made["id"])
    other = Browser(place)
    refused = await other.ask("POST", SIGN_INS, {"link": link["token"]})
    assert (refused.status, refused.code, other.cookie) == (401, "unauthorized", "")
    assert await actions(place) == ["sign_in.created", "sign_in.link_made"]


async def test_a_key_signs_a_browser_in_and_each_time_with_another_secret(place):
    key = await place.key()
    browser = await signed_in(place, key)
    first, before = browser.cookie, (await browser.data("GET", ME))["sign_in_id"]
    await browser.data("POST", SIGN_INS, {"key": key.secret})
    assert browser.cookie != first
    assert [each["id"] for each in await browser.data("GET", SIGN_INS)] != [before]
    browser.cookie = first
    assert (await browser.ask("GET", ME)).status == 401


async def test_what_is_no_link_and_no_key_signs_nobody_in(place):
    browser = Browser(place)
    for body, status in (
        ({}, 422),
        ({"link": "x", "key": "x"}, 422),
        ({"link": "y" * 201}, 422),
        ({"link": "cmdop_link_" + "x" * 43}, 401),
        ({"key": new_key()}, 401),
        ({"key": ""}, 401),
    ):
        answer = await browser.ask("POST", SIGN_INS, body)
        assert (answer.status, browser.cookie) == (status, "")
        assert not [value for value in body.values() if value[1:] and value in str(answer.body)]


async def test_wrong_links_lock_a_guesser_out(tmp_path):
    async with site(tmp_path, server=ServerConfig(trusted_proxies=["127.0.0.1"])) as place:
        browser = Browser(place, more={"X-Forwarded-For": "192.0.2.7"})
        for _ in range(place.hub.config.auth.attempts):
            assert (await browser.ask("POST", SIGN_INS, {"link": "x"})).status == 401
        assert (await browser.ask("POST", SIGN_INS, {"link": "x"})).status == 429


async def test_no_foreign_page_signs_a_browser_in(place):
    """Or somebody would work as whoever made that page, and not see it."""
    key = await place.key()
    link = await Browser(place, more={"Authorization": key.header[1]}).data("POST", LINKS)
    browser = Browser(place)
    for body in ({"link": link["token"]}, {"key": key.secret}):
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": None},
            {"Origin": "null"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
        ):
            answer = await browser.ask("POST", SIGN_INS, body, **headers)
            assert (answer.status, answer.code, browser.cookie) == (403, "cross_origin", "")
    await browser.data("POST", SIGN_INS, {"link": link["token"]})  # it was not used up


async def test_signing_in_counts_against_the_limit_of_the_key(place, monkeypatch):
    key = await place.key()
    monkeypatch.setattr(place.hub.rate_limits, "_limit", 1)
    browser = await signed_in(place, key)
    assert (await browser.ask("POST", SIGN_INS, {"key": key.secret})).status == 429
    assert (await browser.ask("GET", ME)).status == 429


# ── what a page may ask ──────────────────────────────────────────────────────────────────────────


async def test_a_page_of_the_hub_may_ask_what_its_key_may(place):
    browser = await signed_in(place, await place.key())
    for method, path, body, status in WAYS:
        for headers in ({}, {"Sec_Fetch_Site": "same-origin"}, {"Sec_Fetch_Site": "none"}):
            answer = await browser.ask(method, path, body, **headers)
            assert (answer.status, answer.headers["cache-control"]) == (status, "no-store")
        answer = await browser.ask(method, path, body, Cookie=None)
        assert (answer.status, answer.code) == (401, "unauthorized")


async def test_a_foreign_page_may_ask_nothing_by_the_cookie(place):
    browser = await signed_in(place, await place.key())
    for method, path, body, _ in WAYS:
        tries = [{"Sec_Fetch_Site": "cross-site"}, {"Origin": "http://evil.example"}]
        tries += [{"Origin": None}] if method != "GET" else []
        for headers in tries:
            answer = await browser.ask(method, path, body, **headers)
            assert (answer.status, answer.code) == (403, "cross_origin")
    page = await place.hub.store.run(audit.page, WORKSPACE, Paging(100), outcome="refused")
    assert page.total == 0  # nobody fills the log by a page that others open


async def test_a_key_in_a_header_wins_and_its_holder_is_no_page(place):
    browser = await signed_in(place, await place.key())
    key = await place.key()
    foreign = {"Sec_Fetch_Site": "cross-site", "Origin": None}
    for method, path, body, status in WAYS:
        answer = await browser.ask(method, path, body, Authorization=key.header[1], **foreign)
        assert answer.status == status
        assert (await browser.ask(method, path, body, Authorization="Bearer x")).status == 401
    me = json.loads((await browser.ask("GET", ME, Authorization=key.header[1])).body)["data"]
    assert (me["id"], me["sign_in_id"]) == (key.caller.key_id, None)


async def test_a_page_may_not_do_what_its_key_may_not(place):
    browser = await signed_in(place, await place.key("machines:read"))
    answer = await browser.ask("POST", "/api/v1/commands", COMMAND)
    assert (answer.status, answer.code) == (403, "forbidden")


async def test_behind_https_only_the_cookie_that_nobody_else_can_set_counts(tmp_path):
    async with site(tmp_path, server=ServerConfig(trusted_proxies=["127.0.0.1"])) as place:
        proxied = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}
        key = await place.key()
        browser = Browser(place, "https://hub.example", "hub.example", more=proxied)
        answer = await browser.ask("POST", SIGN_INS, {"key": key.secret})
        assert answer.headers["set-cookie"].startswith("__Host-cmdop=")
        assert "; Secure; " in answer.headers["set-cookie"]
        for method, path, body, status in WAYS:
            assert (await browser.ask(method, path, body)).status == status
        (seen,) = await browser.data("GET", SIGN_INS)
        assert seen["ip"] == "192.0.2.7"
        browser.cookie = browser.cookie.removeprefix("__Host-")
        for method, path, body, _ in WAYS:
            assert (await browser.ask(method, path, body)).status == 401


async def test_a_stranger_does_not_say_that_it_came_by_https(place):
    browser = Browser(place, more={"X-Forwarded-Proto": "https"})
    await browser.data("POST", SIGN_INS, {"key": (await place.key()).secret})
    assert browser.cookie.startswith("cmdop=")


async def test_where_there_is_a_public_url_browsers_use_it(tmp_path):
    server = ServerConfig(public_url="http://hub.example")
    async with site(tmp_path, server=server) as place:
        key = await place.key()
        browser = await signed_in(place, key, host="hub.example")
        link = await browser.data("POST", LINKS)
        assert link["url"] == f"http://hub.example/sign-in#{link['token']}"
        rebound = Browser(place, host="evil.example", cookie=browser.cookie)
        for method, path, body, _ in WAYS:
            answer = await rebound.ask(method, path, body, Sec_Fetch_Site="same-origin")
            assert (answer.status, answer.code) == (403, "wrong_host")
        assert (await rebound.ask("POST", SIGN_INS, {"key": key.secret})).code == "wrong_host"
        for method, path, body, status in WAYS:  # a program may use any name
            answer = await rebound.ask(method, path, body, Authorization=key.header[1])
            assert answer.status == status


async def test_what_is_asked_again_by_another_browser_of_the_key_is_another_request(place):
    key = await place.key()
    one, other = await signed_in(place, key), await signed_in(place, key)
    body, once = {"name": "bot", "scopes": ["machines:read"]}, {"Idempotency_Key": "1"}
    first, again = [await one.ask("POST", "/v1/api-keys", body, **once) for _ in range(2)]
    assert json.loads(first.body)["data"] == json.loads(again.body)["data"]
    for conflict in (
        await other.ask("POST", "/v1/api-keys", body, **once),
        await one.ask("POST", "/v1/api-keys", body, **once, Authorization=key.header[1]),
    ):
        assert (conflict.status, conflict.code) == (409, "idempotency_conflict")


# ── the list, and out ────────────────────────────────────────────────────────────────────────────


async def test_a_key_lists_its_own_browsers_and_an_admin_those_of_the_workspace(place):
    admin, limited = await place.key(), await place.key("machines:read", name="phone")
    foreign = await place.foreign_key()
    browsers = [await signed_in(place, key) for key in (admin, limited, foreign)]
    listed = [await browser.data("GET", SIGN_INS) for browser in browsers]
    assert [len(each) for each in listed] == [2, 1, 1]
    (phone,) = listed[1]
    assert (phone["key_name"], phone["user_agent"], phone["ip"]) == ("phone", FIREFOX, "127.0.0.1")
    assert phone["current"]
    assert [each["current"] for each in listed[0] if each["id"] == phone["id"]] == [False]
    assert not [each for each in listed[0] if browsers[1].cookie.partition("=")[2] in str(each)]


async def test_who_signs_out_is_nobody_and_has_no_cookie(place):
    browser = await signed_in(place, await place.key())
    cookie = browser.cookie
    answer = await browser.ask("DELETE", f"{SIGN_INS}/current")
    assert json.loads(answer.body)["data"] == {"deleted": True}
    assert answer.headers["set-cookie"].startswith("cmdop=; Max-Age=0; Path=/")
    browser.cookie = cookie
    answer = await browser.ask("GET", ME)
    assert (answer.status, answer.code) == (401, "unauthorized")
    assert await actions(place) == ["sign_in.removed", "sign_in.created"]


async def test_a_browser_is_signed_out_by_its_key_or_an_admin_and_by_no_other(place):
    admin, limited = await place.key(), await place.key("machines:read")
    browser = await signed_in(place, limited)
    path = f"{SIGN_INS}/{(await browser.data('GET', ME))['sign_in_id']}"
    nosy = await signed_in(place, await place.key("machines:read"))
    foreign = await signed_in(place, await place.foreign_key())
    for each in (nosy, foreign):
        assert (await each.ask("DELETE", path)).status == 404
    assert (await browser.ask("GET", ME)).status == 200
    assert "set-cookie" not in (await (await signed_in(place, admin)).ask("DELETE", path)).headers
    assert (await browser.ask("GET", ME)).status == 401
    again = await signed_in(place, limited)
    program = Browser(place, more={"Authorization": limited.header[1]})
    path = f"{SIGN_INS}/{(await again.data('GET', ME))['sign_in_id']}"
    assert (await program.ask("DELETE", f"{SIGN_INS}/current")).status == 404
    assert (await program.ask("DELETE", path)).status == 200
    assert (await again.ask("GET", ME)).status == 401


async def test_a_token_makes_no_link(place):
    key = await place.key()
    token = (await place.hub.callers.issue_token(key.secret, "127.0.0.1")).token
    answer = await Browser(place, more={"Authorization": f"Bearer {token}"}).ask("POST", LINKS)
    assert (answer.status, answer.code) == (403, "forbidden")


async def test_a_stream_is_cut_when_its_browser_signs_out(place):
    browser = await signed_in(place, await place.key())
    with trio.fail_after(BOUND):
        async with browser.opened("GET", "/api/v1/events", Connection="close") as stream:
            heard = b""
            while b"\n\n" not in heard:  # the first comment
                heard += await stream.receive_some()
            assert (await browser.ask("DELETE", f"{SIGN_INS}/current")).status == 200
            while await stream.receive_some():
                pass


async def test_a_socket_is_opened_by_the_cookie_and_cut_when_its_browser_signs_out(place):
    record = terminal((await records.joined(place.hub.store)).id)
    await place.hub.store.run(terminals.insert, record)
    browser = await signed_in(place, await place.key())
    path = f"/api/v1/terminals/{record.id}/socket"
    cookie, own = ("Cookie", browser.cookie), ("Origin", place.origin)
    for headers in ([cookie], [cookie, ("Origin", "http://evil.example")]):
        answer = await place.ask(path, *headers)
        assert (answer.status, answer.code) == (403, "cross_origin")
    socket = await place.connect(path, cookie, own, offers=(PROTOCOL,))
    await browser.ask("DELETE", f"{SIGN_INS}/current")
    with trio.fail_after(BOUND), suppress(ConnectionClosed):
        while True:
            await socket.get_message()
    assert socket.closed.code == 4401
    assert (await place.ask(path, cookie, own)).status == 401
