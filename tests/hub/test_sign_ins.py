"""Sign-ins: a browser is its key, for as long as it is used, and no longer than the key is good."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.auth import Caller, new_key, new_link, new_secret, secret_hash
from cmdop_appliance.config import AuthConfig
from cmdop_appliance.errors import RateLimited, Unauthorized
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.store import api_keys, audit, sign_ins
from cmdop_appliance.store.listing import Paging
from tests.support.live_hub import live_hub
from tests.support.records import REACH, WORKSPACE, api_key

HERE, ELSEWHERE = "192.0.2.7", "2001:db8::1"
HOUR_S = 3600
AUTH = AuthConfig(attempts=3, sign_in_idle_ms=12 * 3_600_000, sign_in_ms=30 * 24 * 3_600_000)


class Keys:
    """A hub, and keys of it."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.clock = hub.clock

    async def new(self, **fields) -> tuple[str, Caller]:
        """A new key, and who shows it."""
        secret = new_key()
        await self.hub.store.run(api_keys.insert, api_key(**fields), secret_hash(secret))
        return secret, await self.hub.callers.identify(f"Bearer {secret}", HERE)

    def link(self, caller: Caller, for_ms: int = 600_000) -> str:
        link = new_link(new_secret())
        self.hub.sign_ins.put_link(caller, link, for_ms)
        return link

    async def cookie(self, caller: Caller, instead_of: str | None = None) -> str:
        """That of a new browser."""
        _, cookie = await self.hub.sign_ins.begin(caller, HERE, "Firefox", instead_of)
        return cookie

    async def identify(self, cookie: str, address: str = HERE) -> Caller:
        return await self.hub.callers.identify_cookie(cookie, address)

    async def is_good(self, cookie: str) -> bool:
        self.hub.callers.forget()
        try:
            await self.identify(cookie)
        except Unauthorized:
            return False
        return True


@pytest.fixture
async def keys(tmp_path):
    async with live_hub(tmp_path, auth=AUTH) as live:
        keys = Keys(live.hub)
        await keys.new()  # the last admin's key cannot be revoked
        yield keys


# ── the cookie ───────────────────────────────────────────────────────────────────────────────────


async def test_a_browser_is_its_key(keys):
    expires_ms = keys.clock.now_ms() + HOUR_S * 1000
    _, caller = await keys.new(scopes=["machines:read"], tags=["a"], expires_ms=expires_ms)
    sign_in, cookie = await keys.hub.sign_ins.begin(caller, HERE, "Firefox", None)
    found = await keys.identify(cookie)
    assert found.sign_in_id == sign_in.id
    assert replace(found, sign_in_id=None, sign_in_until_ms=None) == caller
    assert found.until_ms == caller.until_ms


async def test_a_cookie_is_new_each_time_and_not_kept(keys):
    _, caller = await keys.new()
    cookies = {await keys.cookie(caller) for _ in range(3)}
    assert len(cookies) == 3
    dump = await keys.hub.store.run(lambda tx: repr(list(tx._connection.execute(EVERYTHING))))
    assert "Firefox" in dump
    assert not [cookie for cookie in cookies if cookie in dump]


EVERYTHING = "SELECT * FROM sign_in LEFT JOIN audit"


async def test_a_cookie_that_is_none_is_nobody(keys):
    _, caller = await keys.new()
    cookie = await keys.cookie(caller)
    key_hash = secret_hash(cookie)
    for wrong in ("", "ü", cookie[:-1], key_hash, new_key()):
        assert not await keys.is_good(wrong)


async def test_a_browser_that_nobody_uses_is_signed_out(keys, autojump_clock: MockClock):
    _, caller = await keys.new()
    cookie = await keys.cookie(caller)
    await trio.sleep(12 * HOUR_S - 0.1)
    assert await keys.is_good(cookie)
    await trio.sleep(0.1)
    assert not await keys.is_good(cookie)


async def test_a_browser_stays_signed_in_while_it_asks_but_not_for_ever(
    keys, autojump_clock: MockClock
):
    _, caller = await keys.new()
    cookie = await keys.cookie(caller)
    for _ in range(65):  # 32 d and a half, of which the last are too many
        await trio.sleep(11 * HOUR_S)
        assert await keys.is_good(cookie)
        await keys.hub.callers.save_uses()
    await trio.sleep(5 * HOUR_S - 0.1)
    assert await keys.is_good(cookie)
    await trio.sleep(0.1)
    assert not await keys.is_good(cookie)


async def test_a_browser_in_use_stays_signed_in_where_the_idle_time_is_short(
    tmp_path, autojump_clock: MockClock
):
    async with live_hub(tmp_path, auth=AuthConfig(sign_in_idle_ms=60_000)) as live:
        keys = Keys(live.hub)
        _, caller = await keys.new()
        cookie = await keys.cookie(caller)
        for _ in range(20):
            await trio.sleep(50)
            assert await keys.is_good(cookie)
            await keys.hub.callers.save_uses()


async def test_what_a_browser_has_open_is_a_use_of_it(keys, autojump_clock: MockClock):
    _, caller = await keys.new()
    cookie = await keys.cookie(caller)
    found = await keys.identify(cookie)
    for _ in range(3):
        await trio.sleep(11 * HOUR_S)
        await keys.hub.callers.require_still_good(found)
        await keys.hub.callers.save_uses()
    (seen,) = (await keys.hub.store.run(sign_ins.page, REACH, Paging())).items
    assert (seen.last_seen_ms, seen.ip) == (keys.clock.now_ms(), HERE)


@pytest.mark.parametrize("is_in_use", [False, True])
async def test_a_browser_is_signed_out_when_its_key_expires(
    keys, autojump_clock: MockClock, is_in_use
):
    _, caller = await keys.new(expires_ms=keys.clock.now_ms() + 60_000)
    cookie = await keys.cookie(caller)
    found = await keys.identify(cookie)
    if is_in_use:
        await trio.sleep(59.9)
        await keys.identify(cookie)
    await trio.sleep(0.1 if is_in_use else 60)
    with pytest.raises(Unauthorized):
        await keys.identify(cookie)
    with pytest.raises(Unauthorized):
        await keys.hub.callers.require_still_good(found)


async def revoke(keys: Keys, caller: Caller, _: Caller) -> None:
    await keys.hub.store.run(api_keys.delete, REACH, caller.key_id)


async def sign_out(keys: Keys, _: Caller, found: Caller) -> None:
    await keys.hub.store.run(sign_ins.delete, REACH, found.sign_in_id)


@pytest.mark.parametrize("end", [revoke, sign_out])
async def test_a_browser_ends_within_a_second_with_its_sign_in_or_its_key(
    keys, autojump_clock: MockClock, end
):
    _, caller = await keys.new()
    cookie = await keys.cookie(caller)
    found = await keys.identify(cookie)
    await keys.hub.callers.require_still_good(found)
    with keys.hub.bus.subscribe(api_keys.subject_of(caller.key_id)) as news:
        await end(keys, caller, found)
        await news.next()  # whoever has something open is woken
    with pytest.raises(Unauthorized):
        await keys.hub.callers.require_still_good(found)
    await trio.sleep(1)
    with pytest.raises(Unauthorized):
        await keys.identify(cookie)


async def test_the_key_of_a_browser_that_signed_out_is_as_good_as_before(keys):
    secret, caller = await keys.new()
    found = await keys.identify(await keys.cookie(caller))
    await sign_out(keys, caller, found)
    keys.hub.callers.forget()
    await keys.hub.callers.identify(f"Bearer {secret}", HERE)
    await keys.hub.callers.require_still_good(caller)


async def test_a_browser_in_use_is_not_looked_up_for_every_request(keys):
    _, caller = await keys.new()
    cookie = await keys.cookie(caller)
    seen = []
    keys.hub.store._writer.exec_trace = lambda _, sql, __: bool(seen.append(sql)) or True
    for _ in range(10):
        await keys.identify(cookie)
    assert len([sql for sql in seen if "FROM sign_in" in sql]) == 1


async def test_cookies_that_are_none_lock_nobody_out(keys):
    """A page goes on asking when its sign-in has ended."""
    secret, _ = await keys.new()
    for _ in range(2 * AUTH.attempts):
        with pytest.raises(Unauthorized):
            await keys.identify("gone", ELSEWHERE)
    await keys.hub.callers.identify(f"Bearer {secret}", ELSEWHERE)


async def test_in_a_lockout_a_browser_that_was_in_use_there_works_on(keys):
    _, caller = await keys.new()
    used, unused = await keys.cookie(caller), await keys.cookie(caller)
    await keys.identify(used)
    await guess_keys(keys)
    await keys.identify(used)
    with pytest.raises(RateLimited):
        await keys.identify(unused)
    await keys.identify(unused, ELSEWHERE)


async def guess_keys(keys: Keys) -> None:
    for _ in range(AUTH.attempts):
        with pytest.raises(Unauthorized):
            await keys.hub.callers.identify(f"Bearer {new_key()}", HERE)


# ── beginning ────────────────────────────────────────────────────────────────────────────────────


async def test_what_a_browser_says_of_itself_is_cut(keys):
    _, caller = await keys.new()
    sign_in, _ = await keys.hub.sign_ins.begin(caller, HERE, "x" * 10_000, None)
    assert sign_in.user_agent == "x" * 256


async def test_a_browser_that_signs_in_again_is_signed_out_before(keys):
    _, caller = await keys.new()
    first = await keys.cookie(caller)
    before = (await keys.identify(first)).sign_in_id
    second = await keys.cookie(caller, before)
    assert not await keys.is_good(first)
    found = await keys.identify(second)
    page = await keys.hub.store.run(audit.page, WORKSPACE, Paging(), target=found.sign_in_id)
    (entry,) = page.items
    assert (entry.action, entry.details) == ("sign_in.created", {"instead_of": before})


async def test_a_key_that_was_revoked_meanwhile_signs_nobody_in(keys):
    _, caller = await keys.new()
    await keys.hub.store.run(api_keys.delete, REACH, caller.key_id)
    with pytest.raises(Unauthorized):
        await keys.cookie(caller)
    page = await keys.hub.store.run(audit.page, WORKSPACE, Paging(), action="sign_in.created")
    assert page.total == 0


async def test_no_token_is_taken_for_a_key(keys):
    secret, _ = await keys.new()
    token = (await keys.hub.callers.issue_token(secret, HERE)).token
    for shown in (token, "", f"{secret} x", f"{secret}:default"):
        with pytest.raises(Unauthorized):
            await keys.hub.callers.identify_key(shown, ELSEWHERE)
        keys.hub.callers._lockout._wrong.clear()


# ── links ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_link_is_good_once_for_its_key(keys):
    _, caller = await keys.new()
    link = keys.link(caller)
    assert await keys.hub.sign_ins.redeem(link, ELSEWHERE) == caller
    with pytest.raises(Unauthorized, match="link"):
        await keys.hub.sign_ins.redeem(link, ELSEWHERE)


async def test_of_two_at_once_one_has_the_link(keys):
    _, caller = await keys.new()
    link = keys.link(caller)
    ends = []

    async def redeem() -> None:
        try:
            ends.append(await keys.hub.sign_ins.redeem(link, ELSEWHERE))
        except Unauthorized:
            ends.append(None)

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(redeem)
    assert sorted(ends, key=str) == sorted([caller, None], key=str)


async def test_a_link_is_good_for_10_minutes(keys, autojump_clock: MockClock):
    _, caller = await keys.new()
    in_time, late = keys.link(caller), keys.link(caller)
    await trio.sleep(599.9)
    await keys.hub.sign_ins.redeem(in_time, ELSEWHERE)
    await trio.sleep(0.1)
    with pytest.raises(Unauthorized):
        await keys.hub.sign_ins.redeem(late, ELSEWHERE)


async def test_a_link_ends_with_its_key(keys):
    _, caller = await keys.new()
    link = keys.link(caller)
    await keys.hub.store.run(api_keys.delete, REACH, caller.key_id)
    with pytest.raises(Unauthorized):
        await keys.hub.sign_ins.redeem(link, ELSEWHERE)


async def test_a_link_by_a_browser_ends_with_its_sign_in(keys):
    _, caller = await keys.new()
    found = await keys.identify(await keys.cookie(caller))
    link = keys.link(found)
    await sign_out(keys, caller, found)
    with pytest.raises(Unauthorized):
        await keys.hub.sign_ins.redeem(link, ELSEWHERE)


async def test_a_browser_signs_in_no_other_for_longer_than_itself(keys, autojump_clock: MockClock):
    _, caller = await keys.new()
    first = await keys.identify(await keys.cookie(caller))
    await trio.sleep(HOUR_S)
    link = keys.link(first)
    redeemed = await keys.hub.sign_ins.redeem(link, ELSEWHERE)
    second, _ = await keys.hub.sign_ins.begin(redeemed, ELSEWHERE, "", None)
    assert second.expires_ms == first.sign_in_until_ms


async def test_wrong_links_count_as_wrong_keys(keys):
    _, caller = await keys.new()
    link = keys.link(caller)
    for _ in range(AUTH.attempts):
        with pytest.raises(Unauthorized):
            await keys.hub.sign_ins.redeem("cmdop_link_x", ELSEWHERE)
    with pytest.raises(RateLimited):
        await keys.hub.sign_ins.redeem(link, ELSEWHERE)
    await keys.hub.sign_ins.redeem(link, HERE)  # it was not used up
