"""Callers: who an Authorization header is, and for how long that is believed."""

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.auth import new_key, secret_hash
from cmdop_appliance.errors import Unauthorized
from cmdop_appliance.hub import callers as module
from cmdop_appliance.hub.callers import Callers
from cmdop_appliance.store import api_keys
from cmdop_appliance.store.engine import open_store
from tests.support.clocks import LoopClock, StepClock
from tests.support.records import WORKSPACE, api_key


@pytest.fixture
async def store(tmp_path):
    async with open_store(tmp_path, inline=True) as store:
        await store.run(api_keys.insert, api_key(), secret_hash(new_key()))
        yield store


async def issue(store, **fields) -> str:
    secret = new_key()
    await store.run(api_keys.insert, api_key(**fields), secret_hash(secret))
    return f"Bearer {secret}"


async def test_a_key_is_its_caller(store):
    header = await issue(store, id="key_1", name="ci", scopes=["machines:read"])
    caller = await Callers(store, StepClock()).identify(header)
    assert (caller.key_id, caller.name, caller.workspace_id) == ("key_1", "ci", WORKSPACE)
    assert caller.namespace == "default"
    assert caller.scopes == {"machines:read"}


@pytest.mark.parametrize("header", [None, "Bearer x", "Bearer " + new_key()])
async def test_whoever_has_no_key_of_ours_is_nobody(store, header):
    with pytest.raises(Unauthorized):
        await Callers(store, StepClock()).identify(header)


async def test_a_revoked_key_is_refused_within_a_second(store, autojump_clock: MockClock):
    header = await issue(store, id="key_1")
    callers = Callers(store, LoopClock())
    await callers.identify(header)
    await store.run(api_keys.delete, WORKSPACE, "key_1")
    await trio.sleep(1)
    with pytest.raises(Unauthorized):
        await callers.identify(header)


async def test_a_revoked_key_is_refused_at_once_where_it_was_revoked(store):
    header = await issue(store, id="key_1")
    callers = Callers(store, StepClock())
    await callers.identify(header)
    await store.run(api_keys.delete, WORKSPACE, "key_1")
    callers.forget()
    with pytest.raises(Unauthorized):
        await callers.identify(header)


async def test_an_expired_key_is_refused_within_a_second(store, autojump_clock: MockClock):
    clock = LoopClock()
    header = await issue(store, expires_ms=clock.now_ms() + 500)
    callers = Callers(store, clock)
    await callers.identify(header)
    await trio.sleep(1)
    with pytest.raises(Unauthorized):
        await callers.identify(header)


async def test_a_key_in_use_is_not_looked_up_for_every_request(store):
    header = await issue(store)
    callers = Callers(store, StepClock())
    seen = []
    store._writer.exec_trace = lambda _, sql, __: bool(seen.append(sql)) or True
    for _ in range(10):
        await callers.identify(header)
    assert len([sql for sql in seen if sql.startswith("SELECT")]) == 1


async def test_wrong_keys_and_many_keys_fill_no_memory(store, monkeypatch):
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    callers = Callers(store, StepClock())
    for _ in range(10):
        with pytest.raises(Unauthorized):
            await callers.identify(f"Bearer {new_key()}")
    assert not callers._known
    for _ in range(10):
        await callers.identify(await issue(store))
    assert len(callers._known) <= 3
