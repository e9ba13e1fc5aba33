"""/machines/:id/status and /machines/:id/metrics: the load of a machine, now and over time."""

from typing import Final

import msgspec
from msgspec import Struct

from cmdop_appliance.api.exchange import Call
from cmdop_appliance.api.fields import Duration, Time, bad_parameter, moment_ms, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Scope
from cmdop_appliance.clock import rfc3339
from cmdop_appliance.errors import MachineNotFound
from cmdop_appliance.model import CONNECTED_STATUSES
from cmdop_appliance.store import machines, sessions
from cmdop_appliance.store import metrics as rows
from cmdop_appliance.store.metrics import (
    MINUTE_MS,
    MINUTES_KEPT_MS,
    QUARTER_MS,
    Point,
)

POINTS_MOST: Final = 1000  # of one answer: some 250 kB, and more than a graph is wide
_HOUR_MS: Final = 60 * MINUTE_MS
# One of these is taken where the caller names none; a year of them is more than is ever kept.
_STEPS_MS: Final = (
    MINUTE_MS,
    5 * MINUTE_MS,
    QUARTER_MS,
    2 * QUARTER_MS,
    _HOUR_MS,
    2 * _HOUR_MS,
    6 * _HOUR_MS,
    24 * _HOUR_MS,
    7 * 24 * _HOUR_MS,
    30 * 24 * _HOUR_MS,
    365 * 24 * _HOUR_MS,
)


class Cpu(Struct, frozen=True):
    """`usage` in percent of all `cores`."""

    usage: float
    cores: int


class Space(Struct, frozen=True):
    """Memory or disk, in bytes; `free` is what programs can still have."""

    total: int
    used: int
    free: int


class MachineState(Struct, frozen=True, kw_only=True):
    """How a machine is; `uptime` in seconds. What nobody knows now is null."""

    connected: bool
    uptime: int | None
    last_ping: Time | None
    cpu: Cpu | None
    memory: Space | None
    disk: Space | None
    sampled_at: Time | None


class MetricsQuery(Struct, frozen=True, rename={"from_": "from"}):
    """Which time; `step` in ms. Default: the last hour."""

    from_: Time | None = None
    to: Time | None = None
    step: Duration | None = None  # default: the finest that makes no more than 1000 points


class PointView(Struct, frozen=True, kw_only=True):
    """The step of time that begins at `at`: means, the most, and bytes that came and went in it.

    Bytes are null where they are not known: after a time without samples.
    """

    at: Time
    cpu_percent: float
    cpu_percent_max: float
    memory_percent: float
    memory_percent_max: float
    disk_percent: float
    disk_percent_max: float
    network_rx_bytes: int | None
    network_tx_bytes: int | None


class Metrics(Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """The load of a machine over time. A step without samples has no point."""

    machine_id: str
    from_: Time
    to: Time
    step: int
    points: list[PointView]


@route(
    "GET",
    "/machines/:id/status",
    scope=Scope.MACHINES_READ,
    answer=MachineState,
    errors=(MachineNotFound,),
)
async def get_machine_status(call: Call[None, None]) -> MachineState:
    """How a machine is: its link, and the last sample of its live session."""
    reach = call.caller.reach
    machine = await call.hub.store.run(machines.get, reach, call.path["id"])
    session = await call.hub.store.run(sessions.live_of, reach, machine.id)
    sample = session.telemetry if session else None
    return MachineState(
        connected=session is not None and session.status in CONNECTED_STATUSES,
        uptime=sample.uptime_seconds if sample else None,
        last_ping=when(machine.last_seen_ms),
        cpu=Cpu(sample.cpu_percent, machine.facts.cpu_cores) if sample else None,
        memory=Space(sample.memory_total, sample.memory_used, sample.memory_free)
        if sample
        else None,
        disk=Space(sample.disk_total, sample.disk_used, sample.disk_free) if sample else None,
        sampled_at=when(session.sampled_ms) if session else None,
    )


@route(
    "GET",
    "/machines/:id/metrics",
    scope=Scope.MACHINES_READ,
    query=MetricsQuery,
    answer=Metrics,
    errors=(MachineNotFound,),
)
async def get_machine_metrics(call: Call[None, MetricsQuery]) -> Metrics:
    """The load of a machine over time: by the minute for 2 days, then by 15 minutes."""
    now_ms = call.hub.clock.now_ms()
    from_ms, until_ms = moment_ms("from", call.query.from_), moment_ms("to", call.query.to)
    until_ms = now_ms if until_ms is None else max(0, until_ms)
    from_ms = max(0, until_ms - _HOUR_MS if from_ms is None else from_ms)
    if from_ms >= until_ms:
        raise bad_parameter(
            "from", f"must be before to: {rfc3339(from_ms)} is not before {rfc3339(until_ms)}"
        )
    kept_ms = call.hub.config.retention.telemetry_ms
    step_ms = _step_ms(call.query.step, from_ms, until_ms, now_ms, kept_ms or now_ms)
    points = await call.hub.store.run(
        rows.points,
        call.caller.reach,
        call.path["id"],
        from_ms=from_ms,
        until_ms=until_ms,
        step_ms=step_ms,
    )
    return Metrics(
        machine_id=call.path["id"],
        from_=rfc3339(from_ms),
        to=rfc3339(until_ms),
        step=step_ms,
        points=[_view(point) for point in points],
    )


def _step_ms(asked_ms: int | None, from_ms: int, until_ms: int, now_ms: int, kept_ms: int) -> int:
    """The step asked for, or the finest that will do.

    Raises:
        InvalidRequest: it would make too many points, or is finer than what is kept.
    """
    # Nothing is kept beyond, so that ten years make no more points than sixty days.
    from_ms = max(from_ms, now_ms - max(kept_ms, MINUTES_KEPT_MS) - QUARTER_MS)
    until_ms = min(until_ms, now_ms + QUARTER_MS)
    is_old = from_ms < now_ms - MINUTES_KEPT_MS
    unit_ms = QUARTER_MS if is_old else MINUTE_MS
    finest_ms = next(
        step_ms
        for step_ms in _STEPS_MS
        if step_ms % unit_ms == 0 and _count(from_ms, until_ms, step_ms) <= POINTS_MOST
    )
    if asked_ms is None:
        return finest_ms
    if asked_ms % unit_ms:
        kept = "what is older than 2 days is kept by 15 minutes" if is_old else "it is in ms"
        raise bad_parameter(
            "step", f"must be a multiple of {unit_ms}: {kept}", hint=f"such as step={finest_ms}"
        )
    if _count(from_ms, until_ms, asked_ms) > POINTS_MOST:
        raise bad_parameter(
            "step",
            f"{asked_ms} makes more than {POINTS_MOST} points of this time",
            hint=f"ask for step={finest_ms}, or for less time",
        )
    return asked_ms


def _count(from_ms: int, until_ms: int, step_ms: int) -> int:
    """How many steps begin in this time, or last into it."""
    return -(-until_ms // step_ms) - from_ms // step_ms


def _view(point: Point) -> PointView:
    fields = msgspec.structs.asdict(point)
    at = rfc3339(fields.pop("at_ms"))
    return PointView(at=at, **{name: value and round(value, 2) for name, value in fields.items()})
