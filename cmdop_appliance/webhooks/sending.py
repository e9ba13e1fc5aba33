"""One attempt: one POST to an address that may be dialled, with a bound for all of it in time."""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import trio

from cmdop_appliance.addresses import Networks
from cmdop_appliance.clock import Clock, SystemClock
from cmdop_appliance.webhooks.backoff import retry_after_s
from cmdop_appliance.webhooks.lookups import Lookups, Resolve
from cmdop_appliance.webhooks.targets import parse_url

TIMEOUT_S: Final = 15.0  # for an attempt from first to last (semantics.md, Webhooks 3)

_HEADERS: Final = 16
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")  # a token, RFC 9110 §5.6.2
_HEADER_VALUE: Final = re.compile(r"[!-~](?:[ -~]{0,1022}[!-~])?")
# What frames the message, what belongs to one connection, and what says who sends what.
_OURS: Final = frozenset((
    "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect",
    "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "user-agent",
))  # fmt: skip
_OUR_PREFIXES: Final = ("webhook-", "x-cmdop-", "proxy-")

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


class Sender:
    """Makes attempts, any number at a time; nothing is kept from one to the next."""

    def __init__(
        self,
        networks: Networks,
        *,
        ca_file: str = "",
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = TIMEOUT_S,
        clock: Clock = _CLOCK,
    ) -> None:
        """`ca_file` has authorities beside the system's (PEM), unless `tls` stands for them all.

        `clock` is what a date in Retry-After is measured against.
        """
        self._networks = networks
        self._ca_file = ca_file
        self._resolve = resolve or Lookups()
        self._tls = tls
        self._timeout_s = timeout_s
        self._clock = clock

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send `body` once. Whatever the network or the receiver does is in what is returned.

        Of `headers`, those that belong to the connection are left out: the hub sets them.
        """
        from cmdop_appliance.webhooks import dialling  # 30 ms, which only webhooks cost

        started = trio.current_time()
        try:
            target = parse_url(url)
        except ValueError as exc:
            return Answer(error=f"the URL {exc}", duration_ms=0)
        line = dialling.Line(target, self._networks, self._resolve)
        heard = dialling.Heard()
        error: str | None = None
        try:
            with trio.move_on_after(self._timeout_s):
                if self._tls is None and target.scheme == "https":
                    # Only now: to read the system's authorities takes 0.1 s.
                    read = dialling.tls_context
                    self._tls = await trio.to_thread.run_sync(read, self._ca_file)
                await dialling.exchange(line, self._tls, headers, body, heard)
        except dialling.Failed as exc:
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
            excerpt=heard.excerpt,
            address=line.address,
            duration_ms=int((trio.current_time() - started) * 1000),
        )
