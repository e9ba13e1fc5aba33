"""Samples of the machine's load."""

import time

import psutil

from cmdop_appliance.protocol.messages import Telemetry

_MOST = 2**63 - 1  # the largest count a message carries


def sample() -> Telemetry | None:
    """The load now, of the processor since the last sample; None where it cannot be read.

    It reads files: call it in a thread.
    """
    try:
        return _sample()
    except (OSError, psutil.Error):  # a container may hide any of it
        return None


def _sample() -> Telemetry:
    memory = psutil.virtual_memory()
    disk = psutil.disk_usage("/")
    network = psutil.net_io_counters()  # None on a machine without any network
    return Telemetry(
        cpu_percent=_percent(psutil.cpu_percent()),
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
    return min(100.0, max(0.0, value))


def _count(value: int) -> int:
    return min(_MOST, max(0, value))
