"""Tickets: good once, for a moment, and no longer than the key of who asked."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.auth import Caller, Scope, new_key, new_secret, secret_hash
from cmdop_appliance.errors import Unauthorized
from cmdop_appliance.hub.tickets import Tickets
from cmdop_appliance.model import ClientMode
from cmdop_appliance.store import api_keys
from tests.support import records
from tests.support.live_hub import CALLER

TERM = "term_01M81SPF8DV47WAQK0Y9FZ5NZ3"


@pytest.fixture
async def tickets(live):
    for key_id in ("key_1", "key_2"):
        key = records.api_key(id=key_id, scopes=[Scope.ADMIN])
        await live.hub.store.run(api_keys.insert, key, secret_hash(new_key()))
    return live.hub.tickets


def issued(tickets: Tickets, caller: Caller = CALLER, mode: ClientMode = "operator") -> str:
    ticket = new_secret().hex()
    tickets.issue(caller, TERM, mode, ticket)
    return ticket


async def test_a_ticket_tells_once_who_asked_and_for_what(tickets):
    ticket = issued(tickets, mode="observer")
    assert await tickets.redeem(ticket) == (CALLER, TERM, "observer")
    with pytest.raises(Unauthorized):
        await tickets.redeem(ticket)


async def test_a_ticket_is_good_for_30_seconds(tickets, autojump_clock: MockClock):
    in_time, late = issued(tickets), issued(tickets)
    await trio.sleep(29.9)
    await tickets.redeem(in_time)
    await trio.sleep(0.1)
    with pytest.raises(Unauthorized):
        await tickets.redeem(late)


async def test_a_ticket_ends_with_the_key(tickets, live):
    ticket = issued(tickets)
    await live.hub.store.run(lambda tx: tx.execute("DELETE FROM api_key WHERE id = 'key_1'"))
    with pytest.raises(Unauthorized):
        await tickets.redeem(ticket)


async def test_a_ticket_ends_with_the_token(tickets, live, autojump_clock: MockClock):
    by_token = replace(CALLER, token_until_ms=live.hub.clock.now_ms() + 1000)
    ticket = issued(tickets, by_token)
    await trio.sleep(1)
    with pytest.raises(Unauthorized):
        await tickets.redeem(ticket)


async def test_a_ticket_that_nobody_issued_is_none(tickets):
    for ticket in ("", "0" * 64, "ü"):
        with pytest.raises(Unauthorized):
            await tickets.redeem(ticket)
