"""JSON Schemas of what routes read and answer: msgspec's, made as every reader knows them."""

import inspect
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, get_args, get_origin

import msgspec
from msgspec import Struct

from cmdop_appliance.api.exchange import Paged
from cmdop_appliance.api.registry import Route

Json = dict[str, Any]

REFERENCE: Final = "#/components/schemas/"


class Schemas:
    """What all the routes read and answer, as it is on the wire."""

    def __init__(self, routes: Sequence[Route]) -> None:
        answers = {
            leaf for entry in routes if entry.answer is not bytes for leaf in _leaves(entry.answer)
        }
        self._answers, answered = _schemas_of(answers)
        for schema in answered.values():
            if "properties" in schema:  # what is answered is answered whole
                schema["required"] = list(schema["properties"])
                for field in schema["properties"].values():
                    field.pop("default", None)
        self._bodies, read = _schemas_of({entry.body for entry in routes if entry.body})
        for schema in read.values():
            for name, field in schema["properties"].items():
                if "default" in field:
                    schema["properties"][name] = _or_null(field)
        for name in read.keys() & answered.keys():
            if read[name] != answered[name]:
                raise TypeError(f"{name} is read with defaults and answered: it needs two types")
        self.components: Json = read | answered

    def body(self, kind: type[Struct]) -> Json:
        """The schema of a body."""
        return self._bodies[kind]

    def answer(self, kind: Any) -> Json:
        """The schema of an answer, without the envelope of its plane."""
        parts = [self.answer(part) for part in _parts(kind)]
        if not parts:
            return self._answers[kind]
        if get_origin(kind) is list:
            return {"type": "array", "items": parts[0]}
        if get_origin(kind) is dict:
            return {"type": "object", "additionalProperties": parts[0]}
        return {"anyOf": parts}


def _leaves(kind: Any) -> Iterator[Any]:
    """The types within lists, dicts and unions: msgspec knows no union of two plain structs."""
    parts = _parts(kind)
    if not parts:
        yield kind
    for part in parts:
        yield from _leaves(part)


def _parts(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) in (list, dict):
        return get_args(kind)[-1:]
    return get_args(kind) if isinstance(kind, types.UnionType) else ()


def _schemas_of(kinds: Iterable[Any]) -> tuple[dict[Any, Json], Json]:
    """(the schema of each type, the components that these refer to)"""
    kinds = sorted(kinds, key=repr)
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REFERENCE + "{name}")
    return dict(zip(kinds, map(_portable, schemas), strict=True)), _portable(components)


def _or_null(field: Json) -> Json:
    """The schema of a field that has a default, for which null stands."""
    null = {"type": "null"}
    if null in field.get("anyOf", ()):
        return field
    about: Json = {name: field.pop(name) for name in ("default", "description") if name in field}
    return {"anyOf": [*field.get("anyOf", [field]), null], **about}


def _portable(schema: Any) -> Any:
    """msgspec's schema in the words that every reader of JSON Schema knows."""
    if isinstance(schema, list | tuple):
        return [_portable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: _portable(value) for name, value in schema.items()}
    if isinstance(schema.get("title"), str):
        del schema["title"]  # it repeats the name
    if isinstance(description := schema.get("description"), str):
        schema["description"] = inspect.cleandoc(description)
    if isinstance(pattern := schema.get("pattern"), str):
        schema["pattern"] = pattern.replace(r"\Z", "$")  # ECMA-262 has no \Z; its $ means the same
    if isinstance(values := schema.get("enum"), list) and all(type(v) is str for v in values):
        schema["type"] = "string"
    return schema


def object_schema(kind: type[Struct]) -> Json:
    """The schema of one flat object, which refers to nothing."""
    schemas, components = _schemas_of([kind])
    schema: Json = components[schemas[kind]["$ref"].removeprefix(REFERENCE)]
    return schema


def query_fields(kind: type[Struct]) -> Iterator[tuple[str, bool, Json]]:
    """(name, whether it must be there, schema) of each parameter of a query."""
    schema = object_schema(kind)
    for name, field in schema["properties"].items():
        if {"type": "null"} in field.get("anyOf", ()):  # a URL knows only what is there
            (field,) = (option for option in field["anyOf"] if option != {"type": "null"})
        if name == "sort" and issubclass(kind, Paged):
            fields = list(kind.ORDER)
            field["enum"] = [*fields, *(f"-{each}" for each in fields)]
        yield name, name in schema["required"], field
