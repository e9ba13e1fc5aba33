"""/events: everything that happens within a key's reach, as it happens."""

import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
import trio
from msgspec import Meta, Struct

from cmdop_appliance.api import streams
from cmdop_appliance.api.exchange import Call, Response
from cmdop_appliance.api.fields import Time, bad_parameter, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Caller, Scope
from cmdop_appliance.errors import InvalidRequest
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.model import EVENT_TYPES, Event
from cmdop_appliance.store import api_keys, events

# Events of one read; a reader holds no more at a time.
_READ: Final = 100
# A reader looks no more often than this: 20 of them cost the store 400 short reads a second.
PACE_S: Final = 0.05
# What `Last-Event-ID` may be: the number of the last event that the reader has.
_EVENT_ID: Final = "[0-9]{1,16}"
# Any one of these lets a key see the events of a family.
_SCOPES: Final = {
    "session": (Scope.SESSIONS_READ,),
    "machine": (Scope.MACHINES_READ,),
    "command": (Scope.SESSIONS_READ, Scope.COMMANDS_EXECUTE),
    "schedule": (Scope.SCHEDULES_READ,),
    "file": (Scope.FILES_READ,),
    "coding_session": (Scope.SESSIONS_READ,),
    "webhook": (Scope.WEBHOOKS_MANAGE,),
}

_NAME: Final = "|".join(map(re.escape, (*EVENT_TYPES, *(f"{family}.*" for family in _SCOPES), "*")))
# Read by the handler, which says what is known.
_Types = Annotated[str, Meta(extra_json_schema={"pattern": f"^({_NAME})(,({_NAME}))*$"})]


class EventsQuery(Struct, frozen=True):
    """Which events."""

    types: _Types | None = None  # a,b: either; `command.*`: the whole family; `*`, the default: all
    machine_id: str | None = None


class EventView(Struct, frozen=True):
    """One event. `seq` counts the events of the workspace."""

    id: str
    type: str
    timestamp: Time | None
    seq: int
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Missing:
    """The events from `first` to `last` are not kept any more."""

    first: int
    last: int


@route(
    "GET",
    "/events",
    scope=Scope.ANY_KEY,
    query=EventsQuery,
    answer=bytes,
    media=streams.MEDIA,
    event_id=_EVENT_ID,
)
async def follow_events(call: Call[None, EventsQuery]) -> Response:
    """Server-sent events from now on, or behind `Last-Event-ID`: what the key may see.

    `event` is the type, `id` the number of the event. `gap` with `{"from", "to"}` stands for
    numbers that are not kept any more (7 days, a million of a workspace).
    """
    kinds = visible(call.caller, _read_types(call.query.types))
    seen = await call.hub.store.run(events.last_seq, call.caller.workspace_id)
    if last := call.request.headers.get("last-event-id"):
        seen = min(_read_seq(last), seen)
    reader = EventReader(call.hub, call.caller, kinds, seen, call.query.machine_id)
    return Response(200, dict(streams.HEADERS), _events(call, reader))


class EventReader:
    """Reads what a caller may hear of, in order, behind number `seen`; that moves along."""

    def __init__(
        self,
        hub: Hub,
        caller: Caller,
        kinds: frozenset[str],
        seen: int,
        machine_id: str | None = None,
    ) -> None:
        self._hub = hub
        self._reach = caller.reach
        self._kinds = kinds
        self._machine_id = machine_id
        self.seen = seen

    async def rest(self) -> AsyncGenerator[EventView | Missing, None]:
        """Up to the newest that there is."""
        is_more = True
        while is_more:
            found = await self._hub.store.run(events.after, self._reach, self.seen, _READ)
            is_more = len(found) == _READ
            for event in found:
                first, self.seen = self.seen + 1, event.seq
                if event.seq > first:
                    yield Missing(first, event.seq - 1)
                if self._is_asked(event):
                    yield _view(event)

    def _is_asked(self, event: Event) -> bool:
        is_about = self._machine_id in (None, event.machine_id)
        return event.is_within and event.type in self._kinds and is_about


async def _events(
    call: Call[None, EventsQuery], reader: EventReader
) -> AsyncGenerator[bytes, None]:
    caller = call.caller
    subjects = events.subject_of(caller.workspace_id), api_keys.subject_of(caller.key_id)
    with call.hub.bus.subscribe(*subjects) as news:
        yield streams.KEEP_ALIVE  # the reader knows that it is heard from here on
        while True:
            async with aclosing(reader.rest()) as found:
                async for each in found:
                    match each:
                        case Missing(first, last):
                            yield _event("gap", last, {"from": first, "to": last})
                        case EventView():
                            yield _event(each.type, each.seq, each)
            try:
                message = await streams.next_news(call, news)
                await trio.sleep(PACE_S)
                while news.waiting:  # one look finds what many wake-ups tell of
                    await streams.next_news(call, news)
            except streams.Ended:
                return  # the reader comes back with Last-Event-ID
            if message is None:
                yield streams.KEEP_ALIVE


def _view(event: Event) -> EventView:
    return EventView(event.id, event.type, when(event.created_ms), event.seq, event.data)


def _event(name: str, seq: int, data: object) -> bytes:
    return f"event: {name}\nid: {seq}\ndata: ".encode() + msgspec.json.encode(data) + b"\n\n"


def visible(caller: Caller, kinds: Iterable[str]) -> frozenset[str]:
    """Those of these types of events that the caller's scopes let it hear of."""
    return frozenset(
        kind for kind in kinds if any(map(caller.allows, _SCOPES[kind.partition(".")[0]]))
    )


def _read_types(text: str | None) -> frozenset[str]:
    if text is None:
        return frozenset(EVENT_TYPES)
    kinds: set[str] = set()
    for name in text.split(","):
        named = {kind for kind in EVENT_TYPES if name in (kind, _family_of(kind), "*")}
        if not named:
            raise bad_parameter(
                "types",
                f"there is no event {name[:64]!r}",
                hint=f"known are *, {', '.join(EVENT_TYPES)}",
            )
        kinds |= named
    return frozenset(kinds)


def _family_of(kind: str) -> str:
    return kind.partition(".")[0] + ".*"


def _read_seq(header: str) -> int:
    if not re.fullmatch(_EVENT_ID, header):
        raise InvalidRequest("Last-Event-ID must be an id that this stream gave, such as 120")
    return int(header)
