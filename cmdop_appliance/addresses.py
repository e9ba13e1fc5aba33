"""Where a request comes from: its connection's address, or what a trusted proxy says instead."""

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

# One subscriber has at least a /64 of IPv6 (RFC 6177), so a single address of it names nobody.
_IPV6_PREFIX: Final = 64


class Proxies:
    """The proxies in front of the hub whose word about their clients counts."""

    def __init__(self, networks: Iterable[str]) -> None:
        """`networks`: addresses and CIDR blocks.

        Raises:
            ValueError: one is neither; the text says which, and why.
        """
        self._networks = networks_of(networks)

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

    def _trust(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def networks_of(texts: Iterable[str]) -> list[IPv4Network | IPv6Network]:
    """Addresses and CIDR blocks as networks.

    Raises:
        ValueError: one is neither; the text says which, and why.
    """
    return [ip_network(text) for text in texts]


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
