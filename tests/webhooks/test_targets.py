"""Which URLs and addresses webhooks may go to."""

import contextlib
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.webhooks.targets import Networks, Refusal, check_url, parse_url
from tests.webhooks.spellings import (
    LOOPBACK_V4,
    NEVER_V4,
    NEVER_V6,
    PRIVATE_V4,
    PRIVATE_V6,
    PUBLIC,
    broken,
    hiding_v4,
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


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_need_no_leave(address):
    assert NONE.judge(address) == ALL.judge(address) == "public"


@pytest.mark.parametrize("address", [*LOOPBACK_V4, *PRIVATE_V4, *PRIVATE_V6, "::1"])
def test_private_and_loopback_ones_do(address):
    refusal = NONE.judge(address)
    assert isinstance(refusal, Refusal)
    assert refusal.reason.startswith(f"{address} is ")
    assert refusal.reason.endswith("add it to [webhooks] allow_networks")
    assert ALL.judge(address) == "allowed"


@pytest.mark.parametrize("address", [*NEVER_V4, *NEVER_V6])
def test_others_are_refused_whatever_is_allowed(address):
    refusal = ALL.judge(address)
    assert isinstance(refusal, Refusal)
    assert "allow_networks" not in refusal.reason


@pytest.mark.parametrize("inner", V4)
def test_an_address_inside_another_is_refused_whatever_is_allowed(inner):
    for address in hiding_v4(inner):
        assert ALL.judge(address) == Refusal(f"{address} is an IPv4 address inside an IPv6 one")


@pytest.mark.parametrize("address", ["fe80::1%eth0", "::1%lo", "fd12::1%1"])
def test_an_address_of_one_interface_is_refused(address):
    assert ALL.judge(address) == Refusal(f"{address} is bound to an interface")


@pytest.mark.parametrize("address", ["", "localhost", "127.1", "1.2.3.4.5", "::1::"])
def test_what_is_no_address_is_refused(address):
    assert ALL.judge(address) == Refusal(f"{address} is not an IP address")


@given(st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address))
def test_nothing_that_the_registries_call_special_is_public(address):
    if NONE.judge(str(address)) == "public":
        assert address.is_global
        assert not address.is_multicast


@pytest.mark.parametrize(
    ("allowed", "address", "is_allowed"),
    [
        ("192.168.1.7", "192.168.1.7", True),
        ("192.168.1.7", "192.168.1.8", False),
        ("192.168.0.0/16", "192.168.255.255", True),
        ("192.168.0.0/16", "10.0.0.1", False),
        ("100.64.0.0/10", "100.64.0.1", True),
        ("100.0.0.0/8", "100.64.0.1", True),
        ("fd12::/16", "fd12::9", True),
        ("::/0", "fd12::9", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.0/8", "::1", False),
        ("::1/128", "::1", True),
        ("::1", "127.0.0.1", False),
        # a wide block does not open the hub's own machine
        ("0.0.0.0/0", "127.0.0.1", False),
        ("126.0.0.0/7", "127.0.0.1", None),
        ("::/0", "::1", False),
        ("::/0", "10.0.0.1", False),
        ("0.0.0.0/0", "10.0.0.1", True),
        # nor what is never dialled
        ("100.64.0.0/10", "100.100.100.200", False),
        ("fd00::/8", "fd00:ec2::254", False),
    ],
)
def test_a_network_allows_what_is_private_in_it(allowed, address, is_allowed):
    if is_allowed is None:
        with pytest.raises(ValueError, match="has no private address"):
            Networks([allowed])
    else:
        assert (Networks([allowed]).judge(address) == "allowed") is is_allowed


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("intranet", "'intranet' does not appear to be an IPv4 or IPv6 network"),
        ("10.0.0.1/8", "10.0.0.1/8 has host bits set"),
        ("169.254.0.0/16", "169.254.0.0/16 is a link-local address: webhooks never go there"),
        ("169.254.169.254", "169.254.169.254/32 is a cloud's metadata address"),
        ("100.100.100.200", "100.100.100.200/32 is a cloud's metadata address"),
        ("fe80::/64", "fe80::/64 is a link-local address"),
        ("224.0.0.0/4", "224.0.0.0/4 is a multicast address"),
        ("::ffff:10.0.0.0/104", "an IPv4 address inside an IPv6 one"),
        ("::/96", "an IPv4 address inside an IPv6 one"),
        ("8.8.8.0/24", "8.8.8.0/24 has no private address: public ones need no entry"),
    ],
)
def test_an_entry_that_allows_nothing_is_an_error_that_names_it(entry, reason):
    with pytest.raises(ValueError) as caught:
        Networks(["10.0.0.0/8", entry])
    assert reason in str(caught.value)


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
