"""Masking in C: the same bytes as before, in whatever pieces they come."""

from hypothesis import given
from hypothesis import strategies as st
from wsproto import frame_protocol

from cmdop_appliance.masking import mask_in_c

KEYS = st.binary(min_size=4, max_size=4)
PIECES = st.lists(st.binary(max_size=40), max_size=8)
mask_in_c()


def by_definition(key: bytes, data: bytes) -> bytes:
    """RFC 6455, section 5.3."""
    return bytes(byte ^ key[at % 4] for at, byte in enumerate(data))


@given(KEYS, PIECES)
def test_what_comes_in_pieces_is_masked_as_one(key, pieces):
    masker = frame_protocol.XorMaskerSimple(bytearray(key))
    masked = b"".join(masker.process(bytearray(piece)) for piece in pieces)
    assert masked == by_definition(key, b"".join(pieces))


def test_it_is_done_in_c():
    assert frame_protocol.XorMaskerSimple.__module__ == "cmdop_appliance.masking"


@given(KEYS, st.binary(min_size=1))
def test_both_ends_of_a_websocket_use_it(key, data):
    builder = frame_protocol.FrameProtocol(client=True, extensions=[])
    reader = frame_protocol.FrameProtocol(client=False, extensions=[])
    reader.receive_bytes(bytes(builder.send_data(data)))
    (frame,) = reader.received_frames()
    assert frame.payload == data
