"""Which hub this agent serves: the one it has joined, or the one its token lets it join."""

import logging
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from cmdop_appliance.addresses import is_loopback
from cmdop_appliance.agent.state import State
from cmdop_appliance.errors import InvalidRequest, StartupError
from cmdop_appliance.protocol.handshake import EnrolmentToken, pin_of
from cmdop_appliance.protocol.limits import NAME_CHARS
from cmdop_appliance.protocol.messages import CONTROLS

log = logging.getLogger("cmdop.agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """How to reach the hub, how to know it, and how to be let in."""

    url: str  # http://HOST:PORT or https://HOST:PORT
    hub_key: bytes
    token: str | None  # to join with; None: this machine has joined
    name: str | None  # for the machine, when it joins
    plain_http: bool  # may be spoken to another machine


def enrolment_of(
    state: State,
    hub_url: str | None,
    token: str | None,
    name: str | None,
    *,
    plain_http: bool = False,
) -> Enrolment:
    """What the state and the command line say together.

    Raises:
        StartupError: they contradict each other, or are not enough; or the hub is elsewhere, to be
            spoken to by plain HTTP, and nobody has said that this may be.
    """
    given = _parse(token)
    joined = state.membership
    plain_http = plain_http or (joined is not None and joined.plain_http)
    if url := hub_url or (joined.url if joined else None):
        _require_private(url, plain_http=plain_http)
    if joined is None:
        if hub_url is None or given is None:
            raise StartupError(
                f"this machine has not joined a hub: {state.path} knows none",
                hint="start it once with --hub URL --token TOKEN (cmdop machines add prints both)",
            )
        if name is not None and not 0 < len(name) <= NAME_CHARS:
            raise StartupError(f"the name has {len(name)} characters; 1 to {NAME_CHARS} fit")
        if name is not None and CONTROLS.search(name):
            raise StartupError(f"the name {name!r} has control characters; it must have none")
        return Enrolment(
            url=hub_url,
            hub_key=given.hub_key,
            token=str(given),
            name=name,
            plain_http=plain_http,
        )
    if given is not None and given.hub_key != joined.hub_key:
        raise StartupError(
            f"{state.path} belongs to the hub with the key {pin_of(joined.hub_key)},"
            f" but the token is of {pin_of(given.hub_key)}",
            hint="choose another --state-dir, or remove this one to leave the old hub",
        )
    if given is not None:
        log.info("joined already, the token is not used", extra={"hub": joined.url})
    return Enrolment(
        url=hub_url or joined.url,
        hub_key=joined.hub_key,
        token=None,
        name=None,
        plain_http=plain_http,
    )


def link_url(hub_url: str) -> str:
    """The address of the agent link of the hub at `hub_url`.

    Raises:
        StartupError: it is not an address of a hub.
    """
    schemes = {"http": "ws", "https": "wss"}
    try:
        parts = urlsplit(hub_url)
        is_address = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, an unclosed bracket
        is_address = False
    if not is_address:
        raise StartupError(
            f"{hub_url!r} is not the address of a hub",
            hint="give it as http://HOST:PORT or https://HOST:PORT",
        )
    path = parts.path.rstrip("/") + "/agent"
    return urlunsplit((schemes[parts.scheme], parts.netloc, path, "", ""))


def _require_private(hub_url: str, *, plain_http: bool) -> None:
    """Pass an address that nobody on the way can listen at, or with leave any other."""
    parts = urlsplit(link_url(hub_url))
    if parts.scheme == "ws" and not plain_http and not is_loopback(parts.hostname or ""):
        raise StartupError(
            f"{hub_url} is plain HTTP: whoever is on the way reads and changes what is said",
            hint=f"use {hub_url.replace('http', 'https', 1)}, as the hub does unless its tls is"
            ' "off"; or say --plain-http, once, where the network is trusted',
        )


def _parse(token: str | None) -> EnrolmentToken | None:
    if token is None:
        return None
    try:
        return EnrolmentToken.parse(token)
    except InvalidRequest as exc:
        raise StartupError(exc.message, hint=exc.hint) from None
