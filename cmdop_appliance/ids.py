"""Identifiers: a prefix that names the kind, then a ULID (time-ordered, Crockford base 32)."""

import re
import secrets
import time
from typing import Final, Literal

Kind = Literal[
    "mach", "sess", "cli", "cmd", "sched", "run", "hook", "evt", "dlv", "key", "ws", "req", "enr"
]

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_RANDOM_BITS: Final = 80  # ULID specification: 48 bits of ms time, 80 bits of randomness

_last = 0


def new_ulid() -> str:
    """26 characters, greater than every one made before by this process, even within one ms."""
    global _last
    fresh = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    _last = fresh if fresh > _last else _last + 1
    value, digits = _last, []
    for _ in range(26):
        digits.append(_ALPHABET[value & 31])
        value >>= 5
    return "".join(reversed(digits))


def new_id(kind: Kind) -> str:
    """A new id such as `cmd_01J…`."""
    return f"{kind}_{new_ulid()}"


def is_id(kind: Kind, text: str) -> bool:
    """True: `text` has the form of an id of this kind (says nothing about existence)."""
    head, _, tail = text.partition("_")
    return head == kind and _ULID.fullmatch(tail) is not None
