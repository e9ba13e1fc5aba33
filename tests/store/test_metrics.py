"""Metrics: a sample counts once, in its minute and later in its quarter, whatever comes twice."""

from collections.abc import Iterator
from dataclasses import dataclass

import apsw
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import MachineNotFound
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.limits import SAMPLES_IN_ONE, SAMPLES_KEPT_MS
from cmdop_appliance.protocol.messages import Peak, Sample, Samples
from cmdop_appliance.store import machines, metrics, migrate, sessions
from cmdop_appliance.store.metrics import MINUTE_MS, PIECE_ROWS, QUARTER_MS, QUARTERS_KEPT_MS, Point
from cmdop_appliance.store.transaction import Tx
from tests.support.records import FACTS, NOW, REACH, TELEMETRY, machine, samples

DAY_MS = 86_400_000
START = NOW - NOW % DAY_MS


class Place:
    """A store with one connected machine."""

    def __init__(self) -> None:
        self.connection = apsw.Connection(":memory:")
        self.tx = Tx(self.connection)
        migrate.to_latest(self.tx)
        self.machine = machine()
        machines.insert(self.tx, self.machine, new_id("enr"))
        self.session_id, self.epoch = sessions.connect(
            self.tx, self.machine, facts=FACTS, ip="::1", now_ms=START
        ) or ("", 0)
        assert sessions.ready(self.tx, self.session_id, self.epoch, START)

    def record(self, message: Samples, now_ms: int = START) -> bool:
        return metrics.record(self.tx, self.machine.id, self.epoch, message, now_ms)

    def points(self, from_ms: int = 0, until_ms: int = 2**53, step_ms: int = MINUTE_MS):
        return metrics.points(
            self.tx,
            REACH,
            self.machine.id,
            from_ms=from_ms,
            until_ms=until_ms,
            step_ms=step_ms,
        )

    def roll_up(self, now_ms: int) -> None:
        """All that is due."""
        changes = -1
        while changes != (changes := self.connection.total_changes()):
            metrics.roll_up(self.tx, now_ms)

    def rows(self, step_ms: int) -> int:
        return self.tx.value("SELECT count(*) FROM metric WHERE step_ms = :step", step=step_ms)


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.connection.close()


# ── the arithmetic, against a plain list ─────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Taken:
    """A sample as the machine took it."""

    at_ms: int
    sample: Sample
    traffic: tuple[int, int] | None  # since the one before


def expected(taken: list[Taken], step_ms: int) -> list[Point]:
    """What a list says: no store, no roll-up."""
    steps: dict[int, list[Taken]] = {}
    for each in taken:
        steps.setdefault(each.at_ms // step_ms * step_ms, []).append(each)
    return [_point(at_ms, group) for at_ms, group in sorted(steps.items())]


def _point(at_ms: int, group: list[Taken]) -> Point:
    fields: dict[str, float] = {}
    count = sum(each.sample.count for each in group)
    for name in Peak.__struct_fields__:
        peaks = [each.sample.peak or each.sample.telemetry for each in group]
        total = sum(getattr(each.sample.telemetry, name) * each.sample.count for each in group)
        fields[name] = pytest.approx(total / count, abs=0.01)
        fields[f"{name}_max"] = pytest.approx(max(getattr(peak, name) for peak in peaks), abs=0.01)
    known = [each.traffic for each in group if each.traffic is not None]
    rx, tx = (sum(way) for way in zip(*known, strict=True)) if known else (None, None)
    return Point(at_ms=at_ms, network_rx_bytes=rx, network_tx_bytes=tx, **fields)


PERCENT = st.floats(0, 100)
LOADS = st.builds(
    lambda cpu, memory, disk: {"cpu_percent": cpu, "memory_percent": memory, "disk_percent": disk},
    PERCENT,
    PERCENT,
    PERCENT,
)


@st.composite
def lives(draw) -> list[tuple[int, int, int, int, dict, int]]:
    """Samples one after another: (ms since the one before, bytes in, out, count, load, repeats)."""
    pause = st.sampled_from([15_000, 14_000, 60_000, 5 * 60_000, 301_000, 3_600_000, DAY_MS])
    traffic = st.integers(0, 10**9)
    return draw(
        st.lists(
            st.tuples(pause, traffic, traffic, st.sampled_from([1, 4]), LOADS, st.integers(0, 3)),
            min_size=1,
            max_size=60,
        )
    )


@settings(max_examples=40)
@given(lives())
def test_points_are_those_of_a_plain_list_whatever_is_sent_again_and_rolled_up(life):
    place = Place()
    now_ms, rx, tx = START, 1000, 1000
    taken: list[Taken] = []
    for number, (pause_ms, got, sent, count, load, repeats) in enumerate(life, 1):
        now_ms, rx, tx = now_ms + pause_ms, rx + got, tx + sent
        telemetry = msgspec.structs.replace(
            TELEMETRY,
            network_rx_bytes=rx,
            network_tx_bytes=tx,
            uptime_seconds=(now_ms - START) // 1000,
            **load,
        )
        sample = Sample(number=number, age_ms=0, telemetry=telemetry, count=count)
        traffic = (got, sent) if len(taken) and pause_ms <= 5 * MINUTE_MS else None
        taken.append(Taken(now_ms, sample, traffic))
        again = [
            msgspec.structs.replace(each.sample, age_ms=now_ms - each.at_ms)
            for each in taken[-1 - repeats :]
        ]
        assert place.record(Samples(series=b"s" * 16, samples=again), now_ms)
        metrics.roll_up(place.tx, now_ms)
    place.roll_up(now_ms)
    kept = [each for each in taken if each.at_ms > now_ms - QUARTERS_KEPT_MS + QUARTER_MS]
    from_ms = min(each.at_ms for each in kept)
    for step_ms in (QUARTER_MS, 4 * QUARTER_MS, DAY_MS):
        first = from_ms // step_ms * step_ms + step_ms  # the first whole one
        assert [p for p in place.points(step_ms=step_ms) if p.at_ms >= first] == [
            p for p in expected(kept, step_ms) if p.at_ms >= first
        ]
    young = now_ms - SAMPLES_KEPT_MS
    assert [p for p in place.points() if p.at_ms > young] == [
        p for p in expected(taken, MINUTE_MS) if p.at_ms > young
    ]
    place.connection.close()


def test_what_is_older_than_two_days_is_a_row_a_quarter_and_older_than_sixty_none(place):
    for number in range(60):
        place.record(samples(number), START + number * MINUTE_MS)
    end = START + 3_600_000
    place.roll_up(end + SAMPLES_KEPT_MS - 1_800_000)
    assert (place.rows(MINUTE_MS), place.rows(QUARTER_MS)) == (30, 2)
    place.roll_up(end + SAMPLES_KEPT_MS)
    assert (place.rows(MINUTE_MS), place.rows(QUARTER_MS)) == (0, 4)
    assert len(place.points(step_ms=QUARTER_MS)) == 4
    place.roll_up(START + QUARTERS_KEPT_MS)
    assert place.rows(QUARTER_MS) == 3
    place.roll_up(end + QUARTERS_KEPT_MS)
    assert place.rows(QUARTER_MS) == 0


def test_one_transaction_rolls_up_and_removes_no_more_than_a_piece(place):
    for number in range(PIECE_ROWS + 10):
        place.record(samples(number), START + number * MINUTE_MS)
    late = START + 30 * DAY_MS
    metrics.roll_up(place.tx, late)
    assert place.rows(MINUTE_MS) == 10
    quarters = place.rows(QUARTER_MS)
    metrics.roll_up(place.tx, late)
    assert place.rows(MINUTE_MS) == 0
    assert place.rows(QUARTER_MS) >= quarters
    before = place.connection.total_changes()
    metrics.roll_up(place.tx, late)
    assert place.connection.total_changes() == before


# ── once, and in order ───────────────────────────────────────────────────────────────────────────


def counted(place: Place) -> int:
    return place.tx.value("SELECT COALESCE(SUM(samples), 0) FROM metric")


def test_a_sample_that_is_sent_again_counts_once(place):
    for numbers in ((1,), (1,), (1, 2), (1, 2), (2,), (3, 3), (1, 2, 3)):
        assert place.record(samples(*numbers))
    assert counted(place) == 3


def test_a_new_series_begins_anew_and_its_traffic_goes_on(place):
    place.record(samples(7, network_rx_bytes=100, network_tx_bytes=100), START)
    later = START + 15_000
    place.record(
        samples(1, series=b"t" * 16, network_rx_bytes=130, network_tx_bytes=101), later
    )  # the agent was started again
    assert counted(place) == 2
    (point,) = place.points()
    assert (point.network_rx_bytes, point.network_tx_bytes) == (30, 1)


def test_samples_of_an_older_connection_do_not_count(place):
    sessions.connect(place.tx, place.machine, facts=FACTS, ip="::1", now_ms=START)
    assert not place.record(samples(1))
    assert counted(place) == 0


def test_samples_from_an_outage_are_counted_where_they_were_taken(place):
    ages = (SAMPLES_KEPT_MS, 3_600_000, 90_000, 0)
    message = Samples(
        series=b"s" * 16,
        samples=[
            Sample(number=number, age_ms=age_ms, telemetry=TELEMETRY)
            for number, age_ms in enumerate(ages)
        ],
    )
    place.record(message)
    at = [START - age_ms - (START - age_ms) % MINUTE_MS for age_ms in ages]
    assert [point.at_ms for point in place.points()] == at


@pytest.mark.parametrize("age_ms", [SAMPLES_KEPT_MS + 1, 2**63 - 1])
def test_a_sample_that_is_too_old_is_passed_over_and_not_asked_for_again(place, age_ms):
    assert place.record(samples(1, age_ms=age_ms))
    assert counted(place) == 0
    session = sessions.get(place.tx, REACH, place.session_id)
    assert session.telemetry is None


# ── traffic ──────────────────────────────────────────────────────────────────────────────────────


def traffic(place: Place, *loads: tuple[int, int, int], apart_ms: int = 15_000) -> list[int | None]:
    """Received bytes of each minute; `loads`: (number, counter, uptime)."""
    for number, counter, uptime in loads:
        load = {"network_rx_bytes": counter, "uptime_seconds": uptime}
        place.record(samples(number, **load), START + number * apart_ms)
    return [point.network_rx_bytes for point in place.points()]


def test_bytes_are_those_between_two_samples_and_unknown_before_the_second(place):
    assert traffic(place, (1, 500, 10)) == [None]
    assert traffic(place, (2, 800, 25), (3, 900, 40)) == [400]


def test_a_restart_of_the_machine_begins_its_counters_anew(place):
    assert traffic(place, (1, 10**9, 5000), (2, 300, 5), (3, 400, 20)) == [400]


def test_a_counter_that_falls_while_the_machine_runs_adds_nothing(place):
    """An interface has gone, with its bytes."""
    assert traffic(place, (1, 10**9, 100), (2, 10**8, 115), (3, 10**8 + 7, 130)) == [7]


def test_bytes_of_a_long_time_without_samples_belong_to_no_minute(place):
    loads = [(0, 100, 10), (1, 200, 310), (2, 300, 610)]
    assert traffic(place, *loads, apart_ms=300_000) == [None, 100, 100]
    assert traffic(place, (3, 400, 911), apart_ms=300_001)[-1] is None


# ── hostile ──────────────────────────────────────────────────────────────────────────────────────


def test_the_numbers_that_a_machine_invents_stay_within_bounds(place):
    """Whatever it says, sums fit 64 bits and the answer fits JSON."""
    most = dict.fromkeys(("network_rx_bytes", "network_tx_bytes", "uptime_seconds"), 2**63 - 1)
    least = dict.fromkeys(most, 0)
    number = 0
    for minute in range(30):
        for _ in range(3):
            items = []
            for _ in range(50):
                for load in (most, least):
                    number += 1
                    items.append(
                        Sample(
                            number=number,
                            age_ms=0,
                            telemetry=msgspec.structs.replace(TELEMETRY, cpu_percent=100, **load),
                            count=SAMPLES_IN_ONE,
                        )
                    )
            place.record(Samples(series=b"s" * 16, samples=items), START + minute * MINUTE_MS)
    (day,) = place.points(step_ms=DAY_MS)
    assert day.cpu_percent == 100
    assert day.network_rx_bytes <= 2**53 - 1
    place.roll_up(START + 30 * DAY_MS)
    (rolled,) = place.points(step_ms=DAY_MS)
    assert rolled == day
    kinds = "SELECT count(*) FROM metric WHERE typeof(network_rx_bytes) NOT IN ('integer', 'null')"
    assert place.tx.value(kinds) == 0


def test_a_minute_takes_no_more_samples_than_a_minute_can_have(place):
    """A machine that sends for ever fills no sum."""
    for number in range(3):
        sample = Sample(number=number, age_ms=0, telemetry=TELEMETRY, count=SAMPLES_IN_ONE)
        place.record(Samples(series=b"s" * 16, samples=[sample]))
    assert counted(place) == SAMPLES_IN_ONE


def test_a_machine_out_of_reach_has_no_points(place):
    place.record(samples(1))
    for reach in (Reach("ws_other"), Reach(REACH.workspace_id, ("other",))):
        with pytest.raises(MachineNotFound):
            metrics.points(
                place.tx, reach, place.machine.id, from_ms=0, until_ms=NOW, step_ms=MINUTE_MS
            )
