"""Which requests can have come from a page of the hub: trust.md, row 13, as a table."""

import pytest

from cmdop_appliance.api.same_origin import is_own, require_own_page, require_own_socket
from cmdop_appliance.errors import CrossOrigin, Forbidden, WrongHost
from cmdop_appliance.hub.connection import Asked

HUB = "hub.example"
OWN, FOREIGN = "https://hub.example", "https://evil.example"
ANY = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
UNSAFE = ANY[2:]
PAGES = [
    # methods, Sec-Fetch-Site, Origin, is it ours
    (ANY, "same-origin", None, True),
    (ANY, "same-origin", OWN, True),
    (ANY, "none", None, True),
    (ANY, "same-site", None, False),
    (ANY, "same-site", OWN, False),
    (ANY, "cross-site", None, False),
    (ANY, "cross-site", OWN, False),
    (ANY, "", OWN, False),
    (ANY, "Same-Origin", OWN, False),
    (ANY, "same-origin, cross-site", OWN, False),
    (ANY, None, OWN, True),
    (ANY, None, FOREIGN, False),
    (ANY, None, "null", False),
    (ANY, None, f"{OWN}:8443", False),
    (UNSAFE, None, None, False),
    (UNSAFE, None, "", False),
    (("GET", "HEAD"), None, None, True),
]


@pytest.mark.parametrize(("methods", "site", "origin", "is_ours"), PAGES)
def test_a_request_is_judged_by_what_a_browser_says_of_its_page(methods, site, origin, is_ours):
    given = {"sec-fetch-site": site, "origin": origin, "host": HUB}
    headers = {name: value for name, value in given.items() if value is not None}
    for method in methods:
        if is_ours:
            require_own_page(method, headers, "")
        else:
            with pytest.raises(CrossOrigin):
                require_own_page(method, headers, "")


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("hub.example", True),
        ("HUB.example:8443", True),
        ("localhost", True),
        ("localhost:3006", True),
        ("192.168.1.7:3006", True),
        ("[fd12::7]:3006", True),
        ("evil.example", False),
        ("hub.example.evil", False),
        ("xhub.example", False),
        ("192.168.1.7.evil.example", False),
        ("0x7f.1", False),
        ("hub.example:x", False),
        ("", False),
    ],
)
def test_where_the_hub_has_a_public_url_browsers_ask_by_no_other_name(host, is_known):
    headers = {"host": host, "sec-fetch-site": "same-origin"}
    require_own_page("POST", headers, "")
    if is_known:
        require_own_page("POST", headers, "hub.example")
    else:
        with pytest.raises(WrongHost):
            require_own_page("POST", headers, "hub.example")


COOKIE, TICKET = ("cookie", "cmdop=x"), ("sec-websocket-protocol", "cmdop.ticket.x")
KEY = ("authorization", "Bearer x")
SOCKETS: list[tuple[list[tuple[str, str]], str, type[Forbidden] | None]] = [
    ([COOKIE, ("origin", OWN)], HUB, None),
    ([TICKET, ("origin", OWN)], HUB, None),
    ([KEY], "evil.example", None),  # a program may know the hub by any name
    ([KEY, ("origin", OWN)], HUB, None),
    ([], HUB, None),
    ([COOKIE], HUB, CrossOrigin),
    ([COOKIE, ("origin", FOREIGN)], HUB, CrossOrigin),
    ([COOKIE, ("origin", "null")], HUB, CrossOrigin),
    ([COOKIE, ("origin", OWN), ("origin", OWN)], HUB, CrossOrigin),
    ([KEY, ("origin", FOREIGN)], HUB, CrossOrigin),
    ([COOKIE, ("origin", FOREIGN)], "evil.example", WrongHost),  # DNS rebinding
    ([TICKET, ("origin", FOREIGN)], "evil.example", WrongHost),
]


@pytest.mark.parametrize(("headers", "host", "refusal"), SOCKETS)
def test_a_socket_is_for_pages_of_the_hub_and_for_programs(headers, host, refusal):
    asked = Asked("/v1/live", host, tuple(headers), (), "192.0.2.7", is_secure=True)
    if refusal is None:
        require_own_socket(asked, "hub.example")
    else:
        with pytest.raises(refusal):
            require_own_socket(asked, "hub.example")


@pytest.mark.parametrize(
    ("origin", "host", "is_ours"),
    [
        ("http://hub.example", "hub.example", True),
        ("http://hub.example", "hub.example:80", True),
        ("https://hub.example", "hub.example:443", True),
        ("https://hub.example", "hub.example:80", False),
        ("HTTPS://hub.EXAMPLE", "HUB.example", True),
        ("http://[::1]:81", "[::1]:81", True),
        ("http://hub.example/", "hub.example", False),
        ("http://x@hub.example", "hub.example", False),
        ("ws://hub.example", "hub.example", False),
        ("http://hub.example:99999", "hub.example:99999", False),
        ("http://", "", False),
        ("null", "null", False),
    ],
)
def test_an_origin_is_ours_if_the_hub_was_asked_by_its_name(origin, host, is_ours):
    assert is_own(origin, host) is is_ours
