"""A store that came out of a backup knows it, and lets nobody in by what may have been used up."""

from cmdop_appliance.store import api_keys, audit, enrolments, restored, sign_ins
from cmdop_appliance.store.listing import Paging
from tests.support import records
from tests.support.records import NOW, WORKSPACE


async def test_a_store_knows_until_when_another_hub_may_have_gone_on(store):
    assert await store.run(restored.until_ms) == 0
    await store.run(restored.mark, NOW - 5, NOW, "0.1.0")
    assert await store.run(restored.until_ms) == NOW
    await store.run(restored.mark, NOW, NOW + 5, "0.1.0")
    assert await store.run(restored.until_ms) == NOW + 5


async def test_the_audit_log_tells_of_it(store):
    await store.run(restored.mark, NOW - 5, NOW, "0.1.0")
    (entry,) = (await store.run(audit.page, WORKSPACE, Paging())).items
    assert entry.action == "hub.restored"
    assert entry.details == {"made_ms": NOW - 5, "version": "0.1.0"}


async def test_a_token_that_may_be_used_up_lets_nobody_in_and_nobody_is_signed_in(store):
    token = records.enrolment(expires_ms=NOW + 1000)
    await store.run(enrolments.insert, token, "hash")
    key = records.api_key()
    await store.run(api_keys.insert, key, "hash")
    await store.run(sign_ins.insert, records.sign_in(key), "cookie")
    assert await store.run(sign_ins.by_hash, "cookie", NOW) is not None
    await store.run(restored.mark, NOW - 5, NOW, "0.1.0")
    assert await store.run(enrolments.use, "hash", NOW) is None
    assert await store.run(sign_ins.by_hash, "cookie", NOW) is None
    assert await store.run(api_keys.by_hash, "hash", NOW) is not None
