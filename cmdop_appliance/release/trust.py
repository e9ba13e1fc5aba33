"""Whose releases are taken: Ed25519 public keys, built in or configured."""

import base64
import binascii
from collections.abc import Iterable
from importlib import resources
from typing import Final

_KEY_BYTES: Final = 32  # RFC 8032
_BUILT_IN: Final = "release.pub"  # what was packaging/release.pub when the program was built


def read_key(text: str) -> bytes:
    """A public key that is written in base64.

    Raises:
        ValueError: it is none.
    """
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise ValueError(f"{text!r} is no Ed25519 public key: {_KEY_BYTES} bytes in base64")
    return key


def built_in_keys() -> tuple[bytes, ...]:
    """The keys that this program was built with; none, if whoever built it has none."""
    file = resources.files("cmdop_appliance.release") / _BUILT_IN
    if not file.is_file():
        return ()
    lines = (line.partition("#")[0].strip() for line in file.read_text("ascii").splitlines())
    return tuple(read_key(line) for line in lines if line)


def trusted_keys(configured: Iterable[str]) -> tuple[bytes, ...]:
    """Those built in, and those of the owner of this machine: `keys` of the settings.

    Raises:
        ValueError: one of the configured ones is no key; it names the setting.
    """
    try:
        return (*built_in_keys(), *map(read_key, configured))
    except ValueError as exc:
        raise ValueError(f"keys: {exc}") from None
