"""The grammar of five-field cron expressions: Vixie's, and no more.

croniter understands a good deal more, and reads `5-5` as every minute. It gets only what passed
here, in numbers.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

_MOST_CHARS: Final = 256
_SHOWN_CHARS: Final = 40  # of what was written, in a reason

_ALIASES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
# `*`, `5`, `1-5`, `*/15`, `mon-fri/2`; numbers and names are looked at afterwards.
_ITEM: Final = re.compile(r"(?:\*|(\w+)(?:-(\w+))?)(?:/([0-9]{1,4}))?", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,4}")


class CronError(ValueError):
    """No rule can be made of this; the text tells people why, and what to write instead."""

    def __init__(self, field: Literal["cron", "timezone"], reason: str) -> None:
        super().__init__(reason)
        self.field = field  # of the two that make a rule


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that passed."""

    text: str  # for croniter: five fields, numbers only
    is_interval: bool  # True: minute or hour has `*` or a step
    is_either_day: bool  # True: neither field of days has `*`, and one that matches is enough


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()  # of `least` and those that follow

    def error(self, problem: str, remedy: str) -> CronError:
        return CronError("cron", f"{self.name}: {problem}: write {remedy}")

    def canonical(self, text: str) -> str:
        return ",".join(self._item(item, text) for item in text.split(","))

    def _item(self, item: str, text: str) -> str:
        if not item:
            raise self.error(f"{_shown(text)} has an empty item", "one value between two commas")
        match = _ITEM.fullmatch(item)
        if match is None:
            raise self._not_understood(item)
        first, last, step = match.groups()
        low = self.least if first is None else self._value(first, item)
        high = low if last is None else self._value(last, item)
        if first is None:
            high = self._last_of_all
        if high < low:
            remedy = f"{low}-{self._last_of_all},{self.least}-{high}"
            if self.most == 7 and high == 0:
                remedy = f"{low}-7"
            raise self.error(f"{_shown(item)} runs backwards", remedy)
        if step is None:
            return "*" if first is None else str(low) if low == high else f"{low}-{high}"
        if first is not None and last is None:
            remedy = f"{low}-{self._last_of_all}/{step} or {low}"
            raise self.error(f"{_shown(item)} has a step without a range", remedy)
        count = high - low + 1
        if not 1 <= int(step) <= count:
            problem = f"step {int(step)} of {_shown(item)} does not fit its {count} values"
            raise self.error(problem, f"a step of 1 to {count}")
        return str(low) if low == high else f"{low}-{high}/{int(step)}"

    def _value(self, text: str, item: str) -> int:
        if text.lower() in self.names:
            return self.least + self.names.index(text.lower())
        if not _NUMBER.fullmatch(text):
            raise self._not_understood(item)
        number = int(text)
        if not self.least <= number <= self.most:
            raise self.error(f"{number} is out of range", f"{self.least} to {self.most}")
        return number

    def _not_understood(self, item: str) -> CronError:
        names = f" or {self.names[0]} to {self.names[-1]}" if self.names else ""
        some = f"{self.least}-{self.least + 4}"
        return self.error(
            f"{_shown(item)} is not understood",
            f"{self.least} to {self.most}{names}, a range such as {some}, * or */2,"
            " or several of them with commas between",
        )

    @property
    def _last_of_all(self) -> int:
        return 6 if self.most == 7 else self.most  # 7 is Sunday again


_FIELDS: Final = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field(
        "month",
        1,
        12,
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    ),
    _Field("day of week", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
_EXAMPLE: Final = "minute, hour, day of month, month and day of week, such as 30 2 * * 1-5"


def read(cron: str) -> Expression:
    """Check an expression.

    Raises:
        CronError: the reason names the field, what was found, and what to write instead.
    """
    if len(cron) > _MOST_CHARS:
        raise CronError("cron", f"{len(cron)} characters: write at most {_MOST_CHARS}")
    text = cron.strip(" \t")
    if text.startswith("@"):
        text = _meant(text)
    parts = re.split("[ \t]+", text) if text else []
    if len(parts) != len(_FIELDS):
        none_more = "; seconds and years have no field" if len(parts) > len(_FIELDS) else ""
        fields = "field" if len(parts) == 1 else "fields"
        found = f"{len(parts)} {fields} where five are needed{none_more}"
        raise CronError("cron", f"{found}: write {_EXAMPLE}")
    canonical = [field.canonical(part) for field, part in zip(_FIELDS, parts, strict=True)]
    minute, hour, day, _, weekday = parts
    return Expression(
        text=" ".join(canonical),
        is_interval=any(sign in minute + hour for sign in "*/"),
        is_either_day="*" not in day + weekday,
    )


def _meant(alias: str) -> str:
    if alias == "@reboot":
        raise CronError("cron", "@reboot is not a time: write five fields, or @daily")
    if alias not in _ALIASES:
        known = ", ".join(_ALIASES)
        raise CronError("cron", f"{_shown(alias)} is not known: write one of {known}")
    return _ALIASES[alias]


def _shown(text: str) -> str:
    """What was written, harmless and short."""
    return ascii(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")
