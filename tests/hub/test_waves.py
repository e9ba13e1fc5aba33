"""A release on its way to machines: offered, told of, and led on by a hub that may die."""

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.config import UpgradeConfig
from cmdop_appliance.errors import StorageFull
from cmdop_appliance.hub.lifecycle import StaleConnection
from cmdop_appliance.hub.waves import Waves
from cmdop_appliance.model import MachineUpgrade
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.upgrades import Upgrade, Upgrading
from cmdop_appliance.store import machine_upgrades, sessions, upgrades
from cmdop_appliance.store.listing import Paging
from tests.support.live_hub import BOUND, Link, LiveHub, ScriptedAgent, live_hub
from tests.support.records import upgrade

OFFER = upgrade(version="2.0.0")


@pytest.fixture
async def led(live, nursery):
    """A hub that leads upgrades."""
    lead(live, nursery)
    return live


def lead(live: LiveHub, nursery: trio.Nursery) -> None:
    hub = live.hub
    nursery.start_soon(Waves(hub.store, hub.bus, hub.clock, UpgradeConfig(wave_percent=50)).run)


def able(live: LiveHub) -> ScriptedAgent:
    agent = ScriptedAgent(live)
    agent.features = ["upgrade"]
    return agent


async def rows(live: LiveHub) -> list[MachineUpgrade]:
    paging = Paging(limit=100, sort="wave")
    return list((await live.hub.store.run(machine_upgrades.page, OFFER.id, paging)).items)


async def until(live: LiveHub, *states: str) -> list[MachineUpgrade]:
    """The machines, once this is what has become of them."""
    with trio.fail_after(BOUND):
        while True:
            found = await rows(live)
            if [row.state for row in found] == list(states):
                return found
            await trio.sleep(0.01)
    raise AssertionError


async def offered(link: Link) -> Upgrade:
    message = await link.expect(Upgrade)
    assert (message.id, message.manifest, message.signature) == (
        OFFER.id,
        OFFER.manifest,
        OFFER.signature,
    )
    return message


async def test_a_machine_is_offered_it_and_what_it_tells_is_recorded(led):
    link = await able(led).join()
    await led.hub.store.run(upgrades.insert, OFFER)
    await offered(link)
    await link.say(Upgrading(id=OFFER.id, progress="downloading"))
    await until(led, "downloading")
    said = Upgrading(id=OFFER.id, progress="failed", code="no_space", message="full\x1b[2J")
    await link.say(said)
    (row,) = await until(led, "failed")
    assert (row.code, row.reason, row.wave) == ("no_space", "full\ufffd[2J", 1)


async def test_the_next_wave_begins_when_the_one_before_is_healthy(led):
    one, two = await able(led).join(), await able(led).join()
    await led.hub.store.run(upgrades.insert, OFFER)
    await offered(one)
    await until(led, "waiting", "offered")
    await one.say(Upgrading(id=OFFER.id, progress="healthy"))
    await offered(two)
    await two.say(Upgrading(id=OFFER.id, progress="healthy"))
    await until(led, "healthy", "healthy")


async def test_a_machine_that_comes_back_is_asked_again_until_it_has_told_the_end(led):
    agent = able(led)
    link = await agent.join()
    await led.hub.store.run(upgrades.insert, OFFER)
    await offered(link)
    await link.cut()
    link = await agent.connect()
    await offered(link)
    await link.say(Upgrading(id=OFFER.id, progress="rolled_back", code="exited"))
    await until(led, "rolled_back")
    await link.cut()
    link = await agent.connect()
    await link.heartbeat()  # and nothing before


async def test_a_hub_that_died_goes_on_with_the_wave_that_it_had_begun(tmp_path, nursery):
    async with live_hub(tmp_path) as live, trio.open_nursery() as leading:
        lead(live, leading)
        one, two = able(live), able(live)
        link = await one.join()
        await two.join()
        await live.hub.store.run(upgrades.insert, OFFER)
        await offered(link)
        leading.cancel_scope.cancel()
    async with live_hub(tmp_path) as live:
        lead(live, nursery)
        one._live = two._live = live
        one.hub = two.hub = live.hub
        first, second = await one.connect(), await two.connect()
        await offered(first)
        await first.say(Upgrading(id=OFFER.id, progress="healthy"))
        await offered(second)
        nursery.cancel_scope.cancel()


async def test_an_agent_of_an_early_release_is_told_nothing_and_shown_as_that(led):
    link = await ScriptedAgent(led).join()
    await led.hub.store.run(upgrades.insert, OFFER)
    (row,) = await until(led, "refused")
    assert row.code == "not_supported"
    assert "replace its program by hand" in (row.reason or "")
    await link.heartbeat()


@pytest.mark.parametrize("error", [StorageFull("the hub's disk is full"), StaleConnection()])
async def test_what_cannot_be_recorded_of_an_early_release_is_recorded_later(
    led, monkeypatch, autojump_clock: MockClock, error
):
    record = machine_upgrades.record

    def fail_once(*_args, **_fields) -> None:
        monkeypatch.setattr(machine_upgrades, "record", record)
        raise error

    link = await ScriptedAgent(led).join()
    monkeypatch.setattr(machine_upgrades, "record", fail_once)
    await led.hub.store.run(upgrades.insert, OFFER)
    await until(led, "refused")
    await link.heartbeat()  # it was never cut


async def test_what_a_connection_says_that_was_replaced_does_not_count(led):
    agent = able(led)
    link = await agent.join()
    await led.hub.store.run(upgrades.insert, OFFER)
    await offered(link)
    await led.hub.store.run(_next_epoch, (await agent.machine()).id)
    await link.say(Upgrading(id=OFFER.id, progress="healthy"))
    assert (await link.closed())[0] is Close.REPLACED
    assert [row.state for row in await rows(led)] == ["offered"]


def _next_epoch(tx, machine_id: str) -> None:
    tx.execute("UPDATE machine SET epoch = epoch + 1 WHERE id = :id", id=machine_id)


async def test_a_word_that_is_none_and_a_long_story_are_not_kept(led):
    link = await able(led).join()
    await led.hub.store.run(upgrades.insert, OFFER)
    await offered(link)
    await link.say(Upgrading(id=OFFER.id, progress="failed", code="<script>", message=4000 * "x"))
    (row,) = await until(led, "failed")
    assert (row.code, row.reason) == (None, 1000 * "x")


async def test_a_machine_that_stays_away_is_given_up_but_not_by_a_hub_that_was_away_itself(
    led, autojump_clock
):
    link, store = await able(led).join(), led.hub.store
    await store.run(upgrades.insert, OFFER)
    await offered(link)
    await link.cut()
    await store.run(sessions.end_expired, led.hub.clock.now_ms() + 60_000)
    await store.run(_long_ago)  # as it looks to a hub that was away
    await trio.sleep(590)
    assert [row.state for row in await rows(led)] == ["offered"]
    await trio.sleep(20)
    (row,) = await rows(led)
    assert (row.state, row.code) == ("failed", "silent")
    assert (await store.run(upgrades.get, OFFER.id)).status == "failed"


def _long_ago(tx) -> None:
    tx.execute("UPDATE machine_upgrade SET changed_ms = 0")
