"""What a hub cannot take from under the agent: by each name that leads to it, now."""
# ruff: noqa: PTH115, PTH116, PTH118, PTH120 - pathlib knows no bytes

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Needed:
    """Something that is to stay where it is."""

    path: bytes  # absolute
    what: str  # it is, and perhaps what to do instead; for a message


def needed_at(
    needs: Sequence[Needed], parent: int, name: bytes, status: os.stat_result | None
) -> Needed | None:
    """What would be gone without a name in an open directory, or with another thing there.

    `status` is that of the name, not followed. A name is known by its directory, and what has it
    by device and inode, so that neither another mount nor another link hides it.
    """
    directory = os.fstat(parent)
    for needed in needs:
        for step in _way_to(needed.path):
            above, last = os.path.split(step)
            with suppress(OSError):  # nothing is there
                if last == name and os.path.samestat(os.stat(above), directory):
                    return needed
                if status is not None and os.path.samestat(os.lstat(step), status):
                    return needed
    return None


def _way_to(path: bytes) -> set[bytes]:
    """The path, those of the directories above, and where each of them leads that is a link."""
    way: set[bytes] = set()
    left = [path]
    while left:
        step = left.pop()
        if step not in way:
            way.add(step)
            above = os.path.dirname(step)
            left.append(above)
            with suppress(OSError):  # it is no link; in a tangle, the way to it is too long
                left.append(os.path.join(above, os.readlink(step)))
    return way
