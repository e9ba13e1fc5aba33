"""What was asked for once: claimed by the first request, found by the same one again."""

import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import IdempotencyConflict, NotFound
from cmdop_appliance.store import api_keys, enrolments, idempotency
from cmdop_appliance.store.idempotency import KEPT_MS, claim, find
from cmdop_appliance.store.transaction import Tx, reads
from tests.support.records import NOW, REACH, api_key, enrolment, once


@reads
def kept(tx: Tx) -> int:
    return int(tx.value("SELECT count(*) FROM idempotency"))


async def test_the_first_request_makes_what_it_names_and_the_same_one_finds_it(store):
    first = await store.run(claim, once(salt=b"1" * 32), "cmd_1")
    again = await store.run(claim, once(salt=b"2" * 32), "cmd_2")
    assert first == again
    assert (again.made_id, again.salt) == ("cmd_1", b"1" * 32)
    assert await store.run(kept) == 1


async def test_another_request_with_the_same_key_is_refused_and_changes_nothing(store):
    await store.run(claim, once(), "cmd_1")
    with pytest.raises(IdempotencyConflict):
        await store.run(claim, once(request_hash=b"x" * 32), "cmd_2")
    assert (await store.run(claim, once(), "cmd_3")).made_id == "cmd_1"


@pytest.mark.parametrize("other", [{"api_key_id": "key_2"}, {"key": "K"}])
async def test_the_key_of_another_api_key_and_another_key_are_other_requests(store, other):
    await store.run(claim, once(), "cmd_1")
    different = once(request_hash=b"x" * 32, **other)
    assert (await store.run(claim, different, "cmd_2")).made_id == "cmd_2"


async def test_a_request_that_fails_after_its_claim_leaves_the_key_free(store):
    def refused(tx: Tx) -> None:
        claim(tx, once(), "cmd_1")
        raise NotFound("no such machine")

    with pytest.raises(NotFound):
        await store.run(refused)
    other = once(request_hash=b"x" * 32)
    assert (await store.run(claim, other, "cmd_2")).made_id == "cmd_2"


async def test_a_request_is_found_once_it_was_claimed_and_another_one_is_refused(store):
    assert await store.run(find, once()) is None
    claimed = await store.run(claim, once(), "cmd_1")
    assert await store.run(find, once(salt=b"2" * 32)) == claimed
    assert await store.run(find, once(key="other")) is None
    with pytest.raises(IdempotencyConflict):
        await store.run(find, once(request_hash=b"x" * 32))
    later = once(now_ms=NOW + KEPT_MS + 1, request_hash=b"x" * 32)
    assert await store.run(find, later) is None


async def test_a_key_is_kept_for_24_hours_and_then_forgotten(store):
    assert KEPT_MS == 24 * 3_600_000
    await store.run(claim, once(), "cmd_1")
    last = once(now_ms=NOW + KEPT_MS)
    assert (await store.run(claim, last, "cmd_2")).made_id == "cmd_1"
    later = once(now_ms=NOW + KEPT_MS + 1, request_hash=b"x" * 32)
    assert (await store.run(claim, later, "cmd_3")).made_id == "cmd_3"


async def test_keys_that_nobody_uses_again_are_forgotten_too(store):
    for number in range(5):
        await store.run(claim, once(key=f"old-{number}"), "cmd_1")
    await store.run(claim, once(key="new", now_ms=NOW + KEPT_MS), "cmd_2")
    await store.run(idempotency.forget, NOW + KEPT_MS)
    assert await store.run(kept) == 6
    await store.run(idempotency.forget, NOW + KEPT_MS + 1)
    assert await store.run(kept) == 1


async def test_a_great_many_old_keys_hold_nobody_up(store, monkeypatch):
    monkeypatch.setattr(idempotency, "_FORGOTTEN", 2)
    for number in range(5):
        await store.run(claim, once(key=f"old-{number}", now_ms=NOW + number), "cmd_1")
    left = []
    for _ in range(4):
        await store.run(idempotency.forget, NOW + KEPT_MS + 4)
        left.append(await store.run(kept))
    assert left == [3, 1, 1, 1]


async def test_a_key_and_a_token_are_made_once(store):
    for noun, make in ((api_keys, api_key), (enrolments, enrolment)):
        request = once(key=noun.__name__)
        first, second = make(), make()
        made = await store.run(noun.insert, first, f"{noun.__name__}-1", request)
        again = await store.run(noun.insert, second, f"{noun.__name__}-2", request)
        assert made == again
        assert again.made_id == first.id
        assert (await store.run(noun.get, REACH, first.id)).id == first.id
        with pytest.raises(NotFound):
            await store.run(noun.get, REACH, second.id)
        with pytest.raises(NotFound):
            await store.run(noun.get, Reach("ws_other"), first.id)


def test_the_secret_needs_the_callers_key_and_the_salt_and_is_shown_nowhere():
    request = once(caller_key="cmdop_apikey_secret")
    assert request.secret(b"s" * 32) == once(caller_key="cmdop_apikey_secret").secret(b"s" * 32)
    others = {request.secret(b"t" * 32), once(caller_key="cmdop_apikey_other").secret(b"s" * 32)}
    assert len(others | {request.secret(b"s" * 32)}) == 3
    assert "cmdop_apikey_secret" not in repr(request)
    assert idempotency.Claim.__struct_fields__ == ("made_id", "salt", "created_ms")
