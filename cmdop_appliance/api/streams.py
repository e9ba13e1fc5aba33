"""Output of commands on its way to a reader: byte ranges, and server-sent events by offset.

Nothing of an output is held here but the piece under way: a slow reader waits, the file does not.
"""

import base64
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from cmdop_appliance.api.exchange import Call
from cmdop_appliance.errors import (
    CommandNotFound,
    InvalidRequest,
    RangeNotSatisfiable,
    Unauthorized,
    Unavailable,
)
from cmdop_appliance.hub.bus import Notified, Subscription
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.hub.live_stream import Held
from cmdop_appliance.hub.wakes import output_subject
from cmdop_appliance.model import Command
from cmdop_appliance.protocol.frames import STREAMS, StreamName
from cmdop_appliance.store import api_keys
from cmdop_appliance.store import commands as rows

MEDIA: Final = "text/event-stream"
HEADERS: Final = {
    "Content-Type": MEDIA,
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}
KEEP_ALIVE: Final = b": keep-alive\n\n"

# One read of stored output: what a reader may hold at a time is 256 KiB (semantics.md).
READ_BYTES: Final = 64 * 1024

_RANGE: Final = re.compile(r"bytes=(\d{0,16})-(\d{0,16})", re.ASCII)
# What `Last-Event-ID` may be: how much of stdout and of stderr the reader has.
EVENT_ID: Final = "([0-9]{1,16})-([0-9]{1,16})"


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `first` up to, not including, `end`; `partial` if a Range header asked for them."""

    first: int
    end: int
    partial: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of one stream of a command."""

    stream: StreamName
    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes `first` up to, not including, `end` of a stream are not kept."""

    stream: StreamName
    first: int
    end: int


def read_range(header: str, offset: int, held: Held) -> ByteRange:
    """The bytes that one `Range` (RFC 9110 §14), or else `offset`, asks for.

    Several ranges, or another unit, are answered with everything, as the RFC allows. A range that
    begins before bytes that are not kept ends there.

    Raises:
        RangeNotSatisfiable: there are no such bytes, or the first is not kept.
    """
    total = held.size
    asked = _RANGE.fullmatch(header)
    if asked is None or not any(asked.groups()):
        if offset > total:
            raise RangeNotSatisfiable(f"the stream has {total} bytes so far", total)
        return ByteRange(offset, total, partial=False)
    start, last = asked.groups()
    first = int(start) if start else max(0, total - int(last))
    end = min(int(last) + 1, total) if start and last else total
    if first >= end:
        raise RangeNotSatisfiable(f"the stream has {total} bytes so far", total)
    if held.gap <= first < held.gap_end:
        raise RangeNotSatisfiable(
            f"of {total} bytes so far, 0-{held.gap - 1} and {held.gap_end}-{total - 1} are kept",
            total,
        )
    if first < held.gap:
        end = min(end, held.gap)
    return ByteRange(first, end, partial=True)


async def output_bytes(
    hub: Hub, command_id: str, stream: StreamName, part: ByteRange, *, mark_gap: bool
) -> AsyncGenerator[bytes, None]:
    """These bytes of one stream, piece by piece; `mark_gap`: a line where some are not kept."""
    at = part.first
    while at < part.end:
        size = min(READ_BYTES, part.end - at)
        data = await hub.outputs.read(command_id, stream, at, size)
        if data:
            at += len(data)
            yield data
            continue
        held = (await hub.outputs.held(command_id))[stream]
        if not (mark_gap and held.gap <= at < held.gap_end):
            raise EOFError(f"{stream} of {command_id} ends at {at}")  # the answer breaks off
        yield f"\n[… {held.gap_end - at} bytes not kept …]\n".encode()
        at = held.gap_end


def read_event_id(header: str | None) -> dict[StreamName, int]:
    """How much of each stream a reader has, by its `Last-Event-ID`.

    Raises:
        InvalidRequest: that is no id of ours.
    """
    if not header:
        return dict.fromkeys(STREAMS, 0)
    offsets = re.fullmatch(EVENT_ID, header)
    if offsets is None:
        raise InvalidRequest("Last-Event-ID must be an id that this stream gave, such as 120-0")
    return {"stdout": int(offsets[1]), "stderr": int(offsets[2])}


class Ended(Exception):
    """The stream is over for this reader: the hub is stopping, or its key is good no more."""


async def next_news(call: Call[Any, Any], news: Subscription) -> object:
    """The next message for a stream, or None: look for yourself; the key is still good.

    `news` must listen to `api_keys.subject_of` the caller, too.

    Raises:
        Ended: there will be none.
    """
    try:
        message = await news.next()
        if message is None or message == Notified(api_keys.subject_of(call.caller.key_id)):
            await call.hub.callers.require_still_good(call.caller)
    except (Unauthorized, Unavailable):
        raise Ended from None
    return message


async def follow(
    call: Call[Any, Any], command: Command, seen: dict[StreamName, int]
) -> AsyncGenerator[Piece | Gap | Command, None]:
    """The output behind `seen`, which moves along, as it comes; then the record of the end.

    The record comes before its end, too: as it stands whenever nothing was heard for some seconds.
    Ends without an end when the hub stops, or the caller's key or its reach does.
    """
    hub = call.hub
    subjects = output_subject(command.id), api_keys.subject_of(call.caller.key_id)
    with hub.bus.subscribe(*subjects) as news:
        is_sweep = False
        while True:
            # The record first: what an ended command wrote is all there when its end is. While
            # its output is live it has hardly ended, and the record need not be asked each time.
            if is_sweep or hub.outputs.live(command.id) is None:
                try:
                    command = await hub.store.run(rows.get, call.caller.reach, command.id)
                except CommandNotFound:  # its machine lost a tag, and is out of reach
                    return
            for stream in STREAMS:
                while part := await _next_part(hub, command.id, stream, seen):
                    yield part
            if is_sweep or command.finished_ms is not None:
                yield command
            if command.finished_ms is not None:
                return
            try:
                is_sweep = await next_news(call, news) is None
            except Ended:
                return


async def _next_part(
    hub: Hub, command_id: str, stream: StreamName, seen: dict[StreamName, int]
) -> Piece | Gap | None:
    """What is behind `seen`, which then includes it; None at the present end."""
    at = seen[stream]
    if data := await hub.outputs.read(command_id, stream, at, READ_BYTES):
        seen[stream] += len(data)
        return Piece(stream, data)
    held = (await hub.outputs.held(command_id))[stream]
    if held.gap <= at < held.gap_end:
        seen[stream] = held.gap_end
        return Gap(stream, at, held.gap_end)
    return None


async def command_events(
    call: Call[Any, Any],
    command: Command,
    seen: dict[StreamName, int],
    describe: Callable[[Command], Awaitable[object]],
) -> AsyncGenerator[bytes, None]:
    """Server-sent events: `stdout` and `stderr` behind `seen` as they come, then `end`.

    A `gap` stands for bytes that are not kept: `from` the one after the last event, up to `to`.
    The `end` carries what `describe` makes of the record. Where it ends without one, the reader
    comes back with Last-Event-ID.
    """
    async with aclosing(follow(call, command, seen)) as parts:
        async for part in parts:
            match part:
                case Piece(stream, data):
                    yield _event(stream, seen, {"data": base64.b64encode(data).decode()})
                case Gap(stream, first, end):
                    yield _event("gap", seen, {"stream": stream, "from": first, "to": end})
                case Command(finished_ms=None):
                    yield KEEP_ALIVE
                case Command():
                    yield _event("end", seen, await describe(part))


def _event(name: str, seen: dict[StreamName, int], data: object) -> bytes:
    head = f"event: {name}\nid: {seen['stdout']}-{seen['stderr']}\ndata: "
    return head.encode() + msgspec.json.encode(data) + b"\n\n"
