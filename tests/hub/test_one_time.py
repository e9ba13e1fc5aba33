"""Secrets that are good once: each for its while, and no more of them than there is room for."""

from dataclasses import replace

import trio
from trio.testing import MockClock

from cmdop_appliance.auth import new_secret
from cmdop_appliance.hub.one_time import OneTimeSecrets
from tests.support.live_hub import CALLER

OTHER = replace(CALLER, key_id="key_2")


def put(secrets: OneTimeSecrets[str], caller=CALLER, for_ms: int = 30_000) -> str:
    secret = new_secret().hex()
    secrets.put(secret, caller, "what", for_ms)
    return secret


async def test_a_secret_is_taken_once():
    secrets = OneTimeSecrets()
    secret = put(secrets)
    assert secrets.take(secret) == (CALLER, "what")
    assert secrets.take(secret) is None


async def test_a_secret_is_not_kept():
    secrets = OneTimeSecrets()
    assert put(secrets) not in repr(secrets._open)


async def test_a_secret_is_good_for_its_while(autojump_clock: MockClock):
    secrets = OneTimeSecrets()
    in_time, late = put(secrets), put(secrets)
    await trio.sleep(29.9)
    assert secrets.take(in_time)
    await trio.sleep(0.1)
    assert secrets.take(late) is None


async def test_of_too_many_the_oldest_of_the_same_key_goes():
    secrets = OneTimeSecrets()
    theirs = put(secrets, OTHER)
    ours = [put(secrets) for _ in range(1000)]
    assert len(secrets) == 1000
    assert secrets.take(theirs)
    assert secrets.take(ours[0]) is None
    assert secrets.take(ours[1])


async def test_one_key_leaves_room_for_another():
    secrets = OneTimeSecrets()
    theirs = [put(secrets) for _ in range(1000)]
    assert secrets.take(put(secrets, OTHER))
    assert secrets.take(theirs[0]) is None


async def test_what_is_too_old_makes_room_first(autojump_clock: MockClock):
    secrets = OneTimeSecrets()
    put(secrets)
    await trio.sleep(31)
    put(secrets)
    assert len(secrets) == 1
