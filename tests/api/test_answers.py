"""Every route of the hub, asked as it should be: the answer is of the type that is documented."""

from base64 import b64encode
from fnmatch import fnmatch
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
import pytest
from msgspec import Struct

from cmdop_appliance import RELEASED_MS, __version__
from cmdop_appliance.api.exchange import Paged
from cmdop_appliance.api.registry import JSON, Route
from cmdop_appliance.identity import Identity
from tests.api.contract_table import (
    EVERY,
    KNOWN,
    SOCKET,
    ask,
    error_of,
    expected,
    has_meta,
    lists,
    path_of,
)
from tests.api.worlds import World
from tests.support.appliance import running_agent, running_hub, wait_for
from tests.support.releases import OWN, make_bundle

MAKER = Identity(bytes(32))  # of releases


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("answers")


@pytest.fixture(scope="module")
def hub(place):
    trusted = b64encode(MAKER.public_key).decode()
    with running_hub(place, config=f'[upgrade]\nkeys = ["{trusted}"]\n') as hub:
        yield hub


@pytest.fixture(scope="module")
def bundle(place):
    """The release that the hub runs already, for its machines."""
    release = {"version": __version__, "released_ms": RELEASED_MS}
    return make_bundle(place / "bundle", MAKER, {OWN: b"a program"}, **release)


@pytest.fixture(scope="module")
def world(hub, agent, bundle):
    world = World(hub.api, agent)
    upgrade = hub.api.call("PUT", "/upgrades/bundle", bundle)
    world.ids["upgrade"] = upgrade.data["id"]
    return world


def assert_is(kind: Any, value: Any) -> None:
    """A JSON value is of this type exactly: nothing is missing, nothing is more."""
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
    if get_origin(kind) is dict:
        for item in value.values():
            assert_is(get_args(kind)[1], item)
    elif sum(isinstance(each, type) and issubclass(each, Struct) for each in options) > 1:
        fields = [set(each.__struct_encode_fields__) for each in options]
        assert_is(options[fields.index(set(value))], value)
    else:
        assert msgspec.to_builtins(msgspec.convert(value, kind, strict=True)) == value


# What is for browsers only is answered to whoever shows to be one.
OF_A_PAGE = {"Sec-Fetch-Site": "same-origin"}


def path_to(world: World, route: Route) -> str:
    """The path of a route about something that is there, and may be used up."""
    about = expected(route).about
    used_up = route.method == "DELETE" or route.path.endswith("/resume")
    is_one_of_many = about not in ("", "machine")
    return path_of(route, world.fresh(about)) if used_up and is_one_of_many else world.path(route)


def assert_answers(world: World, route: Route, path: str) -> None:
    answer = ask(world.api, route, path, world.body(route), headers=OF_A_PAGE)
    assert answer.status == route.status, answer
    assert fnmatch(answer.headers["content-type"].partition(";")[0], route.media.partition(";")[0])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"]
    assert answer.body
    if route.media == JSON:
        data = answer.json
        if route.plane.has_envelope:
            has_meta(answer, answer.json["meta"])
            page = {"total", "limit", "offset", "has_more"} if lists(route) else set()
            assert set(answer.json["meta"]) == {"request_id", "timestamp"} | page
            assert set(answer.json) == {"data", "meta"}
            data = answer.json["data"]
        assert_is(route.answer, data)


ELSEWHERE = (
    "DELETE /v1/machines/:id",
    f"GET /v1{SOCKET}",
    "GET /v1/live",
    "PUT /v1/upgrades/bundle",
)


@pytest.mark.parametrize("route", [p for p in EVERY if p.id not in ELSEWHERE])
def test_a_good_request_is_answered_as_documented(world, route):
    assert_answers(world, route, path_to(world, route))


def test_a_good_request_to_remove_a_machine_is_answered_as_documented(hub, world, place):
    (route,) = (r for r in KNOWN if (r.method, r.path) == ("DELETE", "/machines/:id"))
    with running_agent(hub, place, "spare") as spare:
        assert_answers(world, route, path_of(route, spare.machine_id))
        wait_for(lambda: not spare.is_running, "its agent has gone")


def test_a_good_bundle_is_answered_as_documented(world, bundle):
    (route,) = (r for r in KNOWN if r.path == "/upgrades/bundle")
    answer = ask(world.api, route, path_of(route) + "?check=true", bundle)
    assert answer.status == route.status, answer
    assert_is(route.answer, answer.data)


@pytest.mark.parametrize("route", [p for p in EVERY if p.values[0].query])
def test_a_bad_query_about_what_is_there_is_refused(world, route):
    """The others refuse it, too, but may not have come to look at it."""
    paging = ("limit=0", "limit=x", "offset=-1") if lists(route) else ()
    sorting = ("sort=x",) if issubclass(route.query, Paged) else ()
    path = path_to(world, route)
    for query in (*paging, *sorting, *expected(route).bad_query):
        separator = "&" if "?" in path else "?"
        answer = ask(world.api, route, f"{path}{separator}{query}", world.body(route))
        error = error_of(answer, 400, "invalid_request", route.plane)
        assert query.partition("=")[0] in error["message"]
