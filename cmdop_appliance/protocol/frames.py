"""Binary frames: a piece of a command's output at its byte offset, with a checksum.

1 kind = 1 │ 1 stream │ 30 command id, ASCII │ 8 offset │ 4 crc32c of the payload │ payload
"""

import struct
from dataclasses import dataclass
from typing import Literal

from crc32c import crc32c

from cmdop_appliance.errors import LocalProtocolError, RemoteProtocolError
from cmdop_appliance.ids import is_id
from cmdop_appliance.protocol.limits import CHUNK_BYTES

StreamName = Literal["stdout", "stderr"]
STREAMS: tuple[StreamName, StreamName] = ("stdout", "stderr")

_OUTPUT = 1
_HEAD = struct.Struct("!BB30sQI")


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
    if not 0 < len(output.data) <= CHUNK_BYTES:
        raise LocalProtocolError(f"output of {len(output.data)} bytes; 1 to {CHUNK_BYTES} fit")
    stream = STREAMS.index(output.stream)
    head = _HEAD.pack(_OUTPUT, stream, output.id.encode(), output.offset, crc32c(output.data))
    return head + output.data


def decode_output(frame: bytes) -> Output:
    """The output in a binary frame, its checksum verified.

    Raises:
        RemoteProtocolError: it is not such a frame, or was damaged on the way.
    """
    if len(frame) <= _HEAD.size or len(frame) > _HEAD.size + CHUNK_BYTES:
        raise RemoteProtocolError(f"a binary frame of {len(frame)} bytes")
    kind, stream, raw_id, offset, checksum = _HEAD.unpack_from(frame)
    command_id = raw_id.decode("ascii", "replace")
    if kind != _OUTPUT or stream >= len(STREAMS) or not is_id("cmd", command_id):
        raise RemoteProtocolError("a binary frame with an unknown head")
    data = frame[_HEAD.size :]
    if offset + len(data) >= 2**63:
        raise RemoteProtocolError(f"output at offset {offset}")
    if crc32c(data) != checksum:
        raise RemoteProtocolError(f"output of {command_id} at {offset} was damaged on the way")
    return Output(command_id, STREAMS[stream], offset, data)
