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


async def test_a_ticket_is_not_kept(tickets):
    assert issued(tickets) not in repr(tickets._open)


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


async def test_of_too_many_tickets_the_oldest_of_the_same_key_goes(tickets):
    other = replace(CALLER, key_id="key_2")
    theirs = issued(tickets, other)
    ours = [issued(tickets) for _ in range(1000)]
    assert len(tickets._open) == 1000
    await tickets.redeem(theirs)
    with pytest.raises(Unauthorized):
        await tickets.redeem(ours[0])
    await tickets.redeem(ours[1])


async def test_one_key_leaves_room_for_another(tickets):
    theirs = [issued(tickets) for _ in range(1000)]
    ours = issued(tickets, replace(CALLER, key_id="key_2"))
    await tickets.redeem(ours)
    with pytest.raises(Unauthorized):
        await tickets.redeem(theirs[0])


async def test_what_is_too_old_makes_room_first(tickets, autojump_clock: MockClock):
    issued(tickets)
    await trio.sleep(31)
    issued(tickets)
    assert len(tickets._open) == 1
