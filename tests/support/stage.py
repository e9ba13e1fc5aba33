"""A hub in this process with a scheduler, and a clock that the test turns."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cmdop_appliance.auth import Caller, Scope
from cmdop_appliance.clock import rfc3339
from cmdop_appliance.hub import ends
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Command, Event, Machine, Notify, Run, Schedule
from cmdop_appliance.protocol.messages import Spec
from cmdop_appliance.scheduler import editing
from cmdop_appliance.scheduler.cron import Rule
from cmdop_appliance.scheduler.loop import Scheduler
from cmdop_appliance.store import events, machines, schedules, sessions
from cmdop_appliance.store.transaction import Tx
from tests.support import records
from tests.support.clocks import StepClock
from tests.support.live_hub import LiveHub, live_hub
from tests.support.records import REACH, WORKSPACE

# A Tuesday, half a minute after midnight (UTC).
BEGIN = 1_796_083_230_000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
CALLER = Caller("key_1", "ci", WORKSPACE, "default", frozenset({Scope.ADMIN}))


@dataclass
class Stage:
    """A hub whose wall clock the test turns, and whose scheduler looks when the test says so."""

    live: LiveHub
    clock: StepClock
    scheduler: Scheduler

    @property
    def hub(self) -> Hub:
        return self.live.hub

    @property
    def now(self) -> int:
        return self.clock.ms

    async def machine(self, **fields) -> Machine:
        """A connected machine."""
        made, _, _ = await records.connected(self.hub.store, self.now, **fields)
        return made

    async def back(self, machine: Machine) -> None:
        """It is connected again, and was sent nothing yet."""
        facts, run = machine.facts, self.hub.store.run
        made = await run(sessions.connect, machine, facts=facts, ip="192.0.2.7", now_ms=self.now)
        assert await run(sessions.ready, *made, self.now)

    async def away(self, machine: Machine) -> None:
        """Its connection is over."""
        session = await self.hub.store.run(sessions.live_of, REACH, machine.id)
        assert session is not None
        await self.hub.store.run(sessions.end_of, machine.id, self.now)

    async def schedule(self, *machine_ids: str, cron: str = "* * * * *", **fields) -> Schedule:
        """A new schedule, on these machines or on those with its `tags`."""
        zone = fields.pop("timezone", "UTC")
        overlap = fields.get("overlap", "skip")
        made = new_id("sched")
        plain = records.schedule(
            machine_ids[0] if len(machine_ids) == 1 else None,
            id=made,
            machine_ids=[*machine_ids] if len(machine_ids) > 1 else None,
            spec=Spec(
                argv=["backup"],
                operator="ci@default",
                serial_key=None if overlap == "allow" else f"schedule:{made}",
            ),
            cron=cron,
            timezone=zone,
            notify=Notify(on_success=True, on_failure=True),
            created_ms=self.now,
            decided_ms=self.now,
        )
        if "next_ms" not in fields:
            fields["next_ms"] = Rule.parse(cron, zone).next(self.now)
        whole = msgspec.structs.replace(plain, **fields)
        await self.hub.store.run(schedules.insert, whole)
        return whole

    async def at(self, ms: int) -> float:
        """Set the clock, and let the scheduler look; how long it would wait then."""
        self.clock.ms = ms
        return await self.scheduler.step()

    async def until(self, ms: int) -> None:
        """Let the time go by, minute by minute."""
        while self.now + MINUTE <= ms:
            await self.at(self.now + MINUTE)

    async def rows(self, schedule: Schedule) -> list[Run]:
        """Its history, the oldest instant first."""
        return await self.hub.store.run(_runs_of, schedule.id)

    async def told(self, schedule: Schedule) -> list[tuple[str, str | None]]:
        """The events about it: (type, reason)."""
        return [(event.type, event.data["reason"]) for event in await self.events(schedule)]

    async def events(self, schedule: Schedule) -> list[Event]:
        """The events about it, the oldest first."""
        found: list[Event] = await self.hub.store.run(events.after, REACH, 0, 10_000)
        return [event for event in found if event.subject == schedule.id]

    async def commands(self, schedule: Schedule) -> list[Command]:
        """Its commands, in the order in which they were made."""
        return await self.hub.store.run(_commands_of, schedule.id)

    async def find(self, schedule: Schedule) -> Schedule:
        """It as it stands now."""
        return await self.hub.store.run(schedules.get, REACH, schedule.id)

    async def end(self, command: Command, **fields) -> None:
        """Its machine tells that it has ended."""
        plain = {
            "status": "completed",
            "started_ms": self.now,
            "finished_ms": self.now,
            "duration_ms": 5,
            "exit_code": 0,
        }
        ended = msgspec.structs.replace(command, **{**plain, **fields})
        await self.hub.store.run(ends.end, ended, self.now)

    async def edit(self, schedule: Schedule, **fields) -> Schedule:
        """It as somebody changes it."""

        def edit(before: Schedule) -> Schedule:
            return msgspec.structs.replace(before, **fields)

        run = self.hub.store.run
        after, _ = await run(editing.change, CALLER, schedule.id, edit, [*fields], self.now)
        return after

    async def remove(self, machine: Machine) -> None:
        await self.hub.store.run(machines.remove, REACH, machine.id, self.now)


@asynccontextmanager
async def open_stage(path: Path, begin_ms: int = BEGIN) -> AsyncIterator[Stage]:
    clock = StepClock(begin_ms)
    async with live_hub(path, clock=clock) as live:
        yield Stage(live, clock, Scheduler(live.hub.store, live.hub.commands, clock))


def _runs_of(tx: Tx, schedule_id: str) -> list[Run]:
    return tx.all(
        Run,
        "SELECT * FROM run WHERE schedule_id = :id ORDER BY scheduled_ms, position, id",
        id=schedule_id,
    )


def _commands_of(tx: Tx, schedule_id: str) -> list[Command]:
    return tx.all(
        Command, "SELECT * FROM command WHERE schedule_id = :id ORDER BY id", id=schedule_id
    )


def shown(runs: list[Run]) -> list[tuple[str, str, str | None]]:
    """(time of day, status, reason) of each."""
    return [
        (rfc3339(run.scheduled_ms)[11:16] if run.scheduled_ms else "-", run.status, run.reason)
        for run in runs
    ]
