"""The lockout of guessers: whom it stops, for how long, and whom it must not."""

import logging

import pytest
import trio

from cmdop_appliance.auth import new_key, secret_hash
from cmdop_appliance.config import AuthConfig
from cmdop_appliance.errors import RateLimited, Unauthorized
from cmdop_appliance.hub import audit as hub_audit
from cmdop_appliance.hub import lockout as module
from cmdop_appliance.hub.access_tokens import AccessTokens
from cmdop_appliance.hub.audit import Audit
from cmdop_appliance.hub.callers import Callers
from cmdop_appliance.hub.lockout import Lockout
from cmdop_appliance.store import api_keys, audit
from cmdop_appliance.store.engine import open_store
from cmdop_appliance.store.listing import Paging
from tests.support.clocks import LoopClock
from tests.support.records import REACH, WORKSPACE, api_key

HERE = "192.0.2.7"
ELSEWHERE = "192.0.2.8"
CONFIG = AuthConfig(attempts=3, window_ms=300_000, lockout_ms=900_000)
TOKENS = AccessTokens(b"s" * 32)
IDLE_MS = 60_000
MOMENT_S = 0.9  # after it, a key is looked up again


@pytest.fixture
async def store(tmp_path):
    async with open_store(tmp_path, inline=True) as store:
        await store.run(api_keys.insert, api_key(), secret_hash(new_key()))
        yield store


@pytest.fixture
def callers(store):
    clock = LoopClock()
    return Callers(store, clock, Lockout(CONFIG, Audit(store, clock), clock), TOKENS, IDLE_MS)


@pytest.fixture
async def good(store):
    return await issue(store)


async def issue(store, **fields) -> str:
    secret = new_key()
    await store.run(api_keys.insert, api_key(**fields), secret_hash(secret))
    return f"Bearer {secret}"


def wrong() -> str:
    return f"Bearer {new_key()}"


async def fail(callers, times: int, address: str = HERE) -> None:
    for _ in range(times):
        with pytest.raises(Unauthorized):
            await callers.identify(wrong(), address)


async def is_locked_out(callers, header: str, address: str = HERE) -> bool:
    try:
        await callers.identify(header, address)
    except RateLimited:
        return True
    except Unauthorized:
        pass
    return False


async def test_after_so_many_wrong_keys_right_and_wrong_ones_are_refused_alike(
    store, callers, good
):
    await fail(callers, 3)
    seen = []
    store._writer.exec_trace = lambda _, sql, __: bool(seen.append(sql)) or True
    answers = []
    for header in (wrong(), good, "Bearer x", "Basic x"):
        with pytest.raises(RateLimited) as caught:
            await callers.identify(header, HERE)
        answers.append((caught.value.message, caught.value.details))
    assert answers == [answers[0]] * 4
    assert answers[0][1] == {"retry_after": 900}
    assert not seen  # nothing was looked up
    with pytest.raises(Unauthorized):  # who shows no key guesses none
        await callers.identify(None, HERE)


async def test_fewer_wrong_keys_do_nothing(callers, good):
    await fail(callers, 2)
    await callers.identify(good, HERE)
    await fail(callers, 1)
    assert await is_locked_out(callers, wrong())  # a good key does not begin the count anew


async def test_a_lockout_ends_and_counting_begins_anew(callers, good, autojump_clock):
    await fail(callers, 3)
    await trio.sleep(899)
    assert await is_locked_out(callers, good)
    await trio.sleep(1)
    await fail(callers, 2)
    await callers.identify(good, HERE)
    assert not callers._lockout._locked


async def test_what_was_refused_makes_a_lockout_no_longer(callers, good, autojump_clock):
    await fail(callers, 3)
    await trio.sleep(450)
    for _ in range(10):
        assert await is_locked_out(callers, wrong())
    await trio.sleep(450)
    await callers.identify(good, HERE)


async def test_wrong_keys_of_long_ago_do_not_count(callers, good, autojump_clock):
    await fail(callers, 2)
    await trio.sleep(300)
    await fail(callers, 2)
    await callers.identify(good, HERE)


async def test_a_key_that_was_good_from_there_works_on_for_an_hour(
    callers, store, good, autojump_clock
):
    await callers.identify(good, HERE)
    await trio.sleep(3599)
    await fail(callers, 3)
    await callers.identify(good, HERE)  # and so for another hour
    await trio.sleep(MOMENT_S)
    await callers.identify(good, HERE)
    assert await is_locked_out(callers, await issue(store))


async def test_a_key_that_was_good_two_hours_ago_is_as_any_other(callers, good, autojump_clock):
    await callers.identify(good, HERE)
    await trio.sleep(3601)
    await fail(callers, 3)
    assert await is_locked_out(callers, good)


async def test_a_key_that_was_good_from_elsewhere_is_as_any_other(callers, good):
    await callers.identify(good, ELSEWHERE)
    await fail(callers, 3)
    assert await is_locked_out(callers, good)
    await callers.identify(good, ELSEWHERE)


async def test_a_key_that_is_revoked_in_a_lockout_becomes_as_any_other(callers, store):
    header = await issue(store, id="key_1")
    await callers.identify(header, HERE)
    await fail(callers, 3)
    await store.run(api_keys.delete, REACH, "key_1")
    callers.forget()
    assert await is_locked_out(callers, header)
    seen = []
    store._writer.exec_trace = lambda _, sql, __: bool(seen.append(sql)) or True
    assert await is_locked_out(callers, header)
    assert not seen  # nothing is looked up any more


async def test_a_right_guess_among_many_at_once_is_refused(callers, good):
    """Those that are looked up already when the last wrong one is found."""
    results = []

    async def guess(header):
        results.append(await is_locked_out(callers, header))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(guess, wrong())
    assert results.count(False) == 3
    callers._lockout._locked.clear()
    assert not await is_locked_out(callers, good)


async def test_a_right_key_whose_address_is_locked_out_while_it_is_looked_up_is_refused(
    callers, store, good
):
    run = store.run

    async def run_late(fn, *args):
        key = await run(fn, *args)
        if key is not None:
            store.run = run
            await fail(callers, 3)
        return key

    store.run = run_late
    assert await is_locked_out(callers, good)


async def test_malformed_keys_count_and_no_key_does_not(callers, good):
    for _ in range(10):
        with pytest.raises(Unauthorized):
            await callers.identify(None, HERE)
    await callers.identify(good, HERE)
    for header in ("Bearer x", "Basic dTpw", "Bearer cmdop_apikey_x"):
        with pytest.raises(Unauthorized):
            await callers.identify(header, HERE)
    assert await is_locked_out(callers, wrong())


async def test_a_network_of_ipv6_is_one_address(callers, good):
    for number in range(3):
        await fail(callers, 1, f"2001:db8:0:1::{number:x}")
    assert await is_locked_out(callers, good, "2001:db8:0:1:ffff::1")
    assert not await is_locked_out(callers, good, "2001:db8:0:2::1")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_on_the_hubs_own_machine_a_right_key_works_in_a_lockout(callers, good, address):
    await fail(callers, 3, address)
    assert await is_locked_out(callers, wrong(), address)
    await callers.identify(good, address)  # for the first time from there
    assert await is_locked_out(callers, wrong(), address)
    await fail(callers, 3)
    assert await is_locked_out(callers, good)


async def test_it_can_be_turned_off(store, good):
    clock = LoopClock()
    lockout = Lockout(AuthConfig(attempts=0), Audit(store, clock), clock)
    callers = Callers(store, clock, lockout, TOKENS, IDLE_MS)
    await fail(callers, 100)
    await callers.identify(good, HERE)


async def test_a_lockout_is_logged_and_in_the_audit_log_once(store, callers, caplog):
    with caplog.at_level(logging.WARNING, "cmdop.auth"):
        await fail(callers, 3)
        for _ in range(5):
            assert await is_locked_out(callers, wrong())
    (record,) = caplog.records
    assert (record.peer, record.for_s) == (HERE, 900.0)
    page = await store.run(audit.page, WORKSPACE, Paging())
    (entry,) = page.items
    assert (entry.action, entry.target, entry.actor) == ("peer.locked_out", HERE, "hub")


async def test_many_addresses_cannot_fill_the_audit_log(store, callers, monkeypatch):
    monkeypatch.setattr(hub_audit, "_ENTRIES", 3)
    for number in range(5):
        await fail(callers, 3, f"198.51.100.{number}")
        assert await is_locked_out(callers, wrong(), f"198.51.100.{number}")
    assert (await store.run(audit.page, WORKSPACE, Paging())).total == 3


async def test_many_addresses_and_many_keys_fill_no_memory(callers, store, monkeypatch):
    monkeypatch.setattr(module, "_KEPT", 3)
    table = callers._lockout
    for number in range(10):
        await fail(callers, 1, f"198.51.100.{number}")
        await callers.identify(await issue(store), HERE)
    assert (len(table._wrong), len(table._good)) == (3, 3)
    for number in range(10):
        await fail(callers, 3, f"203.0.113.{number}")
    assert list(table._locked) == ["203.0.113.7", "203.0.113.8", "203.0.113.9"]


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────


async def test_wrong_tokens_and_wrong_sign_ins_count_like_wrong_keys(callers, good):
    key = good.removeprefix("Bearer ")
    token = (await callers.issue_token(key, ELSEWHERE)).token
    for guess in (
        lambda: callers.identify(f"Bearer {AccessTokens(b't' * 32).issue(key, 2**50)}", HERE),
        lambda: callers.issue_token(new_key(), HERE),
        lambda: callers.issue_token("", HERE),
    ):
        with pytest.raises(Unauthorized):
            await guess()
    for right in (
        lambda: callers.identify(f"Bearer {token}", HERE),
        lambda: callers.issue_token(key, HERE),
    ):
        with pytest.raises(RateLimited):
            await right()
    await callers.identify(f"Bearer {token}", ELSEWHERE)


async def test_a_wrong_namespace_is_a_wrong_sign_in(callers, store, good):
    key = (await issue(store, id="key_1")).removeprefix("Bearer ")
    for _ in range(CONFIG.attempts):
        with pytest.raises(Unauthorized):
            await callers.issue_token(f"{key}:other", HERE)
    with pytest.raises(RateLimited):
        await callers.identify(good, HERE)


async def test_a_key_that_was_good_by_its_token_signs_in_during_a_lockout(callers, good):
    key = good.removeprefix("Bearer ")
    token = (await callers.issue_token(key, HERE)).token
    await fail(callers, CONFIG.attempts)
    await callers.identify(f"Bearer {token}", HERE)
    await callers.issue_token(key, HERE)


async def test_a_token_that_was_good_once_is_no_guess(callers, good, autojump_clock):
    """Or a page that was left open for a night would lock its owner out."""
    key = good.removeprefix("Bearer ")
    token = (await callers.issue_token(key, HERE)).token
    await trio.sleep(5 * 3600)
    for _ in range(CONFIG.attempts):
        with pytest.raises(Unauthorized):
            await callers.identify(f"Bearer {token}", HERE)
    await callers.issue_token(key, HERE)
