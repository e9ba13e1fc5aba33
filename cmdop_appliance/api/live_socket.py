"""The websocket that tells a page what happens: the hub's end of it.

The client says `start` and nothing else. It hears `hello`, then `event` for all that `GET /events`
tells its key, and `load` for the newest samples of the machines that it may read. Nothing queues
for a client that is slow: what happened meanwhile is asked from the store when it is ready.
"""

from contextlib import aclosing
from functools import partial
from typing import Final, Literal

import msgspec
import trio
from msgspec import Struct, field

from cmdop_appliance import __version__
from cmdop_appliance.api.cmdop.events import PACE_S, EventReader, EventView, Missing, visible
from cmdop_appliance.api.cmdop.live import open_live_socket
from cmdop_appliance.api.cmdop.machines import Load, load_of
from cmdop_appliance.api.conversation import Conversation, Part, Told
from cmdop_appliance.api.exchange import first_of
from cmdop_appliance.api.fields import Offset, Time
from cmdop_appliance.api.handshake import Handshake
from cmdop_appliance.api.registry import ROUTES
from cmdop_appliance.auth import Scope
from cmdop_appliance.clock import rfc3339
from cmdop_appliance.errors import RemoteProtocolError
from cmdop_appliance.hub.bus import Subscription
from cmdop_appliance.hub.connection import accept
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.hub.reports import load_subject
from cmdop_appliance.model import EVENT_TYPES
from cmdop_appliance.store import events, sessions
from cmdop_appliance.transfer import Room

SUBPROTOCOL: Final = "cmdop.live.v1"
ROUTE: Final = next(entry for entry in ROUTES if entry.handler is open_live_socket)

# All that a client says is its start.
_MESSAGE_BYTES: Final = 1024
# Who is further behind than this reads anew what it shows: that is less than all that happened.
CATCH_UP: Final = 1000  # events
# Samples of one message, and of one read.
_MACHINES: Final = 500
# A page hears of the load no more often than this …
_LOAD_PACE_S: Final = 1.0
# … and meanwhile we look so often who sent some: 2,500 samples a second are told one by one.
_GATHER_S: Final = 0.1


class _Start(Struct, frozen=True):
    """Where the client was when it heard the last."""

    type: Literal["start"]
    after: Offset | None = None  # `seq` of an event; null: it begins now


_starts: Final = msgspec.json.Decoder(_Start)


class Hello(Told, frozen=True, kw_only=True):
    """It begins: events come from behind `seq`, which is less than `after` if that was none."""

    seq: int
    version: str
    now: Time


class Event(Told, frozen=True, kw_only=True):
    """Something happened."""

    event: EventView


class Gap(Told, frozen=True, kw_only=True):
    """The events from `from` to `to` are not told: what is shown is to be read anew."""

    from_: int = field(name="from")
    to: int


class MachineLoad(Load, frozen=True, kw_only=True):
    """The newest sample of a machine."""

    id: str


class Loads(Told, frozen=True, kw_only=True, tag="load"):
    """The newest samples of some machines."""

    machines: list[MachineLoad]


async def serve_live_socket(hub: Hub, stream: trio.abc.Stream, room: Room, address: str) -> None:
    """Carry one connection, whose first bytes ask for the live socket, to its end.

    Raises:
        LinkClosed: the client went away, or was refused.
    """
    handshake = Handshake(hub, ROUTE, SUBPROTOCOL)
    async with accept(
        stream, room, address, hub.proxies, handshake.judge, message_bytes=_MESSAGE_BYTES
    ) as connection:
        await _Conversation(hub, connection, handshake.caller, ROUTE).run()


class _Conversation(Conversation):
    async def _converse(self) -> None:
        start = await self._hear_start(_starts, _Start)
        kinds = visible(self._caller, EVENT_TYPES)
        last = await self._hub.store.run(events.last_seq, self._caller.workspace_id)
        seen = last if start.after is None else min(start.after, last)
        now = rfc3339(self._hub.clock.now_ms())
        await self._say(Hello(seq=seen, version=__version__, now=now))
        if last - seen > CATCH_UP:
            await self._say(Gap(from_=seen + 1, to=last))
            seen = last
        reader = EventReader(self._hub, self._caller, kinds, seen)
        parts: list[Part] = [self._listen, partial(self._tell_events, reader)]
        if self._caller.allows(Scope.MACHINES_READ):
            parts.append(self._tell_loads)
        await first_of(*(partial(self._part, part) for part in parts))

    async def _listen(self) -> None:
        await self._connection.receive()
        raise RemoteProtocolError("after its start a client says nothing")

    async def _tell_events(self, reader: EventReader) -> None:
        with self._hub.bus.subscribe(events.subject_of(self._caller.workspace_id)) as news:
            while True:
                async with aclosing(reader.rest()) as found:
                    async for each in found:
                        match each:
                            case Missing(first, last):
                                await self._say(Gap(from_=first, to=last))
                            case EventView():
                                await self._say(Event(event=each))
                await news.next()
                await trio.sleep(PACE_S)
                while news.waiting:  # one look finds what many wake-ups tell of
                    await news.next()

    async def _tell_loads(self) -> None:
        told: dict[str, str | None] = {}  # by machine, of when the newest is that it was told
        with self._hub.bus.subscribe(load_subject(self._caller.workspace_id)) as news:
            sampled: set[str] | None = None
            while True:
                await self._tell_loads_of(sampled, told)
                sampled = await _gather(news)

    async def _tell_loads_of(self, sampled: set[str] | None, told: dict[str, str | None]) -> None:
        """The samples of these machines, or of all, that are not `told`."""
        store, reach = self._hub.store, self._caller.reach
        asked = list(sampled or ())
        if sampled is None:
            asked = await store.run(sessions.sampled_machines, reach)
        for first in range(0, len(asked), _MACHINES):
            live = await store.run(sessions.live_on, reach, asked[first : first + _MACHINES])
            loads = [
                MachineLoad(id=session.machine_id, **msgspec.structs.asdict(load))
                for session in live
                if (load := load_of(session)) and told.get(session.machine_id) != load.at
            ]
            if loads:
                await self._say(Loads(machines=loads))
                told.update((load.id, load.at) for load in loads)


async def _gather(news: Subscription) -> set[str] | None:
    """The machines that sent samples within some time after the next one; None: any may have."""
    sampled = {await news.next()}
    until = trio.current_time() + _LOAD_PACE_S
    while trio.current_time() < until:
        await trio.sleep(_GATHER_S)
        while news.waiting:
            sampled.add(await news.next())
    return None if None in sampled else sampled
