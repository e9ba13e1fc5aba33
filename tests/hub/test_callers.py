"""Callers: who an Authorization header is, and for how long that is believed."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.auth import Reach, new_key, secret_hash
from cmdop_appliance.config import AuthConfig
from cmdop_appliance.errors import Unauthorized
from cmdop_appliance.hub import callers as module
from cmdop_appliance.hub.access_tokens import AccessTokens
from cmdop_appliance.hub.audit import Audit
from cmdop_appliance.hub.callers import Callers
from cmdop_appliance.hub.lockout import Lockout
from cmdop_appliance.store import api_keys
from cmdop_appliance.store.engine import open_store
from tests.support.clocks import LoopClock, StepClock
from tests.support.records import REACH, WORKSPACE, api_key

TOKENS = AccessTokens(b"s" * 32)
IDLE_MS = 60_000
HERE = "192.0.2.7"
ELSEWHERE = "2001:db8::1"


@pytest.fixture
async def store(tmp_path):
    async with open_store(tmp_path, inline=True) as store:
        await store.run(api_keys.insert, api_key(), secret_hash(new_key()))
        yield store


def callers_of(store, clock) -> Callers:
    lockout = Lockout(AuthConfig(attempts=0), Audit(store, clock), clock)
    return Callers(store, clock, lockout, TOKENS, IDLE_MS)


async def issue(store, **fields) -> str:
    secret = new_key()
    await store.run(api_keys.insert, api_key(**fields), secret_hash(secret))
    return f"Bearer {secret}"


async def test_a_key_is_its_caller(store):
    header = await issue(
        store, id="key_1", name="ci", scopes=["machines:read"], tags=["a"], expires_ms=2**50
    )
    caller = await callers_of(store, StepClock()).identify(header, HERE)
    assert (caller.key_id, caller.name, caller.workspace_id) == ("key_1", "ci", WORKSPACE)
    assert caller.namespace == "default"
    assert caller.scopes == {"machines:read"}
    assert caller.reach == Reach(WORKSPACE, ("a",))
    assert caller.expires_ms == 2**50


@pytest.mark.parametrize(
    "header", [None, "Bearer x", pytest.param(f"Bearer {new_key()}", id="unknown")]
)
async def test_whoever_has_no_key_of_ours_is_nobody(store, header):
    with pytest.raises(Unauthorized):
        await callers_of(store, StepClock()).identify(header, HERE)


async def test_nothing_tells_a_wrong_key_from_an_expired_or_a_revoked_one(store):
    clock = StepClock()
    expired = await issue(store, expires_ms=clock.now_ms())
    revoked = await issue(store, id="key_1")
    await store.run(api_keys.delete, REACH, "key_1")
    said = []
    for header in (f"Bearer {new_key()}", expired, revoked):
        with pytest.raises(Unauthorized) as caught:
            await callers_of(store, clock).identify(header, HERE)
        said.append((caught.value.message, caught.value.hint, caught.value.details))
    assert said == [said[0]] * 3


async def test_a_revoked_key_is_refused_within_a_second(store, autojump_clock: MockClock):
    header = await issue(store, id="key_1")
    callers = callers_of(store, LoopClock())
    await callers.identify(header, HERE)
    await store.run(api_keys.delete, REACH, "key_1")
    await trio.sleep(1)
    with pytest.raises(Unauthorized):
        await callers.identify(header, HERE)


async def test_a_revoked_key_is_refused_at_once_where_it_was_revoked(store):
    header = await issue(store, id="key_1")
    callers = callers_of(store, StepClock())
    await callers.identify(header, HERE)
    await store.run(api_keys.delete, REACH, "key_1")
    callers.forget()
    with pytest.raises(Unauthorized):
        await callers.identify(header, HERE)


@pytest.mark.parametrize("is_in_use", [False, True])
async def test_a_key_is_refused_from_the_moment_it_expires(
    store, autojump_clock: MockClock, is_in_use
):
    clock = LoopClock()
    header = await issue(store, expires_ms=clock.now_ms() + 500)
    callers = callers_of(store, clock)
    if is_in_use:
        await trio.sleep(0.49)
        await callers.identify(header, HERE)
    await trio.sleep(0.5 if not is_in_use else 0.01)
    with pytest.raises(Unauthorized):
        await callers.identify(header, HERE)


async def test_a_key_in_use_is_not_looked_up_for_every_request(store):
    header = await issue(store)
    callers = callers_of(store, StepClock())
    seen = []
    store._writer.exec_trace = lambda _, sql, __: bool(seen.append(sql)) or True
    for _ in range(10):
        await callers.identify(header, HERE)
    assert len([sql for sql in seen if sql.startswith("SELECT")]) == 1


async def test_wrong_keys_and_many_keys_fill_no_memory(store, monkeypatch):
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    callers = callers_of(store, StepClock())
    for _ in range(10):
        with pytest.raises(Unauthorized):
            await callers.identify(f"Bearer {new_key()}", HERE)
    assert not callers._known
    for _ in range(10):
        await callers.identify(await issue(store), HERE)
    assert len(callers._known) <= 3


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────

HOURS_S = 4 * 3600


async def signed_in(callers, header: str, namespace: str = "") -> str:
    """A token for the key in a header."""
    access_token = header.removeprefix("Bearer ") + namespace
    return f"Bearer {(await callers.issue_token(access_token, HERE)).token}"


@pytest.mark.parametrize("namespace", ["", ":default"])
async def test_a_token_is_its_key(store, namespace):
    key = await issue(store, id="key_1", scopes=["machines:read"], tags=["a"], expires_ms=2**50)
    callers = callers_of(store, StepClock())
    by_key = await callers.identify(key, HERE)
    token = await signed_in(callers, key, namespace)
    by_token = await callers.identify(token, HERE)
    assert replace(by_token, token_until_ms=None) == by_key
    assert callers.key_in(token) == callers.key_in(key)


async def test_a_token_is_good_for_four_hours(store, autojump_clock: MockClock):
    callers = callers_of(store, LoopClock())
    key = await issue(store)
    token = await signed_in(callers, key)
    await trio.sleep(HOURS_S - 0.01)
    caller = await callers.identify(token, HERE)
    await callers.require_still_good(caller)
    await trio.sleep(0.01)
    with pytest.raises(Unauthorized) as caught:
        await callers.identify(token, HERE)
    assert "POST /api/auth" in caught.value.hint
    with pytest.raises(Unauthorized):
        await callers.require_still_good(caller)
    await callers.require_still_good(await callers.identify(key, HERE))


async def test_a_token_ends_when_its_key_expires(store, autojump_clock: MockClock):
    clock = LoopClock()
    callers = callers_of(store, clock)
    key = await issue(store, expires_ms=clock.now_ms() + 60_000)
    signed = await callers.issue_token(key.removeprefix("Bearer "), HERE)
    assert signed.until_ms == clock.now_ms() + 60_000
    await trio.sleep(60)
    with pytest.raises(Unauthorized):
        await callers.identify(f"Bearer {signed.token}", HERE)


async def test_a_token_ends_when_its_key_is_revoked(store, autojump_clock: MockClock):
    callers = callers_of(store, LoopClock())
    token = await signed_in(callers, await issue(store, id="key_1"))
    caller = await callers.identify(token, HERE)
    await store.run(api_keys.delete, REACH, "key_1")
    with pytest.raises(Unauthorized):
        await callers.require_still_good(caller)
    await trio.sleep(1)
    with pytest.raises(Unauthorized):
        await callers.identify(token, HERE)


@pytest.mark.parametrize("namespace", [":", ":other", ":default:", ": default"])
async def test_nobody_signs_in_to_another_namespace(store, namespace):
    with pytest.raises(Unauthorized):
        await signed_in(callers_of(store, StepClock()), await issue(store), namespace)


async def test_a_token_gets_no_token_and_so_lives_no_longer(store):
    callers = callers_of(store, StepClock())
    token = await signed_in(callers, await issue(store))
    with pytest.raises(Unauthorized):
        await signed_in(callers, token)


async def test_a_key_that_is_none_signs_nobody_in(store):
    clock = StepClock()
    expired = await issue(store, expires_ms=clock.now_ms())
    for key in ("", "x", expired, new_key()):
        with pytest.raises(Unauthorized):
            await signed_in(callers_of(store, clock), key)


# ── last use ─────────────────────────────────────────────────────────────────────────────────────


async def last_use(store, key_id):
    key = await store.run(api_keys.by_id, key_id)
    return key.last_used_ms, key.last_used_ip


async def test_the_last_use_of_a_key_is_known_to_a_minute(store, autojump_clock: MockClock):
    clock = LoopClock()
    header = await issue(store, id="key_1")
    callers = callers_of(store, clock)
    assert await last_use(store, "key_1") == (None, None)
    begun = clock.now_ms()
    await callers.identify(header, HERE)
    await callers.save_uses()
    assert await last_use(store, "key_1") == (begun, HERE)
    await trio.sleep(59)
    await callers.identify(header, ELSEWHERE)
    await callers.save_uses()
    assert await last_use(store, "key_1") == (begun, HERE)
    await trio.sleep(1)
    await callers.identify(header, ELSEWHERE)
    await callers.save_uses()
    assert await last_use(store, "key_1") == (begun + 60_000, ELSEWHERE)


async def test_a_request_writes_nothing_and_nothing_new_is_not_written(store):
    header = await issue(store, id="key_1")
    callers = callers_of(store, StepClock())
    seen = []
    store._writer.exec_trace = lambda _, sql, __: bool(seen.append(sql)) or True
    for _ in range(3):
        await callers.identify(header, HERE)
    assert not [sql for sql in seen if not sql.startswith(("SELECT", "BEGIN", "COMMIT"))]
    await callers.save_uses()
    await callers.save_uses()
    assert len([sql for sql in seen if sql.startswith("UPDATE")]) == 1


async def test_whoever_has_no_good_key_uses_none(store):
    callers = callers_of(store, StepClock())
    with pytest.raises(Unauthorized):
        await callers.identify(f"Bearer {new_key()}", HERE)
    assert not callers._key_uses.take()
