"""What is signed in a handshake, and the enrolment token that lets a machine join.

Each signature covers its purpose and both nonces, so none can be used elsewhere or twice.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cmdop_appliance.errors import InvalidRequest

NONCE_BYTES = 32
SECRET_BYTES = 24  # 192 bits: not to be guessed, whatever the rate
_KEY_BYTES = 32  # Ed25519 public key, RFC 8032
_PREFIX = "cmdop_enroll_"


def binding_of(certificate: bytes) -> bytes:
    """What stands for a connection in what is signed: its server's certificate (DER)."""
    return hashlib.sha256(certificate).digest()


def hub_transcript(
    agent_nonce: bytes, hub_nonce: bytes, hub_key: bytes, binding: bytes = b""
) -> bytes:
    """What the hub signs to prove its key to one connection.

    `binding`: that of the certificate which the hub has shown on it, so that nobody between the
    two can pass the signature on; b"" if the hub itself speaks plain HTTP.
    """
    return b"cmdop hub 1\0" + agent_nonce + hub_nonce + hub_key + binding


def machine_transcript(agent_nonce: bytes, hub_nonce: bytes, hub_key: bytes, key: bytes) -> bytes:
    """What a machine signs to prove its key to one connection of one hub."""
    return b"cmdop machine 1\0" + agent_nonce + hub_nonce + hub_key + key


def revocation_transcript(agent_nonce: bytes, machine_id: str) -> bytes:
    """What the hub signs to tell a machine on this connection that it was removed."""
    return b"cmdop revoked 1\0" + agent_nonce + machine_id.encode()


def pin_of(hub_key: bytes) -> str:
    """The hub's public key as text, by which agents and people know it."""
    return base64.urlsafe_b64encode(hub_key).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """A secret that lets a machine join, and the key of the only hub that it may join."""

    secret: bytes  # SECRET_BYTES random ones
    hub_key: bytes

    def __str__(self) -> str:
        return _PREFIX + base64.urlsafe_b64encode(self.secret + self.hub_key).decode().rstrip("=")

    def __repr__(self) -> str:
        return "EnrolmentToken(…)"  # never into a log

    @classmethod
    def parse(cls, text: str) -> "EnrolmentToken":
        """Read what `cmdop machines add` printed.

        Raises:
            InvalidRequest: it is not an enrolment token, or a part of it is missing.
        """
        wrong = InvalidRequest(
            "this is not an enrolment token",
            hint=f"copy all of it; it begins with {_PREFIX} (cmdop machines add makes one)",
        )
        body = text.strip().removeprefix(_PREFIX)
        try:
            raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise wrong from None
        if not text.strip().startswith(_PREFIX) or len(raw) != SECRET_BYTES + _KEY_BYTES:
            raise wrong
        return cls(raw[:SECRET_BYTES], raw[SECRET_BYTES:])
