"""Ways to write addresses in a URL, and addresses that hide others."""

from ipaddress import IPv4Address, IPv6Address

# Never dialled, whatever is allowed …
NEVER_V4 = (
    "169.254.169.254", "169.254.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "0.0.0.0",
    "0.1.2.3", "224.0.0.1", "239.255.255.250", "255.255.255.255", "240.0.0.1", "198.18.0.1",
    "192.0.0.8", "192.0.2.1", "198.51.100.1", "203.0.113.1", "192.88.99.1",
)  # fmt: skip
NEVER_V6 = (
    "::", "fe80::1", "febf::1", "fec0::1", "ff02::1", "ff0e::1", "fd00:ec2::254", "fd00:ec2::23",
    "fd20:ce::254", "fd00:c1::a9fe:a9fe", "2001:db8::1", "3fff::1", "2001:2::1", "2001:20::1",
    "100::1", "4000::1", "5f00::1", "::2", "e000::1",
)  # fmt: skip
# … and only if it is allowed.
LOOPBACK_V4 = ("127.0.0.1", "127.1.2.3", "127.255.255.254")
PRIVATE_V4 = ("10.0.0.5", "172.16.0.1", "172.31.255.254", "192.168.1.1", "100.64.0.1")
PRIVATE_V6 = ("fd12:3456::1", "fc00::1")
PUBLIC = ("93.184.216.34", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:2800:220:1::1", "2a00::1")

_FULLWIDTH = str.maketrans("0123456789abcdefx", "０１２３４５６７８９ａｂｃｄｅｆｘ")
_MATHEMATICAL = str.maketrans("0123456789", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗")
_CIRCLED = str.maketrans("123456789", "①②③④⑤⑥⑦⑧⑨")


def of_v4(address: str) -> list[str]:
    """Hosts of a URL that stand for this address, as getaddrinfo(3) or IDNA read them."""
    a, b, c, d = IPv4Address(address).packed
    whole = int(IPv4Address(address))
    rest = whole & 0xFFFFFF
    return [
        address,
        f"{address}.",
        str(whole),
        hex(whole),
        hex(whole).upper(),
        f"0{whole:o}",
        f"00000000{whole:o}",
        f"{a}.{rest}",
        f"{a}.{hex(rest)}",
        f"{a}.{b}.{rest & 0xFFFF}",
        f"{hex(a)}.{hex(b)}.{hex(c)}.{hex(d)}",
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        f"000{a:o}.{hex(b)}.{c}.0X{d:02X}",
        f"0x{a:08x}.{rest}",
        address.translate(_FULLWIDTH),
        hex(whole).translate(_FULLWIDTH),
        address.translate(_MATHEMATICAL),
        address.translate(_CIRCLED),
        address.replace(".", "。"),
        address.replace(".", "．"),
        address.replace(".", "｡"),
    ]


def hiding_v4(address: str) -> list[str]:
    """IPv6 addresses with this one in them."""
    value = int(IPv4Address(address))
    return [
        str(IPv6Address(number))
        for number in (
            value,  # compatible
            0xFFFF << 32 | value,  # mapped
            0xFFFF << 48 | value,  # translated
            0x64FF9B << 96 | value,  # NAT64
            0x64FF9B0001 << 80 | value,  # the local one
            0x2002 << 112 | value << 80,  # 6to4
            0x20010000 << 96 | value << 64,  # Teredo, the server
            0x20010000 << 96 | value ^ 0xFFFFFFFF,  # … and the client
        )
        if number > 1  # :: and ::1 are themselves
    ]


def of_v6(address: str) -> list[str]:
    """Hosts of a URL that stand for this address, or that a lenient reader takes for it."""
    parsed = IPv6Address(address)
    mixed = ":".join(parsed.exploded.split(":")[:6]) + ":" + str(IPv4Address(parsed.packed[12:]))
    return [
        f"[{address}]",
        f"[{address.upper()}]",
        f"[{parsed.exploded}]",
        f"[{mixed}]",
        f"[{address}%25eth0]",
        f"[{address}%eth0]",
        f"[{address}%1]",
        address,
    ]


def broken(address: str) -> list[str]:
    """Hosts that are no address and no name, but that some reader has taken for this one."""
    a, *_, d = IPv4Address(address).packed
    return [
        f"[{address}]",
        "%" + "%".join(f"{ord(char):02x}" for char in address),
        address.replace(".", "%2e"),
        f"{address}%00",
        f"{address}%20",
        f" {address}",
        f"{address}\t",
        f"{address}\n",
        f"{address}\x00.example.com",
        f"example.com@{address}",
        f"{address}\\@example.com",
        f"{address}\\.example.com",
        f"{a}..{d}",
        f"{address}..",
        f"1.{address}",
        f"{address}.0",
        f"{address}.0x",
        f"{a}.{d + 256}.1.1",
        f"{int(IPv4Address(address)) + 2**32}",
        f"0x1{int(IPv4Address(address)):08x}",
        f"09.{address[:5]}",
        f"{address}\u00ad",
        f"{address}\u200b",
        f"{address}／x",
        f"[{address}",
        f"{address}]",
    ]
