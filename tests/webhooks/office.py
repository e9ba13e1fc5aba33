"""A deliverer over a real store, whose posts a test answers for."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from cmdop_appliance.clock import Clock
from cmdop_appliance.hub.bus import LocalBus, Notified
from cmdop_appliance.model import Attempt, Delivery, EventType, Webhook
from cmdop_appliance.store import deliveries, events, outbox, webhooks
from cmdop_appliance.store.engine import Store, open_store
from cmdop_appliance.store.transaction import Tx
from cmdop_appliance.webhooks.deliver import Deliverer
from cmdop_appliance.webhooks.sending import Answer
from tests.support import records
from tests.support.clocks import LoopClock
from tests.support.records import REACH, WORKSPACE

TAKEN = Answer(status=204, duration_ms=1)
BOUND = 4 * 86_400  # seconds of a mock clock, for anything a test waits for


def failed(status: int | None = 500, **more: Any) -> Answer:
    """An attempt that was answered so, or not at all."""
    return Answer(status=status, error=f"it answered {status}", duration_ms=1, **more)


@dataclass(frozen=True)
class Post:
    """One request."""

    at_s: float
    url: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        return json.loads(self.body)

    @property
    def subject(self) -> str:
        return str(self.event["data"].get("subject"))


class Office:
    """Whom to tell, what happens, and what was posted. `answer` decides on each post."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.bus = LocalBus()
        self.posts: list[Post] = []
        self.under_way: Counter[str] = Counter()  # by URL
        self.most: Counter[str] = Counter()  # that ever were at a time
        self.answer: Callable[[Post], Answer | Awaitable[Answer]] = lambda _: TAKEN
        self.attempts: Counter[str] = Counter()
        self._news = trio.Event()
        store.listen(lambda subject: self.bus.publish(subject, Notified(subject)))

    def deliverer(self) -> Deliverer:
        """Waits for exactly as long as the table says."""
        return Deliverer(
            self.store,
            self.bus,
            self.clock,
            self,  # type: ignore[arg-type]
            self.attempts,
            share=lambda: 0.5,
        )

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """In place of the sender's."""
        post = Post(trio.current_time(), url, dict(headers), body)
        self.posts.append(post)
        self.under_way[url] += 1
        self.most[url] = max(self.most[url], self.under_way[url])
        self._news.set()
        self._news = trio.Event()
        try:
            answer = self.answer(post)
            return answer if isinstance(answer, Answer) else await answer
        finally:
            self.under_way[url] -= 1

    async def wait_posts(self, number: int) -> list[Post]:
        """All of them, once there are so many."""
        with trio.fail_after(BOUND):
            while len(self.posts) < number:
                await self._news.wait()
        return self.posts

    async def hook(self, **fields: Any) -> Webhook:
        """A new webhook, at a URL of its own."""
        webhook = records.webhook(**fields)
        webhook = records.webhook(**{"id": webhook.id, "url": f"https://x/{webhook.id}"} | fields)
        await self.store.run(webhooks.insert, webhook)
        return webhook

    async def tell(self, *subjects: str, kind: EventType = "machine.online") -> None:
        """Something happens to each of these, in this order."""

        def happen(tx: Tx) -> None:
            for subject in subjects:
                events.append(
                    tx,
                    WORKSPACE,
                    kind,
                    subject=subject,
                    data={"subject": subject},
                    now_ms=self.clock.now_ms(),
                )

        await self.store.run(happen)

    async def told(self, webhook: Webhook) -> list[Delivery]:
        """What was entered for a webhook, in its order."""

        def look(tx: Tx) -> list[Delivery]:
            sql = "SELECT * FROM delivery WHERE webhook_id = :id ORDER BY seq, created_ms"
            return tx.all(Delivery, sql, id=webhook.id)

        return await self.store.run(look)

    async def tries(self, delivery: Delivery) -> list[Attempt]:
        """The attempts of a delivery, the newest first."""
        found = await self.store.run(deliveries.get, REACH, delivery.webhook_id, delivery.id)
        return found.tries

    async def look(self, webhook: Webhook) -> Webhook:
        """A webhook as it is now."""
        found = await self.store.run(webhooks.find, webhook.id)
        assert found is not None
        return found

    async def test(self, webhook: Webhook) -> Delivery:
        """A test of a webhook."""
        made = records.trial(webhook, next_attempt_ms=self.clock.now_ms())
        await self.store.run(outbox.insert, made)
        return made


@asynccontextmanager
async def office(path: Path, clock: Clock | None = None) -> AsyncIterator[Office]:
    """One in which nobody is at work yet."""
    async with open_store(path, inline=True) as store:
        yield Office(store, clock or LoopClock())


@asynccontextmanager
async def working(mine: Office) -> AsyncIterator[trio.CancelScope]:
    """A deliverer is at work within the block."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mine.deliverer().run)
        yield nursery.cancel_scope
        nursery.cancel_scope.cancel()
