"""What a store function works with: a transaction that turns rows into records."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

import apsw
import msgspec

from cmdop_appliance.model import Record

# Steps of SQLite's machine between two looks at the clock: a fraction of a ms.
_LOOK_STEPS = 1000

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", bound=Record)


class Tx:
    """One transaction. Parameters are `:name` in the SQL, keywords in the call."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.notified: set[str] = set()

    def notify(self, subject: str) -> None:
        """Wake who waits for `subject` once this is committed (PostgreSQL's NOTIFY)."""
        self.notified.add(subject)

    def define(self, name: str, function: Callable[..., str]) -> None:
        """From now on SQL on this connection has this function of a text."""
        self._connection.create_scalar_function(name, function, 1, deterministic=True)

    def execute(self, sql: str, /, **parameters: object) -> int:
        """Run a statement; the number of rows it changed."""
        self._connection.execute(sql, parameters)
        return self._connection.changes()

    def many(self, sql: str, rows: Iterable[Mapping[str, object]]) -> None:
        """Run a statement for each of these sets of parameters."""
        self._connection.executemany(sql, rows)

    def one(self, model: type[R], sql: str, /, **parameters: object) -> R | None:
        """The first row as a record, or None."""
        return next(self.each(model, sql, **parameters), None)

    def all(self, model: type[R], sql: str, /, **parameters: object) -> list[R]:
        """Every row as a record."""
        return list(self.each(model, sql, **parameters))

    def each(self, model: type[R], sql: str, /, **parameters: object) -> Iterator[R]:
        """Every row as a record, one at a time."""
        cursor = self._connection.execute(sql, parameters)
        columns: _Columns | None = None
        for row in cursor:
            columns = columns or _Columns([column[0] for column in cursor.get_description()])
            yield msgspec.convert(columns.decoded(row), model)

    @contextmanager
    def until(self, is_over: Callable[[], bool]) -> Iterator[None]:
        """The statements within are given up when it is over; what was read of them stands."""
        self._connection.set_progress_handler(is_over, _LOOK_STEPS)
        try:
            with suppress(apsw.InterruptError):
                yield
        finally:
            self._connection.set_progress_handler(None)

    def value(self, sql: str, /, **parameters: object) -> Any:
        """The first column of the first row, or None."""
        row = next(self._connection.execute(sql, parameters), None)
        return row[0] if row else None


class _Columns:
    """How the columns of an answer become the fields of a record."""

    def __init__(self, names: list[str]) -> None:
        self._names = [name.removesuffix("_json") for name in names]
        self._of_json = [at for at, name in enumerate(names) if name.endswith("_json")]
        self._of_bool = [at for at, name in enumerate(names) if name.startswith("is_")]

    def decoded(self, row: tuple[Any, ...]) -> dict[str, Any]:
        values = list(row)
        for at in self._of_json:
            values[at] = None if values[at] is None else msgspec.json.decode(values[at])
        for at in self._of_bool:
            values[at] = bool(values[at])
        return dict(zip(self._names, values, strict=True))


def to_json(value: object) -> str:
    """The text for a column named `…_json`."""
    return msgspec.json.encode(value).decode()


def is_any(column: str, values: Iterable[str]) -> tuple[str, dict[str, str]]:
    """The condition that a column has one of these values, and its parameters; of none, no SQL."""
    given = {f"{column}_{number}": value for number, value in enumerate(values)}
    return f"{column} IN ({', '.join(f':{name}' for name in given)})", given


def reads(fn: Callable[Concatenate[Tx, P], T]) -> Callable[Concatenate[Tx, P], T]:
    """Mark a store function that changes nothing: it runs beside the writer, not behind it."""
    fn.reads = True  # type: ignore[attr-defined]
    return fn


def unhurried(fn: Callable[Concatenate[Tx, P], T]) -> Callable[Concatenate[Tx, P], T]:
    """Mark a store function for whose end nobody waits: it shares a commit with others like it."""
    fn.unhurried = True  # type: ignore[attr-defined]
    return fn


def brief(fn: Callable[Concatenate[Tx, P], T]) -> Callable[Concatenate[Tx, P], T]:
    """Mark a store function that is done at once, with a few rows by key.

    If it changes them, the event loop may wait for it; if it reads them, it waits for no list.
    """
    fn.brief = True  # type: ignore[attr-defined]
    return fn
