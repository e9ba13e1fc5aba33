"""Identifiers: a prefix that names the kind, then a ULID (time-ordered, Crockford base 32)."""

import base64
import random
import re
import threading
import time
from typing import Final, Literal, get_args

Kind = Literal[
    "mach", "sess", "cli", "cmd", "sched", "run", "hook", "evt", "dlv", "key", "ws", "req", "enr",
    "batch", "term", "session", "sign", "upg",
]  # fmt: skip

_KINDS: Final[frozenset[str]] = frozenset(get_args(Kind))
_DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TO_BASE32: Final = bytes.maketrans(_DIGITS.encode(), b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
# Two digits at a time: several ids are made for each command.
_PAIRS: Final = [high + low for high in _DIGITS for low in _DIGITS]
_SHIFTS: Final = range(120, -1, -10)
_ULID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
# Of the random ones, how many a number can have beside the time: JSON's are good for 53 bits.
_ORDER_BITS: Final = 10
_RANDOM_BITS: Final = 80  # ULID specification: 48 bits of ms time, 80 bits of randomness

_lock: Final = threading.Lock()  # the store's writer makes ids, too
_last = 0


def new_ulid() -> str:
    """26 characters, greater than every one made before by this process, even within one ms."""
    global _last
    fresh = (time.time_ns() // 1_000_000) << _RANDOM_BITS | random.getrandbits(_RANDOM_BITS)
    with _lock:
        value = _last = max(fresh, _last + 1)
    return "".join([_PAIRS[value >> bits & 1023] for bits in _SHIFTS])


def new_id(kind: Kind) -> str:
    """A new id such as `cmd_01J…`."""
    return f"{kind}_{new_ulid()}"


def is_id(kind: Kind, text: str) -> bool:
    """True: `text` has the form of an id of this kind (says nothing about existence)."""
    return text.startswith(f"{kind}_") and is_any_id(text)


def is_any_id(text: str) -> bool:
    """True: `text` has the form of an id, of whatever kind; no secret of ours has it."""
    head, _, tail = text.partition("_")
    return head in _KINDS and _ULID.fullmatch(tail) is not None


def made_ms(made: str) -> int:
    """When an id was made, ms since 1970 UTC, as its maker's clock had it."""
    return _value(made) >> _RANDOM_BITS


def order_of(made: str) -> int:
    """A number that grows as ids are made, but for ties within a ms; below 2**52 until 2109."""
    return _value(made) >> (_RANDOM_BITS - _ORDER_BITS)


def _value(made: str) -> int:
    digits = made.rpartition("_")[2].rjust(32, "0").encode().translate(_TO_BASE32)
    return int.from_bytes(base64.b32decode(digits))
