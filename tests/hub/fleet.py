"""Scripted machines for commands of many, and somebody who waits for their ends."""

from cmdop_appliance.hub.commands import Ask
from cmdop_appliance.model import Batch, Command
from cmdop_appliance.protocol.messages import Acknowledge, Bye, Dispatch, Spec
from tests.support.live_hub import CALLER, Link, LiveHub, ScriptedAgent, finished

SPEC = Spec(argv=["true"], timeout_ms=30_000, operator=CALLER.email)
HOUR_MS = 3_600_000


class Fleet:
    """Machines in the order in which a batch names them."""

    def __init__(self, live: LiveHub) -> None:
        self.live = live
        self.agents: list[ScriptedAgent] = []
        self.links: list[Link] = []
        self.ids: list[str] = []

    async def grow(self, count: int) -> "Fleet":
        for _ in range(count):
            agent = ScriptedAgent(self.live)
            self.agents.append(agent)
            self.links.append(await agent.join())
            self.ids.append((await agent.machine()).id)
        return self

    async def start(
        self,
        *,
        concurrency: int | None = None,
        canary: int = 0,
        max_errors: int | None = None,
        ask: Ask = Ask(),  # noqa: B008 - it is frozen
        ids: list[str] | None = None,
    ) -> Batch:
        ids = self.ids if ids is None else ids
        batch, _ = await self.live.hub.batches.start(
            CALLER,
            ids,
            "true",
            SPEC,
            ask,
            concurrency=concurrency or len(ids),
            canary=canary,
            max_errors=max_errors,
        )
        return batch

    async def commands(self, batch: Batch) -> list[Command]:
        _, found = await self.live.hub.batches.find(CALLER, batch.id)
        return sorted(found, key=lambda each: self.ids.index(each.machine_id))

    async def statuses(self, batch: Batch) -> list[str]:
        return [each.status for each in await self.commands(batch)]

    async def idle(self, *numbers: int) -> None:
        """These machines were told nothing."""
        for number in numbers:
            await self.links[number].heartbeat()

    async def leave(self, number: int) -> None:
        """An agent stops: its machine is DISCONNECTED without a grace period."""
        await self.links[number].say(Bye())
        await self.links[number].closed()

    async def end(self, number: int, exit_code: int = 0) -> None:
        """A machine is told of its command and ends it."""
        link = self.links[number]
        command_id = (await link.expect(Dispatch)).id
        await link.say(finished(command_id, exit_code=exit_code))
        assert (await link.expect(Acknowledge)).id == command_id


class Waiter:
    """Somebody who waits for the ends of a batch."""

    def __init__(self, fleet: Fleet, batch: Batch) -> None:
        self._fleet, self._batch = fleet, batch
        self.answer: list[str] | None = None

    async def run(self) -> None:
        found = await self._fleet.live.hub.batches.wait_ends(CALLER, self._batch)
        by_machine = {each.machine_id: each.status for each in found}
        self.answer = [by_machine[each] for each in self._fleet.ids if each in by_machine]
