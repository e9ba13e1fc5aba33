"""What a request says, read into the types of its route: its query, and its body of JSON."""

import functools
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET, Struct, inspect

from cmdop_appliance.api.fields import PATTERN_REASONS, bad_parameter
from cmdop_appliance.api.registry import JSON
from cmdop_appliance.errors import InvalidRequest, ValidationFailed

_DIGITS: Final = re.compile(r"[0-9]+")
_DIGITS_READ: Final = 19  # more make a number no better: it is beyond all bounds already
# Of a dict it does not tell in which entry: `[...]`.
_PLACE: Final = re.compile(r" - at `(?:key` in `)?\$\.?(.*?)(?:\[\.\.\.\])?`$")


def read_query(kind: type[Struct] | None, query: str) -> Any:
    """A query of this `kind`; None: the route reads none.

    Raises:
        InvalidRequest: a parameter is missing, or not what it must be.
    """
    if kind is None:
        return None
    values = dict(parse_qsl(query, keep_blank_values=True, encoding="latin-1"))  # byte by byte
    numbers, raw, words = _rules(kind)
    for name in values.keys() - raw:
        values[name] = values[name].encode("latin-1").decode(errors="replace")
    for name in numbers & values.keys():
        if not _DIGITS.fullmatch(values[name]):  # msgspec would take 1e3 as well
            raise bad_parameter(name, words[name])
        values[name] = values[name][:_DIGITS_READ]
    try:
        read = msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as exc:
        name, reason = _blame(exc)
        raise bad_parameter(name, words.get(name, reason)) from None
    for known in msgspec.structs.fields(kind):
        name = known.encode_name
        if name in values and getattr(read, known.name) is None:  # msgspec takes "null" for it
            raise bad_parameter(name, words.get(name, "null is no value of it"))
    return read


@functools.cache
def _rules(kind: type[Struct]) -> tuple[frozenset[str], frozenset[str], dict[str, str]]:
    """(the whole numbers among the parameters, the raw texts, what must be what, in words)."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    numbers, raw, words = set(), set(), {}
    for parameter in info.fields:
        name = parameter.encode_name
        for part in getattr(parameter.type, "types", (parameter.type,)):
            match part:
                case inspect.IntType(ge=least, le=most):
                    numbers.add(name)
                    bound = "" if most is None else f" and at most {most}"
                    words[name] = f"must be a whole number of at least {least}{bound}"
                case inspect.BoolType():
                    words[name] = "must be true or false"
                case inspect.Metadata(extra={"is_raw": True}):
                    raw.add(name)
    return frozenset(numbers), frozenset(raw), words | _choices(kind)


@functools.cache
def _choices(kind: type[Struct]) -> dict[str, str]:
    """By field what it must be, in words, of those that have only a few values."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return {
        known.encode_name: f"must be one of {', '.join(map(str, part.values))}"
        for known in info.fields
        for part in getattr(known.type, "types", (known.type,))
        if isinstance(part, inspect.LiteralType)
    }


async def read_body(
    kind: type[Struct] | None, content_type: str, read: Callable[[], Awaitable[bytes]]
) -> Any:
    """A body of this `kind`, not read if it says that it is no JSON; None: the route reads none.

    Raises:
        InvalidRequest: it is no JSON.
        ValidationFailed: a field is missing, or not what it must be.
    """
    if kind is None:
        return None
    content_type = content_type.partition(";")[0].strip().lower()
    body = b""
    if content_type == JSON or (not content_type and not needs_body(kind)):
        body = await read()
        if not body and not needs_body(kind):
            return kind()
    if content_type != JSON:
        raise InvalidRequest(
            "the body must be JSON", hint="send it with `Content-Type: application/json`"
        )
    try:
        text = body.decode()  # strict, also where the fields that we know do not look
        try:
            return msgspec.json.decode(text, type=kind)
        except msgspec.ValidationError:
            # It stopped at the first wrong value: is the rest JSON, and is null all that is wrong?
            return msgspec.convert(_without_nulls(msgspec.json.decode(text), kind), kind)
    except msgspec.ValidationError as exc:
        name, reason = _blame(exc)
        reason = _choices(kind).get(name, reason)
        raise ValidationFailed("Validation failed", **{name: reason}) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise InvalidRequest(f"malformed JSON: {exc}") from None


def needs_body(kind: type[Struct]) -> bool:
    """False: every field has a default, so that a request may come without a body."""
    return any(known.required for known in msgspec.structs.fields(kind))


def _without_nulls(given: Any, kind: type[Struct]) -> Any:
    """What was given, without the nulls of fields that have a default: they stand for it."""
    if not isinstance(given, dict):
        return given
    optional = {
        known.encode_name
        for known in msgspec.structs.fields(kind)
        if not known.required and known.default is not UNSET
    }
    return {k: v for k, v in given.items() if v is not None or k not in optional}


def _blame(error: msgspec.ValidationError) -> tuple[str, str]:
    """(field, reason) from msgspec's words."""
    text = str(error)
    place = _PLACE.search(text)
    reason = text[: place.start()] if place else text
    if missing := re.search(r"missing required field `(\w+)`", reason):
        inside = f"{place[1]}." if place and place[1] else ""
        return inside + missing[1], "is required"
    for pattern, words in PATTERN_REASONS.items():
        if reason.endswith(f"matching regex {pattern!r}"):
            reason = words
    return (place[1] if place and place[1] else "body"), reason[:1].lower() + reason[1:]
