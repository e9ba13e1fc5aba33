"""Whose address counts: the peer's, unless a proxy that is trusted says another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.addresses import Proxies, subscriber

PROXY = "10.0.0.1"
CLIENT = "203.0.113.9"
TRUSTED = Proxies(["10.0.0.0/8", "127.0.0.1", "fd00::/8"])


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([], PROXY),
        ([CLIENT], CLIENT),
        ([f" {CLIENT} "], CLIENT),
        (["2001:DB8:0::7"], "2001:db8::7"),
        # the right end is what the proxy says, the left what anybody said to it
        ([f"127.0.0.1, 198.51.100.1, {CLIENT}"], CLIENT),
        ([f"198.51.100.1, {CLIENT}, 10.0.0.2, fd00::3"], CLIENT),
        # several headers are one list
        (["198.51.100.1", CLIENT], CLIENT),
        ([CLIENT, "10.0.0.2"], CLIENT),
        # all of them trusted: the first is who asks
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # what is malformed is nobody's address, and what is left of it nobody's word
        (["unknown"], PROXY),
        ([""], PROXY),
        ([","], PROXY),
        ([f"{CLIENT},"], PROXY),
        ([f"{CLIENT}, unknown, 10.0.0.2"], "10.0.0.2"),
        ([f"{CLIENT}:443"], PROXY),
        (["999.1.1.1"], PROXY),
        (["1"], PROXY),
        (["0x7f.1"], PROXY),
        (["\u0661.1.1.1"], PROXY),
        (["fe80::1%<script>"], "fe80::1"),
        # IPv4 in IPv6 is IPv4
        (["::ffff:203.0.113.9"], CLIENT),
        ([f"{CLIENT}, ::ffff:10.0.0.2"], CLIENT),
    ],
)
def test_a_trusted_proxy_says_who_asks(forwarded, client):
    assert TRUSTED.client_of(PROXY, forwarded) == client


@pytest.mark.parametrize("forwarded", ["127.0.0.1", CLIENT, "10.0.0.1", f"{CLIENT}, 10.0.0.1"])
@pytest.mark.parametrize("peer", ["198.51.100.7", "2001:db8::1"])
def test_nobody_else_does(peer, forwarded):
    assert TRUSTED.client_of(peer, [forwarded]) == peer


def test_by_default_nobody_is_trusted():
    assert Proxies([]).client_of("127.0.0.1", [CLIENT]) == "127.0.0.1"


@pytest.mark.parametrize("peer", ["::ffff:10.0.0.1", "10.255.255.255", "127.0.0.1", "fd12::1"])
def test_a_proxy_is_known_in_every_spelling_and_network(peer):
    assert TRUSTED.client_of(peer, [CLIENT]) == CLIENT


def test_a_peer_is_written_in_one_way():
    assert Proxies([]).client_of("::ffff:192.0.2.7", []) == "192.0.2.7"
    assert Proxies([]).client_of("2001:DB8::0:1", []) == "2001:db8::1"
    assert Proxies([]).client_of("", []) == ""


@given(st.lists(st.text()))
def test_no_header_is_fatal(forwarded):
    assert TRUSTED.client_of(PROXY, forwarded)


@pytest.mark.parametrize("network", ["10.0.0.0/33", "10.0.0.1/8", "proxy", "", "::/129", "10.0.0"])
def test_what_is_no_network_is_refused(network):
    with pytest.raises(ValueError, match=r"does not appear to be|has host bits set"):
        Proxies([network])


@pytest.mark.parametrize(
    ("address", "holder"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1:2:3", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("", ""),
    ],
)
def test_a_subscriber_has_one_ipv4_address_or_a_network_of_ipv6(address, holder):
    assert subscriber(address) == holder
