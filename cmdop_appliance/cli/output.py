"""Tables for people, tab-separated lines for pipes, JSON for programs."""

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click

from cmdop_appliance.cli.text import visible, visible_json

_FORMATS: Final = ("table", "json", "jsonl", "name")
_GAP: Final = "  "
_LEAST_WIDTH: Final = 4  # of a column that gives way to the others
_WHOLE: Final = ("id", "target", "status")
Row = Mapping[str, Any]
F = TypeVar("F", bound=Callable[..., Any])


def _option(forms: Sequence[str]) -> Callable[[F], F]:
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(forms),
        help="Default: a table on a terminal, tab-separated lines in a pipe.",
    )


output_option = _option(_FORMATS)
nameless_output_option = _option(_FORMATS[:-1])  # of what has no name


def is_table(form: str | None) -> bool:
    """True: what is shown in this form is for a person."""
    return form == "table" or (form is None and sys.stdout.isatty())


def show(
    rows: Iterable[Row],
    columns: Sequence[str],
    form: str | None,
    *,
    spare: Sequence[str] = (),
    last_is_whole: bool = False,
) -> None:
    """Print a list. json and jsonl: the hub's own records; name: the first column only.

    A table that is wider than the terminal does without the `spare` columns, the first of them
    first. `last_is_whole`: its last column is never cut, and runs on.
    """
    match form:
        case "json":
            print(visible_json(list(rows), indent=2))
        case "jsonl":
            for row in rows:
                print(visible_json(row))
        case "name":
            for row in rows:
                print(_cell(row.get(columns[0])))
        case _:
            if is_table(form):
                _print_table(columns, list(rows), spare, last_is_whole=last_is_whole)
            else:
                for row in rows:
                    print("\t".join(_cell(row.get(column)) for column in columns))


def show_one(record: Row, form: str | None, *, name: str = "id") -> None:
    """Print one record, a field per line. json and jsonl: the hub's own; name: that field only."""
    match form:
        case "json":
            print(visible_json(record, indent=2))
        case "jsonl":
            print(visible_json(record))
        case "name":
            print(_cell(record.get(name)))
        case _:
            width = max(map(len, record), default=0)
            aligned = is_table(form)
            for field, value in record.items():
                label = f"{visible(field):{width}}  " if aligned else f"{visible(field)}\t"
                print(f"{label}{_cell(value)}")


def _cell(value: object) -> str:
    match value:
        case None | "":
            return "-"
        case str():
            return visible(value)
        case list() if all(isinstance(item, str) for item in value):
            return visible(",".join(value)) or "-"
        case _:
            return visible_json(value)


def _print_table(
    columns: Sequence[str], rows: Sequence[Row], spare: Sequence[str], *, last_is_whole: bool
) -> None:
    now = datetime.now(UTC)
    table = {
        column: [_title(column), *(_short(column, row.get(column), now) for row in rows)]
        for column in columns
    }
    widths = {column: max(map(len, cells)) for column, cells in table.items()}
    runs_on = columns[-1] if last_is_whole else None
    if runs_on is not None:
        widths[runs_on] = len(_title(runs_on))
    room = shutil.get_terminal_size().columns + len(_GAP)
    for column in spare:
        if sum(widths.values()) + len(_GAP) * len(widths) <= room:
            break
        del table[column], widths[column]
    room -= len(_GAP) * len(widths)
    # An id, a status or a time cut short is of no use; of the others the widest give way first.
    elastic = [
        column
        for column in widths
        if column not in _WHOLE and column != runs_on and not _is_time(column)
    ]
    for column in elastic:
        widths[column] = min(widths[column], max(room, _LEAST_WIDTH))
    while elastic and sum(widths.values()) > room:
        widest = max(elastic, key=widths.__getitem__)
        if widths[widest] <= _LEAST_WIDTH:
            break
        widths[widest] -= 1
    for line in zip(*table.values(), strict=True):
        cells = [
            cell if column == runs_on else _fit(cell, widths[column])
            for column, cell in zip(table, line, strict=True)
        ]
        print(_GAP.join(cells).rstrip())


def _fit(cell: str, width: int) -> str:
    return f"{cell:{width}}" if len(cell) <= width else cell[: width - 1] + "…"


def _title(column: str) -> str:
    return column.removesuffix("_at").removesuffix("_bytes").replace("_", " ").upper()


def _is_time(column: str) -> bool:
    return column == "at" or column.endswith(("_at", "_seen"))


def _short(column: str, value: object, now: datetime) -> str:
    """The cell for a person: a time as its distance from now, bytes in the unit that fits."""
    if isinstance(value, int) and column.endswith("_bytes"):
        return size_text(value)
    if isinstance(value, str) and _is_time(column):
        try:
            return _distance((datetime.fromisoformat(value) - now).total_seconds())
        except (ValueError, TypeError):  # not a time, or one without a zone
            pass
    return _cell(value)


def size_text(count: int) -> str:
    """So many bytes, for a person: `3.5 MB`."""
    for unit_bytes, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (1000, "kB")):
        if count >= unit_bytes:
            return f"{count / unit_bytes:.1f} {name}"
    return f"{count} B"


def _distance(seconds: float) -> str:
    """How far in the future, or in the past."""
    amount, unit = abs(seconds), "s"
    for unit_s, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if amount >= unit_s:
            amount, unit = amount / unit_s, name
            break
    return f"in {amount:.0f} {unit}" if seconds > 0 else f"{amount:.0f} {unit} ago"
