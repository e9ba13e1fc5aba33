"""Copies of output files that grow meanwhile: as far as a backup's database names their bytes.

A stream beyond its cap writes over its own tail, from the oldest byte on. The copy begins there, so
it stays ahead of a writer that is slower than the disk is read; one that is overtaken is given up.
"""

import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

from cmdop_appliance.archives import EMPTY
from cmdop_appliance.hub.live_stream import HEAD_BYTES, UNSAFE_BYTES, place
from cmdop_appliance.store.backups import Stream

_PIECE_BYTES: Final = 256 * 1024


def file_bytes(stream: Stream) -> int:
    """How long the file of a stream is at the most."""
    return min(stream.stored_bytes, stream.max_bytes + UNSAFE_BYTES)


def copy_live(
    stream: Stream, path: Path, to: Path, written: Callable[[], int]
) -> Generator[bytes, None, bool]:
    """Copy a stream's file in steps; at the end, whether the copy has all that it should.

    `written` tells how many bytes of the stream may have been written by now.
    """
    ring = stream.max_bytes + UNSAFE_BYTES - HEAD_BYTES  # so much later a byte is written over
    head = min(HEAD_BYTES, stream.stored_bytes)
    tail = max(head, stream.stored_bytes - (stream.max_bytes - HEAD_BYTES))
    with path.open("rb") as source, to.open("xb") as target:
        target.truncate(file_bytes(stream))
        for first, end in ((0, head), (tail, stream.stored_bytes)):
            at = first
            while at < end:
                position, room = place(at, stream.max_bytes)
                size = min(_PIECE_BYTES, end - at, room)
                data = os.pread(source.fileno(), size, position)
                if len(data) < size or (at >= head and at + ring < written()):
                    return False
                target.seek(position)
                target.write(data)
                at += size
                yield EMPTY
    return True
