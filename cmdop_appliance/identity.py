"""Ed25519 keys of hub and machines, and seals. The only import site of `cryptography`."""

import os

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12  # NIST SP 800-38D: random, good for 2**32 seals of one secret
SEAL_BYTES = _NONCE_BYTES + 16  # by which a seal is longer than its content


class Identity:
    """A private key: who holds it is this hub, or this machine."""

    def __init__(self, seed: bytes) -> None:
        """`seed`: the 32 bytes that `seed` gave (RFC 8032)."""
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> "Identity":
        """A new one, from the system's randomness."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    @property
    def seed(self) -> bytes:
        """The 32 bytes to keep secret and safe."""
        return self._key.private_bytes_raw()

    def sign(self, transcript: bytes) -> bytes:
        """A 64-byte signature."""
        return self._key.sign(transcript)


def is_signed_by(public_key: bytes, signature: bytes, transcript: bytes) -> bool:
    """True: the holder of `public_key` signed exactly this."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, transcript)
    except (InvalidSignature, ValueError):
        return False
    return True


def sealed(secret: bytes, content: bytes) -> bytes:
    """`content` for nobody to read or to change who lacks `secret`, which is 256 random bits."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(secret).encrypt(nonce, content, None)


def unsealed(secret: bytes, seal: bytes) -> bytes | None:
    """The content of a seal; None: it is none that this secret made."""
    try:
        return AESGCM(secret).decrypt(seal[:_NONCE_BYTES], seal[_NONCE_BYTES:], None)
    except (InvalidTag, ValueError):
        return None
