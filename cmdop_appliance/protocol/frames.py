"""Binary frames: a piece of a command's output, or of a file, at its byte offset.

1 kind = 1 │ 1 stream │ 30 command id, ASCII │ 8 offset │ 4 crc32c of each chunk … │ chunks …
1 kind = 2 │ 8 call │ 8 offset │ data …
1 kind = 3 │ 8 watch │ 8 offset │ output of a terminal …

All chunks have `CHUNK_BYTES`, but the last may have less. A file has one checksum, of its whole.
"""

import struct
from dataclasses import dataclass
from typing import Literal

from crc32c import crc32c

from cmdop_appliance.errors import LocalProtocolError, RemoteProtocolError
from cmdop_appliance.ids import is_id
from cmdop_appliance.protocol.limits import CHUNK_BYTES, DATA_BYTES, OUTPUT_BYTES, SCREEN_BYTES

StreamName = Literal["stdout", "stderr"]
STREAMS: tuple[StreamName, StreamName] = ("stdout", "stderr")

_OUTPUT = 1
_HEAD = struct.Struct("!BB30sQ")
_DATA = 2
_SCREEN = 3
_PIECE_HEAD = struct.Struct("!BQQ")  # of both
_CHECKSUM_BYTES = 4


@dataclass(frozen=True, slots=True)
class Output:
    """`data` stands at byte `offset` of one stream of one command."""

    id: str
    stream: StreamName
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Data:
    """`data` stands at byte `offset` of the file that call `id` reads or writes."""

    id: int
    offset: int
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Screen:
    """`data` stands at byte `offset` of what the terminal of reader `watch` wrote."""

    watch: int
    offset: int
    data: bytes


def encode(item: Output | Data | Screen) -> bytes:
    """The binary frame for `item`.

    Raises:
        LocalProtocolError: there is nothing in it, or more than one frame may carry.
    """
    match item:
        case Output():
            return encode_output(item)
        case Data():
            return encode_data(item)
        case Screen():
            return encode_screen(item)


def decode(frame: bytes) -> Output | Data | Screen:
    """What is in a binary frame, its checksums verified.

    Raises:
        RemoteProtocolError: it is no such frame, or was damaged on the way.
    """
    match frame[:1]:
        case b"\2":
            return decode_data(frame)
        case b"\3":
            return decode_screen(frame)
        case _:
            return decode_output(frame)


def encode_data(item: Data) -> bytes:
    """The binary frame for a piece of a file.

    Raises:
        LocalProtocolError: there is nothing in it, or more than one frame may carry.
    """
    return _encode_piece(_DATA, item.id, item.offset, item.data, DATA_BYTES)


def decode_data(frame: bytes) -> Data:
    """The piece of a file in a binary frame.

    Raises:
        RemoteProtocolError: it is not such a frame.
    """
    call, offset = _decode_head(_DATA, frame, DATA_BYTES)
    return Data(call, offset, memoryview(frame)[_PIECE_HEAD.size :])


def encode_screen(item: Screen) -> bytes:
    """The binary frame for a piece of a terminal's output.

    Raises:
        LocalProtocolError: there is nothing in it, or more than one frame may carry.
    """
    return _encode_piece(_SCREEN, item.watch, item.offset, item.data, SCREEN_BYTES)


def decode_screen(frame: bytes) -> Screen:
    """The piece of a terminal's output in a binary frame.

    Raises:
        RemoteProtocolError: it is not such a frame.
    """
    watch, offset = _decode_head(_SCREEN, frame, SCREEN_BYTES)
    return Screen(watch, offset, frame[_PIECE_HEAD.size :])


def _encode_piece(
    kind: int, number: int, offset: int, data: bytes | memoryview, most: int
) -> bytes:
    if not 0 < len(data) <= most:
        raise LocalProtocolError(f"data of {len(data)} bytes; 1 to {most} fit")
    return b"".join((_PIECE_HEAD.pack(kind, number, offset), data))


def _decode_head(kind: int, frame: bytes, most: int) -> tuple[int, int]:
    """Whose piece is in a frame, and its byte offset."""
    size = len(frame) - _PIECE_HEAD.size
    if not 0 < size <= most or frame[0] != kind:
        raise RemoteProtocolError(f"a binary frame of {len(frame)} bytes")
    _, number, offset = _PIECE_HEAD.unpack_from(frame)
    if offset + size >= 2**63:
        raise RemoteProtocolError(f"data at offset {offset}")
    return number, offset


def encode_output(output: Output) -> bytes:
    """The binary frame for `output`.

    Raises:
        LocalProtocolError: there is nothing in it, or more than one frame may carry.
    """
    if not 0 < len(output.data) <= OUTPUT_BYTES:
        raise LocalProtocolError(f"output of {len(output.data)} bytes; 1 to {OUTPUT_BYTES} fit")
    stream = STREAMS.index(output.stream)
    head = _HEAD.pack(_OUTPUT, stream, output.id.encode(), output.offset)
    return b"".join((head, _checksums(output.data), output.data))


def decode_output(frame: bytes) -> Output:
    """The output in a binary frame, its checksums verified.

    Raises:
        RemoteProtocolError: it is not such a frame, or was damaged on the way.
    """
    rest = len(frame) - _HEAD.size
    start = _HEAD.size + _CHECKSUM_BYTES * -(-rest // (_CHECKSUM_BYTES + CHUNK_BYTES))
    if not 0 < len(frame) - start <= OUTPUT_BYTES:
        raise RemoteProtocolError(f"a binary frame of {len(frame)} bytes")
    kind, stream, raw_id, offset = _HEAD.unpack_from(frame)
    command_id = raw_id.decode("ascii", "replace")
    if kind != _OUTPUT or stream >= len(STREAMS) or not is_id("cmd", command_id):
        raise RemoteProtocolError("a binary frame with an unknown head")
    data = frame[start:]
    if offset + len(data) >= 2**63:
        raise RemoteProtocolError(f"output at offset {offset}")
    if _checksums(data) != frame[_HEAD.size : start]:
        raise RemoteProtocolError(f"output of {command_id} at {offset} was damaged on the way")
    return Output(command_id, STREAMS[stream], offset, data)


def _checksums(data: bytes) -> bytes:
    chunks = memoryview(data)
    return b"".join(
        crc32c(chunks[at : at + CHUNK_BYTES]).to_bytes(_CHECKSUM_BYTES, "big")
        for at in range(0, len(data), CHUNK_BYTES)
    )
