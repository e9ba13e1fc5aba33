"""Which URLs webhooks may go to."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.addresses import Networks
from cmdop_appliance.webhooks.targets import check_url, parse_url
from tests.support.spellings import (
    LOOPBACK_V4,
    NEVER_V4,
    NEVER_V6,
    PRIVATE_V4,
    PRIVATE_V6,
    PUBLIC,
    broken,
    of_v4,
    of_v6,
)

NONE = Networks([])
ALL = Networks(["0.0.0.0/0", "::/0", "127.0.0.0/8", "::1"])

V4 = LOOPBACK_V4 + PRIVATE_V4 + NEVER_V4


def why_not(url: str, networks: Networks) -> str | None:
    """Why webhooks may not go there."""
    try:
        check_url(url, networks)
    except ValueError as exc:
        return str(exc)
    return None


@pytest.mark.parametrize("port", ["", ":8080"])
def test_every_spelling_of_an_address_is_judged_as_that_address(port):
    for address in V4:
        for host in of_v4(address):
            assert parse_url(f"http://{host}{port}/x").host == address, host
            assert address in why_not(f"http://{host}{port}/x", NONE), host
    for address in (*NEVER_V6, *PRIVATE_V6, "::1"):
        for host in of_v6(address):
            assert why_not(f"http://{host}{port}/x", NONE), host
    for address in PUBLIC[:4]:
        for host in of_v4(address):
            assert why_not(f"http://{host}{port}/x", NONE) is None, host


@pytest.mark.parametrize("host", broken("127.0.0.1"))
def test_what_only_some_readers_take_for_an_address_is_no_host_at_all(host):
    assert why_not(f"http://{host}/x", ALL)


@pytest.mark.parametrize(
    ("url", "host", "origin", "path"),
    [
        ("https://example.com", "example.com", "https://example.com", "/"),
        ("HTTPS://EXAMPLE.com/A?B=c", "example.com", "https://example.com", "/A?B=c"),
        ("https://example.com:443/", "example.com", "https://example.com", "/"),
        ("http://example.com:443?q", "example.com", "http://example.com:443", "/?q"),
        ("http://example.com:/", "example.com", "http://example.com", "/"),
        ("http://example.com.:81/", "example.com.", "http://example.com.:81", "/"),
        ("http://my_service:8080/x", "my_service", "http://my_service:8080", "/x"),
        ("http://straße.de/ü?ä", "xn--strae-oqa.de", "http://xn--strae-oqa.de", "/%C3%BC?%C3%A4"),
        ("http://[FD12::1]:81/", "fd12::1", "http://[fd12::1]:81", "/"),
        ("http://a/%2e%2e//x?y@z:1", "a", "http://a", "/%2e%2e//x?y@z:1"),
    ],
)
def test_a_url_is_read_in_one_way(url, host, origin, path):
    target = parse_url(url)
    assert (target.host, target.origin, target.path) == (host, origin, path)
    assert why_not(url, ALL) is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "https:// or http://"),
        ("example.com/x", "https:// or http://"),
        ("ftp://example.com/", "https:// or http://"),
        ("file:///etc/passwd", "https:// or http://"),
        ("javascript:alert(1)", "https:// or http://"),
        ("http:/example.com", "https:// or http://"),
        ("http:example.com", "https:// or http://"),
        ("//example.com", "https:// or http://"),
        ("http://", "a host"),
        ("http:///x", "a host"),
        ("http://?x", "a host"),
        ("http://:80/", "a host"),
        ("http://.", "a host"),
        ("http://a..b/", "a host"),
        ("http://-%/", "a host"),
        ("http://" + "a" * 64 + ".de/", "a host"),
        ("http://" + "a." * 127 + "de/", "a host"),
        ("http://" + "ü" * 60 + ".de/", "a host"),
        ("http://ü_b.de/", "a host"),
        ("http://[::1/", "a host"),
        ("http://::1/", "a host"),
        ("http://[x]/", "IPv6 address between"),
        ("http://[1.2.3.4]/", "IPv6 address between"),
        ("http://[fe80::1%25eth0]/", "IPv6 address between"),
        ("http://1.2.3.4.5/", "a name, or an address"),
        ("http://256.1.1.1/", "a name, or an address"),
        ("http://example.123/", "a name, or an address"),
        ("http://user@example.com/", "user or password"),
        ("http://user:password@example.com/", "user or password"),
        ("http://@example.com/", "user or password"),
        ("http://example.com:0/", "port from 1 to 65535"),
        ("http://example.com:65536/", "port from 1 to 65535"),
        ("http://example.com:-1/", "a host"),
        ("http://example.com:8o/", "a host"),
        ("http://example.com:\u0661/", "a host"),
        ("http://example.com:123456/", "a host"),
        ("http://example.com/#x", "fragment"),
        ("http://example.com#", "fragment"),
        ("http://exam ple.com/", "spaces"),
        ("http://example.com/a b", "spaces"),
        ("http://example.com/\r\nX: y", "control characters"),
        ("http://example.com/\x00", "control characters"),
        ("http://example.com/\x7f", "control characters"),
        ("http://example.com/\u2028", "control characters"),
        ("http://example.com/\ud800", "control characters"),
        ("\thttp://example.com/", "control characters"),
        ("http://example.com\\@127.0.0.1/", "backslashes"),
        ("http://example.com/" + "a" * 2030, "2048 characters"),
    ],
)
def test_what_is_no_url_of_a_webhook_is_told_why(url, reason):
    assert reason in why_not(url, ALL)


@pytest.mark.parametrize(
    "url",
    [
        "http://u:SECRET@a/",
        "http://a:SECRET/",
        "http://a/SECRET#",
        "SECRET://a",
        "http://[SECRET]/",
    ],
)
def test_no_reason_repeats_what_may_be_a_secret(url):
    assert "SECRET" not in why_not(url, NONE)


@given(st.text(max_size=80), st.sampled_from(["", "http://", "https://[", "http://a", "http://1."]))
def test_no_text_breaks_the_reader_and_what_it_takes_can_be_sent(text, begin):
    with contextlib.suppress(ValueError):
        target = parse_url(begin + text)
        assert target.host.isascii()
        assert target.path.isascii()
        assert target.path.isprintable()
        assert parse_url(target.origin + target.path) == target


@given(st.from_regex(r"[0-9a-fxA-FX.]{1,20}", fullmatch=True))
def test_no_host_of_digits_reaches_the_resolver_as_a_name_that_it_reads_as_an_address(host):
    import socket

    with contextlib.suppress(ValueError):
        if not parse_url(f"http://{host}/").is_address:
            with pytest.raises(OSError):
                socket.getaddrinfo(host.encode(), None, flags=socket.AI_NUMERICHOST)
