"""Commands that one regrets on the wrong machines."""

import re
from typing import Final

_RISKY: Final = re.compile(
    r"""
    \brm\s+(?:\S+\s+)*-\w*[rRf]           # rm -rf, rm -f, rm dir -r
    | \b(?:mkfs|wipefs|shred|fdisk|parted|sgdisk)\b
    | \bdd\b.*\bof=
    | (?<![\w/.-])(?:/\S*bin/)?(?:shutdown|reboot|poweroff|halt)(?![\w.-])
    | >\s*/dev/(?!null\b|stdout\b|stderr\b|fd/|shm/)
    | \bdrop\s+(?:table|database|schema)\b
    | \b(?:killall|pkill)\b
    | \bch(?:mod|own)\s+(?:\S+\s+)*-\w*R
    """,
    re.VERBOSE | re.IGNORECASE,
)


def is_risky(command: str) -> bool:
    """True: shell text that looks as if it destroyed something, or stopped the machine."""
    return _RISKY.search(command) is not None
