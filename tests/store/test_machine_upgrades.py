"""Whose turn it is to be upgraded: one machine, then a wave, as long as the release is good."""

import msgspec
import pytest

from cmdop_appliance.errors import UpgradeNotFound
from cmdop_appliance.model import Machine, MachineUpgrade
from cmdop_appliance.store import machine_upgrades, machines, sessions, upgrades
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.listing import Paging
from tests.support.records import FACTS, NOW, REACH, joined, upgrade

ALL = Paging(limit=100, sort="wave")


class Fleet:
    """Machines that are online, and an upgrade for them."""

    def __init__(self, store: Store, max_failures: int = 0, percent: int = 50) -> None:
        self.store = store
        self.machines: list[Machine] = []
        self.upgrade = upgrade()
        self._bounds = {"percent": percent, "max_failures": max_failures, "now_ms": NOW}

    async def grow(self, *versions: str) -> "Fleet":
        for version in versions:
            machine = await joined(self.store)
            facts = msgspec.structs.replace(FACTS, agent_version=version)
            session = await self.store.run(
                sessions.connect, machine, facts=facts, ip="::1", now_ms=NOW
            )
            assert session is not None
            await self.store.run(sessions.ready, *session, NOW)
            self.machines.append(machine)
        return self

    async def begin(self) -> "Fleet":
        await self.store.run(upgrades.insert, self.upgrade)
        return self

    async def wave(self) -> list[str]:
        """The names of those whose turn it is now."""
        await self.store.run(machine_upgrades.enter, self.upgrade, NOW)
        begun = await self.store.run(machine_upgrades.begin_wave, self.upgrade, **self._bounds)
        return list(begun)

    async def tell(self, state: str, *machine_ids: str) -> None:
        for machine_id in machine_ids:
            await self.store.run(
                machine_upgrades.record,
                self.upgrade.id,
                machine_id,
                state,
                code=None,
                reason=None,
                now_ms=NOW,
            )

    async def set_online(self, machine: Machine, *, is_online: bool) -> None:
        await self.store.run(machines.set_online, machine.id, is_online=is_online)

    async def rows(self) -> dict[str, MachineUpgrade]:
        page = await self.store.run(machine_upgrades.page, self.upgrade.id, ALL)
        return {row.machine_id: row for row in page.items}

    async def status(self) -> str:
        return (await self.store.run(upgrades.get, self.upgrade.id)).status


@pytest.fixture
async def fleet(store):
    return await (await Fleet(store).grow(*5 * ["0.1.0"])).begin()


async def test_one_machine_is_first_then_a_part_of_all_at_a_time(fleet):
    first = await fleet.wave()
    assert len(first) == 1
    assert await fleet.wave() == []  # before it has shown anything
    await fleet.tell("starting", *first)
    assert await fleet.wave() == []
    await fleet.tell("healthy", *first)
    second = await fleet.wave()
    assert len(second) == 2
    await fleet.tell("healthy", second[0])
    assert await fleet.wave() == []  # not before all of it
    await fleet.tell("healthy", second[1])
    third = await fleet.wave()
    assert sorted(first + second + third) == sorted(machine.id for machine in fleet.machines)
    assert [row.wave for row in (await fleet.rows()).values()] == [1, 2, 2, 3, 3]
    await fleet.tell("healthy", *third)
    assert await fleet.status() == "machines"
    assert await fleet.wave() == []
    assert await fleet.status() == "completed"


@pytest.mark.parametrize("state", ["failed", "rolled_back"])
async def test_a_machine_that_fails_is_the_last(fleet, state):
    (first,) = await fleet.wave()
    await fleet.tell(state, first)
    assert await fleet.wave() == []
    assert await fleet.status() == "failed"
    reason = (await fleet.store.run(upgrades.get, fleet.upgrade.id)).reason
    assert reason == "1 of 5 machines could not be upgraded: no more are tried"
    await fleet.tell("healthy", first)  # it counts what comes of it, and changes nothing
    assert (await fleet.rows())[first].state == "healthy"
    assert await fleet.status() == "failed"


async def test_some_may_fail_and_others_refuse_but_one_goes_alone_until_one_is_healthy(store):
    fleet = await (await Fleet(store, max_failures=1).grow(*4 * ["0.1.0"])).begin()
    await fleet.tell("refused", *(await fleet.wave()))
    await fleet.tell("failed", *(await fleet.wave()))
    third = await fleet.wave()
    assert len(third) == 1
    await fleet.tell("healthy", *third)
    await fleet.tell("healthy", *(await fleet.wave()))
    assert await fleet.wave() == []
    assert await fleet.status() == "completed"
    counts = await store.run(machine_upgrades.counts, fleet.upgrade.id)
    assert (counts.healthy, counts.failed, counts.refused, counts.total) == (2, 1, 1, 4)


async def test_who_runs_it_already_has_shown_nothing(store):
    fleet = await (await Fleet(store).grow(upgrade().version, "0.1.0", "0.1.0")).begin()
    first = await fleet.wave()
    assert len(first) == 1
    assert fleet.machines[0].id not in first
    row = (await fleet.rows())[fleet.machines[0].id]
    assert (row.state, row.code, row.wave) == ("healthy", "already", 0)


async def test_machines_that_are_away_have_their_turn_when_they_are_back(fleet):
    for machine in fleet.machines[1:]:
        await fleet.set_online(machine, is_online=False)
    await fleet.tell("healthy", *(await fleet.wave()))
    assert await fleet.wave() == []
    assert await fleet.status() == "machines"
    await fleet.set_online(fleet.machines[3], is_online=True)
    assert await fleet.wave() == [fleet.machines[3].id]


async def test_a_machine_that_joins_meanwhile_gets_it_and_one_that_is_removed_does_not(fleet):
    await fleet.tell("healthy", *(await fleet.wave()))
    for machine in fleet.machines[1:]:
        await fleet.store.run(machines.remove, REACH, machine.id, NOW)
    await fleet.grow("0.1.0")
    assert await fleet.wave() == [fleet.machines[-1].id]
    assert set(await fleet.rows()) == {fleet.machines[0].id, fleet.machines[-1].id}


async def test_only_those_that_are_named_get_it(store):
    fleet = await Fleet(store).grow(*3 * ["0.1.0"])
    only = [fleet.machines[2].id]
    fleet.upgrade = upgrade(machine_ids=only)
    await fleet.begin()
    assert await fleet.wave() == only
    assert list(await fleet.rows()) == only


@pytest.mark.parametrize(("is_online", "code"), [(True, None), (False, "silent")])
async def test_a_machine_that_is_away_in_the_middle_has_failed_after_a_while(
    fleet, is_online, code
):
    (first,) = await fleet.wave()
    await fleet.tell("starting", first)
    machine = next(each for each in fleet.machines if each.id == first)
    await fleet.set_online(machine, is_online=is_online)
    await fleet.store.run(
        machine_upgrades.give_up, fleet.upgrade.id, away_before_ms=NOW + 1, stuck_before_ms=NOW
    )
    assert (await fleet.rows())[first].code == code


async def test_a_machine_that_gets_no_further_has_failed_after_a_longer_while(fleet):
    (first,) = await fleet.wave()
    await fleet.store.run(
        machine_upgrades.give_up, fleet.upgrade.id, away_before_ms=NOW, stuck_before_ms=NOW + 1
    )
    row = (await fleet.rows())[first]
    assert (row.state, row.code) == ("failed", "silent")


async def test_a_machine_that_goes_back_and_forth_gets_no_further(fleet):
    (first,) = await fleet.wave()
    for said, state in (
        ("starting", "starting"),
        ("downloading", "starting"),
        ("healthy", "healthy"),
        ("starting", "healthy"),
        ("downloading", "healthy"),
    ):
        await fleet.tell(said, first)
        assert (await fleet.rows())[first].state == state


async def test_a_machine_speaks_only_of_what_it_was_offered(fleet):
    (first,) = await fleet.wave()
    others = [machine.id for machine in fleet.machines if machine.id != first]
    await fleet.tell("healthy", *others)
    rows = await fleet.rows()
    assert {rows[machine_id].state for machine_id in others} == {"waiting"}
    assert rows[first].state == "offered"
    assert await fleet.store.run(machine_upgrades.offered, fleet.upgrade.id) == [first]


async def test_a_machine_is_asked_for_the_newest_that_it_was_offered(fleet):
    async def asked_for():
        return await fleet.store.run(machine_upgrades.under_way, first)

    (first,) = await fleet.wave()
    earlier = fleet.upgrade
    assert await asked_for() == earlier
    fleet.upgrade = upgrade()
    await fleet.begin()
    assert (await asked_for()).id == earlier.id  # of the other it has had no turn
    assert await fleet.wave() == [first]
    assert (await asked_for()).id == fleet.upgrade.id
    await fleet.tell("healthy", first)
    assert (await asked_for()).id == earlier.id


async def test_of_an_upgrade_that_is_none_there_is_no_page(store):
    with pytest.raises(UpgradeNotFound):
        await store.run(machine_upgrades.page, "upg_x", ALL)
