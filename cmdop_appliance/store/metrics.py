"""The load of machines over time: a row a minute for two days, then one a quarter of an hour.

A sample adds to the row of its minute. What leaves the two days is added to its quarter of an hour
and removed, in one transaction, so each minute counts once. Agents send a sample until it is
confirmed; the number of the last one counted tells those that come again.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final

import msgspec

from cmdop_appliance.auth import Reach
from cmdop_appliance.model import Record
from cmdop_appliance.protocol.limits import SAMPLES_IN_ONE, SAMPLES_KEPT_MS
from cmdop_appliance.protocol.messages import Sample, Samples, Telemetry
from cmdop_appliance.store import machines, sessions
from cmdop_appliance.store.transaction import Tx, reads

MINUTE_MS: Final = 60_000
QUARTER_MS: Final = 15 * MINUTE_MS
# A minute is rolled up when no sample can come into it any more.
MINUTES_KEPT_MS: Final = SAMPLES_KEPT_MS + MINUTE_MS
QUARTERS_KEPT_MS: Final = 60 * 86_400_000
# Rows rolled up at a time. The hub does it each second, and 10,000 machines make 167 a second.
PIECE_ROWS: Final = 500

# Bytes between two samples that are further apart belong to no minute in particular.
_APART_MS: Final = 5 * MINUTE_MS
# A machine may invent numbers: what one sample adds (0.3 TB/s over a minute) and how many add to a
# row are bounded, so that sums stay within 64 bits.
_BYTES_MOST: Final = 2**44
_SAMPLES_MOST: Final = SAMPLES_IN_ONE
_EXACT_MOST: Final = 2**53 - 1  # what JSON numbers hold exactly (RFC 8259 §6)

_ADD: Final = (
    " ON CONFLICT (machine_id, at_ms, step_ms) DO UPDATE SET"
    " samples = metric.samples + excluded.samples,"
    " cpu_sum = metric.cpu_sum + excluded.cpu_sum,"
    " cpu_max = CASE WHEN metric.cpu_max > excluded.cpu_max"
    " THEN metric.cpu_max ELSE excluded.cpu_max END,"
    " memory_sum = metric.memory_sum + excluded.memory_sum,"
    " memory_max = CASE WHEN metric.memory_max > excluded.memory_max"
    " THEN metric.memory_max ELSE excluded.memory_max END,"
    " disk_sum = metric.disk_sum + excluded.disk_sum,"
    " disk_max = CASE WHEN metric.disk_max > excluded.disk_max"
    " THEN metric.disk_max ELSE excluded.disk_max END,"
    " network_rx_bytes = COALESCE(metric.network_rx_bytes + excluded.network_rx_bytes,"
    " metric.network_rx_bytes, excluded.network_rx_bytes),"
    " network_tx_bytes = COALESCE(metric.network_tx_bytes + excluded.network_tx_bytes,"
    " metric.network_tx_bytes, excluded.network_tx_bytes)"
    " WHERE metric.samples < :samples_most"
)


class Point(Record, frozen=True, kw_only=True):
    """The load of a machine in one step of time, which begins at `at_ms`.

    Bytes came and went in it; None: nobody knows how many.
    """

    at_ms: int
    cpu_percent: float
    cpu_percent_max: float
    memory_percent: float
    memory_percent_max: float
    disk_percent: float
    disk_percent_max: float
    network_rx_bytes: int | None
    network_tx_bytes: int | None


class _Last(Record, frozen=True, kw_only=True):
    series: bytes
    number: int
    sampled_ms: int
    network_rx_bytes: int
    network_tx_bytes: int
    uptime_seconds: int


@dataclass(slots=True)
class _Minute:
    samples: int = 0
    cpu_sum: int = 0
    cpu_max: int = 0
    memory_sum: int = 0
    memory_max: int = 0
    disk_sum: int = 0
    disk_max: int = 0
    network_rx_bytes: int | None = None
    network_tx_bytes: int | None = None

    def add(self, sample: Sample, traffic: tuple[int, int] | None) -> None:
        mean, peak = sample.telemetry, sample.peak or sample.telemetry
        self.samples += sample.count
        self.cpu_sum += round(100 * mean.cpu_percent * sample.count)
        self.memory_sum += round(100 * mean.memory_percent * sample.count)
        self.disk_sum += round(100 * mean.disk_percent * sample.count)
        self.cpu_max = max(self.cpu_max, round(100 * peak.cpu_percent))
        self.memory_max = max(self.memory_max, round(100 * peak.memory_percent))
        self.disk_max = max(self.disk_max, round(100 * peak.disk_percent))
        if traffic is not None:
            self.network_rx_bytes = (self.network_rx_bytes or 0) + traffic[0]
            self.network_tx_bytes = (self.network_tx_bytes or 0) + traffic[1]


def record(tx: Tx, machine_id: str, epoch: int, message: Samples, now_ms: int) -> bool:
    """Count those of the samples that were not counted before; the newest stays with the session.

    What is older than minutes are kept is passed over. False: another connection has the session,
    nothing was recorded.
    """
    newest = message.samples[-1]
    if not sessions.sampled(
        tx, machine_id, epoch, newest.telemetry, now_ms - newest.age_ms, now_ms
    ):
        return False
    before = last = _last_of(tx, machine_id)
    minutes: dict[int, _Minute] = {}
    for sample in _new(message, last):
        at_ms = now_ms - sample.age_ms
        minute = minutes.setdefault(at_ms - at_ms % MINUTE_MS, _Minute())
        minute.add(sample, _traffic(last, at_ms, sample.telemetry))
        last = _Last(
            series=message.series,
            number=sample.number,
            sampled_ms=at_ms,
            network_rx_bytes=sample.telemetry.network_rx_bytes,
            network_tx_bytes=sample.telemetry.network_tx_bytes,
            uptime_seconds=sample.telemetry.uptime_seconds,
        )
    for at_ms, minute in minutes.items():
        _add(tx, machine_id, at_ms, minute)
    if last is not None and last is not before:
        _keep_last(tx, machine_id, last)
    return True


@reads
def points(
    tx: Tx, reach: Reach, machine_id: str, *, from_ms: int, until_ms: int, step_ms: int
) -> list[Point]:
    """The load of a machine in steps of `step_ms`; a step without samples has no point.

    Steps begin at multiples of `step_ms` since 1970; the first and the last may reach beyond the
    time asked for. They must be multiples of a quarter of an hour where minutes are rolled up.

    Raises:
        MachineNotFound: no such machine is in reach.
    """
    machines.get(tx, reach, machine_id)
    # Whole sums of a hostile machine could leave 64 bits, hence the floats.
    return tx.all(
        Point,
        "SELECT at_ms - at_ms % :step_ms AS at_ms,"
        " CAST(SUM(cpu_sum) AS DOUBLE PRECISION) / SUM(samples) / 100 AS cpu_percent,"
        " CAST(MAX(cpu_max) AS DOUBLE PRECISION) / 100 AS cpu_percent_max,"
        " CAST(SUM(memory_sum) AS DOUBLE PRECISION) / SUM(samples) / 100 AS memory_percent,"
        " CAST(MAX(memory_max) AS DOUBLE PRECISION) / 100 AS memory_percent_max,"
        " CAST(SUM(disk_sum) AS DOUBLE PRECISION) / SUM(samples) / 100 AS disk_percent,"
        " CAST(MAX(disk_max) AS DOUBLE PRECISION) / 100 AS disk_percent_max,"
        " CAST(CASE WHEN SUM(CAST(network_rx_bytes AS DOUBLE PRECISION)) > :exact_most"
        " THEN :exact_most ELSE SUM(CAST(network_rx_bytes AS DOUBLE PRECISION)) END AS BIGINT)"
        " AS network_rx_bytes,"
        " CAST(CASE WHEN SUM(CAST(network_tx_bytes AS DOUBLE PRECISION)) > :exact_most"
        " THEN :exact_most ELSE SUM(CAST(network_tx_bytes AS DOUBLE PRECISION)) END AS BIGINT)"
        " AS network_tx_bytes"
        " FROM metric WHERE machine_id = :machine_id AND at_ms >= :from_ms AND at_ms < :until_ms"
        " GROUP BY at_ms - at_ms % :step_ms ORDER BY 1",
        machine_id=machine_id,
        from_ms=from_ms - from_ms % step_ms,
        until_ms=until_ms,
        step_ms=step_ms,
        exact_most=_EXACT_MOST,
    )


def roll_up(tx: Tx, now_ms: int, *, kept_ms: int = QUARTERS_KEPT_MS) -> None:
    """Roll up a piece of what has left the two days, remove one of what is kept no longer.

    `kept_ms`: how long quarters are kept; 0: for ever.
    """
    oldest = (
        "SELECT machine_id, at_ms, step_ms FROM metric"
        " WHERE step_ms = :step_ms AND at_ms <= :before_ms"
        " ORDER BY at_ms, machine_id LIMIT :rows"
    )
    tx.execute(
        "INSERT INTO metric (machine_id, at_ms, step_ms, samples, cpu_sum, cpu_max, memory_sum,"  # noqa: S608
        " memory_max, disk_sum, disk_max, network_rx_bytes, network_tx_bytes)"
        " SELECT machine_id, at_ms - at_ms % :quarter_ms, :quarter_ms, SUM(samples), SUM(cpu_sum),"
        " MAX(cpu_max), SUM(memory_sum), MAX(memory_max), SUM(disk_sum), MAX(disk_max),"
        " SUM(network_rx_bytes), SUM(network_tx_bytes)"
        f" FROM metric WHERE (machine_id, at_ms, step_ms) IN ({oldest})"
        f" GROUP BY machine_id, at_ms - at_ms % :quarter_ms{_ADD}",
        quarter_ms=QUARTER_MS,
        samples_most=_SAMPLES_MOST * (QUARTER_MS // MINUTE_MS),
        step_ms=MINUTE_MS,
        before_ms=now_ms - MINUTES_KEPT_MS,
        rows=PIECE_ROWS,
    )
    for step_ms, before_ms in (
        (MINUTE_MS, now_ms - MINUTES_KEPT_MS),
        (QUARTER_MS, now_ms - kept_ms if kept_ms else 0),
    ):
        tx.execute(
            f"DELETE FROM metric WHERE (machine_id, at_ms, step_ms) IN ({oldest})",  # noqa: S608
            step_ms=step_ms,
            before_ms=before_ms,
            rows=PIECE_ROWS,
        )


def _new(message: Samples, last: _Last | None) -> Iterable[Sample]:
    """Those that were not counted before, and can be counted still."""
    number = last.number if last is not None and last.series == message.series else -1
    for sample in message.samples:
        if sample.number > number:
            number = sample.number
            if sample.age_ms <= SAMPLES_KEPT_MS:
                yield sample


def _traffic(last: _Last | None, at_ms: int, now: Telemetry) -> tuple[int, int] | None:
    """Bytes received and sent since the sample before."""
    if last is None or at_ms - last.sampled_ms > _APART_MS:
        return None
    rx, tx = now.network_rx_bytes, now.network_tx_bytes
    if now.uptime_seconds >= last.uptime_seconds:  # else the counters began anew with the machine
        rx -= last.network_rx_bytes
        tx -= last.network_tx_bytes
    # They fall when an interface goes.
    return min(max(0, rx), _BYTES_MOST), min(max(0, tx), _BYTES_MOST)


def _last_of(tx: Tx, machine_id: str) -> _Last | None:
    return tx.one(
        _Last, "SELECT * FROM metric_last WHERE machine_id = :machine_id", machine_id=machine_id
    )


def _keep_last(tx: Tx, machine_id: str, last: _Last) -> None:
    tx.execute(
        "INSERT INTO metric_last (machine_id, series, number, sampled_ms, network_rx_bytes,"
        " network_tx_bytes, uptime_seconds) VALUES (:machine_id, :series, :number, :sampled_ms,"
        " :network_rx_bytes, :network_tx_bytes, :uptime_seconds)"
        " ON CONFLICT (machine_id) DO UPDATE SET series = excluded.series,"
        " number = excluded.number, sampled_ms = excluded.sampled_ms,"
        " network_rx_bytes = excluded.network_rx_bytes,"
        " network_tx_bytes = excluded.network_tx_bytes, uptime_seconds = excluded.uptime_seconds",
        machine_id=machine_id,
        **msgspec.structs.asdict(last),
    )


def _add(tx: Tx, machine_id: str, at_ms: int, minute: _Minute) -> None:
    tx.execute(
        "INSERT INTO metric (machine_id, at_ms, step_ms, samples, cpu_sum, cpu_max, memory_sum,"  # noqa: S608
        " memory_max, disk_sum, disk_max, network_rx_bytes, network_tx_bytes)"
        " VALUES (:machine_id, :at_ms, :step_ms, :samples, :cpu_sum, :cpu_max, :memory_sum,"
        f" :memory_max, :disk_sum, :disk_max, :network_rx_bytes, :network_tx_bytes){_ADD}",
        machine_id=machine_id,
        at_ms=at_ms,
        step_ms=MINUTE_MS,
        samples_most=_SAMPLES_MOST,
        **asdict(minute),
    )
