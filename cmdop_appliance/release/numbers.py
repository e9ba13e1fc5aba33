"""The order of versions."""

import re
from typing import Final

# What a version is; it also names folders.
PATTERN: Final = r"([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})(?:rc([0-9]{1,6}))?"

_NO_CANDIDATE: Final = 10**6  # behind every candidate of the same version


def order_of(version: str) -> tuple[int, int, int, int]:
    """Greater for a later version; 1.2.0rc1 comes before 1.2.0.

    Raises:
        ValueError: this is no version.
    """
    parts = re.fullmatch(PATTERN, version)
    if parts is None:
        raise ValueError(f"{version!r} is no version, such as 1.2.0 or 1.2.0rc1")
    major, minor, patch, candidate = parts.groups()
    return int(major), int(minor), int(patch), int(candidate or _NO_CANDIDATE)
