"""What the hub says on one agent connection: in order, and together what waits together.

Whoever finds the line free sends for all. At 64 callers that makes one frame of many messages, and
a lone message still leaves at once. Only tasks of the session send: one that is cancelled as it
sends breaks the link, so what requests have to say is sent for them. Data of files goes frame by
frame, each when the socket holds little that is unsent: a message stands behind one at the most.

Most machines are silent most of the time, so the tasks that send for others come with what is to be
sent: an idle one would take 4 KB of each connection.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import trio

from cmdop_appliance.hub.connection import Connection, LinkClosed
from cmdop_appliance.protocol.conversation import Conversation, State, join
from cmdop_appliance.protocol.frames import Data
from cmdop_appliance.protocol.messages import FileEnd
from cmdop_appliance.protocol.words import Message

# Messages that wait while others are being sent; who has more to say waits for the line.
_UNSENT: Final = 256
# How long what nobody waits for may wait for company.
_COMPANY_S: Final = 0.02


class Line:
    """The sending side. `LinkClosed`: the conversation is over, nothing more may be said.

    A link that breaks is not told here: its reader hears of it, too, but only after what the agent
    said before, which may be its goodbye.
    """

    def __init__(self, connection: Connection, conversation: Conversation) -> None:
        self._connection = connection
        self._conversation = conversation
        self._unsent: list[str] = []
        self._sending = trio.Lock()
        self._nursery: trio.Nursery | None = None
        # While something waits for company; cancelled, it waits no longer.
        self._company: trio.CancelScope | None = None
        self._to_data: trio.MemorySendChannel[Data | FileEnd] | None = None

    @contextmanager
    def carried_by(self, nursery: trio.Nursery) -> Iterator[None]:
        """Within, what others have to say is sent by tasks of this nursery."""
        self._nursery = nursery
        try:
            yield
        finally:
            self._nursery = None

    def queue(self, message: Message) -> None:
        """Say `message` with the next `send`."""
        if self._conversation.state is State.OVER:
            raise LinkClosed
        text = self._conversation.send(message)
        assert isinstance(text, str)  # a hub sends no bytes
        self._unsent.append(text)

    def say_later(self, message: Message) -> None:
        """Say `message` with the next one, or alone after a moment: nobody waits for it."""
        self.queue(message)
        self._look_for_company()

    def post(self, message: Message) -> None:
        """Have `message` said now."""
        self.queue(message)
        self._look_for_company()
        if self._company is not None:
            self._company.cancel()

    async def post_data(self, item: Data | FileEnd) -> None:
        """Have a piece of a file, or its end, said in turn; waits for the turn."""
        if self._nursery is None:
            raise LinkClosed
        if self._to_data is None:
            self._to_data, data = trio.open_memory_channel[Data | FileEnd](0)
            self._nursery.start_soon(self._send_data, data)
        try:
            await self._to_data.send(item)
        except trio.BrokenResourceError as exc:
            raise LinkClosed from exc

    async def say(self, message: Message) -> None:
        """Say `message` now; for tasks of the session."""
        self.queue(message)
        await self.send()

    async def send(self) -> None:
        """Send what is queued, or leave it to whoever is sending."""
        if not self._sending.locked() or self.is_crowded:
            await self.send_all()

    async def send_all(self, first: str | bytes | None = None) -> None:
        """Send `first`, and what is queued; when this returns, all of it is under way."""
        try:
            self._sending.acquire_nowait()  # without a pass through the scheduler
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            with suppress(LinkClosed):
                if first is not None:
                    await self._connection.send(first)
                while self._unsent:
                    await self._connection.send(join(self._unsent))
        finally:
            self._sending.release()

    @property
    def is_crowded(self) -> bool:
        """True: time to `send` before more is queued."""
        return len(self._unsent) >= _UNSENT

    def _look_for_company(self) -> None:
        if self._company is None and self._nursery is not None:
            self._company = trio.CancelScope()
            self._nursery.start_soon(self._send_waiting, self._company)

    async def _send_waiting(self, company: trio.CancelScope) -> None:
        with company:
            await trio.sleep(_COMPANY_S)
        self._company = None
        await self.send()

    async def _send_data(self, data: trio.MemoryReceiveChannel[Data | FileEnd]) -> None:
        with data:  # whoever waits for a turn hears of the end
            async for item in data:
                with suppress(LinkClosed):
                    await self._connection.wait_room()
                if self._conversation.state is not State.OVER:
                    await self.send_all(self._conversation.send(item))
