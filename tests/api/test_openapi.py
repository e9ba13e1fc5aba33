"""The OpenAPI document, and the page on which people read it."""

import json
import re
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
from msgspec import Struct, field
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from cmdop_appliance.api import app as app  # fills the table
from cmdop_appliance.api import openapi
from cmdop_appliance.api.fields import Time
from cmdop_appliance.api.registry import ROUTES
from cmdop_appliance.api.schemas import Schemas, query_fields
from cmdop_appliance.errors import StorageFull
from cmdop_appliance.web.pages import GUARDED
from tests.support.appliance import Api

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"
DOCUMENT = json.loads(openapi.document())
EVERY = [pytest.param(route, id=f"{route.method} {route.name}") for route in ROUTES]


@pytest.fixture(scope="module")
def get(hub):
    """An answer to somebody without a key."""
    return partial(Api(hub.api.url, "").call, "GET", prefix="")


def _operation(route):
    path = re.sub(r":(\w+)", r"{\1}", route.plane.prefixes[0] + route.path)
    return DOCUMENT["paths"][path][route.method.lower()]


def _resolved(part):
    while "$ref" in part:
        target = DOCUMENT
        for name in part["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        part = target
    return part


def _parts(part):
    yield part
    for inner in part.values() if isinstance(part, dict) else part:
        if isinstance(inner, dict | list):
            yield from _parts(inner)


def _codes(response):
    """The codes that a documented error may have, in the shape of its plane."""
    common, own = response["content"]["application/json"]["schema"]["allOf"]
    shape = common["$ref"].rpartition("/")[2]
    fields = own["properties"]
    if shape == "Error":
        fields = fields["error"]["properties"]
    return shape, fields["code"]["enum"]


# ── the document ─────────────────────────────────────────────────────────────────────────────────


def test_the_committed_document_is_the_one_that_the_program_makes():
    assert COMMITTED.read_bytes() == openapi.document(), "scripts/fix writes docs/openapi.json anew"


def test_it_is_openapi_and_every_reference_leads_somewhere():
    assert not [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(DOCUMENT)]
    references = [part for part in _parts(DOCUMENT) if isinstance(part, dict) and "$ref" in part]
    assert references
    for reference in references:
        assert _resolved(reference)


def test_every_pattern_is_one_for_browsers_too():
    patterns = [
        part["pattern"]
        for part in _parts(DOCUMENT)
        if isinstance(part, dict) and isinstance(part.get("pattern"), str)
    ]
    assert patterns
    for pattern in patterns:
        assert re.fullmatch(r"\^.*\$", pattern), pattern  # ECMA-262 knows no \A and \Z
        assert not re.search(r"\\[AZ]|\(\?P|\(\?[aiLmsux]", pattern), pattern


def test_nothing_but_the_routes_is_in_it():
    operations = list(chain.from_iterable(item.values() for item in DOCUMENT["paths"].values()))
    assert len(operations) == len(ROUTES)
    assert len({each["operationId"] for each in operations}) == len(ROUTES)


@pytest.mark.parametrize("route", EVERY)
def test_a_route_is_there_with_who_may_ask_and_what_can_go_wrong(route):
    operation = _operation(route)
    assert operation["operationId"] == route.name
    assert operation["summary"]
    assert str(route.status) in operation["responses"]
    is_public = "public" in route.scopes
    assert operation["security"] == ([] if is_public else [{"bearer": []}])
    if not is_public:
        scopes = [scope for scope in route.scopes if scope != "any key"]
        assert operation["x-required-scopes"] == scopes
    shape = "BareError" if route.plane.name in ("hapi", "sdk2") else "Error"
    documented = {}
    for status, response in operation["responses"].items():
        response = _resolved(response)
        assert _resolved(response["headers"]["X-Request-Id"])["required"]
        if int(status) >= 400:
            documented[int(status)] = _codes(response)
    for error in route.errors:
        assert documented[error.status][0] == shape
        assert error.code in documented[error.status][1]
    assert {400, 500, 503} <= set(documented)
    assert is_public or {401, 429} <= set(documented)
    assert (403 in documented) >= bool(operation.get("x-required-scopes"))
    assert (507 in documented) == (route.method != "GET" or StorageFull in route.errors)


def test_opening_a_terminal_says_that_its_name_may_be_taken():
    (path,) = (path for path in DOCUMENT["paths"] if path.endswith("/machines/{id}/terminals"))
    refused = DOCUMENT["paths"][path]["post"]["responses"]["409"]
    assert "conflict" in _codes(_resolved(refused))[1]


@pytest.mark.parametrize(
    "route", [p for p in EVERY if p.values[0].answer is bytes and p.values[0].status != 101]
)
def test_what_is_no_json_says_what_it_is(route):
    assert route.media != "application/json"


def test_what_is_read_keeps_its_defaults_and_what_is_answered_is_whole():
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["SingleBody"]["required"] == ["command", "machine_id"]
    assert schemas["SingleBody"]["properties"]["shell"]["default"] == "/bin/sh -c"
    assert set(schemas["Deleted"]["required"]) == {"deleted"}
    assert "default" not in schemas["Deleted"]["properties"]["deleted"]


def test_a_list_says_what_it_can_be_sorted_by():
    list_keys = DOCUMENT["paths"]["/api/v1/api-keys"]["get"]["parameters"]
    (sort,) = [each["schema"] for each in list_keys if each["name"] == "sort"]
    assert {"created_at", "-created_at", "name", "-name"} <= set(sort["enum"])
    assert "null" not in json.dumps(list_keys)


def test_a_query_has_the_words_of_a_url_and_a_body_those_of_json():
    class Query(Struct):
        wait: bool = True
        since: Time | None = None
        from_: str | None = field(default=None, name="from")

    fields = {name: (must, schema) for name, must, schema in query_fields(Query)}
    assert fields == {
        "wait": (False, {"type": "boolean", "default": True}),
        "since": (False, {"type": "string", "format": "date-time"}),
        "from": (False, {"type": "string"}),
    }


def test_a_type_that_is_read_with_defaults_cannot_be_answered_too():
    class Both(Struct):
        name: str = ""

    route = replace(ROUTES[0], body=Both, answer=Both)
    with pytest.raises(TypeError, match="Both is read with defaults and answered"):
        Schemas([route])


# ── served ───────────────────────────────────────────────────────────────────────────────────────


def test_it_is_served_to_everybody_and_again_only_when_it_changed(get):
    answer = get("/openapi.json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.body == openapi.document()
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
    headers = {"If-None-Match": f'W/"x", {answer.headers["etag"]}'}
    same = get("/openapi.json", headers=headers)
    assert (same.status, same.body) == (304, b"")
    assert get("/openapi.json", headers={"If-None-Match": '"x"'}).status == 200


# ── the page ─────────────────────────────────────────────────────────────────────────────────────


def test_the_page_needs_nothing_from_outside_and_nothing_inline(get):
    page = get("/docs")
    assert page.status == 200
    text = page.body.decode()
    assert "//" not in text  # no address of another host
    assert not re.search(r"<style|style=|<script>|\son\w+=", text)
    policy = dict(
        rule.strip().split(" ", 1) for rule in page.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' data:"
    assert {policy[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert {name: page.headers[name.lower()] for name in GUARDED} == GUARDED


def test_the_parts_of_the_page_are_kept_by_browsers_for_good(get):
    page = get("/docs").body.decode()
    parts = re.findall(r'(?:href|src)="([^"]+)"', page)
    kinds = {}
    for part in parts:
        answer = get(part)
        assert answer.status == 200
        assert answer.headers["cache-control"].endswith("immutable")
        assert answer.headers["etag"].strip('"') == part.partition("?")[2]  # new content, new name
        kinds[part.partition("?")[0].removeprefix("/docs/")] = answer.headers["content-type"]
        headers = {"If-None-Match": answer.headers["etag"]}
        assert get(part, headers=headers).status == 304
    assert kinds == {
        "favicon-32x32.png": "image/png",
        "start.js": "text/javascript; charset=utf-8",
        "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
        "swagger-ui.css": "text/css; charset=utf-8",
    }
    start = get("/docs/start.js").body.decode()
    assert "validatorUrl: null" in start  # else it sends the document to its makers
    assert '"/openapi.json"' in start


@pytest.mark.parametrize(
    "name",
    ["", "swagger-ui.js", "index.css", "LICENSE", "oauth2-redirect.html", "..", "..%2f__init__.py"],
)
def test_nothing_else_of_the_viewers_package_is_served(get, name):
    assert get(f"/docs/{name}").status == 404
