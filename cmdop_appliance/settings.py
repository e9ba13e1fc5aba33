"""Settings files: TOML into frozen structs; errors name file, line, key and what is allowed.

The struct of a file has a field per table, each a struct of its keys, all with defaults and
unknown keys forbidden.
"""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from cmdop_appliance.errors import StartupError

S = TypeVar("S", bound=Struct)


class Settings:
    """What one file sets, and what other sources set over it."""

    def __init__(self, path: Path, example: str) -> None:
        """Nothing is set yet. `example` names the file that shows every key."""
        self._path = path
        self._example = example
        self._text = ""
        self._tables: dict[str, Any] = {}
        self._sources: dict[str, str] = {}  # `table.key` → what set it, where it was not the file

    def read(self) -> None:
        """Take what the file sets.

        Raises:
            StartupError: it cannot be read, or is not TOML.
        """
        try:
            self._text = self._path.read_text(encoding="utf-8")
            self._tables = tomllib.loads(self._text)
        except OSError as exc:
            raise StartupError(f"cannot read {self._path}: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            line = exc.object.count(b"\n", 0, exc.start) + 1
            raise StartupError(f"{self._path}:{line}: not UTF-8 text") from exc
        except tomllib.TOMLDecodeError as exc:
            raise StartupError(f"{self._path}: {exc}", hint=f"see {self._example}") from exc

    def put(self, table: str, key: str, value: object, source: str) -> None:
        """Set one key; `source` is what an error shall name instead of the file."""
        keys = self._tables.setdefault(table, {})
        if isinstance(keys, dict):  # else the file is wrong, and says so when it is converted
            keys[key] = value
            self._sources[f"{table}.{key}"] = source

    def to(self, kind: type[S]) -> S:
        """The settings in force.

        Raises:
            StartupError: a key or value is wrong; the message names its source and what is allowed.
        """
        try:
            return msgspec.convert(self._tables, kind)
        except msgspec.ValidationError as exc:
            raise self._explained(str(exc), kind) from None

    def _explained(self, error: str, kind: type[Struct]) -> StartupError:
        """Turn msgspec's words into file, line, key and what is allowed."""
        reason, _, place = error.partition(" - at `$")
        place = place.strip("`.").partition("[")[0]  # of a list the key is named, not the item
        table, _, key = place.partition(".")
        hint = f"{self._example} shows every key"
        if unknown := re.search(r"unknown field `(.*)`", reason):
            table, key = (place, unknown[1]) if place else (unknown[1], "")
            known = ", ".join(_keys_of(kind, table))
            reason, hint = "unknown key" if key else "unknown table", f"allowed here: {known}"
        elif allowed := allowed_in(kind, table, key):
            reason, hint = "not a valid value", f"allowed: {allowed}"
        elif not key and reason.partition(": ")[0] in _keys_of(kind, table):
            key, _, reason = reason.partition(": ")  # from a table's own __post_init__
        name = f"{table}.{key}" if key else f"[{table}]"
        source = self._sources.get(name) or f"{self._path}:{_line_of(self._text, table, key)}"
        return StartupError(f"{source}: {name}: {lowered(reason)}", hint=hint)


def allowed_in(kind: type[Struct], table: str, key: str) -> str:
    """What a key may hold, where msgspec's own words would not say it."""
    fields = msgspec.structs.fields(_table_of(kind, table))
    return _described(next((field.type for field in fields if field.name == key), None))


def lowered(error: str) -> str:
    """msgspec's words as we write them: they begin lower case."""
    return error[:1].lower() + error[1:]


def _described(kind: object) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    parts = get_args(kind)
    metas = [part.description for part in parts if isinstance(part, Meta) and part.description]
    return next(iter(metas), "") or next(filter(None, map(_described, parts)), "")


def _keys_of(kind: type[Struct], table: str) -> list[str]:
    return [field.name for field in msgspec.structs.fields(_table_of(kind, table))]


def _table_of(kind: type[Struct], table: str) -> type[Struct]:
    """The struct of one table, also of the many beneath one; of no such table, the file's own."""
    found: Any = kind
    for name in table.split("."):
        found = next((f.type for f in msgspec.structs.fields(found) if f.name == name), None)
        while get_args(found):  # a dict of tables, maybe annotated: they are of its last type
            found = get_args(found)[0 if get_origin(found) is Annotated else -1]
        if found is None:
            return kind
    return cast("type[Struct]", found)


def _line_of(text: str, table: str, key: str) -> int:
    """The line that sets `table.key`, for a message: 1 if it is written in an unusual way."""
    inside, table_line = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line):
            inside = header[1].strip("\"'")
            if f"{inside}.".startswith(f"{table}.{key}."):
                return number
            if inside == table:
                table_line = number
        elif assigned := re.match(r"""\s*["']?([\w.-]+)["']?\s*=""", line):
            dotted = f"{inside}.{assigned[1]}" if inside else assigned[1]
            if dotted in (f"{table}.{key}", table):
                return number
            if inside.startswith(f"{table}.") and assigned[1] == key:  # one of many tables
                return number
    return table_line
