"""One request and its answer, apart from any web framework: who asks, what is read, what is said.

Quart, the hot route and the bulk routes all come here, so that a rule holds on every way to the
same data.
"""

import functools
import hashlib
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Generic, NoReturn, TypeVar
from urllib.parse import parse_qsl

import msgspec
import trio
from msgspec import Meta, Struct

from cmdop_appliance.api.cookies import cookie_in
from cmdop_appliance.api.fields import Offset, bad_parameter
from cmdop_appliance.api.reading import read_body, read_query
from cmdop_appliance.api.registry import Plane, Route
from cmdop_appliance.api.room import require_room
from cmdop_appliance.api.same_origin import require_own_page
from cmdop_appliance.auth import NOBODY, Caller, Scope, new_secret
from cmdop_appliance.clock import Clock, rfc3339
from cmdop_appliance.errors import (
    ApplianceError,
    Forbidden,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    RangeNotSatisfiable,
    RateLimited,
    Unauthorized,
    Unavailable,
    UpgradeRequired,
    ValidationFailed,
)
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.hub.requests import Answered
from cmdop_appliance.ids import is_any_id, new_id
from cmdop_appliance.model import Action
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.idempotency import Once
from cmdop_appliance.store.listing import Page, Paging

B = TypeVar("B")
Q = TypeVar("Q")
# A body as it arrives.
Pieces = Callable[[], AsyncGenerator[bytes, None]]

LIMIT_DEFAULT: Final = 20  # contract.md §1
LIMIT_MAX: Final = 100

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Query parameters that carry credentials elsewhere: refused here, so that none lands in a log.
_CREDENTIALS: Final = frozenset(
    {
        *("token", "access_token", "api_key", "apikey", "key", "authorization", "password"),
        *("secret", "ticket"),
    }
)
# A key that is revoked gets nothing more after this, also not the rest of an answer (semantics.md).
_LOOK_AGAIN_S: Final = 1.0
# Answers have what machines say, and are opened by browsers that are signed in: none is a page of
# ours, whatever is in it, unless its route says so.
_HARMLESS: Final = {"Content-Security-Policy": "sandbox", "X-Content-Type-Options": "nosniff"}
_IDEMPOTENCY_KEY: Final = re.compile(r"[ -~]{1,200}")  # contract.md §1

_log = logging.getLogger("cmdop.api")


def _not_for_this_route() -> NoReturn:
    raise TypeError("the body of a bulk route comes in pieces, and that of another at once")


@dataclass(slots=True)
class Request:
    """What came in. Header names are lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    peer: str  # the address that it comes from, also behind proxies that we trust
    is_secure: bool = False  # it came by HTTPS, to us or to such a proxy
    read_body: Callable[[], Awaitable[bytes]] = _not_for_this_route
    pieces: Pieces = _not_for_this_route
    # Waits beside whatever is done for its caller, and raises Unauthorized when the key has ended.
    until_revoked: Callable[[], Awaitable[None]] = trio.sleep_forever
    request_id: str = field(init=False)
    answer_headers: dict[str, str] = field(init=False)  # for its answer, whatever that will be

    def __post_init__(self) -> None:
        offered = self.headers.get("x-request-id", "")
        self.request_id = offered if _REQUEST_ID.fullmatch(offered) else new_id("req")
        self.answer_headers = {"X-Request-Id": self.request_id, **_HARMLESS}


@dataclass(slots=True)
class Response:
    """What goes out: bytes, or a stream of them."""

    status: int
    headers: dict[str, str]
    body: bytes | AsyncGenerator[bytes, None]


class Window(Struct, frozen=True):
    """Which part of a list."""

    limit: Annotated[int, Meta(ge=1)] = LIMIT_DEFAULT  # more than LIMIT_MAX: that many
    offset: Offset = 0


class Paged(Window, frozen=True):
    """The query of every list of records; each names what it can be sorted by."""

    ORDER: ClassVar[dict[str, str]]  # field of the answer → column

    sort: str = "-created_at"


@dataclass(frozen=True, slots=True)
class Call(Generic[B, Q]):
    """A request whose caller may make it and whose parts were read."""

    hub: Hub
    caller: Caller
    path: Mapping[str, str]
    body: B
    query: Q
    request: Request
    once: Once | None  # the caller may send this request again

    def entry(self, action: Action, target: str, **details: object) -> Entry:
        """What the audit log says of this call: what was done, to which id."""
        return Entry.by(self.caller, self.hub.clock.now_ms(), action, target, **details)


@dataclass(frozen=True, slots=True)
class Listed:
    """A page for the envelope: its data beside its numbers."""

    views: Any  # of its records: a list, or what has one among other things
    page: Page[Any]


async def respond(hub: Hub, route: Route, path: Mapping[str, str], request: Request) -> Response:
    """Carry out one request of the table; every failure becomes an answer of its plane."""
    begun = time.perf_counter()
    response = await _respond(hub, route, path, request)
    what = Answered(route.plane.name, route.method, route.name)
    hub.requests.count(what, response.status, time.perf_counter() - begun)
    return response


async def _respond(hub: Hub, route: Route, path: Mapping[str, str], request: Request) -> Response:
    caller = NOBODY
    result: object = None
    try:
        refuse_credentials(request.query)
        if Scope.PUBLIC not in route.scopes:
            caller = await identify(hub, request)
            count(hub, caller, request)
            caller.require(*route.scopes)
        identified_s = trio.current_time()
        query = read_query(route.query, request.query)
        if route.id_from is not None:
            path = {**path, "id": getattr(query, route.id_from)}
        content_type = request.headers.get("content-type", "")
        body = await read_body(route.body, content_type, request.read_body)
        once = _read_once(hub, caller, route, path, query if route.is_bulk else body, request)
        await require_room(hub, route, once)
        if caller is not NOBODY:
            request.until_revoked = functools.partial(_until_revoked, hub, caller, identified_s)
        result = await route.handler(Call(hub, caller, path, body, query, request, once))
        if caller is not NOBODY and trio.current_time() - identified_s >= _LOOK_AGAIN_S:
            await _look_again(hub, caller)
    except Exception as exc:  # noqa: BLE001 - the one edge where a bug becomes a 500
        if isinstance(exc, Forbidden) and caller is not NOBODY:
            await _record_refusal(hub, caller, route, path, request, exc)
        if isinstance(result, Response) and not isinstance(result.body, bytes):
            await result.body.aclose()
        return error_response(exc, request, route.plane, hub.clock)
    if isinstance(result, Response):
        known = request.headers.get("if-none-match", "")
        if not isinstance(result.body, bytes):
            if caller is not NOBODY and not route.is_bulk:  # else who sends it on is looking
                result.body = _while_good(hub, caller, result.body)
        elif route.has_etag and result.headers["ETag"] in known:
            result = Response(304, result.headers, b"")
        result.headers = request.answer_headers | result.headers
        return result
    if not route.plane.has_envelope:
        return Response(route.status, _headers(request), msgspec.json.encode(result))
    return _envelope(result, route.status, request, hub.clock)


async def identify(hub: Hub, request: Request) -> Caller:
    """Who asks: by the Authorization header, or else by the cookie, which a page of ours sends.

    Raises:
        Unauthorized: nobody.
        CrossOrigin, WrongHost: the cookie came with what no page of ours asks.
        RateLimited: too many wrong keys came from there.
    """
    cookie = _cookie_of(request)
    if cookie is None:
        authorization = request.headers.get("authorization")
        return await hub.callers.identify(authorization, request.peer)
    require_own_page(request.method, request.headers, hub.config.server.public_host)
    request.answer_headers["Cache-Control"] = "no-store"  # for no cache that knows no cookies
    return await hub.callers.identify_cookie(cookie, request.peer)


def _cookie_of(request: Request) -> str | None:
    """The cookie by which somebody asks; an Authorization header wins."""
    if "authorization" in request.headers:
        return None
    return cookie_in(request.headers, is_secure=request.is_secure)


def error_response(error: Exception, request: Request, plane: Plane, clock: Clock) -> Response:
    """The answer for a failure, in the shape of the plane that was asked."""
    if not isinstance(error, ApplianceError):
        _log.error(
            "request failed",
            exc_info=error,
            extra={"request_id": request.request_id, "path": request.path},
        )
        error = InternalError("Internal error", hint="the hub's log has it under this request id")
    headers = _headers(request)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allowed)
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.total}"
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, UpgradeRequired):
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade"}
    body: dict[str, Any]
    if plane.has_bare_errors:
        text = error.message
        if isinstance(error, Unauthorized):
            text = plane.unauthorized or text
        if isinstance(error, Forbidden) and error.hint:
            text += f": {error.hint}"
        if isinstance(error, ValidationFailed):  # which fields is in the details, and these are not
            text += "".join(f"; {name}: {reason}" for name, reason in error.details.items())
        body = {"error": text, "code": error.code}
    else:
        shown = {"code": error.code, "message": error.message, "details": error.details}
        if error.hint:
            shown["hint"] = error.hint
        body = {"error": shown, "meta": _meta(request, clock)}
    return Response(plane.status_of(error), headers, msgspec.json.encode(body))


def read_paging(query: Paged) -> Paging:
    """Limit, offset and sort of a list; a limit that is too large is clamped, and shows.

    Raises:
        InvalidRequest: not a field that this list is sorted by.
    """
    if query.sort.removeprefix("-") not in query.ORDER:
        fields = ", ".join(query.ORDER)
        raise bad_parameter("sort", f"must be one of {fields}, with - for descending")
    return Paging(min(query.limit, LIMIT_MAX), query.offset, query.sort)


def refuse_credentials(query: str) -> None:
    """Pass a query that carries none.

    Raises:
        InvalidRequest: it names one; not what it is.
    """
    for name, _ in parse_qsl(query, keep_blank_values=True) if query else ():
        if name.lower() in _CREDENTIALS:
            raise InvalidRequest(
                f"credentials are not accepted in a URL ({name.lower()})",
                hint="send the key as `Authorization: Bearer cmdop_apikey_…`; replace this one",
            )


async def first_of(*parts: Callable[[], Awaitable[object]]) -> None:
    """Run these side by side until one of them ends, and raise what it raised."""
    failures: list[ApplianceError] = []

    async def run(part: Callable[[], Awaitable[object]]) -> None:
        try:
            await part()
        except ApplianceError as exc:
            failures.append(exc)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for part in parts:
            nursery.start_soon(run, part)
    if failures:
        raise failures[0]


def count(hub: Hub, caller: Caller, request: Request) -> None:
    """Count a request of this caller, whose answer will say how many more there may be.

    Raises:
        RateLimited: there were too many.
    """
    quota = hub.rate_limits.count(caller.key_id)
    if quota is not None:
        request.answer_headers |= {
            "X-RateLimit-Limit": str(quota.limit),
            "X-RateLimit-Remaining": str(quota.remaining),
            "X-RateLimit-Reset": str(hub.clock.now_ms() // 1000 + quota.reset_s),
        }
        quota.require()


async def _look_again(hub: Hub, caller: Caller) -> None:
    """Pass if the caller's key is still good.

    Raises:
        Unauthorized: it is not.
    """
    with suppress(Unavailable):  # nobody can tell; what was recorded must not look as if it was not
        await hub.callers.require_still_good(caller)


async def _until_revoked(hub: Hub, caller: Caller, looked_s: float) -> None:
    while True:
        await trio.sleep_until(looked_s + _LOOK_AGAIN_S)
        await _look_again(hub, caller)
        looked_s = trio.current_time()


async def _while_good(
    hub: Hub, caller: Caller, pieces: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """A streamed answer, up to where the caller's key is good no more."""
    looked_s = trio.current_time()
    async with aclosing(pieces):
        async for piece in pieces:
            if trio.current_time() - looked_s >= _LOOK_AGAIN_S:
                try:
                    await _look_again(hub, caller)
                except Unauthorized:
                    return
                looked_s = trio.current_time()
            yield piece


async def _record_refusal(
    hub: Hub,
    caller: Caller,
    route: Route,
    path: Mapping[str, str],
    request: Request,
    error: Forbidden,
) -> None:
    if route.id_from is not None:  # what lacks the scope is refused before its query is read
        path = {"id": dict(parse_qsl(request.query)).get(route.id_from, ""), **path}
    # Other text of a caller has no place in the audit log: it may be a key, pasted for an id.
    named = [part for part in path.values() if is_any_id(part)]
    target = "/".join(named) or str(error.details.get("machine_id", ""))
    await record_refusal(hub, caller, route, target, error)


async def record_refusal(
    hub: Hub, caller: Caller, route: Route, target: str, error: Forbidden
) -> None:
    """Have the audit log say what a caller may not do on `target`."""
    why = str(error.details.get("required_permission", error.code))
    entry = Entry.by(caller, hub.clock.now_ms(), "call.refused", target, route=route.name, why=why)
    await hub.audit.record_refusal(caller.key_id, entry.refused())


def _read_once(
    hub: Hub, caller: Caller, route: Route, path: Mapping[str, str], asked: Any, request: Request
) -> Once | None:
    """What makes this request the same as one before: its key, its target and what is `asked`."""
    key = request.headers.get("idempotency-key")
    if key is None or route.method != "POST" or caller is NOBODY:
        return None
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequest("Idempotency-Key must be 1 to 200 printable ASCII characters")
    target = [route.path, sorted(path.items()), asked]
    if caller.sign_in_id is not None:  # by its cookie nobody can make the secrets of another one
        target.append(caller.sign_in_id)
    text = msgspec.json.encode(target, order="deterministic")
    request_hash = hashlib.sha256(text).digest()
    return Once(
        api_key_id=caller.key_id,
        key=key,
        request_hash=request_hash,
        salt=new_secret(),
        now_ms=hub.clock.now_ms(),
        caller_key=_cookie_of(request) or hub.callers.key_in(request.headers.get("authorization")),
    )


def _envelope(result: Any, status: int, request: Request, clock: Clock) -> Response:
    meta = _meta(request, clock)
    if isinstance(result, Listed):
        page, paging = result.page, result.page.paging
        meta |= {
            "total": page.total,
            "limit": paging.limit,
            "offset": paging.offset,
            "has_more": paging.offset + len(page.items) < page.total,
        }
        result = result.views
    body = msgspec.json.encode({"data": result, "meta": meta})
    return Response(status, _headers(request), body)


def _headers(request: Request) -> dict[str, str]:
    return request.answer_headers | {"Content-Type": "application/json"}


def _meta(request: Request, clock: Clock) -> dict[str, Any]:
    return {"request_id": request.request_id, "timestamp": rfc3339(clock.now_ms())}
