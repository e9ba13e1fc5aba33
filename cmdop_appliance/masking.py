"""Masks what an agent sends at the speed of C.

Whatever a websocket's client sends is combined with a random key (RFC 6455, section 5.3). wsproto
does that in Python, at 0.9 GB/s on either side, which was a quarter of what it costs to bring a
file from a machine. `websockets` has it in C; where it was built without, all is as before.
"""

from contextlib import suppress

from wsproto import frame_protocol


def mask_in_c() -> None:
    """From now on wsproto masks, and takes off masks, in C if it can."""
    with suppress(ImportError):
        from websockets.speedups import apply_mask

        class Masker:
            """As `frame_protocol.XorMaskerSimple`: data may come in pieces."""

            def __init__(self, masking_key: bytes | bytearray) -> None:
                self._key = bytes(masking_key)

            def process(self, data: bytes | bytearray) -> bytes:
                masked = apply_mask(data, self._key) if data else b""
                turn = len(data) % len(self._key)
                self._key = self._key[turn:] + self._key[:turn]
                return masked

        frame_protocol.XorMaskerSimple = Masker  # type: ignore[misc, assignment]
