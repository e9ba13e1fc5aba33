"""Samples of the machine's load, for as long as the agent runs, connected or not."""

import logging
import random
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import psutil
import trio

from cmdop_appliance.agent.outbox import Outbox
from cmdop_appliance.agent.pace import Pace
from cmdop_appliance.protocol.messages import Telemetry

log = logging.getLogger("cmdop.agent.telemetry")

_MOST: Final = 2**63 - 1  # the largest count a message carries


class Processor(NamedTuple):
    """Seconds that all processors together have spent since boot."""

    busy_s: float
    total_s: float


Measure = Callable[[Processor | None], tuple[Processor | None, Telemetry | None]]


def sample(before: Processor | None) -> tuple[Processor | None, Telemetry | None]:
    """The load now, of the processor since `before`; None where it cannot be read.

    Without `before` it only begins: the load of a processor is that of a time. It reads files:
    call it in a thread.
    """
    try:
        now = _processor()
        return now, None if before is None else _sample(before, now)
    except Exception as exc:  # noqa: BLE001 - psutil meets what any kernel or container shows
        log.debug("no sample", extra={"error": repr(exc)})
        return before, None


def _processor() -> Processor:
    times = psutil.cpu_times()
    # Guests are in `user` and `nice` already (linux/kernel/sched/cputime.c).
    total_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return Processor(total_s - times.idle - getattr(times, "iowait", 0.0), total_s)


def _sample(before: Processor, now: Processor) -> Telemetry:
    memory = psutil.virtual_memory()
    disk = psutil.disk_usage("/")
    network = psutil.net_io_counters()  # None on a machine without any network
    total_s = now.total_s - before.total_s
    return Telemetry(
        cpu_percent=_percent(100 * (now.busy_s - before.busy_s) / total_s if total_s > 0 else 0),
        memory_percent=_percent(memory.percent),
        disk_percent=_percent(disk.percent),
        memory_total=_count(memory.total),
        memory_used=_count(memory.used),
        memory_free=_count(memory.available),
        disk_total=_count(disk.total),
        disk_used=_count(disk.used),
        disk_free=_count(disk.free),
        network_rx_bytes=_count(network.bytes_recv if network else 0),
        network_tx_bytes=_count(network.bytes_sent if network else 0),
        uptime_seconds=_count(int(time.clock_gettime(time.CLOCK_BOOTTIME))),
    )


def _percent(value: float) -> float:
    return round(min(100.0, max(0.0, value)), 2)


def _count(value: int) -> int:
    return min(_MOST, max(0, value))


class Sampler:
    """Samples at a steady pace, slower in the background; a disk that hangs holds one thread."""

    def __init__(self, outbox: Outbox, pace: Pace, measure: Measure = sample) -> None:
        self._outbox = outbox
        self._pace = pace
        self._measure = measure
        self._processor: Processor | None = None
        self._changed = trio.Event()

    async def set_background(self, *, on: bool) -> None:
        """Save the machine's strength from now on, or no longer; the hub is told."""
        await self._outbox.set_background(on=on)
        self._changed.set()

    async def run(self) -> None:
        """Sample for ever; the first once the processor has a past to measure."""
        await self._take()
        await trio.sleep(self._pace.first_sample_s)
        await self._take()
        # From here on at the same moment of each interval, so that no minute goes without one,
        # and each agent at one of its own.
        due = self._soon()
        while True:
            with trio.move_on_at(due):
                await self._changed.wait()
                self._changed = trio.Event()
                due = min(due, self._soon())
                continue
            await self._take()
            while due <= trio.current_time():
                due += self._interval_s

    async def _take(self) -> None:
        self._processor, telemetry = await trio.to_thread.run_sync(
            self._measure, self._processor, abandon_on_cancel=True
        )
        if telemetry is not None:
            self._outbox.keep(telemetry)

    @property
    def _interval_s(self) -> float:
        pace = self._pace
        return pace.background_s if self._outbox.is_in_background else pace.sample_s

    def _soon(self) -> float:
        return trio.current_time() + self._interval_s * random.random()  # noqa: S311
