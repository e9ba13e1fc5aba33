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
from cmdop_appliance.errors import ApplianceError

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Handler = Callable[[Any], Awaitable[Any]]

# The CMDOP plane and its alias (contract.md §1).
PREFIXES: Final = ("/api/v1", "/v1")

_PARAMETER: Final = re.compile(r":(\w+)")


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path, relative to its plane; `:name` stands for one path segment."""

    method: Method
    path: str
    scopes: tuple[Scope, ...]  # any one of them is enough
    handler: Handler
    body: type[Struct] | None
    query: type[Struct] | None
    answer: Any
    errors: tuple[type[ApplianceError], ...]
    status: int

    @property
    def name(self) -> str:
        """Unique, stable, usable as an operation id."""
        return self.handler.__name__

    def path_with(self, form: str) -> str:
        """The path with each `:name` written as `form`, such as `<{}>`."""
        return _PARAMETER.sub(lambda match: form.format(match[1]), self.path)


ROUTES: Final[list[Route]] = []


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
) -> Callable[[Handler], Handler]:
    """Enter a handler into the table.

    Raises:
        TypeError: at import, if the scope is not one, or the place is taken.
    """
    scopes = scope if isinstance(scope, tuple) else (scope,)
    if not scopes or not all(isinstance(item, Scope) for item in scopes):
        raise TypeError(f"{method} {path} needs a Scope, not {scope!r}")
    if any((entry.method, entry.path) == (method, path) for entry in ROUTES):
        raise TypeError(f"{method} {path} is in the table already")

    def enter(handler: Handler) -> Handler:
        ROUTES.append(Route(method, path, scopes, handler, body, query, answer, errors, status))
        return handler

    return enter
