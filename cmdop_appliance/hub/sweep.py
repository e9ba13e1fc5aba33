"""What time ends and makes too old to keep, in the whole hub: found each second."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

import trio

from cmdop_appliance.clock import LeapWatch
from cmdop_appliance.errors import StorageFull, Unavailable
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.store import (
    deliveries,
    events,
    idempotency,
    runs,
    sessions,
    sign_ins,
    terminals,
)

# Sessions whose grace is over, and commands that waited too long, are found within this.
_SWEEP_S: Final = 1.0


_Job = Callable[[], Awaitable[object]]


async def sweep_forever(hub: Hub) -> None:
    """Until cancelled, end what is due and forget; much to forget delays no end."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_each_second, partial(_ending, hub))
        nursery.start_soon(_each_second, partial(_forgetting, hub, LeapWatch()))


def _ending(hub: Hub) -> list[_Job]:
    return [
        partial(hub.store.run, sessions.end_expired, hub.clock.now_ms()),
        hub.commands.sweep,
        hub.commands.look,
        hub.terminals.sweep,
        hub.callers.save_uses,
    ]


def _forgetting(hub: Hub, watch: LeapWatch) -> list[_Job]:
    now_ms = hub.clock.now_ms()
    if not watch.is_steady(now_ms, trio.current_time()):
        return [hub.quotas.sweep]
    forgetting = (
        deliveries.forget,
        events.forget,
        idempotency.forget,
        runs.forget,
        sign_ins.forget,
        terminals.forget,
    )
    of_rows = [partial(hub.store.run, forget, now_ms) for forget in forgetting]
    return [hub.quotas.sweep, *of_rows, partial(hub.retention.sweep, now_ms)]


async def _each_second(jobs: Callable[[], list[_Job]]) -> None:
    while True:
        for job in jobs():
            # A full disk passes, and may take one job and not another; a failed one ends the hub
            # by itself.
            with suppress(StorageFull, Unavailable):
                await job()
        await trio.sleep(_SWEEP_S)
