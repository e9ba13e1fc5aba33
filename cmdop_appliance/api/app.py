"""The table of routes on Quart. The only import site of Quart."""

import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, NoReturn

import quart
from quart.routing import QuartRule
from quart_trio import QuartTrio
from quart_trio.wrappers import TrioRequest
from werkzeug.exceptions import HTTPException

from cmdop_appliance.api import cmdop as cmdop
from cmdop_appliance.api import docs as docs
from cmdop_appliance.api import exchange
from cmdop_appliance.api import hapi as hapi
from cmdop_appliance.api import health as health
from cmdop_appliance.api import mcp as mcp
from cmdop_appliance.api import metrics as metrics
from cmdop_appliance.api import openapi as openapi
from cmdop_appliance.api import programs as programs
from cmdop_appliance.api import sdk2 as sdk2
from cmdop_appliance.api.bulk import BulkRoutes
from cmdop_appliance.api.registry import OTHER_SPELLING, ROUTES, Route, plane_of
from cmdop_appliance.errors import (
    ApplianceError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
)
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.hub.requests import UNROUTED
from cmdop_appliance.web import help as documents
from cmdop_appliance.web import pages

# Quart gives up on a body that takes longer to arrive; a slow uplink moves 1 MiB well within it.
BODY_S: Final = 60.0
_WEB: Final = "web"  # begins the endpoints of what people see, and no other
_VIEWS: Final[dict[str, Callable[..., Awaitable[quart.Response]]]] = {
    **dict.fromkeys(pages.PAGES, pages.page),
    **dict.fromkeys(documents.PAGES, documents.document),
    "/assets/<file>": pages.asset,
}
# Which requests may have a longer body than all others.
_LONG: Final = [
    (route.method, re.compile(prefix + route.path_with("[^/]+")), route.body_bytes)
    for route in ROUTES
    for prefix in route.plane.prefixes
    if route.body_bytes
]


class _Request(TrioRequest):
    """A request of which as much is taken in as its route reads."""

    def __init__(self, *parts: Any, **options: Any) -> None:
        method, _, path, *_ = parts
        for long_method, pattern, length in _LONG:
            if method == long_method and pattern.fullmatch(path):
                options["max_content_length"] = max(options["max_content_length"], length)
        super().__init__(*parts, **options)


class _Rule(QuartRule):
    """A path that is matched only: to make what makes its URL takes 0.3 ms, and nobody asks."""

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., NoReturn]:
        def build(*_: object, **__: object) -> NoReturn:
            raise NotImplementedError

        return build


def make_app(hub: Hub, *, body_s: float = BODY_S) -> BulkRoutes:
    """The ASGI application over an open hub."""
    app = QuartTrio(__name__, static_folder=None)
    app.request_class = _Request
    app.url_rule_class = _Rule
    app.config["MAX_CONTENT_LENGTH"] = hub.config.limits.body_bytes
    app.config["BODY_TIMEOUT"] = body_s
    app.config["RESPONSE_TIMEOUT"] = None  # a stream lasts as long as its command
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False
    app.before_request(_refuse_credentials)
    app.before_request(_refuse_other_spellings)
    logging.getLogger(app.logger.name).propagate = True
    for route in ROUTES:
        for prefix in route.plane.prefixes:
            app.add_url_rule(
                prefix + route.path_with("<{}>"),
                endpoint=f"{prefix}:{route.name}",
                view_func=_view(hub, route),
                methods=[route.method],
            )
    for path, view in _VIEWS.items():
        endpoint = f"{_WEB}:{view.__name__}"
        app.add_url_rule(path, endpoint=endpoint, view_func=view, methods=["GET"])
    app.register_error_handler(Exception, _failed(hub))
    return BulkRoutes(hub, app)


async def _refuse_credentials() -> None:
    """Paths that are not of the table take none in their URL, either."""
    if (quart.request.endpoint or _WEB).startswith(_WEB):
        exchange.refuse_credentials(quart.request.query_string.decode("latin-1"))


async def _refuse_other_spellings() -> None:
    """One spelling for each path: a proxy in front that guards some of them sees what we see."""
    if OTHER_SPELLING.search(quart.request.scope["raw_path"]):
        raise NotFound("Not found")


def _view(hub: Hub, route: Route) -> Callable[..., Awaitable[quart.Response]]:
    async def view(**path: str) -> quart.Response:
        return _answer(await exchange.respond(hub, route, path, _request(hub)))

    return view


def _failed(hub: Hub) -> Callable[[Exception], Awaitable[quart.Response]]:
    async def failed(error: Exception) -> quart.Response:
        answer = exchange.error_response(
            _translate(error), _request(hub), plane_of(quart.request.path), hub.clock
        )
        hub.requests.count(UNROUTED, answer.status, 0.0)
        return _answer(answer)

    return failed


def _translate(error: Exception) -> Exception:
    """What the web framework raises, as one of ours."""
    if not isinstance(error, HTTPException):
        return error
    if error.code == 405:
        allowed = sorted(getattr(error, "valid_methods", None) or ())
        return MethodNotAllowed("Method not allowed", allowed)
    if error.code == 413:
        return PayloadTooLarge(
            "the request body is too large",
            hint="a file of any size goes to PUT /machines/:id/files/upload",
        )
    if error.code == 408:
        return InvalidRequest("the body did not arrive in time")
    if error.code == 404 or (error.code or 500) < 400:  # a redirect would be a second spelling
        return NotFound("Not found")
    return InvalidRequest("the request cannot be read")


def _request(hub: Hub) -> exchange.Request:
    request = quart.request
    peer, _ = request.scope["client"] or ("", 0)
    return exchange.Request(
        method=request.method,
        path=request.path,
        query=request.query_string.decode("latin-1"),
        headers={name.lower(): value for name, value in request.headers.items()},
        peer=hub.proxies.client_of(peer, request.headers.getlist("X-Forwarded-For")),
        is_secure=hub.proxies.are_reached_by_https(
            peer, request.headers.get("X-Forwarded-Proto", "")
        ),
        read_body=_read_body,
    )


async def _read_body() -> bytes:
    try:
        # `body` itself has no timeout. It is read once, and Quart is not to hold it any longer.
        return await quart.request.get_data(cache=False, as_text=False, parse_form_data=False)
    except HTTPException as exc:
        translated = _translate(exc)
        assert isinstance(translated, ApplianceError)
        raise translated from exc


def _answer(response: exchange.Response) -> quart.Response:
    body: bytes | AsyncGenerator[bytes, None] = response.body
    return quart.Response(body, status=response.status, headers=response.headers)
