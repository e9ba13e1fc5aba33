"""A hub in this process with a machine, for tests about its schedules."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from cmdop_appliance.model import Machine, Schedule
from cmdop_appliance.store import schedules
from tests.api.local_api import LocalApi
from tests.support.clocks import StepClock
from tests.support.live_hub import LiveHub
from tests.support.records import REACH
from tests.support.stage import Stage, open_stage

# A noon (UTC), some time after the build.
BEGIN = 1_831_550_400_000  # 2028-01-15T12:00:00Z
NOTHING = "mach_01JZZZZZZZZZZZZZZZZZZZZZZZ"


@dataclass
class Site:
    """A stage, and its admin."""

    stage: Stage
    api: LocalApi
    machine: Machine  # tagged `prod`, connected
    plain: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.plain = {
            "name": "backup",
            "machine_id": self.machine.id,
            "command": "backup /",
            "cron": "0 3 * * *",
        }

    @property
    def live(self) -> LiveHub:
        return self.stage.live

    @property
    def clock(self) -> StepClock:
        return self.stage.clock

    async def key(self, *scopes: str, **fields) -> LocalApi:
        return await LocalApi.of(self.live.hub, *scopes, **fields)

    async def join(self, *tags: str) -> str:
        """The id of another connected machine."""
        return (await self.stage.machine(tags=[*tags])).id

    async def make(self, **fields: object) -> Any:
        """The record of a new schedule; without other fields a daily one on the machine."""
        body = self.plain | fields
        if {"machine_ids", "tags"} & set(fields):
            del body["machine_id"]
        return await self.api.post("/schedules", **body)

    async def kept(self, made: Any) -> Schedule:
        """What the store has of it."""
        return await self.live.hub.store.run(schedules.get, REACH, made["id"])

    async def entries(self, target: str) -> list[Any]:
        """What the audit log tells of it, the oldest first."""
        return await self.api.get(f"/audit?target={target}&sort=created_at")

    async def total(self) -> int:
        return (await self.api.call("GET", "/schedules")).json["meta"]["total"]

    async def look(self) -> None:
        """The scheduler looks what has come due."""
        await self.stage.scheduler.step()


@asynccontextmanager
async def opened(tmp_path, now_ms: int = BEGIN) -> AsyncIterator[Site]:
    async with open_stage(tmp_path, now_ms) as stage:
        machine = await stage.machine()
        yield Site(stage, await LocalApi.of(stage.hub), machine)


def why(answer) -> dict[str, str]:
    """The fields that are not valid, with the reasons."""
    assert (answer.status, answer.error["code"]) == (422, "validation_failed"), answer
    return answer.error["details"]


def refused(answer, status: int, code: str) -> dict[str, Any]:
    """The details of an error."""
    assert (answer.status, answer.error["code"]) == (status, code), answer
    return answer.error["details"]
