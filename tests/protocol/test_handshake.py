"""Signatures are good for one purpose and one connection; a token is read whole or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.errors import InvalidRequest
from cmdop_appliance.identity import Identity, is_signed_by
from cmdop_appliance.protocol.handshake import (
    EnrolmentToken,
    hub_transcript,
    machine_transcript,
    pin_of,
    revocation_transcript,
)

TOKENS = st.builds(
    EnrolmentToken, st.binary(min_size=24, max_size=24), st.binary(min_size=32, max_size=32)
)
BYTES32 = st.binary(min_size=32, max_size=32)


@given(TOKENS)
def test_a_token_is_read_as_it_was_printed(token):
    assert EnrolmentToken.parse(f"  {token}\n") == token


@given(TOKENS, st.data())
def test_a_token_that_was_not_copied_whole_is_refused(token, data):
    text = str(token)
    with pytest.raises(InvalidRequest):
        EnrolmentToken.parse(text[: data.draw(st.integers(0, len(text) - 1))])
    with pytest.raises(InvalidRequest):
        EnrolmentToken.parse(text.removeprefix("cmdop_enroll_"))


@given(st.text())
def test_any_other_text_is_refused_as_a_token(text):
    for attempt in (text, f"cmdop_enroll_{text}"):
        with pytest.raises(InvalidRequest):
            EnrolmentToken.parse(attempt)


@given(TOKENS)
def test_a_token_is_never_shown_by_accident(token):
    assert str(token)[20:40] not in f"{token!r} {[token]} {{}}"


@given(BYTES32, BYTES32, BYTES32, BYTES32)
def test_a_signature_serves_one_purpose_and_one_connection(a, b, c, d):
    identity = Identity(a)
    hub = hub_transcript(a, b, identity.public_key)
    machine = machine_transcript(a, b, c, d)
    revocation = revocation_transcript(a, "mach_1")
    assert len({hub, machine, revocation}) == 3
    assert is_signed_by(identity.public_key, identity.sign(hub), hub)
    assert not is_signed_by(identity.public_key, identity.sign(hub), machine)
    if a != b:
        swapped = hub_transcript(b, a, identity.public_key)
        assert not is_signed_by(identity.public_key, identity.sign(hub), swapped)


def test_a_pin_is_short_text_without_padding():
    assert pin_of(b"\xff" * 32) == "_" * 42 + "8"
