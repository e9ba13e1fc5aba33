"""What is to be told of terminals, kept apart until the outbox has room.

Of messages of one kind about one thing only the newest is kept. So whoever hears from the keeper
never waits for a link, and what waits is bounded by what the hub may ask before it has to wait.
"""

from typing import Final

import trio

from cmdop_appliance.agent.outbox import Outbox
from cmdop_appliance.protocol.words import Message

# Messages that wait while the hub may ask on; each is below 1 KiB, but for a few.
ANSWERS: Final = 256


class Answers:
    """Lives as long as the agent; while there is no connection, whatever is said is dropped."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._waiting: dict[tuple[str, ...], Message] = {}
        self._news = trio.Event()
        self._room = trio.Event()

    async def run(self) -> None:
        """Hand messages to the outbox until cancelled."""
        while True:
            while self._waiting:
                await self._outbox.say(self._waiting.pop(next(iter(self._waiting))))
                self._room.set()
            self._news = trio.Event()
            await self._news.wait()

    def say(self, message: Message, *about: str) -> None:
        """Have the hub told, in the place of what waits of this kind about the same."""
        if self._outbox.is_open:
            self._waiting[type(message).__name__, *about] = message
            self._news.set()

    async def wait_room(self) -> None:
        """Return when fewer than `ANSWERS` messages wait."""
        while len(self._waiting) >= ANSWERS:
            self._room = trio.Event()
            await self._room.wait()
