"""What becomes of firings whose time passed unseen: outages, and clocks that leap."""

import pytest

from cmdop_appliance.clock import rfc3339
from cmdop_appliance.scheduler import editing, firing
from cmdop_appliance.store import firings, restored, schedules
from tests.support.stage import BEGIN, DAY, HOUR, MINUTE, shown


@pytest.mark.parametrize(
    ("misfire", "window_ms", "expected"),
    [
        ("run_once", DAY, [("01:00", "missed", "newer_firing"), ("02:00", "missed", "newer_firing"),
                           ("03:00", "started", None)]),
        ("skip", DAY, [("01:00", "missed", "misfire_skip"), ("02:00", "missed", "misfire_skip"),
                       ("03:00", "missed", "misfire_skip")]),
        ("run_once", 10 * MINUTE, [("01:00", "missed", "too_late"), ("02:00", "missed", "too_late"),
                                   ("03:00", "missed", "too_late")]),
    ],
)  # fmt: skip
async def test_three_firings_during_an_outage(stage, misfire, window_ms, expected):
    machine = await stage.machine()
    schedule = await stage.schedule(
        machine.id, cron="0 * * * *", misfire=misfire, misfire_window_ms=window_ms
    )
    await stage.at(BEGIN + 3 * HOUR + 20 * MINUTE)
    assert shown(await stage.rows(schedule)) == expected
    assert len(await stage.commands(schedule)) == (expected[-1][1] == "started")
    missed = [reason for _, status, reason in expected if status == "missed"]
    assert await stage.told(schedule) == [("schedule.missed", missed[-1])]


async def test_what_was_due_before_the_hub_was_restored_runs_for_nobody(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, cron="0 * * * *", misfire="run_once")
    restored_ms = BEGIN + 2 * HOUR + MINUTE
    await stage.hub.store.run(restored.mark, BEGIN, restored_ms, "0.1.0")
    await stage.at(restored_ms + MINUTE)
    unsure = [("01:00", "missed", "hub_restored"), ("02:00", "missed", "hub_restored")]
    assert shown(await stage.rows(schedule)) == unsure
    assert await stage.told(schedule) == [("schedule.missed", "hub_restored")]
    assert await stage.commands(schedule) == []
    await stage.at(BEGIN + 4 * HOUR + MINUTE)  # an outage after it is like any other
    later = [("03:00", "missed", "newer_firing"), ("04:00", "started", None)]
    assert shown(await stage.rows(schedule)) == [*unsure, *later]


async def test_a_firing_that_is_a_moment_late_runs_whatever_the_policy(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, misfire="skip")
    await stage.at(BEGIN + 30_000 + firing.IN_TIME_MS)
    assert shown(await stage.rows(schedule)) == [("00:01", "started", None)]


async def test_of_101_firings_that_were_missed_one_runs_and_each_has_its_row(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id)
    await stage.at(BEGIN + 101 * MINUTE)
    runs = await stage.rows(schedule)
    assert [run.status for run in runs] == ["missed"] * 100 + ["started"]
    assert {run.first_ms for run in runs} == {None}
    await stage.at(stage.now + MINUTE)
    assert len(await stage.rows(schedule)) == 102  # it goes on


async def test_more_than_are_listed_stand_in_one_row(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id)
    await stage.at(BEGIN + 3000 * MINUTE)
    runs = await stage.rows(schedule)
    assert len(runs) == firing.MISSED_MOST + 1
    assert runs[0].first_ms == BEGIN + 30_000
    assert runs[0].scheduled_ms == BEGIN - 30_000 + 2000 * MINUTE
    assert [run.first_ms for run in runs[1:]] == [None] * firing.MISSED_MOST
    assert runs[-1].status == "started"
    (event,) = await stage.events(schedule)
    told = {name: event.data[name] for name in ("missed", "since", "has_more")}
    assert told == {"missed": 1000, "since": rfc3339(BEGIN + 30_000), "has_more": True}


async def test_a_few_that_were_missed_are_all_told_of(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id)
    await stage.at(BEGIN + 4 * MINUTE)
    (event,) = await stage.events(schedule)
    told = {name: event.data[name] for name in ("missed", "since", "has_more")}
    assert told == {"missed": 3, "since": rfc3339(BEGIN + 30_000), "has_more": False}


async def test_a_minutely_rule_that_missed_half_a_century_is_decided_at_once(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id)
    await stage.at(BEGIN + 50 * 365 * DAY)
    assert (await stage.rows(schedule))[-1].status == "started"


async def test_a_clock_two_hours_ahead_and_set_back_fires_no_instant_twice(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id)
    await stage.until(BEGIN + 5 * MINUTE)
    await stage.at(stage.now + 2 * HOUR)
    ahead = shown(await stage.rows(schedule))
    await stage.at(stage.now - 2 * HOUR)
    assert shown(await stage.rows(schedule)) == ahead
    await stage.until(BEGIN + 3 * HOUR)
    runs = await stage.rows(schedule)
    assert [run.scheduled_ms for run in runs] == [
        BEGIN - 30_000 + minute * MINUTE for minute in range(1, 181)
    ]


async def test_a_clock_set_back_by_more_than_three_hours_goes_on_from_there(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, cron="0 * * * *", overlap="allow")
    await stage.at(BEGIN + 5 * HOUR)  # 01:00 to 04:00 are missed, 05:00 ran
    await stage.at(BEGIN + MINUTE)
    assert {run.is_ahead for run in await stage.rows(schedule)} == {True}
    assert (await stage.find(schedule)).next_ms == BEGIN - 30_000 + HOUR
    for hour in range(1, 7):
        await stage.at(BEGIN + hour * HOUR)
    fired = [run for run in await stage.rows(schedule) if run.status == "started"]
    # Each once: what had run does not run again, and what had been missed runs in its time.
    assert [time for time, _, _ in shown(fired)] == [f"0{hour}:00" for hour in range(1, 7)]


async def test_whatever_is_ahead_is_set_right_bit_by_bit(stage, monkeypatch):
    monkeypatch.setattr(firing, "_SET_RIGHT_MOST", 1)
    machine = await stage.machine()
    made = [await stage.schedule(machine.id, name=f"{number}") for number in range(3)]
    await stage.at(BEGIN + 5 * HOUR)
    await stage.at(BEGIN)
    for schedule in made:
        assert (await stage.find(schedule)).next_ms == BEGIN + 30_000
        assert {run.is_ahead for run in await stage.rows(schedule)} == {True}


async def test_a_schedule_made_by_a_clock_that_was_ahead_fires_when_that_is_right(stage):
    machine = await stage.machine()
    stage.clock.ms += 5 * HOUR
    schedule = await stage.schedule(machine.id)
    await stage.at(BEGIN)
    await stage.at(BEGIN + 30_000)
    assert shown(await stage.rows(schedule)) == [("00:01", "started", None)]


async def test_a_clock_that_was_in_2098_and_comes_back_leaves_no_silence(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, overlap="allow")
    await stage.at(BEGIN + 72 * 365 * DAY)
    await stage.at(BEGIN)
    await stage.until(BEGIN + 3 * MINUTE)
    runs = [run for run in await stage.rows(schedule) if not run.is_ahead]
    assert [time for time, status, _ in shown(runs) if status == "started"] == [
        "00:01",
        "00:02",
        "00:03",
    ]


async def test_a_clock_before_this_version_pauses_and_says_so(stage, caplog):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, cron="0 * * * *")
    await stage.at(0)
    await stage.at(HOUR)
    assert await stage.rows(schedule) == []
    assert firing.paused(0) is not None
    assert caplog.text.count("schedules are paused") == 1
    await stage.at(BEGIN + 2 * HOUR)
    assert caplog.text.count("schedules go on") == 1
    assert shown(await stage.rows(schedule)) == [
        ("01:00", "missed", "newer_firing"),
        ("02:00", "started", None),
    ]


async def test_a_schedule_made_by_such_a_clock_does_not_run_when_it_is_set(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id)
    made = editing.decided(schedule, HOUR)
    await stage.hub.store.run(schedules.update, schedule, made)
    await stage.at(BEGIN)
    assert await stage.rows(schedule) == []
    assert (await stage.find(schedule)).next_ms == BEGIN + 30_000


async def test_a_newer_version_fires_what_an_older_one_has_decided(stage, monkeypatch):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, cron="0 1 * * *")
    monkeypatch.setattr(firing, "RELEASED_MS", BEGIN + 30 * MINUTE)
    await stage.at(BEGIN + HOUR)
    assert shown(await stage.rows(schedule)) == [("01:00", "started", None)]


@pytest.mark.parametrize("overlap", ["skip", "allow"])
async def test_a_clock_that_was_back_for_a_moment_decides_nothing_again(stage, overlap):
    machine, other = await stage.machine(), await stage.machine()
    stage.clock.ms = BEGIN - 30_000  # midnight: it was made just when it would have fired
    schedule = await stage.schedule(machine.id, other.id, cron="0 * * * *", overlap=overlap)
    for hour in range(1, 5):  # of what is not allowed, all but the first is skipped
        await stage.at(BEGIN + hour * HOUR)
    before = await stage.commands(schedule)
    await stage.at(BEGIN - 8 * HOUR)
    await stage.at(BEGIN + 4 * HOUR + MINUTE)
    assert await stage.commands(schedule) == before
    assert min(run.scheduled_ms for run in await stage.rows(schedule)) > BEGIN
    await stage.at(BEGIN + 5 * HOUR)
    assert (await stage.rows(schedule))[-1].claim_ms == BEGIN - 30_000 + 5 * HOUR


async def test_what_was_missed_ahead_of_time_runs_in_time_also_when_it_was_paused(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, cron="0 * * * *", overlap="allow")
    await stage.at(BEGIN + 5 * HOUR)
    paused = await stage.edit(schedule, is_enabled=False)
    stage.clock.ms = BEGIN
    await stage.edit(paused, is_enabled=True)
    await stage.at(BEGIN + HOUR)
    ran = [run for run in await stage.rows(schedule) if run.status == "started"]
    assert [time for time, _, _ in shown(ran)] == ["01:00", "05:00"]


async def test_what_one_schedule_ran_ahead_of_time_claims_nothing_of_another(stage):
    machine = await stage.machine()
    ran = await stage.schedule(machine.id, cron="0 * * * *", overlap="allow")
    missed = await stage.schedule(machine.id, cron="0 * * * *", overlap="allow", misfire="skip")
    await stage.at(BEGIN + 5 * HOUR + MINUTE)
    await stage.at(BEGIN)
    await stage.at(BEGIN + 5 * HOUR)
    for schedule in (ran, missed):
        assert [command.created_ms for command in await stage.commands(schedule)] == [
            BEGIN + 5 * HOUR + (MINUTE if schedule is ran else 0)
        ]


async def test_a_laptop_that_was_asleep_fires_the_newest_once(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, cron="*/15 * * * *")
    await stage.at(BEGIN + 16 * MINUTE)
    await stage.at(BEGIN + 8 * HOUR)
    runs = await stage.rows(schedule)
    started = [time for time, status, _ in shown(runs) if status == "started"]
    assert started[:1] == ["00:15"]
    assert len(runs) == 32


async def test_newer_zones_move_what_is_next_without_firing(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, cron="0 3 * * *")
    await stage.hub.store.run(firings.decide, [(schedule.id, BEGIN + 1)], BEGIN)
    await stage.hub.store.run(firings.move, await stage.hub.store.run(firing.moved))
    assert (await stage.find(schedule)).next_ms == schedule.next_ms
    assert await stage.rows(schedule) == []


async def test_what_was_decided_meanwhile_newer_zones_leave_alone(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id, cron="0 3 * * *")
    run = stage.hub.store.run
    await run(firings.decide, [(schedule.id, BEGIN + 1)], BEGIN)
    moved = await run(firing.moved)
    await run(firings.decide, [(schedule.id, BEGIN + 2)], BEGIN)
    await run(firings.move, moved)
    assert (await stage.find(schedule)).next_ms == BEGIN + 2


async def test_a_rule_of_a_zone_that_is_no_more_is_disabled_with_its_reason(stage):
    machine = await stage.machine()
    schedule = await stage.schedule(machine.id)
    broken = await stage.schedule(machine.id, name="broken", cron="61 * * * *", next_ms=BEGIN + 1)
    await stage.at(BEGIN + MINUTE)
    assert [status for _, status, _ in shown(await stage.rows(schedule))] == ["started"]
    assert [reason for _, _, reason in shown(await stage.rows(broken))] == ["invalid_rule"]
    assert not (await stage.find(broken)).is_enabled
    assert await stage.told(broken) == [("schedule.skipped", "invalid_rule")]
