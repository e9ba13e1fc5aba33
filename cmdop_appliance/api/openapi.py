"""The OpenAPI document, made from the table of routes alone: what is not there is not said here."""

import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

import msgspec
from msgspec import Struct

from cmdop_appliance import __version__
from cmdop_appliance.api.exchange import Call, Response, Window
from cmdop_appliance.api.multipart import MEDIA as MULTIPART
from cmdop_appliance.api.reading import needs_body
from cmdop_appliance.api.registry import CMDOP, JSON, ROOT, ROUTES, Route, route
from cmdop_appliance.api.schemas import REFERENCE, Json, Schemas, query_fields
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import (
    ApplianceError,
    Forbidden,
    IdempotencyConflict,
    InternalError,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    RangeNotSatisfiable,
    RateLimited,
    StorageFull,
    Unauthorized,
    Unavailable,
    UpgradeRequired,
    ValidationFailed,
)

_ABOUT: Final = f"""\
Every path below `{CMDOP.prefixes[0]}` exists below `{CMDOP.prefixes[1]}` as well.

Answers are `{{"data": …, "meta": {{…}}}}`, errors `{{"error": {{"code", "message", "details"}},
"meta": {{…}}}}`; other planes answer bare objects. Unknown fields of a body are ignored; null
stands for a field's default. Times are RFC 3339 in UTC, durations milliseconds. A well-formed
`X-Request-Id` is kept and comes back. Where there is a rate limit, each answer has
`X-RateLimit-Limit`, `-Remaining` and `-Reset` (a time, in seconds since 1970). Another method on a
path is 405, with those that it knows in `Allow`.

A key needs one of the scopes in `x-required-scopes`, or `admin`; where none is named, any key does.

A page of the hub may send the cookie of its sign-in (POST /sign-ins) instead of a key, and no other
page may: 403 `cross_origin`, or `wrong_host` where `[server] public_url` is set.

A credential in a URL is refused. A POST with an `Idempotency-Key` can be repeated for 24 hours: the
same request is answered with what the first one made, another one is 409 `idempotency_conflict`.
"""
# It is opened by browsers, which are to take it for nothing but data.
_SECURITY: Final = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_ANSWER_META: Final[Json] = {
    "type": "object",
    "required": ["request_id", "timestamp"],
    "properties": {
        "request_id": {"type": "string", "description": "The same as the header `X-Request-Id`."},
        "timestamp": {"type": "string", "format": "date-time"},
    },
}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_LIST_META: Final[Json] = {
    "type": "object",
    "required": [*_ANSWER_META["required"], "total", "limit", "offset", "has_more"],
    "properties": {
        **_ANSWER_META["properties"],
        "total": {**_COUNT, "description": "Of all pages."},
        "limit": {**_COUNT, "description": "As it was applied: at most 100."},
        "offset": _COUNT,
        "has_more": {"type": "boolean"},
    },
}
_ERROR: Final[Json] = {
    "type": "object",
    "required": ["error", "meta"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "details"],
            "properties": {
                "code": {"type": "string", "description": "Stable; for programs."},
                "message": {"type": "string", "description": "For people."},
                "details": {
                    "type": "object",
                    "description": "The reason for each wrong field, or query parameter.",
                },
                "hint": {"type": "string", "description": "What can be done about it."},
            },
        },
        "meta": {"$ref": REFERENCE + "AnswerMeta"},
    },
}
_BARE_ERROR: Final[Json] = {
    "type": "object",
    "required": ["error", "code"],
    "properties": {"error": {"type": "string"}, "code": {"type": "string"}},
}
_TEXT: Final[Json] = {"type": "string"}
_REQUEST_ID: Final[Json] = {
    "description": "Names this request, here and in the hub's log.",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
}
_REQUEST_ID_REF: Final[Json] = {"$ref": "#/components/headers/RequestId"}
# Beside the request id, by status.
_ERROR_HEADERS: Final[dict[int, Json]] = {
    Unauthorized.status: {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}},
    RangeNotSatisfiable.status: {"Content-Range": {"required": True, "schema": _TEXT}},
    UpgradeRequired.status: {"Upgrade": {"required": True, "schema": {"const": "websocket"}}},
    RateLimited.status: {
        "Retry-After": {"description": "Seconds.", "required": True, "schema": _COUNT}
    },
}
_IDEMPOTENCY_KEY: Final[Json] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Makes this request one that can be sent again.",
    "schema": {
        "type": "string",
        "maxLength": 200,
        "pattern": "^[!-~]([ -~]*[!-~])?$",
    },
}
_IF_NONE_MATCH: Final[Json] = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The `ETag` of what the caller has: where it is still so, it is not sent.",
    "schema": _TEXT,
}
_FORM: Final[Json] = {
    "type": "object",
    "description": "The file comes last. Its path may be a field, too, instead of a parameter.",
    "required": ["file"],
    "properties": {
        "path": _TEXT,
        "path_base64": {**_TEXT, "contentEncoding": "base64"},
        "file": {"contentMediaType": "application/octet-stream"},
    },
}
_IF_RANGE: Final[Json] = {
    "name": "If-Range",
    "in": "header",
    "description": "The `ETag` that the range is of: if it is another now, everything is answered.",
    "schema": _TEXT,
}
_RANGE: Final[Json] = {
    "name": "Range",
    "in": "header",
    "description": "Of several ranges, or in another unit than bytes, everything is answered.",
    "schema": _TEXT,
}


@route(
    "GET",
    "/openapi.json",
    scope=Scope.PUBLIC,
    answer=dict[str, Any],
    has_etag=True,
    plane=ROOT,
)
async def get_openapi(call: Call[None, None]) -> Response:
    """This document."""
    content = document()
    tag = hashlib.sha256(content).hexdigest()[:16]
    headers = {"Content-Type": JSON, "Cache-Control": "no-cache", "ETag": f'"{tag}"'}
    return Response(200, _SECURITY | headers, content)


@functools.cache
def document() -> bytes:
    """The document of all routes that are in the table when it is first asked for."""
    return msgspec.json.format(msgspec.json.encode(_document(), order="sorted"), indent=2) + b"\n"


def _document() -> Json:
    schemas = Schemas(ROUTES)
    failures: dict[str, Json] = {}
    paths: dict[str, Json] = {}
    for entry in ROUTES:
        path = entry.plane.prefixes[0] + entry.path_with("{{{}}}")
        paths.setdefault(path, {})[entry.method.lower()] = _operation(entry, schemas, failures)
    return {
        "openapi": "3.1.0",
        "info": {"title": "cmdop", "version": __version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "tags": [
            {"name": _tag(module), "description": inspect.getdoc(sys.modules[module])}
            for module in sorted({entry.handler.__module__ for entry in ROUTES})
        ],
        "paths": paths,
        "components": {
            "schemas": {
                **schemas.components,
                "AnswerMeta": _ANSWER_META,
                "ListMeta": _LIST_META,
                "Error": _ERROR,
                "BareError": _BARE_ERROR,
            },
            "responses": failures,
            "headers": {"RequestId": _REQUEST_ID},
            "parameters": {"IdempotencyKey": _IDEMPOTENCY_KEY},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key `cmdop_apikey_…`, or a token of POST /api/auth.",
                }
            },
        },
    }


def _operation(entry: Route, schemas: Schemas, failures: dict[str, Json]) -> Json:
    """One operation; its failures, which many share, go into `failures`."""
    summary, _, description = (inspect.getdoc(entry.handler) or "").partition("\n\n")
    operation: Json = {
        "operationId": entry.name,
        "tags": [_tag(entry.handler.__module__)],
        "summary": " ".join(summary.split()),
        "parameters": [*_parameters(entry), *_headers(entry)],
        "responses": _success(entry, schemas) | _failures(entry, failures),
    }
    if description:
        operation["description"] = description
    if entry.body is not None:
        content = {JSON: {"schema": schemas.body(entry.body)}}
        operation["requestBody"] = {"required": needs_body(entry.body), "content": content}
    elif entry.takes is not None:
        is_form = entry.takes == MULTIPART
        content = {entry.takes: {"schema": _FORM} if is_form else {}}
        operation["requestBody"] = {"required": is_form, "content": content}
    if Scope.PUBLIC in entry.scopes:
        operation["security"] = []
    else:
        operation["security"] = [{"bearer": []}]
        operation["x-required-scopes"] = [s for s in entry.scopes if s is not Scope.ANY_KEY]
    return operation


def _parameters(entry: Route) -> Iterator[Json]:
    for name in entry.parameters:
        yield {"name": name, "in": "path", "required": True, "schema": {**_TEXT, "minLength": 1}}
    if entry.query is not None:
        for name, is_required, schema in query_fields(entry.query):
            yield {"name": name, "in": "query", "required": is_required, "schema": schema}


def _headers(entry: Route) -> Iterator[Json]:
    if entry.method == "POST" and Scope.PUBLIC not in entry.scopes:
        yield {"$ref": "#/components/parameters/IdempotencyKey"}
    if RangeNotSatisfiable in entry.errors:
        yield _RANGE
        if entry.has_etag:
            yield _IF_RANGE
    if entry.has_etag:
        yield _IF_NONE_MATCH
    if entry.event_id is not None:
        yield {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "The `id` of the last event that was received: go on behind it.",
            "schema": {**_TEXT, "pattern": f"^({entry.event_id})?$"},
        }


def _links(entry: Route) -> Json:
    """What can be asked about the record that is answered to whoever made it."""
    if entry.method != "POST" or not isinstance(entry.answer, type(Struct)):
        return {}
    record = f"{entry.path.removesuffix('/async')}/:id"
    source = f"$response.body#/data/{entry.answer.__struct_fields__[0]}"
    return {
        other.name: {"operationId": other.name, "parameters": {"id": source}}
        for other in ROUTES
        if other.plane is entry.plane and f"{other.path}/".startswith(f"{record}/")
    }


def _success(entry: Route, schemas: Schemas) -> Json:
    content: Json = {} if entry.status == 101 else {entry.media: {}}
    if entry.answer is not bytes:
        content[entry.media]["schema"] = _enveloped(entry, schemas.answer(entry.answer))
    headers = {"X-Request-Id": _REQUEST_ID_REF}
    if entry.has_etag:
        headers["ETag"] = {"required": True, "schema": _TEXT}
    answers = {entry.status: {"headers": headers, "content": content}}
    if links := _links(entry):
        answers[entry.status]["links"] = links
    if entry.has_etag:
        answers[304] = {"headers": headers}
    if RangeNotSatisfiable in entry.errors:
        part = {"required": True, "schema": _TEXT}
        answers[206] = {"headers": {**headers, "Content-Range": part}, "content": content}
    return {
        str(status): {"description": HTTPStatus(status).phrase, **answer}
        for status, answer in answers.items()
    }


def _enveloped(entry: Route, data: Json) -> Json:
    if not entry.plane.has_envelope:
        return data
    is_list = entry.query is not None and issubclass(entry.query, Window)
    meta = {"$ref": REFERENCE + ("ListMeta" if is_list else "AnswerMeta")}
    return {
        "type": "object",
        "required": ["data", "meta"],
        "properties": {"data": data, "meta": meta},
    }


def _failures(entry: Route, known: dict[str, Json]) -> Json:
    by_status: dict[int, dict[str, type[ApplianceError]]] = {}
    for error in sorted(_errors(entry), key=lambda error: error.code):
        by_status.setdefault(entry.plane.status_of(error), {})[error.code] = error
    is_bare = entry.plane.has_bare_errors
    answers: Json = {}
    for status, errors in by_status.items():
        name = ".".join(["bare"] * is_bare + list(errors))
        known[name] = {
            "description": "\n".join(
                f"- `{code}`: {' '.join((error.__doc__ or '').split())}"
                for code, error in errors.items()
            ),
            "headers": {"X-Request-Id": _REQUEST_ID_REF, **_ERROR_HEADERS.get(status, {})},
            "content": {JSON: {"schema": _error_schema(list(errors), is_bare=is_bare)}},
        }
        answers[str(status)] = {"$ref": f"#/components/responses/{name}"}
    return answers


def _error_schema(codes: list[str], *, is_bare: bool) -> Json:
    code = {"properties": {"code": {"enum": codes}}}
    if is_bare:
        return {"allOf": [{"$ref": REFERENCE + "BareError"}, code]}
    return {"allOf": [{"$ref": REFERENCE + "Error"}, {"properties": {"error": code}}]}


def _errors(entry: Route) -> Iterator[type[ApplianceError]]:
    """What the route names, and what may go wrong before and behind every route of its kind."""
    yield from entry.errors
    yield from (InvalidRequest, InternalError, Unavailable)
    if Scope.PUBLIC not in entry.scopes:
        yield from (Unauthorized, RateLimited)
        if Scope.ANY_KEY not in entry.scopes:
            yield Forbidden
    if entry.parameters:
        yield NotFound  # a segment that could be read as another path
    if entry.body is not None:
        yield from (PayloadTooLarge, ValidationFailed)
    if entry.method == "POST" and Scope.PUBLIC not in entry.scopes:
        yield IdempotencyConflict
    if entry.method != "GET":
        yield StorageFull


def _tag(module: str) -> str:
    """The noun of a module; one that is not of the CMDOP plane may share it with one that is."""
    package, _, noun = module.rpartition(".")
    plane = package.removeprefix(__package__ or "").strip(".")
    return f"{noun} ({plane or 'hub'})".replace("_", "-").removesuffix(" (cmdop)")
