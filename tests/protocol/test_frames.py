"""Binary frames: output arrives as it was sent, or the damage is noticed."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.errors import LocalProtocolError, RemoteProtocolError
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.frames import (
    STREAMS,
    Data,
    Output,
    Screen,
    decode,
    decode_data,
    decode_output,
    decode_screen,
    encode,
    encode_data,
    encode_output,
    encode_screen,
)
from cmdop_appliance.protocol.limits import CHUNK_BYTES, DATA_BYTES, OUTPUT_BYTES, SCREEN_BYTES

OUTPUTS = st.builds(
    Output,
    st.from_regex(r"cmd_[0-7][0-9A-HJKMNP-TV-Z]{25}", fullmatch=True),
    st.sampled_from(STREAMS),
    st.integers(0, 2**62),
    st.binary(min_size=1, max_size=200),
)


ID = new_id("cmd")
PIECES = st.builds(
    Data, st.integers(0, 2**63 - 1), st.integers(0, 2**62), st.binary(min_size=1, max_size=200)
)
SCREENS = st.builds(
    Screen, st.integers(0, 2**63 - 1), st.integers(0, 2**62), st.binary(min_size=1, max_size=200)
)


@given(OUTPUTS | PIECES | SCREENS)
def test_what_is_sent_as_bytes_is_received_as_what_it_was(item):
    assert decode(encode(item)) == item


@given(PIECES, st.data())
def test_a_piece_of_a_file_without_data_is_refused(piece, data):
    frame = encode_data(piece)
    with pytest.raises(RemoteProtocolError):
        decode_data(frame[: data.draw(st.integers(0, len(frame) - len(piece.data)))])


@pytest.mark.parametrize("size", [0, DATA_BYTES + 1])
def test_a_piece_of_a_file_is_neither_empty_nor_larger_than_a_frame_may_be(size):
    with pytest.raises(LocalProtocolError):
        encode_data(Data(1, 0, bytes(size)))
    frame = encode_data(Data(1, 0, b"x"))[:-1] + bytes(size)
    with pytest.raises(RemoteProtocolError):
        decode_data(frame)


def test_a_piece_of_a_file_does_not_reach_beyond_what_a_number_holds():
    frame = encode_data(Data(1, 2**63 - 3, b"xy"))
    assert decode_data(frame).offset == 2**63 - 3
    with pytest.raises(RemoteProtocolError):
        decode_data(frame + b"z")


@given(SCREENS, st.data())
def test_a_piece_of_a_screen_without_data_is_refused(screen, data):
    frame = encode_screen(screen)
    with pytest.raises(RemoteProtocolError):
        decode_screen(frame[: data.draw(st.integers(0, len(frame) - len(screen.data)))])


@pytest.mark.parametrize("size", [0, SCREEN_BYTES + 1])
def test_a_piece_of_a_screen_is_neither_empty_nor_larger_than_a_frame_may_be(size):
    with pytest.raises(LocalProtocolError):
        encode_screen(Screen(1, 0, bytes(size)))
    frame = encode_screen(Screen(1, 0, b"x"))[:-1] + bytes(size)
    with pytest.raises(RemoteProtocolError):
        decode_screen(frame)


def test_a_piece_of_a_screen_does_not_reach_beyond_what_a_number_holds():
    frame = encode_screen(Screen(1, 2**63 - 3, b"xy"))
    assert decode_screen(frame).offset == 2**63 - 3
    with pytest.raises(RemoteProtocolError):
        decode_screen(frame + b"z")


@pytest.mark.parametrize(
    "item", [Output(ID, "stdout", 0, b"x"), Screen(1, 0, b"x")], ids=["output", "screen"]
)
def test_output_is_not_taken_for_a_piece_of_a_file(item):
    with pytest.raises(RemoteProtocolError):
        decode_data(encode(item))


@given(OUTPUTS)
def test_output_survives_the_wire(output):
    assert decode_output(encode_output(output)) == output


@given(st.binary(max_size=300))
def test_any_bytes_are_understood_or_blamed_on_the_peer(frame):
    with suppress(RemoteProtocolError):
        decode(frame)


@given(OUTPUTS, st.data())
def test_a_payload_damaged_anywhere_is_refused(output, data):
    frame = bytearray(encode_output(output))
    at = data.draw(st.integers(len(frame) - len(output.data) - 4, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteProtocolError, match="damaged"):
        decode_output(bytes(frame))


@given(OUTPUTS, st.data())
def test_a_frame_cut_short_is_refused(output, data):
    frame = encode_output(output)
    with pytest.raises(RemoteProtocolError):
        decode_output(frame[: data.draw(st.integers(0, len(frame) - 1))])


@given(OUTPUTS, st.integers(0, 31), st.integers(1, 255))
def test_a_damaged_kind_stream_or_id_is_refused_or_names_another_stream(output, at, flip):
    frame = bytearray(encode_output(output))
    frame[at] ^= flip
    with suppress(RemoteProtocolError):
        received = decode_output(bytes(frame))
        assert (received.id, received.stream) != (output.id, output.stream)


@pytest.mark.parametrize(
    "size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, OUTPUT_BYTES]
)
def test_every_chunk_of_a_frame_has_its_checksum(size):
    output = Output(new_id("cmd"), "stdout", 5, bytes(n % 251 for n in range(size)))
    frame = encode_output(output)
    assert decode_output(frame) == output
    chunks = -(-size // CHUNK_BYTES)
    assert len(frame) == 40 + 4 * chunks + size
    for at in [40, 40 + 4 * chunks - 1, *range(40 + 4 * chunks, len(frame), CHUNK_BYTES)]:
        damaged = bytearray(frame)
        damaged[at] ^= 1
        with pytest.raises(RemoteProtocolError, match="damaged"):
            decode_output(bytes(damaged))


def test_a_frame_with_a_checksum_too_many_is_refused():
    head = encode_output(Output(new_id("cmd"), "stdout", 0, b"x"))[:40]
    # As long as one with two chunks, of which the second has no bytes.
    with pytest.raises(RemoteProtocolError):
        decode_output(head + bytes(8) + b"x" * CHUNK_BYTES)


def test_a_frame_holds_one_byte_to_half_a_window():
    full = Output(new_id("cmd"), "stdout", 0, b"x" * OUTPUT_BYTES)
    assert decode_output(encode_output(full)) == full
    for data in (b"", b"x" * (OUTPUT_BYTES + 1)):
        with pytest.raises(LocalProtocolError):
            encode_output(Output(full.id, "stdout", 0, data))
    with pytest.raises(RemoteProtocolError):
        decode_output(encode_output(full) + b"x")


def test_an_offset_beyond_what_the_store_counts_is_refused():
    with pytest.raises(RemoteProtocolError, match="offset"):
        decode_output(encode_output(Output(new_id("cmd"), "stdout", 2**63 - 1, b"x")))
