"""Binary frames: a piece of a command's output at its byte offset, with checksums.

1 kind = 1 │ 1 stream │ 30 command id, ASCII │ 8 offset │ 4 crc32c of each chunk … │ chunks …
All chunks have `CHUNK_BYTES`, but the last may have less.
"""

import struct
from dataclasses import dataclass
from typing import Literal

from crc32c import crc32c

from cmdop_appliance.errors import LocalProtocolError, RemoteProtocolError
from cmdop_appliance.ids import is_id
from cmdop_appliance.protocol.limits import CHUNK_BYTES, OUTPUT_BYTES

StreamName = Literal["stdout", "stderr"]
STREAMS: tuple[StreamName, StreamName] = ("stdout", "stderr")

_OUTPUT = 1
_HEAD = struct.Struct("!BB30sQ")
_CHECKSUM_BYTES = 4


@dataclass(frozen=True, slots=True)
class Output:
    """`data` stands at byte `offset` of one stream of one command."""

    id: str
    stream: StreamName
    offset: int
    data: bytes


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
