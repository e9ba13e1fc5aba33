"""Pages of a list: filters, a whitelisted order with ties by id, and the total."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from cmdop_appliance.model import Record
from cmdop_appliance.store.transaction import Tx

R = TypeVar("R", bound=Record)

_PARAMETER = re.compile(r"(?<!:):(\w+)")


@dataclass(frozen=True, slots=True)
class Paging:
    """Which part of a list. `sort`: a public field name, with `-` in front for descending."""

    limit: int = 20
    offset: int = 0
    sort: str = "-created_at"

    @property
    def field(self) -> str:
        """What it is sorted by."""
        return self.sort.removeprefix("-")

    @property
    def down(self) -> bool:
        """True: the greatest come first."""
        return self.sort.startswith("-")


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """Some of `total` records."""

    items: Sequence[R]
    total: int
    paging: Paging


def select_page(
    tx: Tx,
    model: type[R],
    paging: Paging,
    *,
    columns: str,
    source: str,
    within: tuple[str, Mapping[str, object]],
    filters: Mapping[str, object],
    order: Mapping[str, str],
    key: str = "id",
) -> Page[R]:
    """The records within reach that pass every filter.

    All SQL comes from the caller's literals: `within` is a condition and its parameters, `filters`
    maps a condition to the value of the one parameter in it (None: the filter is not asked for),
    `order` maps public field names to columns, `key` is the column that settles ties.
    """
    asked = {sql: value for sql, value in filters.items() if value is not None}
    values = {_PARAMETER.findall(sql)[0]: value for sql, value in asked.items()}
    where = " AND ".join((within[0], *asked))
    values |= within[1]
    total = tx.value(f"SELECT count(*) FROM {source} WHERE {where}", **values)  # noqa: S608
    if paging.offset >= total:
        return Page([], total, paging)
    items = tx.all(
        model,
        f"SELECT {columns} FROM {source} WHERE {where}"  # noqa: S608 - literals of our own
        f" {in_order(order[paging.field], paging, key)}",
        limit=paging.limit,
        offset=paging.offset,
        **values,
    )
    return Page(items, total, paging)


def in_order(column: str, paging: Paging, key: str = "id") -> str:
    """The end of a query for a page: sorted by an expression, by `key` where that is the same.

    Nulls count as the least, which is where SQLite's indexes have them. Parameters: limit, offset.
    """
    way, nulls = ("DESC", "LAST") if paging.down else ("ASC", "FIRST")
    return f"ORDER BY {column} {way} NULLS {nulls}, {key} {way} LIMIT :limit OFFSET :offset"
