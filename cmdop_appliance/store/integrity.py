"""Whether the database is whole, as far as it can be told from itself."""

from collections.abc import Callable

import apsw

from cmdop_appliance.model import Record
from cmdop_appliance.store.transaction import Tx, reads

# Who knows so many of them needs to know no more.
_MOST = 10


class _Fault(Record, frozen=True, kw_only=True):
    fault: str


@reads
def faults(tx: Tx) -> list[str]:
    """What is wrong with pages, rows or indexes, in SQLite's words; empty: nothing. Reads all."""
    found: list[str] = []
    _look(tx, "SELECT integrity_check AS fault FROM pragma_integrity_check", found)
    return found


@reads
def quick_faults(tx: Tx, is_over: Callable[[], bool]) -> list[str]:
    """What is wrong with pages or rows, as far as that is found until it is over."""
    found: list[str] = []
    with tx.until(is_over):
        _look(tx, "SELECT quick_check AS fault FROM pragma_quick_check", found)
    return found


def _look(tx: Tx, sql: str, found: list[str]) -> None:
    try:
        for row in tx.each(_Fault, sql):
            if row.fault != "ok" and len(found) < _MOST:
                found.append(row.fault)
    except apsw.CorruptError as exc:  # what was being looked for
        found.append(str(exc))
