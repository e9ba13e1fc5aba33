"""The one table of routes: what is not here does not exist.

Each entry says who may call it, what it reads, what it answers and which errors it documents;
scope checks, handlers, the served document and the tests all come from it.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from msgspec import Struct

from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import ApplianceError, InvalidRequest

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Handler = Callable[[Any], Awaitable[Any]]

JSON: Final = "application/json"

# Ways to write a path that Quart would take for another path, or a reader for another one: a
# browser reads a backslash as a slash.
OTHER_SPELLING: Final = re.compile(rb"//|/\.\.?(?:/|$)|%2[ef]|%5c|\\", re.IGNORECASE)

_PARAMETER: Final = re.compile(r":(\w+)")


@dataclass(frozen=True, slots=True)
class Plane:
    """A family of routes with one shape of answers (contract.md §1)."""

    name: str
    prefixes: tuple[str, ...]  # each of its paths exists under every one of them
    has_envelope: bool  # `{"data", "meta"}` around each answer; else the bare object
    has_bare_errors: bool  # `{"error": "text", "code"}`; else the object, with `meta`
    has_422: bool = True  # of what is wrong with fields; else that is 400 as well
    unauthorized: str = ""  # what a caller is told whom nobody knows; "": what is wrong

    def status_of(self, error: ApplianceError | type[ApplianceError]) -> int:
        """The HTTP status of a failure."""
        return error.status if self.has_422 or error.status != 422 else InvalidRequest.status


CMDOP: Final = Plane("cmdop", ("/api/v1", "/v1"), has_envelope=True, has_bare_errors=False)
# Its paths have no prefix in common: /api/machines, /health.
HAPI: Final = Plane(
    "hapi",
    ("",),
    has_envelope=False,
    has_bare_errors=True,
    has_422=False,
    unauthorized="Invalid access token",
)
SDK2: Final = Plane("sdk2", ("/api",), has_envelope=False, has_bare_errors=True)
# For people and probes, beside every other plane.
ROOT: Final = Plane("root", ("",), has_envelope=False, has_bare_errors=False)
# Whose paths begin in a way of their own, the longest beginning first; all others are ROOT's.
_BY_PREFIX: Final = (CMDOP, SDK2)


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path, relative to its plane; `:name` stands for one path segment."""

    plane: Plane
    method: Method
    path: str
    scopes: tuple[Scope, ...]  # any one of them is enough
    handler: Handler
    body: type[Struct] | None
    query: type[Struct] | None
    answer: Any
    errors: tuple[type[ApplianceError], ...]
    status: int
    media: str  # of the answer
    event_id: str | None  # pattern of what `Last-Event-ID` may be, where that resumes
    has_etag: bool  # its answer says which it is, and `If-None-Match` spares it
    is_bulk: bool  # what it reads or answers is of any size, and streams: api/bulk.py serves it
    takes: str | None  # media type of a body that its handler reads
    name: str  # unique, stable, usable as an operation id
    id_from: str | None  # the parameter of the query that names what `:id` does elsewhere
    body_bytes: int  # how long a body it reads, beyond what is read everywhere

    @property
    def parameters(self) -> list[str]:
        """The names in its path."""
        return _PARAMETER.findall(self.path)

    def path_with(self, form: str) -> str:
        """The path with each `:name` written as `form`, such as `<{}>`."""
        return _PARAMETER.sub(lambda match: form.format(match[1]), self.path)


ROUTES: Final[list[Route]] = []


def plane_of(path: str) -> Plane:
    """The plane in whose shape a request is refused that no route takes."""
    for entry in ROUTES:
        if entry.path == path and "" in entry.plane.prefixes:
            return entry.plane
    for plane in _BY_PREFIX:
        if f"{path}/".startswith(tuple(f"{prefix}/" for prefix in plane.prefixes)):
            return plane
    return ROOT


def route(
    method: Method,
    path: str,
    *,
    scope: Scope | tuple[Scope, ...],
    answer: Any,
    body: type[Struct] | None = None,
    query: type[Struct] | None = None,
    errors: tuple[type[ApplianceError], ...] = (),
    status: int = 200,
    plane: Plane = CMDOP,
    media: str = JSON,
    event_id: str | None = None,
    has_etag: bool = False,
    is_bulk: bool = False,
    takes: str | None = None,
    name: str | None = None,
    id_from: str | None = None,
    body_bytes: int = 0,
) -> Callable[[Handler], Handler]:
    """Enter a handler into the table.

    `answer` is what the handler returns, or bytes of the type `media`. A stream of events with ids
    of the pattern `event_id` goes on behind the one in `Last-Event-ID`. The handler of a bulk
    route reads `Request.pieces`, of the type `takes`, instead of a body; that of another route
    with `takes` reads `Request.read_body`. A route is named after its handler, unless it has a
    `name` of its own. In `Call.path` the parameter `id_from` of the query is the `id`.

    Raises:
        TypeError: at import, if the scope is not one, or the place is taken.
    """
    scopes = scope if isinstance(scope, tuple) else (scope,)
    if not scopes or not all(isinstance(item, Scope) for item in scopes):
        raise TypeError(f"{method} {path} needs a Scope, not {scope!r}")
    if any((entry.plane, entry.method, entry.path) == (plane, method, path) for entry in ROUTES):
        raise TypeError(f"{method} {path} is in the table already")

    def enter(handler: Handler) -> Handler:
        ROUTES.append(
            Route(
                plane,
                method,
                path,
                scopes,
                handler,
                body,
                query,
                answer,
                errors,
                status,
                media,
                event_id,
                has_etag,
                is_bulk,
                takes,
                name or handler.__name__,
                id_from,
                body_bytes,
            )
        )
        return handler

    return enter
