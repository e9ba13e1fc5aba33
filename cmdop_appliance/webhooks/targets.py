"""Where webhooks may go: URLs, and the addresses that are dialled for them.

A URL is judged twice. When it is stored: its form, and its host if that is an address in any
spelling. At every attempt: each address that its name resolves to, and of these the very one that
is dialled, since a name can stand for another address by then. What is in no table here and not
in the part of IPv6 that is assigned to networks is not public: a new kind of address is refused.
"""

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal
from urllib.parse import quote

import idna

from cmdop_appliance.addresses import networks_of

_URL_CHARS: Final = 2048
_HOST_CHARS: Final = 253  # RFC 1035 §2.3.4, as text
_PORTS: Final = {"http": 80, "https": 443}
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]*)(?::(?P<port>[0-9]{0,5}))?")
_NAME: Final = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
# A name that ends like this is an IPv4 address, or nothing (WHATWG URL, "ends in a number").
_NUMBER_LAST: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")
_ASCII_GRAPHIC: Final = "".join(map(chr, range(0x21, 0x7F)))

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
        for network in networks_of(allowed):
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


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL says, in the only form that is worked with from there on."""

    scheme: str
    host: str  # in lower case and ASCII; of an address in whatever spelling, its usual one
    port: int
    is_address: bool
    path: str  # from its /, with the query
    has_default_port: bool

    @property
    def authority(self) -> str:
        """Host and, unless it is the scheme's own, port: for a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.has_default_port else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """What of the URL may be shown to anybody: no path and no query, where tokens live."""
        return f"{self.scheme}://{self.authority}"


def parse_url(text: str) -> Target:
    """What a URL says.

    Raises:
        ValueError: why it is no URL of a webhook, for people; without what may be secret in it.
    """
    if len(text) > _URL_CHARS:
        raise ValueError(f"must have at most {_URL_CHARS} characters")
    if not text.isprintable() or " " in text or "\\" in text:
        raise ValueError("must not contain spaces, control characters or backslashes")
    if "#" in text:
        raise ValueError("must not have a fragment: leave out the # and what follows it")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if scheme not in _PORTS or not separator:
        raise ValueError("must begin with https:// or http://")
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    if "@" in authority:
        raise ValueError("must not have a user or password: give them as a header")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise ValueError("must have a host such as example.com, 192.0.2.1 or [2001:db8::1]")
    port = int(parts["port"] or _PORTS[scheme])
    if not 0 < port < 2**16:
        raise ValueError("must have a port from 1 to 65535")
    host, is_address = _read_host(parts["host"])
    path = quote(rest[len(authority) :], safe=_ASCII_GRAPHIC)
    return Target(
        scheme=scheme,
        host=host,
        port=port,
        is_address=is_address,
        path=path if path.startswith("/") else f"/{path}",
        has_default_port=port == _PORTS[scheme],
    )


def check_url(text: str, networks: Networks) -> Target:
    """What a URL says, if webhooks may go there as far as can be told without a DNS.

    Raises:
        ValueError: why they may not, for people; see `parse_url`.
    """
    target = parse_url(text)
    verdict = networks.judge(target.host) if target.is_address else "public"
    if isinstance(verdict, Refusal):
        raise ValueError(verdict.reason)  # noqa: TRY004 - it is what judge says, not a wrong type
    return target


def _read_host(text: str) -> tuple[str, bool]:
    """(the host, whether it is an address); see `parse_url`."""
    if text.startswith("["):
        address = text[1:-1]
        try:
            if "%" not in address:
                return str(IPv6Address(address)), True
        except ValueError:
            pass
        raise ValueError("must have an IPv6 address between [ and ], without a zone")
    if not text or len(text) > _HOST_CHARS:
        raise ValueError(f"must have a host, of at most {_HOST_CHARS} characters")
    try:
        host = (text if text.isascii() else idna.encode(text, uts46=True).decode()).lower()
    except idna.IDNAError:
        raise ValueError("must have a host that can stand in the DNS (IDNA)") from None
    if not _NAME.fullmatch(host):
        raise ValueError("must have a host of letters, digits, - and _ with dots between them")
    if not _NUMBER_LAST.fullmatch(host):
        return host, False
    try:
        # Not ip_address: this reads what getaddrinfo(3) reads, hexadecimal, octal and short ones.
        return socket.inet_ntoa(socket.inet_aton(host.removesuffix("."))), True
    except OSError:
        raise ValueError(
            "must have a host that is a name, or an address such as 192.0.2.1"
        ) from None


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
