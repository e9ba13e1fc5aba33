"""Whose address counts: the peer's, unless a trusted proxy says another; and what is dialled."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.addresses import Networks, Proxies, Refusal, is_loopback, subscriber
from tests.support.spellings import (
    LOOPBACK_V4,
    NEVER_V4,
    NEVER_V6,
    PRIVATE_V4,
    PRIVATE_V6,
    PUBLIC,
    hiding_v4,
)

PROXY = "10.0.0.1"
CLIENT = "203.0.113.9"
NONE = Networks([])
ALL = Networks(["0.0.0.0/0", "::/0", "127.0.0.0/8", "::1"])
TRUSTED = Proxies(["10.0.0.0/8", "127.0.0.1", "fd00::/8"])


# ── who asks ─────────────────────────────────────────────────────────────────────────────────────


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


@pytest.mark.parametrize(
    ("peer", "proto", "is_https"),
    [
        (PROXY, "https", True),
        ("fd12::1", "https", True),
        (PROXY, "http", False),
        (PROXY, "", False),
        (PROXY, "http,https", False),
        (CLIENT, "https", False),
        ("", "https", False),
    ],
)
def test_only_a_trusted_proxy_says_that_it_was_asked_by_https(peer, proto, is_https):
    assert TRUSTED.are_reached_by_https(peer, proto) is is_https


def test_where_we_are_asked_by_https_everybody_is():
    assert Proxies([], behind_tls=True).are_reached_by_https(CLIENT, "")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("", False),
    ],
)
def test_what_leaves_no_machine_is_known(host, expected):
    assert is_loopback(host) is expected


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


# ── what is dialled ──────────────────────────────────────────────────────────────────────────────


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


@pytest.mark.parametrize("inner", [*LOOPBACK_V4, *PRIVATE_V4, *NEVER_V4])
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
