# Made from sdk/aio/resources/resource.py by scripts/fix: change it there.
"""What all nouns share: pages of lists, streams, and the hub's envelope."""

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import Any, Final, Self
from urllib.parse import quote

from cmdop_appliance.sdk.errors import Away, CmdopError, ServerError, Silent, UnexpectedAnswer
from cmdop_appliance.sdk.patience import STOPPING
from cmdop_appliance.sdk.sse import EventParser, ServerSentEvent
from cmdop_appliance.sdk.transport import Transport

PAGE_ITEMS: Final = 100  # the most the hub gives at once (contract, Lists)
# The hub sends a comment every 15 s; three missed mean that the connection is dead.
STREAM_IDLE_S: Final = 45.0


class Resource:
    """One noun of the API, over the transport that all nouns of a client share."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _answer(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """The one object that the hub answers with; `request`: see `Transport.request`."""
        return data_of(self._transport.request(method, path, **request))

    def _pages(
        self,
        path: str,
        query: Mapping[str, object],
        page_items: int = PAGE_ITEMS,
        items_of: Callable[[Mapping[str, Any]], object] | None = None,
    ) -> Iterator[Any]:
        """The items of a list, asked for page by page; `items_of`: where an answer has them."""
        query = {**query, "limit": page_items}
        return _Pages(self._transport, path, query, items_of or _data)

    def _follow(
        self, path: str, query: Mapping[str, object] | None = None, position: str = ""
    ) -> Generator[ServerSentEvent]:
        """Server-sent events behind `position`, for ever; a broken connection is made again.

        Raises:
            ConnectionFailed: the hub stayed away for too long.
        """
        patience = self._transport.patience()
        while True:
            broken: CmdopError = Away("the hub broke off the stream")
            idle_s = 0.0
            try:
                with closing(self._events(path, query, position)) as events:
                    for event in events:
                        patience.renew()
                        position = event.id or position
                        yield event
            except Away as exc:
                broken = exc
            except Silent as exc:
                broken, idle_s = exc, STREAM_IDLE_S
            except ServerError as exc:
                if exc.status != STOPPING:
                    raise
                broken = exc
            patience.pause(broken, idle_s)

    def _events(
        self, path: str, query: Mapping[str, object] | None, position: str
    ) -> Generator[ServerSentEvent]:
        headers = {"Accept": "text/event-stream"}
        if position:
            headers["Last-Event-ID"] = position
        parser = EventParser()
        with self._transport.stream(
            path, query=query, idle_timeout_s=STREAM_IDLE_S, headers=headers
        ) as pieces:
            for piece in pieces:
                yield from parser.feed(piece)


class _Pages:
    """An iterator, not a generator: nothing is left open when it is not read to its end."""

    def __init__(
        self,
        transport: Transport,
        path: str,
        query: Mapping[str, object],
        items_of: Callable[[Mapping[str, Any]], object],
    ) -> None:
        self._transport = transport
        self._path = path
        self._query = query
        self._items_of = items_of
        self._items: list[Any] = []  # of this page, the next one last
        self._offset = 0
        self._has_more = True

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if not self._items and self._has_more:
            self._turn()
        if not self._items:
            raise StopIteration
        return self._items.pop()

    def _turn(self) -> None:
        query = {**self._query, "offset": self._offset}
        answer = self._transport.request("GET", self._path, query=query)
        items = self._items_of(answer)
        if not isinstance(items, list):
            raise UnexpectedAnswer(f"the hub answered {self._path} without a list")
        self._items = items[::-1]
        self._offset += len(items)
        self._has_more = bool(answer.get("meta", {}).get("has_more"))


def _data(answer: Mapping[str, Any]) -> object:
    return answer.get("data")


def path_to(collection: str, item: str) -> str:
    """The path of one item, whatever characters its id has."""
    return f"/{collection}/{quote(item, safe='')}"


def data_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The one object that the hub answered with.

    Raises:
        UnexpectedAnswer: there is none.
    """
    data = answer.get("data")
    if not isinstance(data, dict):
        raise UnexpectedAnswer("the hub answered without data")
    return data


def require_known(options: Mapping[str, object], known: frozenset[str]) -> None:
    """Pass if each option is one of these.

    Raises:
        TypeError: some are not, which are named.
    """
    if unknown := sorted(options.keys() - known):
        raise TypeError(f"no option {', '.join(unknown)}; known are {', '.join(sorted(known))}")


def json_object(event: ServerSentEvent) -> dict[str, Any]:
    """The object that an event carries.

    Raises:
        UnexpectedAnswer: it carries none.
    """
    try:
        value = json.loads(event.data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UnexpectedAnswer(f"the hub sent an event {event.name} that is not a JSON object")
    return value
