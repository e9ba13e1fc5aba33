"""Numbered migrations: `migrations/NNNN_name.sql`, never edited once released.

What each database says in its own way stands beside it: `NNNN_name.sqlite.sql`. Each hub start
applies what is missing, all in one transaction: a crash leaves the old schema.
"""

import re
from importlib import resources

from cmdop_appliance.errors import StartupError
from cmdop_appliance.store.transaction import Tx

_NAME = re.compile(r"(\d{4})_\w+\.sql")
_SQLITE_NAME = re.compile(r"(\d{4})_\w+\.sqlite\.sql")


def to_latest(tx: Tx) -> None:
    """Bring the schema up to this version.

    Raises:
        StartupError: the store was written by a newer version of the program.
    """
    tx.define("casefold", str.casefold)  # PostgreSQL's; SQLite's own lower() knows ASCII only
    tx.execute("CREATE TABLE IF NOT EXISTS migration (number BIGINT PRIMARY KEY)")
    applied = tx.value("SELECT max(number) FROM migration") or 0
    known, beside = _scripts(), _scripts_of_sqlite()
    if applied > max(known):
        raise StartupError(
            f"the store is at schema {applied}, this program knows {max(known)}",
            hint="start the version of cmdop that wrote it, or a newer one",
        )
    for number in sorted(known):
        if number > applied:
            for statement in (known[number] + beside.get(number, "")).split(";\n"):
                tx.execute(statement)
            tx.execute("INSERT INTO migration (number) VALUES (:number)", number=number)


def latest() -> int:
    """The number of the schema that this version has."""
    return max(_scripts())


def _scripts() -> dict[int, str]:
    return _named(_NAME)


def _scripts_of_sqlite() -> dict[int, str]:
    return _named(_SQLITE_NAME)


def _named(pattern: re.Pattern[str]) -> dict[int, str]:
    folder = resources.files("cmdop_appliance.store") / "migrations"
    found = ((pattern.fullmatch(file.name), file) for file in folder.iterdir())
    return {int(match[1]): file.read_text("utf-8") for match, file in found if match}
