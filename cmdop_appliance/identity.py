"""Ed25519 keys of hub and machines. The only import site of `cryptography`."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)


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
