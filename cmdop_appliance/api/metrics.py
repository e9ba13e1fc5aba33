"""/metrics: what the hub counts, for Prometheus. The only import site of prometheus_client.

Whoever counts keeps plain numbers and knows nothing of this; they are read when someone asks.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

import trio
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cmdop_appliance import __version__
from cmdop_appliance.api.cmdop.workspaces import require_owner_of_hub
from cmdop_appliance.api.exchange import Call, Response
from cmdop_appliance.api.registry import ROOT, route
from cmdop_appliance.auth import Scope
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.hub.requests import BOUNDS_S
from cmdop_appliance.model import LIVE_STATUSES, OPEN_STATUSES
from cmdop_appliance.scheduler.firing import paused
from cmdop_appliance.store import totals
from cmdop_appliance.store.transaction import Tx, reads

# The format that every Prometheus reads (its "text exposition format").
MEDIA: Final = "text/plain; version=0.0.4; charset=utf-8"
_ROUTE_LABELS: Final = ("plane", "method", "route")


@route("GET", "/metrics", scope=Scope.METRICS_READ, answer=bytes, media=MEDIA, plane=ROOT)
async def get_metrics(call: Call[None, None]) -> Response:
    """The hub's own numbers, of all workspaces together, as Prometheus reads them."""
    require_owner_of_hub(call.caller)
    hub = call.hub
    stored = await hub.store.run(_stored)
    registry = CollectorRegistry()
    registry.register(_Families([*stored, *_counted(hub), *await _on_disk(hub)]))
    ProcessCollector(registry=registry)
    return Response(200, {"Content-Type": MEDIA}, generate_latest(registry))


class _Families(Collector):
    """Metrics as they were when it was made."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


@reads
def _stored(tx: Tx) -> list[Metric]:
    """What stands in the store."""
    sessions, commands = totals.live_sessions(tx), totals.open_commands(tx)
    machines, deliveries = totals.machines(tx), totals.deliveries(tx)
    online = sum(sessions.get(status, 0) for status in LIVE_STATUSES)
    return [
        _gauges(
            "cmdop_machines",
            "Machines that have joined.",
            "state",
            {"online": online, "offline": machines - online},
        ),
        _gauges(
            "cmdop_sessions",
            "Connections of machines that are not over; CONNECTED and BACKGROUND have a live link.",
            "status",
            {status: sessions.get(status, 0) for status in ("PENDING", *LIVE_STATUSES)},
        ),
        _gauges(
            "cmdop_commands_open",
            "Commands that have not ended.",
            "status",
            {status: commands.get(status, 0) for status in OPEN_STATUSES},
        ),
        _gauges(
            "cmdop_schedules", "Schedules, by whether they fire.", "state", totals.schedules(tx)
        ),
        _gauges(
            "cmdop_webhook_deliveries",
            "Deliveries that wait for their receivers, and dead ones of 30 days.",
            "status",
            {status: deliveries.get(status, 0) for status in ("pending", "dead")},
        ),
    ]


def _counted(hub: Hub) -> Iterator[Metric]:
    """What happened since the start."""
    yield _gauges("cmdop_build_info", "The version that runs.", "version", {__version__: 1})
    yield CounterMetricFamily(
        "cmdop_commands_accepted", "Commands that were recorded.", hub.commands.accepted
    )
    ended = CounterMetricFamily(
        "cmdop_commands_ended", "Ends of commands that were recorded.", labels=["status"]
    )
    for status, number in hub.commands.ended.items():
        ended.add_metric([status], number)
    yield ended
    attempts = CounterMetricFamily(
        "cmdop_webhook_attempts", "Requests that told receivers of events.", labels=["outcome"]
    )
    for outcome in ("delivered", "failed"):
        attempts.add_metric([outcome], hub.webhook_attempts[outcome])
    yield attempts
    yield CounterMetricFamily(
        "cmdop_output_received_bytes",
        "Output of commands that machines sent.",
        hub.outputs.received_bytes,
    )
    yield CounterMetricFamily(
        "cmdop_store_commits", "Commits of the store, each for many writes.", hub.store.commits
    )
    yield CounterMetricFamily(
        "cmdop_store_commit_seconds", "Time that commits took.", hub.store.commit_s
    )
    yield GaugeMetricFamily(
        "cmdop_schedules_paused",
        "1: the hub's clock is certainly wrong, and nothing fires.",
        float(paused(hub.clock.now_ms()) is not None),
    )
    yield GaugeMetricFamily(
        "cmdop_store_queue_depth", "Writes that wait for the store.", hub.store.queue_depth
    )
    kept = hub.backups.kept
    if kept.directory is not None:
        yield GaugeMetricFamily(
            "cmdop_backup_made_timestamp_seconds",
            "When the newest backup was made that is kept; 0: there is none.",
            (kept.last_ms or 0) / 1000,
        )
        yield GaugeMetricFamily(
            "cmdop_backup_failed",
            "1: the last backup that was tried was not made.",
            float(kept.error is not None),
        )
    answers = CounterMetricFamily(
        "cmdop_requests", "Requests that were answered.", labels=[*_ROUTE_LABELS, "status"]
    )
    for (what, code), number in hub.requests.answers.items():
        answers.add_metric([what.plane, what.method, what.route, str(code)], number)
    yield answers
    durations = HistogramMetricFamily(
        "cmdop_request_duration_seconds",
        "Time from a request to the head of its answer.",
        labels=_ROUTE_LABELS,
    )
    ends = [*map(str, BOUNDS_S), "+Inf"]
    for what, known in hub.requests.durations.items():
        buckets = list(zip(ends, accumulate(known.counts), strict=True))
        durations.add_metric([what.plane, what.method, what.route], buckets, known.sum_s)
    yield durations


async def _on_disk(hub: Hub) -> list[Metric]:
    free_bytes = (await trio.to_thread.run_sync(shutil.disk_usage, hub.config.data_dir)).free
    log_bytes = await trio.to_thread.run_sync(hub.store.log_bytes)
    return [
        GaugeMetricFamily(
            "cmdop_disk_free_bytes", "Space left for the data directory.", free_bytes
        ),
        GaugeMetricFamily(
            "cmdop_disk_short",
            "1: too little space is left, and nothing new is begun.",
            float(hub.disk.is_short),
        ),
        GaugeMetricFamily(
            "cmdop_disk_ballast",
            "0: the space that is kept for a full disk was given up, or none is kept.",
            float(hub.disk.has_ballast),
        ),
        GaugeMetricFamily(
            "cmdop_store_log_bytes", "Size of the store's write-ahead log.", log_bytes
        ),
    ]


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for of, value in values.items():
        family.add_metric([of], value)
    return family
