"""Outputs of many machines as one reads them: equal ones once, and others as what differs."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cmdop_appliance.cli.text import visible

# Of a text that is compared line by line: the time of that grows with its square.
_DIFF_LINES: Final = 2000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one machine."""

    machine: str
    said: str  # how it ended; "": as it should
    text: str
    fingerprint: str = ""  # of all that was written, of which `text` may be a part


@dataclass(frozen=True, slots=True)
class _Group:
    machines: Sequence[str]
    outcome: Outcome

    @property
    def size_text(self) -> str:
        return f"{len(self.machines)} machine{'s'[: len(self.machines) > 1]}"

    @property
    def title(self) -> str:
        said = f": {self.outcome.said}" if self.outcome.said else ""
        return visible(f"{self.size_text}: {', '.join(self.machines)}{said}")


def fold(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Lines that show each output once, that of most machines first.

    Of the others is shown what differs from it, if that is less. Control characters are shown as
    their escapes.
    """
    groups = _groups(outcomes)
    usual = groups[0] if groups and len(groups[0].machines) > 1 else None
    for group in groups:
        beside, lines = "", list(_lines(group.outcome.text))
        if usual is not None and group is not usual:
            differing = _difference(list(_lines(usual.outcome.text)), lines)
            if differing is not None:
                beside, lines = f" (beside that of the {usual.size_text})", differing
        yield f"=== {group.title}{beside}"
        yield from lines


def prefixed(machine: str, text: str) -> Iterator[str]:
    """Each line of a text behind the name of its machine."""
    for line in _lines(text):
        yield f"{visible(machine)}: {line}"


def _groups(outcomes: Iterable[Outcome]) -> list[_Group]:
    found: dict[tuple[str, str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        found[outcome.said, outcome.text, outcome.fingerprint].append(outcome)
    groups = [_Group(sorted(each.machine for each in same), same[0]) for same in found.values()]
    return sorted(groups, key=lambda g: (-len(g.machines), bool(g.outcome.said), g.machines))


def _difference(before: list[str], after: list[str]) -> list[str] | None:
    """A unified diff; None: the text itself is as short, or it is too long for one."""
    if before == after or max(len(before), len(after)) > _DIFF_LINES:
        return None
    from difflib import unified_diff  # 5 ms, which only differing machines cost

    lines = list(unified_diff(before, after, lineterm=""))[2:]  # without the names of two files
    return lines if len(lines) < len(after) else None


def _lines(text: str) -> Iterator[str]:
    for line in text.removesuffix("\n").split("\n") if text else []:
        yield "\t".join(map(visible, line.split("\t")))
