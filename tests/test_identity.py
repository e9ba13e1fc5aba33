"""Ed25519 keys."""

import pytest

from cmdop_appliance.identity import SEAL_BYTES, Identity, is_signed_by, sealed, unsealed

# RFC 8032 §7.1, test 2
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_keys_and_signatures_are_those_of_the_standard():
    identity = Identity(SEED)
    assert identity.public_key == PUBLIC
    assert identity.sign(b"\x72") == SIGNATURE
    assert is_signed_by(PUBLIC, SIGNATURE, b"\x72")


def test_an_identity_comes_back_from_its_seed():
    identity = Identity.generate()
    assert Identity(identity.seed).public_key == identity.public_key
    assert Identity.generate().public_key != identity.public_key


@pytest.mark.parametrize(
    ("key", "signature", "transcript"),
    [
        (PUBLIC, SIGNATURE, b"\x73"),
        (PUBLIC, SIGNATURE[:-1] + b"\1", b"\x72"),
        (PUBLIC, SIGNATURE[:-1], b"\x72"),
        (PUBLIC, b"", b"\x72"),
        (bytes(32), SIGNATURE, b"\x72"),
        (b"\xff" * 32, SIGNATURE, b"\x72"),
        (PUBLIC[:-1], SIGNATURE, b"\x72"),
        (b"", b"", b""),
    ],
)
def test_whatever_is_not_signed_by_the_key_is_refused(key, signature, transcript):
    assert not is_signed_by(key, signature, transcript)


def test_a_seal_gives_its_content_to_whoever_has_the_secret():
    secret = b"s" * 32
    seal = sealed(secret, b"content")
    assert unsealed(secret, seal) == b"content"
    assert len(seal) == len(b"content") + SEAL_BYTES
    assert b"content" not in seal
    assert sealed(secret, b"content") != seal


def test_what_is_no_seal_of_the_secret_has_no_content():
    secret = b"s" * 32
    seal = sealed(secret, b"content")
    for other in (b"", b"x", seal[:-1], seal[:12], bytes([seal[0] ^ 1]) + seal[1:], seal + b"\0"):
        assert unsealed(secret, other) is None
    assert unsealed(b"t" * 32, seal) is None
