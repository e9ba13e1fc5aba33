"""The connection of one attempt. The only import site of `httpcore2`, which takes 30 ms.

Whoever sets a webhook's URL, answers for its name or listens behind it may be hostile: no name is
dialled, only an address that was judged; no redirect is followed; what is read has a bound.
"""

import errno
import math
import os
import socket
import ssl
from collections.abc import Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final

import httpcore2
import trio

from cmdop_appliance import __version__
from cmdop_appliance.addresses import Networks, Refusal
from cmdop_appliance.webhooks.lookups import Resolve
from cmdop_appliance.webhooks.targets import Target

# So many addresses of a name are judged (each takes the loop some 50 µs, and a hostile DNS answers
# with thousands), and of these so many are dialled.
_ANSWERS: Final = 64
_ADDRESSES: Final = 6
# All that is read of an answer, with its headers and whatever goes before it; an honest one has
# far less. An interim answer has 16 bytes and a chunk has 6, and each costs the loop as much as a
# small request: other tasks have their turn after each read.
_ANSWER_BYTES: Final = 16 * 1024
_READ_BYTES: Final = 256
_EXCERPT_BYTES: Final = 1024

# What to do about a certificate, by OpenSSL's number of what is wrong with it (x509_vfy.h).
_CA_HINT: Final = ": name its authority's file in [webhooks] ca_file"
_REMEDIES: Final = {
    10: ": it must be renewed",
    18: _CA_HINT,
    19: _CA_HINT,
    20: _CA_HINT,
    21: _CA_HINT,
    62: ": use a name that it is for",
    64: ": use a name or address that it is for",
}


class Failed(Exception):
    """There is no answer; the text says why, for people."""


@dataclass(slots=True)
class Heard:
    """What is known of an answer so far."""

    status: int | None = None
    retry_after: str | None = None
    begin: bytearray | None = None  # of its body, if that is read

    @property
    def excerpt(self) -> str | None:
        """How its body begins, with nothing in it that a terminal or a page obeys."""
        if self.begin is None:
            return None
        text = self.begin[:_EXCERPT_BYTES].decode(errors="replace")
        return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)


class Line(httpcore2.AsyncNetworkBackend, httpcore2.AsyncNetworkStream):
    """The connection of one attempt: `connect_tcp` makes it, and then it is the stream itself."""

    def __init__(self, target: Target, networks: Networks, resolve: Resolve) -> None:
        self.doing = "looking up the name"  # what takes the time now
        self.address: str | None = None  # that is dialled
        self.is_public = False
        self.target = target
        self._networks = networks
        self._resolve = resolve
        self._socket: trio.socket.SocketType | None = None
        self._stream: trio.abc.Stream | None = None
        self._left = _ANSWER_BYTES

    def close(self) -> None:
        """At once, and without a farewell that the other side could hold up."""
        if self._socket is not None:
            self._socket.close()

    async def aclose(self) -> None:
        self.close()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address of the target that may be dialled and answers.

        Each has its share of the time that is left, so that one that is silent is not the end.
        """
        failures = []
        addresses = await self._addresses()
        deadline = trio.current_effective_deadline()
        for left in range(len(addresses), 0, -1):
            address, self.is_public = addresses[-left]
            share_s = (deadline - trio.current_time()) / left if left > 1 else math.inf
            reason = "no answer"
            try:
                with trio.move_on_after(share_s):
                    self._stream = await self._dial(address, port)
                    self.doing = "the answer"
                    return self
            except OSError as exc:
                reason = os.strerror(exc.errno or errno.EIO).lower()
            failures.append(f"{address}: {reason}")
        raise Failed(f"cannot be reached: {'; '.join(failures)}")

    async def _addresses(self) -> list[tuple[str, bool]]:
        """(an address that may be dialled, whether it is public), the best one first."""
        host = self.target.host
        try:
            found = [host] if self.target.is_address else await self._resolve(host)
        except OSError as exc:
            reason = exc.strerror or "no answer"
            raise Failed(f"the name cannot be looked up: {reason}") from exc
        verdicts = [(address, self._networks.judge(address)) for address in found[:_ANSWERS]]
        reasons = [verdict.reason for _, verdict in verdicts if isinstance(verdict, Refusal)]
        addresses = [
            (address, verdict == "public")
            for address, verdict in verdicts
            if not isinstance(verdict, Refusal)
        ]
        if not addresses:
            raise Failed(f"not dialled: {'; '.join(reasons[:_ADDRESSES]) or 'it has no address'}")
        return addresses[:_ADDRESSES]

    async def _dial(self, address: str, port: int) -> trio.SocketStream:
        self.address, self.doing = address, f"connecting to {address}"
        self.close()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = trio.socket.socket(family, socket.SOCK_STREAM)
        await self._socket.connect((address, port))
        return trio.SocketStream(self._socket)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        assert self._stream is not None
        self.doing = "the TLS handshake"
        tls = trio.SSLStream(
            self._stream, ssl_context, server_hostname=server_hostname, https_compatible=True
        )
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError as exc:
            raise Failed(_why_no_tls(exc.__cause__)) from exc
        self._stream = tls
        self.doing = "the answer"
        return self

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        assert self._stream is not None
        try:
            await self._stream.send_all(buffer)
        except trio.BrokenResourceError as exc:
            # It may have answered before it stopped reading: httpcore2 looks.
            raise httpcore2.WriteError from exc

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        assert self._stream is not None
        if not self._left:
            raise Failed(f"it sent {_ANSWER_BYTES // 1024} KiB, and no answer in them")
        try:
            some = await self._stream.receive_some(min(self._left, _READ_BYTES))
        except trio.BrokenResourceError as exc:
            raise Failed("it broke the connection before it answered") from exc
        if not some:
            raise Failed("it closed the connection before it answered")
        self._left -= len(some)
        return bytes(some)


async def exchange(
    line: Line, tls: ssl.SSLContext | None, headers: Mapping[str, str], body: bytes, heard: Heard
) -> None:
    """Post `body` over this line; what comes back goes into `heard`, as far as it comes.

    Of `headers`, those that belong to the connection are left out: they are set here.

    Raises:
        Failed: there is no answer.
    """
    request = _request(line.target, headers, body)
    connection = httpcore2.AsyncHTTPConnection(
        request.url.origin, ssl_context=tls, network_backend=line
    )
    try:
        response = await connection.handle_async_request(request)
    except httpcore2.RemoteProtocolError:
        # What it says may quote the answer: of a private address, nobody is to read that.
        raise Failed("what it answered is not HTTP") from None
    heard.status = response.status
    for name, value in response.headers:
        if name.lower() == b"retry-after":
            heard.retry_after = value.decode("latin-1")
    if line.is_public:
        heard.begin = bytearray()
        # The status stands, whatever becomes of the rest.
        with suppress(Failed, httpcore2.RemoteProtocolError):
            async with aclosing(response.aiter_stream()) as chunks:
                async for chunk in chunks:
                    heard.begin += chunk
                    if len(heard.begin) >= _EXCERPT_BYTES:
                        break


def tls_context(ca_file: str) -> ssl.SSLContext:
    """Trusts the system's authorities and, unless it is "", those in a PEM file beside them.

    Raises:
        Failed: the file cannot be read, or holds no certificate.
    """
    # Not create_default_context: this one finds them on any Linux, where we run as one file.
    context = httpcore2.default_ssl_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except OSError as exc:  # it was good when the hub started
            raise Failed(f"[webhooks] ca_file: {exc.strerror}") from exc
    return context


def _request(target: Target, headers: Mapping[str, str], body: bytes) -> httpcore2.Request:
    ours = {
        "Host": target.authority,
        "User-Agent": f"cmdop/{__version__}",
        "Content-Length": str(len(body)),
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    taken = {name.lower() for name in ours}
    return httpcore2.Request(
        "POST",
        httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path),
        headers=[*ours.items()]
        + [(name, value) for name, value in headers.items() if name.lower() not in taken],
        content=body,
        # The DNS's absolute form of a name, with a dot at its end, stands in no certificate.
        extensions={"sni_hostname": target.host.removesuffix(".")},
    )


def _why_no_tls(cause: BaseException | None) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        remedy = _REMEDIES.get(cause.verify_code, "")
        return f"its certificate is refused: {cause.verify_message.rstrip('.')}{remedy}"
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError) and cause.reason:
        return f"the TLS handshake failed ({cause.reason}): does it speak HTTPS there?"
    return "it closed the connection in the TLS handshake"
