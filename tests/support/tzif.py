"""When zones change their offset, read from their TZif files (RFC 9636): zoneinfo is not asked."""

import re
import struct
from calendar import monthrange
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from zoneinfo import TZPATH, available_timezones

_DAY_S = 86_400
_EPOCH = date(1970, 1, 1).toordinal()
END = (date(2100, 1, 1).toordinal() - _EPOCH) * _DAY_S
_HEADER = struct.Struct(">4sc15x6l")
# `CET-1CEST,M3.5.0,M10.5.0/3`: what holds after the last change of the file.
_FOOTER = re.compile(
    r"(?:<[^>]+>|[A-Za-z]+)([-+:\d]+)"
    r"(?:(?:<[^>]+>|[A-Za-z]+)([-+:\d]*),([^,/]+)(?:/([-+:\d]+))?,([^,/]+)(?:/([-+:\d]+))?)?"
)


@dataclass(frozen=True)
class Change:
    """Before and from `at`, s since 1970, the offsets are these, s east of UTC."""

    at: int
    before: int
    after: int


@dataclass(frozen=True)
class Zone:
    """Zones that are the same to the byte, and their changes."""

    names: tuple[str, ...]
    changes: tuple[Change, ...]


@lru_cache(maxsize=1)
def zones() -> tuple[Zone, ...]:
    """All zones, with their changes from 1970 to 2100."""
    by_content: dict[bytes, list[str]] = {}
    for name in sorted(available_timezones() - {"localtime", "Factory"}):
        by_content.setdefault(_content(name), []).append(name)
    return tuple(Zone(tuple(names), changes(names[0])) for names in by_content.values())


def changes_between(year: int, end: int) -> list[tuple[str, Change]]:
    """All changes of these years, `end` excluded, with one name of their zone."""
    first, last = ((date(each, 1, 1).toordinal() - _EPOCH) * _DAY_S for each in (year, end))
    return [
        (zone.names[0], change)
        for zone in zones()
        for change in zone.changes
        if first <= change.at < last
    ]


def changes(name: str) -> tuple[Change, ...]:
    """The changes of a zone's offset from 1970 to 2100."""
    content = _content(name)
    begin = _HEADER.size + _size(_header(content, 0), 4)  # of the part with 64 bits
    counts = _header(content, begin)
    times, types = counts[3:5]
    at = begin + _HEADER.size
    instants = struct.unpack_from(f">{times}q", content, at)
    kinds = content[at + 8 * times : at + 9 * times]
    table = at + 9 * times
    offsets = [struct.unpack_from(">l", content, table + 6 * kind)[0] for kind in range(types)]
    found = []
    now = offsets[0]
    for instant, kind in zip(instants, kinds, strict=True):
        found.append(Change(instant, now, offsets[kind]))
        now = offsets[kind]
    footer = content[begin + _HEADER.size + _size(counts, 8) :].strip().decode()
    last = instants[-1] if instants else -(2**62)
    for instant, offset in _by_footer(footer):
        if instant > last:
            found.append(Change(instant, now, offset))
            now = offset
    return tuple(each for each in found if each.before != each.after and 0 <= each.at < END)


def _content(name: str) -> bytes:
    for folder in TZPATH:
        if (path := Path(folder, name)).is_file():
            return path.read_bytes()
    return files("tzdata.zoneinfo").joinpath(*name.split("/")).read_bytes()


def _header(content: bytes, at: int) -> tuple[int, ...]:
    magic, _, *counts = _HEADER.unpack_from(content, at)
    assert magic == b"TZif"
    return tuple(counts)


def _size(counts: tuple[int, ...], time_bytes: int) -> int:
    is_ut, is_std, leaps, times, types, chars = counts
    return times * (time_bytes + 1) + types * 6 + chars + leaps * (time_bytes + 4) + is_std + is_ut


def _by_footer(footer: str) -> list[tuple[int, int]]:
    match = _FOOTER.fullmatch(footer)
    assert match, footer
    standard, summer, start, start_time, end, end_time = match.groups()
    if start is None:
        return []
    base = -_seconds(standard)
    moved = -_seconds(summer) if summer else base + 3600
    found = []
    for year in range(1970, 2101):
        found.append((_instant(year, start, start_time) - base, moved))
        found.append((_instant(year, end, end_time) - moved, base))
    return sorted(found)


def _instant(year: int, day: str, time: str | None) -> int:
    """Wall time in s since 1970; `M3.5.0`: the last Sunday of March, `J60` and `59`: 1 March."""
    if day[0] == "M":
        month, week, weekday = map(int, day[1:].split("."))
        first, length = monthrange(year, month)
        number = 1 + (weekday - first - 1) % 7 + 7 * (week - 1)
        ordinal = date(year, month, number - 7 if number > length else number).toordinal()
    elif day[0] == "J":  # without 29 February
        ordinal = date(2001, 1, 1).toordinal() + int(day[1:]) - 1
        ordinal = date.fromordinal(ordinal).replace(year=year).toordinal()
    else:
        ordinal = date(year, 1, 1).toordinal() + int(day)
    return (ordinal - _EPOCH) * _DAY_S + (7200 if time is None else _seconds(time))


def _seconds(text: str) -> int:
    sign = -1 if text[0] == "-" else 1
    parts = [int(part) for part in text.lstrip("+-").split(":")]
    return sign * sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
