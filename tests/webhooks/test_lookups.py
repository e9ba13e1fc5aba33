"""Looking names up: a resolver that hangs holds up nobody but its own host."""

import threading

import pytest
import trio
import trio.testing

from cmdop_appliance.store import webhooks
from cmdop_appliance.webhooks import lookups
from cmdop_appliance.webhooks.lookups import Lookups


class Resolver:
    """Blocks for hosts named slow-…, and knows all others."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.asked: list[bytes] = []
        self._entered = threading.Semaphore(0)

    def __call__(self, host: bytes, port: None, **_: object) -> list:
        self.asked.append(host)
        self._entered.release()
        if host.startswith(b"slow"):
            self.free.wait()
        return [(None, None, None, "", (address, 0)) for address in ("1.1.1.1", "1.1.1.1", "::2")]

    async def wait_until_asked(self, times: int) -> None:
        """Once more for each of these times."""
        with trio.fail_after(10):
            for _ in range(times):
                await trio.to_thread.run_sync(self._entered.acquire, abandon_on_cancel=True)


@pytest.fixture
def resolver():
    resolver = Resolver()
    yield resolver
    resolver.free.set()


async def test_the_system_knows_its_own_name():
    assert set(await Lookups()("localhost")) <= {"127.0.0.1", "::1"}


async def test_a_name_that_is_none_is_an_error():
    with pytest.raises(OSError):
        await Lookups()("a" * 64)  # no question can be made of it


async def test_each_address_is_there_once(resolver):
    assert await Lookups(resolver)("quick") == ["1.1.1.1", "::2"]


async def test_names_go_to_the_system_as_bytes_which_python_does_not_read_again(resolver):
    await Lookups(resolver)("xn--strae-oqa.de")
    assert resolver.asked == [b"xn--strae-oqa.de"]


async def test_a_host_that_hangs_has_two_threads_and_others_are_looked_up(resolver):
    lookups = Lookups(resolver)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(lookups, "slow")
        await resolver.wait_until_asked(2)
        with trio.fail_after(10):
            for _ in range(5):
                await lookups("quick")
        assert resolver.asked.count(b"slow") == 2
        nursery.cancel_scope.cancel()


async def test_the_hosts_of_a_whole_workspace_may_hang_and_others_are_looked_up(resolver):
    lookups = Lookups(resolver)
    async with trio.open_nursery() as nursery:
        for number in range(webhooks.MOST):
            for _ in range(2):
                nursery.start_soon(lookups, f"slow-{number}")
        await resolver.wait_until_asked(2 * webhooks.MOST)
        with trio.fail_after(10):
            await lookups("quick")
        nursery.cancel_scope.cancel()


async def test_a_thread_that_nobody_waits_for_any_more_still_counts(resolver):
    lookups = Lookups(resolver)
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lookups, "slow")
            await resolver.wait_until_asked(1)
            nursery.cancel_scope.cancel()
    with trio.move_on_after(0.02) as scope:
        await lookups("slow")
    assert scope.cancelled_caught
    assert len(resolver.asked) == 2

    resolver.free.set()
    with trio.fail_after(10):
        assert await lookups("slow")


async def test_all_hosts_together_have_a_bound_and_the_next_waits(resolver, monkeypatch):
    monkeypatch.setattr(lookups, "_LOOKUPS", 3)
    mine = Lookups(resolver)
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(mine, f"slow-{number}")
        await resolver.wait_until_asked(3)
        nursery.start_soon(mine, "quick")
        await trio.testing.wait_all_tasks_blocked()
        assert b"quick" not in resolver.asked
        resolver.free.set()
    assert resolver.asked[-1] == b"quick"


async def test_whoever_leaves_while_waiting_leaves_no_place_taken(resolver, monkeypatch):
    monkeypatch.setattr(lookups, "_LOOKUPS", 1)
    mine = Lookups(resolver)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mine, "slow")
        await resolver.wait_until_asked(1)
        async with trio.open_nursery() as leaving:
            for _ in range(5):
                leaving.start_soon(mine, "quick")
            await trio.testing.wait_all_tasks_blocked()
            places = mine._of_host["quick"]  # as somebody has them who waits on
            leaving.cancel_scope.cancel()
        resolver.free.set()
    with trio.fail_after(10):
        assert await mine("quick")
    assert mine._of_host["quick"] is places


async def test_nothing_is_kept_of_hosts_that_were_looked_up(resolver):
    mine = Lookups(resolver)
    for number in range(100):
        await mine(f"quick-{number}")
    assert len(mine._of_host) <= 1
