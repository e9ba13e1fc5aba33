"""Addresses: where a request comes from, and which ones webhooks may go to.

A request comes from its connection's address, or from what a trusted proxy says instead.

What is in no table here and not in the part of IPv6 that is assigned to networks is not public: a
new kind of address is never dialled.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, Literal

# One subscriber has at least a /64 of IPv6 (RFC 6177), so a single address of it names nobody.
_IPV6_PREFIX: Final = 64

_LOOPBACK: Final = "a loopback address"
_PRIVATE: Final = "in a private network"
_LINK_LOCAL: Final = "a link-local address"
_METADATA: Final = "a cloud's metadata address"
_MULTICAST: Final = "a multicast address"
_UNSPECIFIED: Final = "an unspecified address"
_EMBEDDED: Final = "an IPv4 address inside an IPv6 one"
_RESERVED: Final = "in a reserved range"
# IANA's special-purpose registries, and what clouds use; of several that match, the first counts.
_KINDS: Final[tuple[tuple[IPv4Network | IPv6Network, str], ...]] = tuple(
    (ip_network(network), kind)
    for kind, networks in {
        _METADATA: (
            "169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192",
            "fd00:ec2::/32", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42",
        ),
        _UNSPECIFIED: ("0.0.0.0/8", "::"),
        _LOOPBACK: ("127.0.0.0/8", "::1"),
        _LINK_LOCAL: ("169.254.0.0/16", "fe80::/10"),
        _PRIVATE: ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
        _MULTICAST: ("224.0.0.0/4", "ff00::/8"),
        # Compatible, mapped, translated; NAT64, global and local; Teredo; 6to4.
        _EMBEDDED: (
            "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48",
            "2001::/32", "2002::/16",
        ),
        # The last three are all that is not 2000::/3, of which alone networks have got addresses.
        _RESERVED: (
            "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
            "203.0.113.0/24", "240.0.0.0/4", "2001::/23", "2001:db8::/32", "3fff::/20",
            "::/3", "4000::/2", "8000::/1",
        ),
    }.items()
    for network in networks
)  # fmt: skip
_LOOPBACKS: Final = [network for network, kind in _KINDS if kind == _LOOPBACK]
_PRIVATES: Final = [network for network, kind in _KINDS if kind == _PRIVATE]


class Proxies:
    """The proxies in front of the hub whose word about their clients counts."""

    def __init__(self, networks: Iterable[str], *, behind_tls: bool = False) -> None:
        """`networks`: addresses and CIDR blocks. `behind_tls`: whoever asks us does so by HTTPS.

        Raises:
            ValueError: one is neither; the text says which, and why.
        """
        self._networks = _networks(networks)
        self._behind_tls = behind_tls

    def client_of(self, peer: str, forwarded: Iterable[str]) -> str:
        """Who asks on a connection from `peer`, which says `forwarded` (X-Forwarded-For).

        That is `peer` itself unless it is a trusted proxy. Each trusted proxy vouches for the
        address before its own, so the headers are read from their right end; what is left of the
        first address that is not a trusted proxy, or is malformed, may be anybody's word.
        """
        client = _parse(peer)
        if client is None:
            return peer
        if self._networks:
            hops = ",".join(forwarded).split(",")
            while hops and self._trust(client) and (hop := _parse(hops.pop())):
                client = hop
        return str(client)

    def are_reached_by_https(self, peer: str, forwarded_proto: str) -> bool:
        """True: we were asked by HTTPS, or a trusted proxy `peer` was (X-Forwarded-Proto)."""
        if self._behind_tls:
            return True
        proxy = _parse(peer) if forwarded_proto == "https" else None
        return proxy is not None and self._trust(proxy)

    def _trust(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An address that is not dialled, and why, for people."""

    reason: str


# "allowed": private or loopback, and the hub's settings let webhooks go there.
Verdict = Literal["public", "allowed"] | Refusal


class Networks:
    """Which addresses may be dialled: public ones, and of the others those in some networks."""

    def __init__(self, allowed: Iterable[str]) -> None:
        """`allowed`: addresses and CIDR blocks, as in `[webhooks] allow_networks`.

        A block stands for the private addresses in it; for loopback ones only if it holds nothing
        else, so that a wide block does not open the hub's own machine by the way.

        Raises:
            ValueError: one is neither, or allows nothing; the text says which, and why.
        """
        self._allowed: dict[str, list[IPv4Network | IPv6Network]] = {_LOOPBACK: [], _PRIVATE: []}
        for network in _networks(allowed):
            if any(_is_within(network, loopback) for loopback in _LOOPBACKS):
                self._allowed[_LOOPBACK].append(network)
            elif kind := _never(network):
                raise ValueError(f"{network} is {kind}: webhooks never go there")
            elif any(network.overlaps(private) for private in _PRIVATES):
                self._allowed[_PRIVATE].append(network)
            else:
                raise ValueError(f"{network} has no private address: public ones need no entry")

    def judge(self, address: str) -> Verdict:
        """Whether this address may be dialled."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return Refusal(f"{address} is not an IP address")
        if "%" in address:
            return Refusal(f"{address} is bound to an interface")
        kind = _kind(ip_network(parsed))
        if kind is None:
            return "public"
        if kind not in self._allowed:
            return Refusal(f"{address} is {kind}")
        if any(parsed in network for network in self._allowed[kind]):
            return "allowed"
        return Refusal(f"{address} is {kind}: add it to [webhooks] allow_networks")


def _networks(texts: Iterable[str]) -> list[IPv4Network | IPv6Network]:
    """Addresses and CIDR blocks as networks.

    Raises:
        ValueError: one is neither; the text says which, and why.
    """
    return [ip_network(text) for text in texts]


def is_loopback(host: str) -> bool:
    """True: what is sent to this host name or address leaves no machine."""
    address = _parse(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def subscriber(address: str) -> str:
    """What stands for the holder of an address: IPv4 as it is, of IPv6 the network."""
    if ":" not in address:
        return address
    return str(IPv6Network(f"{address}/{_IPV6_PREFIX}", strict=False))


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.strip().partition("%")[0])  # without the zone: any text at all
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _kind(network: IPv4Network | IPv6Network) -> str | None:
    """What all of a network is; None: public, or of several kinds."""
    return next((kind for special, kind in _KINDS if _is_within(network, special)), None)


def _never(network: IPv4Network | IPv6Network) -> str | None:
    """The kind of a network that no setting allows."""
    kind = _kind(network)
    return None if kind in (_LOOPBACK, _PRIVATE) else kind


def _is_within(network: IPv4Network | IPv6Network, outer: IPv4Network | IPv6Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(outer, IPv4Network) and network.subnet_of(outer)
    return isinstance(outer, IPv6Network) and network.subnet_of(outer)
