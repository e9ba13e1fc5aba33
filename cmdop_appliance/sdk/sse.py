"""Server-sent events (WHATWG HTML, section 9.2), sans-I/O: bytes in, events out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cmdop_appliance.sdk.errors import UnexpectedAnswer

# The final command record holds 1 MiB each of stdout and stderr, and JSON may need 6 bytes
# (\u0000) for one of output; all the rest is far smaller.
MAX_EVENT_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event. A comment, which servers send to show they live, has the name ""."""

    name: str
    data: str = ""
    id: str = ""


class EventParser:
    """Feed it the body of one answer in pieces of any size."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._name = "message"
        self._data: list[str] = []
        self._id = ""

    def feed(self, piece: bytes) -> Iterator[ServerSentEvent]:
        """The events that `piece` completes.

        Raises:
            UnexpectedAnswer: an event is larger than any a hub sends.
        """
        self._rest += piece
        if len(self._rest) > MAX_EVENT_BYTES:
            raise UnexpectedAnswer(f"the hub sent an event of more than {MAX_EVENT_BYTES} bytes")
        if b"\n" not in piece:
            return
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            yield from self._line(line.rstrip(b"\r").decode("utf-8", "replace"))

    def _line(self, line: str) -> Iterator[ServerSentEvent]:
        if not line:
            if self._data:
                yield ServerSentEvent(self._name, "\n".join(self._data), self._id)
            self._name, self._data = "message", []
            return
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "":
                yield ServerSentEvent("")
            case "event":
                self._name = value
            case "data":
                self._data.append(value)
            case "id":
                self._id = value
