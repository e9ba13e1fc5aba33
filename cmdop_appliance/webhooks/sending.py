"""One attempt: one POST to an address that may be dialled. The only import site of `httpcore2`.

Whoever sets a webhook's URL, answers for its name or listens behind it may be hostile: no name is
dialled, only an address that was judged; no redirect is followed; what is read has a bound in
bytes, and all of it together one in time.
"""

import errno
import math
import os
import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final

import httpcore2
import trio

from cmdop_appliance import __version__
from cmdop_appliance.clock import Clock, SystemClock
from cmdop_appliance.errors import StartupError
from cmdop_appliance.webhooks.backoff import retry_after_s
from cmdop_appliance.webhooks.lookups import Lookups, Resolve
from cmdop_appliance.webhooks.targets import Networks, Refusal, Target, parse_url

TIMEOUT_S: Final = 15.0  # for an attempt from first to last (semantics.md, Webhooks 3)
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

_HEADERS: Final = 16
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")  # a token, RFC 9110 §5.6.2
_HEADER_VALUE: Final = re.compile(r"[!-~](?:[ -~]{0,1022}[!-~])?")
# What frames the message, what belongs to one connection, and what says who sends what.
_OURS: Final = frozenset((
    "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect",
    "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "user-agent",
))  # fmt: skip
_OUR_PREFIXES: Final = ("webhook-", "x-cmdop-", "proxy-")

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

_CLOCK: Final = SystemClock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one POST. `error` is None exactly if the receiver took it."""

    status: int | None = None  # of the answer; None: there was none
    error: str | None = None  # for people; nothing of the URL but its origin
    retry_after_s: float | None = None  # what the receiver asked for
    excerpt: str | None = None  # how the answer begins, of a public address only
    address: str | None = None  # that was dialled last
    duration_ms: int


def check_headers(headers: Mapping[str, str]) -> str | None:
    """Why these cannot go with a webhook's requests; None: they can. No value is repeated."""
    if len(headers) > _HEADERS:
        return f"must be at most {_HEADERS} headers"
    if len({name.lower() for name in headers}) < len(headers):
        return "must not name a header twice"
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            return "must have names of 1 to 64 letters, digits or - (RFC 9110)"
        if name.lower() in _OURS or name.lower().startswith(_OUR_PREFIXES):
            return f"must not have {name}: the hub sets it itself"
        if not _HEADER_VALUE.fullmatch(value):
            return (
                f"{name} must be 1 to 1024 printable ASCII characters, with no space at either end"
            )
    return None


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Trusts the system's authorities and, if given, those in a PEM file beside them.

    Raises:
        StartupError: the file cannot be read, or holds no certificate.
    """
    # Not create_default_context: this one finds them on any Linux, where we run as one file.
    context = httpcore2.default_ssl_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except ssl.SSLError as exc:
            raise StartupError(f"[webhooks] ca_file: {ca_file} has no PEM certificate") from exc
        except OSError as exc:
            raise StartupError(f"[webhooks] ca_file: {ca_file}: {exc.strerror}") from exc
    return context


class Sender:
    """Makes attempts, any number at a time; nothing is kept from one to the next."""

    def __init__(
        self,
        networks: Networks,
        *,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = TIMEOUT_S,
        clock: Clock = _CLOCK,
    ) -> None:
        """`clock` is what a date in Retry-After is measured against."""
        self._networks = networks
        self._resolve = resolve or Lookups()
        self._tls = tls
        self._timeout_s = timeout_s
        self._clock = clock

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send `body` once. Whatever the network or the receiver does is in what is returned.

        Of `headers`, those that belong to the connection are left out: they are set here.
        """
        started = trio.current_time()
        try:
            target = parse_url(url)
        except ValueError as exc:
            return Answer(error=f"the URL {exc}", duration_ms=0)
        line = _Line(target, self._networks, self._resolve)
        heard = _Heard()
        error: str | None = None
        try:
            with trio.move_on_after(self._timeout_s):
                await self._exchange(line, _request(target, headers, body), heard)
        except _Failed as exc:
            error = str(exc)
        finally:
            line.close()
        if heard.status is None:
            error = error or f"{line.doing} took more than {self._timeout_s:g} s"
        elif not 200 <= heard.status < 300:
            error = f"it answered {heard.status}"
            if 300 <= heard.status < 400:
                error += ": redirects are not followed"
        return Answer(
            status=heard.status,
            error=error and f"{target.origin}: {error}",
            retry_after_s=retry_after_s(heard.retry_after, self._clock.now_ms() / 1000),
            excerpt=None if heard.begin is None else _readable(heard.begin),
            address=line.address,
            duration_ms=int((trio.current_time() - started) * 1000),
        )

    async def _exchange(self, line: "_Line", request: httpcore2.Request, heard: "_Heard") -> None:
        if self._tls is None and line.is_secure:
            # Only now: to read the system's authorities takes 0.1 s.
            self._tls = await trio.to_thread.run_sync(tls_context, None)
        connection = httpcore2.AsyncHTTPConnection(
            request.url.origin, ssl_context=self._tls, network_backend=line
        )
        try:
            response = await connection.handle_async_request(request)
        except httpcore2.RemoteProtocolError:
            # What it says may quote the answer: of a private address, nobody is to read that.
            raise _Failed("what it answered is not HTTP") from None
        heard.status = response.status
        for name, value in response.headers:
            if name.lower() == b"retry-after":
                heard.retry_after = value.decode("latin-1")
        if line.is_public:
            heard.begin = bytearray()
            # The status stands, whatever becomes of the rest.
            with suppress(_Failed, httpcore2.RemoteProtocolError):
                async with aclosing(response.aiter_stream()) as chunks:
                    async for chunk in chunks:
                        heard.begin += chunk
                        if len(heard.begin) >= _EXCERPT_BYTES:
                            break


class _Failed(Exception):
    """There is no answer; the text says why, for people."""


@dataclass(slots=True)
class _Heard:
    """What is known of an answer so far."""

    status: int | None = None
    retry_after: str | None = None
    begin: bytearray | None = None  # of its body, if that is read


class _Line(httpcore2.AsyncNetworkBackend, httpcore2.AsyncNetworkStream):
    """The connection of one attempt: `connect_tcp` makes it, and then it is the stream itself."""

    def __init__(self, target: Target, networks: Networks, resolve: Resolve) -> None:
        self.doing = "looking up the name"  # what takes the time now
        self.address: str | None = None  # that is dialled
        self.is_public = False
        self.is_secure = target.scheme == "https"
        self._target = target
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
        raise _Failed(f"cannot be reached: {'; '.join(failures)}")

    async def _addresses(self) -> list[tuple[str, bool]]:
        """(an address that may be dialled, whether it is public), the best one first."""
        host = self._target.host
        try:
            found = [host] if self._target.is_address else await self._resolve(host)
        except OSError as exc:
            reason = exc.strerror or "no answer"
            raise _Failed(f"the name cannot be looked up: {reason}") from exc
        verdicts = [(address, self._networks.judge(address)) for address in found[:_ANSWERS]]
        reasons = [verdict.reason for _, verdict in verdicts if isinstance(verdict, Refusal)]
        addresses = [
            (address, verdict == "public")
            for address, verdict in verdicts
            if not isinstance(verdict, Refusal)
        ]
        if not addresses:
            raise _Failed(f"not dialled: {'; '.join(reasons[:_ADDRESSES]) or 'it has no address'}")
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
            raise _Failed(_why_no_tls(exc.__cause__)) from exc
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
            raise _Failed(f"it sent {_ANSWER_BYTES // 1024} KiB, and no answer in them")
        try:
            some = await self._stream.receive_some(min(self._left, _READ_BYTES))
        except trio.BrokenResourceError as exc:
            raise _Failed("it broke the connection before it answered") from exc
        if not some:
            raise _Failed("it closed the connection before it answered")
        self._left -= len(some)
        return bytes(some)


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


def _readable(begin: bytearray) -> str:
    """The text of an answer's beginning, with nothing in it that a terminal or a page obeys."""
    text = begin[:_EXCERPT_BYTES].decode(errors="replace")
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
