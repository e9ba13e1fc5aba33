"""What the agent keeps of its samples: all of a short outage, enough of a long one, each once."""

from itertools import pairwise

import msgspec
import pytest

from cmdop_appliance.agent.backlog import FULL_MS, ROLLED_MS, Backlog, boot_clock_ms
from cmdop_appliance.protocol.limits import SAMPLES_ITEMS, SAMPLES_KEPT_MS
from cmdop_appliance.protocol.messages import Peak, Sample
from tests.support.records import TELEMETRY

PACE_MS = 15_000
START_MS = 1_000 * ROLLED_MS  # of a boot clock


class Clock:
    def __init__(self) -> None:
        self.ms = START_MS

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backlog(clock) -> Backlog:
    return Backlog(clock)


def take(backlog: Backlog, clock: Clock, count: int, **load) -> None:
    """So many samples at the usual pace."""
    for _ in range(count):
        backlog.add(msgspec.structs.replace(TELEMETRY, **load))
        clock.ms += PACE_MS


def send_all(backlog: Backlog) -> list[Sample]:
    """What a hub gets that confirms everything."""
    got: list[Sample] = []
    while message := backlog.next():
        assert len(message.samples) <= SAMPLES_ITEMS
        got += message.samples
        backlog.confirm(got[-1].number)
    return got


def test_a_sample_is_offered_with_its_age_and_forgotten_once_it_is_confirmed(backlog, clock):
    backlog.add(TELEMETRY)
    clock.ms += 40
    message = backlog.next()
    assert message.samples == [Sample(number=1, age_ms=40, telemetry=TELEMETRY)]
    backlog.confirm(1)
    assert len(backlog) == 0
    assert backlog.next() is None


def test_one_message_is_under_way_at_a_time_and_is_offered_again_after_the_link(backlog, clock):
    take(backlog, clock, 1)
    first = backlog.next()
    take(backlog, clock, 1)
    assert backlog.next() is None
    backlog.break_off()
    again = backlog.next()
    assert [sample.number for sample in again.samples] == [1, 2]
    assert again.series == first.series
    assert again.samples[0].age_ms == first.samples[0].age_ms + PACE_MS


def test_what_was_confirmed_late_is_not_offered_again(backlog, clock):
    take(backlog, clock, 2)
    assert backlog.next()
    backlog.confirm(1)
    assert [sample.number for sample in backlog.next().samples] == [2]


def test_an_outage_of_an_hour_is_kept_sample_by_sample(backlog, clock):
    take(backlog, clock, FULL_MS // PACE_MS)
    got = send_all(backlog)
    assert [sample.number for sample in got] == list(range(1, 241))
    assert [sample.age_ms for sample in got] == list(range(FULL_MS, 0, -PACE_MS))
    assert {sample.count for sample in got} == {1}


def test_of_a_longer_outage_each_minute_is_one_sample_of_its_own(backlog, clock):
    hours = 5
    take(backlog, clock, hours * 240)
    got = send_all(backlog)
    assert sum(sample.count for sample in got) == hours * 240
    assert len(got) == (hours - 1) * 60 - 1 + 244  # the last whole minute is rolled up next
    taken = [clock.ms - sample.age_ms for sample in got]
    minutes = {at_ms // ROLLED_MS for at_ms in taken}
    assert minutes == set(range(START_MS // ROLLED_MS, clock.ms // ROLLED_MS))
    rolled = [at_ms for at_ms, sample in zip(taken, got, strict=True) if sample.count > 1]
    apart = {after - before for before, after in pairwise(rolled)}
    assert apart == {ROLLED_MS}  # wherever the hub's minutes begin, each gets one
    assert taken == sorted(taken)


def test_samples_that_become_one_are_their_mean_their_most_and_their_last_counters(backlog, clock):
    for cpu, received in ((10, 1), (90, 2), (20, 3), (40, 4)):
        take(backlog, clock, 1, cpu_percent=cpu, network_rx_bytes=received)
    clock.ms += FULL_MS
    take(backlog, clock, 1)
    rolled, _ = send_all(backlog)
    assert (rolled.number, rolled.count) == (4, 4)
    assert rolled.telemetry == msgspec.structs.replace(
        TELEMETRY, cpu_percent=40, network_rx_bytes=4
    )
    assert rolled.peak == Peak(cpu_percent=90, memory_percent=50, disk_percent=10)


def test_no_outage_costs_more_memory_than_two_days_of_samples(backlog, clock):
    take(backlog, clock, 3 * 24 * 240)
    most = FULL_MS // PACE_MS + 4 + (SAMPLES_KEPT_MS - FULL_MS) // ROLLED_MS
    assert most - 5 <= len(backlog) <= most
    got = send_all(backlog)
    assert max(sample.age_ms for sample in got) <= SAMPLES_KEPT_MS
    assert got[-1].number == 3 * 24 * 240


def test_what_the_hub_may_hold_already_is_never_made_one_with_others(backlog, clock):
    """Its confirmation was lost: the sum of a minute would count it again."""
    take(backlog, clock, 2)
    offered = backlog.next().samples
    backlog.break_off()
    take(backlog, clock, 2)
    clock.ms += FULL_MS
    take(backlog, clock, 1)
    message = backlog.next()
    assert [sample.number for sample in message.samples] == [1, 2, 4, 5]
    assert [sample.count for sample in message.samples] == [1, 1, 2, 1]
    assert [sample.telemetry for sample in message.samples[:2]] == [
        sample.telemetry for sample in offered
    ]


def test_each_life_of_the_agent_has_a_series_of_its_own(clock):
    one, two = Backlog(clock), Backlog(clock)
    for backlog in (one, two):
        backlog.add(TELEMETRY)
    assert one.next().series != two.next().series


def test_the_clock_of_an_age_runs_since_boot():
    with open("/proc/uptime") as file:  # noqa: PTH123
        uptime_ms = float(file.read().split()[0]) * 1000
    assert abs(boot_clock_ms() - uptime_ms) < 60_000
