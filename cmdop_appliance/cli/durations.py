"""Durations as people write them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click

_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_FORM: Final = re.compile(r"(\d{1,13})(ms|s|m|h|d)")
_MOST_DAYS: Final = 3650  # more than the hub takes anywhere, and no more than a date can bear


def milliseconds(text: str) -> int:
    """`500ms`, `30s`, `5m`, `2h` or `1d` in milliseconds: more than none, 3650 days at most.

    Raises:
        ValueError: `text` is none of these.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError("needs a number and a unit, such as 500ms, 30s, 5m, 2h or 1d")
    value_ms = int(found[1]) * _MS[found[2]]
    if value_ms == 0:
        raise ValueError("must be greater than 0")
    if value_ms > _MOST_DAYS * _MS["d"]:
        raise ValueError(f"must be at most {_MOST_DAYS}d")
    return value_ms


def shortest(duration_ms: int) -> str:
    """The same as people write it: `90s`, `1d`."""
    unit = next(name for name in reversed(_MS) if duration_ms % _MS[name] == 0)
    return f"{duration_ms // _MS[unit]}{unit}"


def ago(duration_ms: int | None) -> datetime | None:
    """The moment so long before now; None: none is said."""
    return None if duration_ms is None else datetime.now(UTC) - timedelta(milliseconds=duration_ms)


class Duration(click.ParamType[int]):
    """An option's value that becomes milliseconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """See `milliseconds`."""
        try:
            return milliseconds(str(value))
        except ValueError as exc:
            self.fail(f"{value!r} {exc}", param, ctx)
