"""Output of commands on its way to a reader: byte ranges, and server-sent events by offset.

Nothing of an output is held here but the piece under way: a slow reader waits, the file does not.
"""

import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from cmdop_appliance.errors import InvalidRequest, RangeNotSatisfiable, Unavailable
from cmdop_appliance.hub.commands import output_subject
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.hub.output import Held
from cmdop_appliance.model import Command
from cmdop_appliance.protocol.frames import STREAMS, StreamName
from cmdop_appliance.store import commands as rows

# One read of stored output: what a reader may hold at a time is 256 KiB (semantics.md).
READ_BYTES: Final = 64 * 1024

_RANGE: Final = re.compile(r"bytes=(\d{0,16})-(\d{0,16})", re.ASCII)
_EVENT_ID: Final = re.compile(r"(\d{1,16})-(\d{1,16})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `first` up to, not including, `end`; `partial` if a Range header asked for them."""

    first: int
    end: int
    partial: bool


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
) -> AsyncIterator[bytes]:
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
    offsets = _EVENT_ID.fullmatch(header)
    if offsets is None:
        raise InvalidRequest("Last-Event-ID must be an id that this stream gave, such as 120-0")
    return {"stdout": int(offsets[1]), "stderr": int(offsets[2])}


async def command_events(
    hub: Hub,
    command: Command,
    seen: dict[StreamName, int],
    describe: Callable[[Command], Awaitable[object]],
) -> AsyncIterator[bytes]:
    """Server-sent events: `stdout` and `stderr` behind `seen` as they come, then `end`.

    A `gap` stands for bytes that are not kept: `from` the one after the last event, up to `to`.
    The `end` carries what `describe` makes of the record. Ends without it when the hub stops.
    """
    with hub.bus.subscribe(output_subject(command.id)) as news:
        is_sweep = False
        while True:
            # The record first: what an ended command wrote is all there when its end is. While
            # its output is live it has hardly ended, and the record need not be asked each time.
            if is_sweep or hub.outputs.live(command.id) is None:
                command = await hub.store.run(rows.get, command.workspace_id, command.id)
            for stream in STREAMS:
                while event := await _next_output(hub, command.id, stream, seen):
                    yield event
            if command.finished_ms is not None:
                yield _event("end", seen, await describe(command))
                return
            try:
                is_sweep = await news.next() is None
            except Unavailable:
                return  # the reader comes back with Last-Event-ID
            if is_sweep:
                yield b": keep-alive\n\n"


async def _next_output(
    hub: Hub, command_id: str, stream: StreamName, seen: dict[StreamName, int]
) -> bytes | None:
    """The event behind `seen`, which then includes it; None at the present end."""
    at = seen[stream]
    if data := await hub.outputs.read(command_id, stream, at, READ_BYTES):
        seen[stream] += len(data)
        return _event(stream, seen, {"data": base64.b64encode(data).decode()})
    held = (await hub.outputs.held(command_id))[stream]
    if held.gap <= at < held.gap_end:
        seen[stream] = held.gap_end
        return _event("gap", seen, {"stream": stream, "from": at, "to": held.gap_end})
    return None


def _event(name: str, seen: dict[StreamName, int], data: object) -> bytes:
    head = f"event: {name}\nid: {seen['stdout']}-{seen['stderr']}\ndata: "
    return head.encode() + msgspec.json.encode(data) + b"\n\n"
