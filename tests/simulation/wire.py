"""The network between hub and agent: frames in order, late, or never."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from cmdop_appliance.agent.link import LinkLost
from cmdop_appliance.agent.pace import Pace
from cmdop_appliance.hub.connection import LinkClosed
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.limits import SEND_S
from tests.simulation.actors import ACTOR, Actor
from tests.simulation.dice import Dice

# One way takes between these, seconds.
LATENCY_S: Final = (0.0002, 0.005)
# What the two sockets hold of bytes that nobody reads.
SOCKET_BYTES: Final = 256 * 1024
# A peer that does not answer a close frame is left alone after this, seconds.
CLOSE_S: Final = 0.5


class Pipe:
    """One direction: items arrive in order, each after a while."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._way: deque[tuple[float, Any, int]] = deque()  # arrives at, item, bytes
        self._bytes = 0
        self._last = 0.0
        self._put = trio.Event()
        self._taken = trio.Event()
        self._is_void = False
        self.end: Any = None  # not None: this is the end of it, and was put

    @property
    def is_full(self) -> bool:
        """True: who sends more has to wait."""
        return self._bytes > SOCKET_BYTES

    def put(self, item: Any, size: int = 0) -> None:
        """Send an item on its way; after the end, and into a void, it is lost."""
        if self.end is not None:
            return
        self._bytes += size
        if self._is_void:
            return
        self._last = max(self._last, trio.current_time() + self._dice.uniform(*LATENCY_S))
        self._way.append((self._last, item, size))
        self._put.set()

    def finish(self, end: Any) -> None:
        """`end` is the last item."""
        if self.end is None and not self._is_void:
            self.put(end)
        self.end = self.end or end

    def cut(self, end: Any) -> None:
        """What is under way arrives in part, or not at all."""
        if self.end is None:
            self._is_void = False
            for _ in range(self._dice.randint(0, len(self._way))):
                self._bytes -= self._way.pop()[2]
            self.finish(end)

    def lose(self) -> None:
        """Nothing arrives any more, and nobody is told."""
        if self.end is None:
            self._is_void = True
            self._way.clear()

    async def wait_arrived(self) -> Any:
        """The next item, once it is there; it stays until `take`. The end stays for good."""
        while True:
            if self._put.is_set():
                self._put = trio.Event()
            if not self._way:
                await self._put.wait()
            elif (left := self._way[0][0] - trio.current_time()) > 0:
                with trio.move_on_after(left):
                    await self._put.wait()
            else:
                return self._way[0][1]

    def take(self, item: Any) -> bool:
        """Let go of what `wait_arrived` gave. False: it was cut off at the last moment."""
        if self._way and self._way[0][1] is item:
            self._bytes -= self._way.popleft()[2]
            self._taken.set()
            return True
        return False

    async def wait_room(self) -> None:
        """Wait until there is room for more."""
        while self.is_full and self.end is None:
            if self._taken.is_set():
                self._taken = trio.Event()
            await self._taken.wait()

    def arrived(self) -> Any:
        """The next item if it is there."""
        if self._way and self._way[0][0] <= trio.current_time():
            return self._way[0][1]
        return None


class End:
    """The end of a direction; `code` is the close code of a hub that said one."""

    def __init__(self, code: int | None = None) -> None:
        self.code = code


class Wire:
    """One connection of one machine."""

    def __init__(self, dice: Dice, agent: Actor, hub: Actor) -> None:
        self.dice = dice
        self.agent = agent
        self.hub = hub
        self.to_hub = Pipe(dice)
        self.to_agent = Pipe(dice)
        self.hub_end = HubEnd(self)
        self.agent_end = AgentEnd(self)

    @property
    def is_over(self) -> bool:
        """True: neither direction carries anything any more."""
        return self.to_hub.end is not None and self.to_agent.end is not None

    def cut(self) -> None:
        """Both sides find it broken."""
        self.to_hub.cut(End())
        self.to_agent.cut(End())

    def lose(self, *, to_hub: bool = True, to_agent: bool = True) -> None:
        """Half-open: no side is told."""
        if to_hub:
            self.to_hub.lose()
        if to_agent:
            self.to_agent.lose()


async def _send(actor: Actor, out: Pipe, back: Pipe, frame: str | bytes, patience: float) -> bool:
    """False: the peer has gone, or takes nothing."""
    await trio.lowlevel.checkpoint()
    with trio.move_on_after(patience):
        await out.wait_room()
    if out.end is not None or out.is_full or isinstance(back.arrived(), End):
        return False
    with actor.crossing("send"):
        out.put(frame, len(frame))
    return True


async def _receive(actor: Actor, pipe: Pipe) -> Any:
    await trio.lowlevel.checkpoint()
    while not isinstance(item := await pipe.wait_arrived(), End):
        with actor.crossing("receive"):
            taken = pipe.take(item)
        if taken:
            break
    return item


class HubEnd:
    """As `hub.connection.Connection`."""

    def __init__(self, wire: Wire) -> None:
        self.address = "192.0.2.7"
        self.binding = b""
        self._wire = wire

    async def receive(self) -> str | bytes:
        if self._wire.to_agent.end is not None:
            raise LinkClosed
        item = await _receive(self._wire.hub, self._wire.to_hub)
        if isinstance(item, End):
            raise LinkClosed
        return item

    async def send(self, frame: str | bytes) -> None:
        wire = self._wire
        sent = False
        try:
            sent = await _send(wire.hub, wire.to_agent, wire.to_hub, frame, SEND_S)
        finally:
            if not sent:
                self._hang_up()
        if not sent:
            raise LinkClosed

    async def ping(self) -> None:
        await trio.sleep(2 * self._wire.dice.uniform(*LATENCY_S))
        if self._wire.is_over:
            raise LinkClosed
        if self._wire.to_agent._is_void or self._wire.to_hub._is_void:
            await trio.sleep_forever()

    async def close(self, code: Close, reason: str) -> None:
        del reason
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
            self._wire.hub.check()
            self._wire.to_agent.finish(End(int(code)))
            with trio.move_on_after(CLOSE_S):
                while not isinstance(item := await self._wire.to_hub.wait_arrived(), End):
                    self._wire.to_hub.take(item)
        self._hang_up()

    def _hang_up(self) -> None:
        if self._wire.hub.alive:
            self._wire.to_agent.finish(End())
            self._wire.to_hub.cut(End())


class AgentEnd:
    """As `agent.link.Link`."""

    bindings = (b"",)

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def send(self, frame: str | bytes) -> None:
        wire = self._wire
        if not await _send(wire.agent, wire.to_hub, wire.to_agent, frame, SEND_S):
            raise LinkLost("the connection was cut")

    async def wait_room(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive(self) -> str | bytes:
        item = await _receive(self._wire.agent, self._wire.to_agent)
        if isinstance(item, End):
            raise LinkLost("the hub closed it", item.code)
        return item

    async def close(self, code: int, reason: str) -> None:
        del code, reason
        await trio.lowlevel.checkpoint()
        self._wire.agent.check()
        self._wire.to_hub.finish(End())


@asynccontextmanager
async def dialled(wire: Wire, pace: Pace) -> AsyncIterator[AgentEnd]:
    """What `agent.link.open_link` gives, once there is a hub that listens."""
    del pace
    try:
        yield wire.agent_end
    finally:
        if ACTOR.get() is wire.agent and wire.agent.alive:
            wire.to_hub.finish(End())
            wire.to_agent.cut(End())
