"""Events: what happens, as it happens."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import cast

from cmdop_appliance.sdk.aio.resources.resource import Resource, json_object
from cmdop_appliance.sdk.errors import UnexpectedAnswer
from cmdop_appliance.sdk.sse import ServerSentEvent
from cmdop_appliance.sdk.types import Event, EventGap


class Events(Resource):
    """What happens, as it happens."""

    async def follow(
        self,
        *,
        types: Sequence[str] = (),
        machine_id: str | None = None,
        after: int | None = None,
    ) -> AsyncGenerator[Event | EventGap]:
        """Each event that the key may see, from now on or behind number `after`, for ever.

        `types`: only these; `command.*` is the whole family. An `EventGap` stands for numbers that
        the hub keeps no more. A restart of the hub is not noticed.

        Raises:
            InvalidRequest: there is no such type.
            ConnectionFailed: the hub stayed away for too long.
        """
        query = {"types": ",".join(types) or None, "machine_id": machine_id}
        position = "" if after is None else str(after)
        async with aclosing(self._follow("/events", query, position)) as events:
            async for event in events:
                if event.name == "gap":
                    yield _gap(event)
                elif event.name:
                    yield cast("Event", json_object(event))


def _gap(event: ServerSentEvent) -> EventGap:
    match json_object(event):
        case {"from": int(first), "to": int(last)}:
            return EventGap(first, last)
    raise UnexpectedAnswer("the hub sent an event gap without its numbers")
