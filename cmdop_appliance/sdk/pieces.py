"""Bodies of files, piece by piece."""

from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

# Of a body at once: what a socket on loopback takes, and gives, in one call.
PIECE_BYTES: Final = 256 * 1024

Progress = Callable[[int, int | None], None]  # bytes there, and of how many if that is known
Pieces = Callable[[int], Iterator[memoryview]]  # the bytes from an offset on


def next_piece(pieces: Iterator[memoryview]) -> memoryview | None:
    """The next one; None: that was the last."""
    return next(pieces, None)


def read_up_to(file: BinaryIO, size: int) -> bytes:
    """`size` bytes, or what is left until the end of `file`."""
    pieces = []
    while size and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
