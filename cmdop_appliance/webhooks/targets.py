"""The URLs of webhooks, and where they may lead.

A URL is judged twice. When it is stored: its form, and its host if that is an address in any
spelling. At every attempt: each address that its name resolves to, and of these the very one that
is dialled, since a name can stand for another address by then.
"""

import re
import socket
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import quote

import idna

from cmdop_appliance.addresses import Networks, Refusal

_URL_CHARS: Final = 2048
_HOST_CHARS: Final = 253  # RFC 1035 §2.3.4, as text
_PORTS: Final = {"http": 80, "https": 443}
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]*)(?::(?P<port>[0-9]{0,5}))?")
_NAME: Final = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
# A name that ends like this is an IPv4 address, or nothing (WHATWG URL, "ends in a number").
_NUMBER_LAST: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")
_ASCII_GRAPHIC: Final = "".join(map(chr, range(0x21, 0x7F)))


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
