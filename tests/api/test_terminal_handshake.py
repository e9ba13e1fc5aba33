"""Who gets the websocket of a terminal: trust.md, rows 13 and 14, over real sockets."""

import json
from collections.abc import Awaitable, Callable

import pytest
import trio

from cmdop_appliance.auth import new_secret
from cmdop_appliance.store import audit
from cmdop_appliance.store import terminals as rows
from cmdop_appliance.store.listing import Paging
from tests.api.terminal_site import (
    BOUND,
    PROTOCOL,
    TICKET,
    Key,
    Refusal,
    Site,
    answer_on,
    site,
    terminal,
)
from tests.support import records

NOTHING = "term_01JZZZZZZZZZZZZZZZZZZZZZZZ"
UNKNOWN_KEY = ("Authorization", "Bearer cmdop_apikey_" + "x" * 43)


class Door:
    """A terminal behind a front, and keys that may do this and that."""

    def __init__(self, there: Site, terminal_id: str, key: Key, other: Key) -> None:
        self.site = there
        self.hub = there.hub
        self.terminal_id = terminal_id
        self.path = f"/api/v1/terminals/{terminal_id}/socket"
        self.key = key  # may do everything
        self.other = other  # may do everything in another workspace

    @property
    def own(self) -> tuple[str, str]:
        return "Origin", self.site.origin

    def ticket(self, terminal_id: str = "", key: Key | None = None) -> str:
        ticket, caller = new_secret().hex(), (key or self.key).caller
        self.hub.tickets.issue(caller, terminal_id or self.terminal_id, "operator", ticket)
        return ticket


@pytest.fixture
async def door(tmp_path):
    async with site(tmp_path) as there:
        store = there.hub.store
        machine = await records.joined(store)
        shell = terminal(machine.id)
        await store.run(rows.insert, shell)
        yield Door(there, shell.id, await there.key(), await there.foreign_key())


Ask = Callable[[Door], Awaitable[Refusal]]


def by_key(*headers: tuple[str, str], path: str = "", **how) -> Ask:
    """Asks with a good key and these headers; {} stands for what differs from hub to hub."""

    async def ask(door: Door) -> Refusal:
        told = [(n, v.format(host=door.site.host, port=door.site.port)) for n, v in headers]
        where = path.format(id=door.terminal_id) or door.path
        return await door.site.ask(where, door.key.header, *told, **how)

    return ask


def by_ticket(*headers: tuple[str, str], of: str = "", beside: tuple[str, ...] = (), **how) -> Ask:
    """The same with a ticket and the hub's own Origin; `of`: of another terminal."""

    async def ask(door: Door) -> Refusal:
        told = [(n, v.format(host=door.site.host)) for n, v in headers]
        if not any(name == "Origin" for name, _ in told):
            told.append(door.own)
        offers = (PROTOCOL, *beside, TICKET + door.ticket(terminal_id=of))
        return await door.site.ask(door.path, *told, **{"offers": offers, **how})

    return ask


def nobody(*headers: tuple[str, str], **how) -> Ask:
    """The same without a good credential."""

    async def ask(door: Door) -> Refusal:
        return await door.site.ask(door.path, *headers, **how)

    return ask


async def by_other_workspace(door: Door) -> Refusal:
    return await door.site.ask(door.path, door.other.header)


async def by_reader(door: Door) -> Refusal:
    return await door.site.ask(door.path, (await door.site.key("sessions:read")).header)


async def by_who_may_run(door: Door) -> Refusal:
    return await door.site.ask(door.path, (await door.site.key("commands:execute")).header)


async def by_other_tags(door: Door) -> Refusal:
    return await door.site.ask(door.path, (await door.site.key(tags=["db"])).header)


async def by_own_page(door: Door) -> Refusal:
    return await door.site.ask(door.path, door.own)


async def by_revoked_key(door: Door) -> Refusal:
    key = await door.site.key()
    await door.site.revoke(key)
    return await door.site.ask(door.path, key.header)


async def without_origin(door: Door) -> Refusal:
    offers = (PROTOCOL, TICKET + door.ticket())
    return await door.site.ask(door.path, offers=offers)


async def twice(door: Door) -> Refusal:
    offers = (PROTOCOL, TICKET + door.ticket())
    assert (await door.site.ask(door.path, door.own, offers=offers)).status == 101
    return await door.site.ask(door.path, door.own, offers=offers)


async def with_a_key_that_has_ended(door: Door) -> Refusal:
    key = await door.site.key()
    ticket = door.ticket(key=key)
    await door.site.revoke(key)
    return await door.site.ask(door.path, door.own, offers=(PROTOCOL, TICKET + ticket))


GOOD: dict[str, Ask] = {
    "a program with a key": by_key(),
    "on the other prefix": by_key(path="/v1/terminals/{id}/socket"),
    "who may only read": by_reader,
    "a page of the hub with a key": by_key(("Origin", "http://{host}")),
    "a page behind a proxy with TLS": by_key(
        ("Host", "hub.example"), ("Origin", "https://hub.example")
    ),
    "the same, its port named": by_key(
        ("Host", "hub.example:443"), ("Origin", "https://hub.example")
    ),
    "the same in capitals": by_key(("Host", "HUB.example"), ("Origin", "HTTPS://hub.EXAMPLE")),
    "at an IPv6 address": by_key(("Host", "[::1]:81"), ("Origin", "http://[::1]:81")),
    "in another script": by_key(
        ("Host", "xn--bcher-kva.example"), ("Origin", "https://xn--bcher-kva.example")
    ),
    "speaking other things, too": by_key(offers=("x.v0", PROTOCOL)),
    "a query that says nothing": by_key(path="/api/v1/terminals/{id}/socket?x=1"),
    "a page of the hub with a ticket": by_ticket(),
    "a ticket beside other things": by_ticket(beside=("x.v0",)),
}
REFUSED: dict[str, tuple[Ask, int, str]] = {
    "nobody": (nobody(), 401, "unauthorized"),
    "a page of the hub without anything": (by_own_page, 401, "unauthorized"),
    "an unknown key": (nobody(UNKNOWN_KEY), 401, "unauthorized"),
    "no bearer": (nobody(("Authorization", "Basic eDp5")), 401, "unauthorized"),
    "a foreign page and nobody": (nobody(("Origin", "http://x.example")), 403, "cross_origin"),
    "a key that was revoked": (by_revoked_key, 401, "unauthorized"),
    "a key of another workspace": (by_other_workspace, 404, "terminal_not_found"),
    "a key of other tags": (by_other_tags, 404, "terminal_not_found"),
    "a key that may not read": (by_who_may_run, 403, "forbidden"),
    "no such terminal": (
        by_key(path=f"/v1/terminals/{NOTHING}/socket"),
        404,
        "terminal_not_found",
    ),
    "no id at all": (by_key(path="/v1/terminals/x%00/socket"), 404, "terminal_not_found"),
    "another spelling": (by_key(path="/v1/terminals/%2e%2e/socket"), 404, "not_found"),
    "dots": (by_key(path="/v1/terminals/../socket"), 404, "not_found"),
    "a foreign page with a key": (by_key(("Origin", "http://evil.example")), 403, "cross_origin"),
    "a foreign page with a ticket": (
        by_ticket(("Origin", "http://evil.example")),
        403,
        "cross_origin",
    ),
    "another port": (by_key(("Origin", "http://127.0.0.1:1")), 403, "cross_origin"),
    "another scheme": (
        by_key(("Host", "hub.example"), ("Origin", "ws://hub.example")),
        403,
        "cross_origin",
    ),
    "TLS here and not there": (
        by_key(("Host", "hub.example:80"), ("Origin", "https://hub.example")),
        403,
        "cross_origin",
    ),
    "a host that ends like the hub's": (
        by_key(("Host", "hub.example"), ("Origin", "http://evil-hub.example")),
        403,
        "cross_origin",
    ),
    "a host that begins like the hub's": (
        by_key(("Host", "hub.example"), ("Origin", "http://hub.example.evil")),
        403,
        "cross_origin",
    ),
    "an opaque origin": (by_key(("Origin", "null")), 403, "cross_origin"),
    "an opaque origin with a ticket": (by_ticket(("Origin", "null")), 403, "cross_origin"),
    "an empty origin": (by_key(("Origin", "")), 403, "cross_origin"),
    "a path behind the origin": (by_key(("Origin", "http://{host}/")), 403, "cross_origin"),
    "a user in the origin": (by_key(("Origin", "http://x@{host}")), 403, "cross_origin"),
    "a port that is none": (by_key(("Origin", "http://127.0.0.1:99999")), 403, "cross_origin"),
    "two origins": (
        by_key(("Origin", "http://{host}"), ("Origin", "http://evil.example")),
        403,
        "cross_origin",
    ),
    "two of the same": (
        by_key(("Origin", "http://{host}"), ("Origin", "http://{host}")),
        403,
        "cross_origin",
    ),
    "a ticket without an origin": (without_origin, 403, "forbidden"),
    "a ticket beside a key": (by_ticket(UNKNOWN_KEY), 400, "invalid_request"),
    "two tickets": (by_ticket(beside=(f"{TICKET}x",)), 400, "invalid_request"),
    "a ticket for another terminal": (by_ticket(of=NOTHING), 401, "unauthorized"),
    "a ticket that was used": (twice, 401, "unauthorized"),
    "a ticket of a key that was revoked": (with_a_key_that_has_ended, 401, "unauthorized"),
    "a ticket that never was": (
        by_ticket(offers=(PROTOCOL, f"{TICKET}x")),
        401,
        "unauthorized",
    ),
    "no subprotocol": (by_key(offers=None), 400, "invalid_request"),
    "another subprotocol": (by_key(offers=("cmdop.terminal.v2",)), 400, "invalid_request"),
    "one spelled otherwise": (by_key(offers=("CMDOP.terminal.v1",)), 400, "invalid_request"),
    "a ticket alone": (by_ticket(offers=(f"{TICKET}x",)), 400, "invalid_request"),
    "a key in the address": (
        by_key(path="/api/v1/terminals/{id}/socket?token=canary-17"),
        400,
        "invalid_request",
    ),
    "a ticket in the address": (
        by_key(path="/api/v1/terminals/{id}/socket?ticket=canary-17"),
        400,
        "invalid_request",
    ),
}
# What is no request for a websocket of the newest version; how it is answered is HTTP's trade.
OTHERWISE: dict[str, tuple[Ask, int]] = {
    "no upgrade": (by_key(without="Upgrade"), 426),
    "no upgrade, and nobody": (nobody(without="Upgrade"), 401),
    "to something else": (by_key(("Upgrade", "h2c")), 426),
    "by POST": (by_key(line="POST {} HTTP/1.1"), 405),
    "in HTTP/1.0": (by_key(line="GET {} HTTP/1.0"), 400),
    "an old websocket": (by_key(("Sec-WebSocket-Version", "8")), 426),
    "without a key of its own": (by_key(without="Sec-WebSocket-Key"), 400),
    "without a connection": (by_key(without="Connection"), 400),
    "without a host": (by_key(without="Host"), 400),
    "two hosts": (by_key(("Host", "a"), ("Host", "b")), 400),
}


async def test_who_may_gets_a_websocket_that_speaks_one_thing(door):
    for name, ask in GOOD.items():
        answer = await ask(door)
        assert answer.status == 101, (name, answer)
        assert answer.headers["sec-websocket-protocol"] == PROTOCOL
        assert answer.headers["x-request-id"].startswith("req_")


async def test_who_may_not_is_told_why_as_everywhere(door):
    for name, (ask, status, code) in REFUSED.items():
        answer = await ask(door)
        assert (answer.status, answer.code) == (status, code), (name, answer)
        assert set(json.loads(answer.body)) == {"error", "meta"}
        assert answer.headers["x-request-id"].startswith("req_")
        assert (status == 401) == ("www-authenticate" in answer.headers)
        assert b"canary-17" not in answer.body


async def test_what_asks_for_no_websocket_gets_none(door):
    got = {name: (await ask(door)).status for name, (ask, _) in OTHERWISE.items()}
    assert got == {name: status for name, (_, status) in OTHERWISE.items()}


async def test_whoever_asks_without_an_upgrade_is_told_to(door):
    answer = await door.site.ask(door.path, door.key.header, without="Upgrade")
    assert (answer.code, answer.headers["upgrade"]) == ("upgrade_required", "websocket")


async def test_a_refusal_is_audited_once_with_what_was_lacking(door):
    key = await door.site.key("commands:execute")
    await door.site.ask(door.path, key.header)
    paging = Paging(10, 0, "-created_at")
    page = await door.hub.store.run(audit.page, key.caller.workspace_id, paging, outcome="refused")
    (entry,) = page.items
    assert entry.target == door.terminal_id
    assert entry.details["why"] == "sessions:read"


async def test_a_foreign_page_uses_up_no_ticket(door):
    offers = (PROTOCOL, TICKET + door.ticket())
    foreign = await door.site.ask(door.path, ("Origin", "http://evil.example"), offers=offers)
    assert foreign.status == 403
    assert (await door.site.ask(door.path, door.own, offers=offers)).status == 101


async def test_a_ticket_is_good_for_30_s(door, mock_clock):
    for age_s, status in ((29.9, 101), (30.1, 401)):
        offers = (PROTOCOL, TICKET + door.ticket())
        mock_clock.jump(age_s)
        assert (await door.site.ask(door.path, door.own, offers=offers)).status == status


async def test_a_foreign_page_locks_nobody_out(door):
    for _ in range(2 * door.hub.config.auth.attempts):
        answer = await door.site.ask(door.path, UNKNOWN_KEY, ("Origin", "http://evil.example"))
        assert answer.status == 403
    assert (await door.site.ask(door.path, UNKNOWN_KEY)).status == 401


async def test_wrong_keys_are_counted_as_everywhere(door):
    attempts = door.hub.config.auth.attempts
    statuses = [(await door.site.ask(door.path, UNKNOWN_KEY)).status for _ in range(attempts + 1)]
    assert statuses == [401] * attempts + [429]


async def test_a_socket_by_ticket_counts_against_the_limit_of_its_key(door, monkeypatch):
    monkeypatch.setattr(door.hub.rate_limits, "_limit", 1)
    first, second = [
        await door.site.ask(door.path, door.own, offers=(PROTOCOL, TICKET + door.ticket()))
        for _ in range(2)
    ]
    assert (first.status, first.headers["x-ratelimit-remaining"]) == (101, "0")
    assert (second.status, second.code) == (429, "rate_limited")


async def test_sockets_are_counted_among_the_requests_of_their_key(door):
    for status in (101, 404):
        path = door.path if status == 101 else f"/v1/terminals/{NOTHING}/socket"
        assert (await door.site.ask(path, door.key.header)).status == status
    answers = {
        (what.route, status): number for (what, status), number in door.hub.requests.answers.items()
    }
    assert answers == {("open_terminal_socket", 101): 1, ("open_terminal_socket", 404): 1}


GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
POST = (
    b"POST /v1/commands HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 2\r\n\r\n{}"
)


@pytest.mark.parametrize("before", [(GET,), (POST,), (POST, GET, POST)])
async def test_a_proxy_may_ask_for_a_websocket_on_a_connection_that_it_has_used(door, before):
    with trio.fail_after(BOUND):
        async with await trio.open_tcp_stream("127.0.0.1", door.site.port) as stream:
            for request in before:
                await stream.send_all(request)
                assert (await answer_on(stream)).status in (200, 401)
            await stream.send_all(door.site.request(door.path, door.key.header))
            assert (await answer_on(stream)).status == 101
            await stream.send_all(b"\x88\x80\0\0\0\0")
            while await stream.receive_some():
                pass


@pytest.mark.parametrize("path", ["/", "/nothing", "/v1/terminals", "/agent?x=1"])
@pytest.mark.parametrize("before", [(), (GET,)])
async def test_where_there_is_no_websocket_it_is_refused_and_is_no_error(
    door, path, before, caplog
):
    with trio.fail_after(BOUND):
        async with await trio.open_tcp_stream("127.0.0.1", door.site.port) as stream:
            for request in before:
                await stream.send_all(request)
                assert (await answer_on(stream)).status == 200
            await stream.send_all(door.site.request(path))
            answer = await answer_on(stream)
            assert (answer.status, await stream.receive_some()) == (400, b"")
    assert b"there is no websocket here" in answer.body
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
