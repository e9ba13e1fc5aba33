"""Every route of the hub: its query, and the pages of every list."""

import pytest

from tests.api.contract_table import (
    EVERY,
    TOP_LISTS,
    ask,
    error_of,
    expected,
    good,
    has_meta,
    path_of,
)
from tests.support.appliance import Hub

BAD_PAGING = (  # for every list
    *(f"limit={bad}" for bad in ("0", "-1", "x", "", "1.5", "1e3", "%D9%A1", "null", "+1", "%2B1")),
    *(f"offset={bad}" for bad in ("-1", "x", "", "9" * 20)),
    *(f"sort={bad}" for bad in ("nonsense", "", "-", "--created_at", "id;drop", "created_at%00")),
)
# What belongs to one thing is refused a bad query only when the thing is there: test_answers.py.
AT_ONCE = [p for p in EVERY if p.values[0].query and not expected(p.values[0]).unknown]


@pytest.fixture(scope="module")
def hub(strict_hub: Hub) -> Hub:
    return strict_hub


def refused(hub: Hub, route, query: str) -> None:
    answer = ask(hub.api, route, f"{path_of(route)}?{query}", good(route))
    error = error_of(answer, 400, "invalid_request", route.plane)
    name = query.partition("=")[0]
    assert name in error["message"]
    if not route.plane.has_bare_errors:
        assert error["message"] == f"query parameter {name}: {error['details'][name]}"


@pytest.mark.parametrize("route", AT_ONCE)
def test_a_bad_query_is_refused(hub, route):
    for query in expected(route).bad_query:
        refused(hub, route, query)


@pytest.mark.parametrize("route", TOP_LISTS)
def test_a_bad_page_is_refused(hub, route):
    for query in BAD_PAGING:
        refused(hub, route, query)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("limit=0", "must be a whole number of at least 1"),
        ("offset=-1", "must be a whole number of at least 0 and at most 9007199254740992"),
        ("status=null", "must be one of offline, online"),
    ],
)
def test_a_bad_parameter_is_told_what_it_must_be(hub, query, reason):
    error = error_of(hub.api.call("GET", f"/machines?{query}"), 400, "invalid_request")
    assert error["details"] == {query.partition("=")[0]: reason}


@pytest.mark.parametrize("route", EVERY)
def test_parameters_that_nobody_knows_are_passed_over(hub, route):
    plain = ask(hub.api, route, body=good(route))
    answer = ask(hub.api, route, f"{path_of(route)}?no_such_parameter=1", good(route))
    # The same request again may find what the first one made.
    assert answer.status in (plain.status, 409)


@pytest.mark.parametrize("route", TOP_LISTS)
def test_a_list_tells_its_page_and_a_limit_that_is_too_large_is_clamped(hub, route):
    for query, limit, offset in (
        ("", 20, 0),
        ("limit=7&offset=3", 7, 3),
        ("limit=101", 100, 0),
        (f"limit={'9' * 5000}", 100, 0),
    ):
        answer = ask(hub.api, route, f"{path_of(route)}?{query}")
        meta = answer.json["meta"]
        has_meta(answer, meta)
        assert (meta["limit"], meta["offset"]) == (limit, offset)
        assert meta["total"] >= len(answer.data)
        assert meta["has_more"] is (offset + len(answer.data) < meta["total"])


@pytest.mark.parametrize("route", TOP_LISTS)
def test_a_list_is_sorted_both_ways_by_everything_that_it_names(hub, route):
    for field in route.query.ORDER:
        for way in ("", "-"):
            assert ask(hub.api, route, f"{path_of(route)}?sort={way}{field}").status == 200


def test_pages_follow_each_other_without_gap_or_repeat(hub):
    for number in range(5):
        hub.api.post("/api-keys", name=f"page-{number}", scopes=["machines:read"])
    whole = hub.api.get("/api-keys?limit=100&sort=created_at")
    pages, offset = [], 0
    while True:
        answer = hub.api.call("GET", f"/api-keys?limit=2&offset={offset}&sort=created_at")
        pages += answer.data
        offset += 2
        assert answer.json["meta"]["total"] == len(whole)
        if not answer.json["meta"]["has_more"]:
            break
    assert [key["id"] for key in pages] == [key["id"] for key in whole]
    backwards = [key["id"] for key in whole[::-1]]
    assert [key["id"] for key in hub.api.get("/api-keys?limit=100&sort=-created_at")] == backwards
    assert [key["id"] for key in hub.api.get("/api-keys?limit=100")] == backwards
    beyond = hub.api.call("GET", "/api-keys?offset=9007199254740992")
    assert beyond.data == []
    assert beyond.json["meta"]["has_more"] is False


@pytest.mark.parametrize(
    "since",
    [
        "2026-02-14T10:30:00Z",
        "2026-02-14T10:30:00.123456Z",
        "2026-02-14T10:30:00+05:30",
        "2026-02-14T10:30:00%2B05:30",
        "2026-02-14T10:30:00-00:00",
        "2026-02-14t10:30:00z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
    ],
)
def test_since_takes_any_offset(hub, since):
    assert hub.api.call("GET", f"/commands?since={since}").status == 200
