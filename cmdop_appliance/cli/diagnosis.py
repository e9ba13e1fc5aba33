"""What can be wrong with a hub, the way to it, and its directory: each with what mends it."""

import errno
import http.client
import os
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from cmdop_appliance import __version__
from cmdop_appliance.cli.connection import Hub, open_client
from cmdop_appliance.cli.failures import Failure, as_failure
from cmdop_appliance.cli.output import size_text
from cmdop_appliance.cli.probing import probe, probe_websocket
from cmdop_appliance.sdk import Client, CmdopError, Forbidden, Untrusted
from cmdop_appliance.sdk.trust import untrusted

State = Literal["ok", "warning", "wrong", "skipped"]

_TIMEOUT_S: Final = 5.0
_SKEW_S: Final = 30.0  # keys and tokens expire, and schedules come due, by the hub's clock
_EXPIRY_DAYS: Final = 7
_FREE_BYTES: Final = 1_000_000_000
_LISTED: Final = 5  # machines named in one line
_OTHERS: Final = 0o077  # what everybody but the owner may do
_ADDRESS: Final = ("127.0.0.1", 3006)  # where `cmdop serve` listens, unless told otherwise
_SOCKET: Final = ("/api/v1/live", "cmdop.live.v1")
_PROXY: Final = "the proxy before the hub must pass websockets on: Upgrade, Connection, HTTP/1.1"

_KEYLESS: Final = "the hub does not say without a good key"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check came to."""

    check: str
    state: State
    said: str
    fix: str = ""


def examine_hub(hub: Hub) -> Iterator[Finding]:
    """The way to the hub, and what it says; nothing more, once nobody answers."""
    first = _guarded("hub", lambda: _reach(hub))
    yield first
    if first.state == "wrong":
        return
    yield _guarded("clock", lambda: _clock(hub))
    yield _guarded("websocket", lambda: _websocket(hub))
    yield _guarded("dashboard", lambda: _dashboard(hub))
    try:
        with open_client(hub, timeout_s=_TIMEOUT_S) as client:
            key = _guarded("key", lambda: _key(hub, client))
            yield key
            if key.state == "wrong":
                yield Finding("version", "skipped", _KEYLESS)
                yield Finding("agents", "skipped", _KEYLESS)
                return
            yield _guarded("version", lambda: _version(client))
            yield _guarded("agents", lambda: _agents(client))
    except Failure as exc:
        yield Finding("key", "wrong", exc.message, exc.hint)


def examine_place(place: Path) -> Iterator[Finding]:
    """A hub's data directory on this machine."""
    yield _guarded("directory", lambda: _privacy(place))
    yield _guarded("space", lambda: _space(place))
    if not (place / "hub.json").exists():  # else a hub runs there, and has its port
        yield _guarded("port", _port)


def _guarded(check: str, look: Callable[[], tuple[State, str, str]]) -> Finding:
    """The finding of a check, whatever happens in it."""
    try:
        return Finding(check, *look())
    except Forbidden:
        return Finding(check, "skipped", "the key does not allow to look")
    except CmdopError as exc:
        failure = as_failure(exc)
        return Finding(check, "wrong", failure.message, failure.hint)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        return Finding(check, "wrong", _reason(exc))


def _reason(exc: Exception) -> str:
    said = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
    return said or type(exc).__name__


def _reach(hub: Hub) -> tuple[State, str, str]:
    try:
        answer = probe(hub, "/readyz")
    except ssl.SSLCertVerificationError as exc:
        raise Untrusted(untrusted(hub.url, exc)) from exc
    except (OSError, http.client.HTTPException, ValueError) as exc:
        told = f"{hub.url} ({hub.source}): {_reason(exc)}"
        return "wrong", told, "is `cmdop serve` running, and is the address right?"
    took = f"{hub.url} ({hub.source}) answers in {answer.took_s * 1000:.0f} ms"
    if answer.status == http.HTTPStatus.OK:
        return "ok", took, ""
    if answer.status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        return "wrong", f"the hub is not ready: {answer.body.strip()}", "see the hub's log"
    return "wrong", f"{took}, but with {answer.status}", "is this the address of a hub?"


def _clock(hub: Hub) -> tuple[State, str, str]:
    answer = probe(hub, "/healthz")
    skew_s = answer.skew_s(time.time())
    if skew_s is None:
        return "skipped", "the hub does not say what time it is", ""
    if abs(skew_s) > _SKEW_S:
        told = (
            f"the hub's clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} ours"
        )
        return "warning", told, "set both by NTP"
    return "ok", "the hub's clock and ours agree", ""


def _websocket(hub: Hub) -> tuple[State, str, str]:
    is_open, answer = probe_websocket(hub, *_SOCKET)
    if is_open:
        return "ok", "websockets come through", ""
    if answer.status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
        return "skipped", "the hub gives this key no websocket, so nothing is known", ""
    return "wrong", f"a websocket is answered with {answer.status}", _PROXY


def _dashboard(hub: Hub) -> tuple[State, str, str]:
    answer = probe(hub, "/")
    if answer.status != http.HTTPStatus.OK:
        return "wrong", f"the page is answered with {answer.status}", _PROXY
    if "The dashboard is not built" in answer.body:
        return "warning", "it is not built", "on the hub: scripts/build-web"
    return "ok", f"{hub.url}/", ""


def _key(hub: Hub, client: Client) -> tuple[State, str, str]:
    me = client.me()
    told = f"{me['name']}: {', '.join(me['permissions'])}"
    if me["tags"]:
        told += f"; only machines tagged {', '.join(me['tags'])}"
    if me["expires_at"] is not None:
        left = datetime.fromisoformat(me["expires_at"]) - datetime.now(UTC)
        told += f"; until {me['expires_at']}"
        if left.days < _EXPIRY_DAYS:
            return "warning", told, "make another: cmdop auth create-key"
    return "ok", told, ""


def _version(client: Client) -> tuple[State, str, str]:
    theirs = client.me()["hub_version"]
    if theirs != __version__:
        return (
            "warning",
            f"the hub has {theirs}, and this is {__version__}",
            "upgrade the older: /help/upgrade",
        )
    return "ok", f"{theirs}, here and there", ""


def _agents(client: Client) -> tuple[State, str, str]:
    hub_version = client.me()["hub_version"]
    machines = list(client.machines.list(status="online"))
    others = [m for m in machines if m["agent_version"] != hub_version]
    if not others:
        return "ok", f"{len(machines)} connected, all of the hub's version", ""
    names = [f"{machine['name']} ({machine['agent_version']})" for machine in others]
    more = ["…"] if len(names) > _LISTED else []
    told = f"{len(others)} of {len(machines)} are of another version than the hub"
    told += f": {', '.join([*names[:_LISTED], *more])}"
    return "warning", told, "cmdop upgrade, or cmdop install agent there"


def _privacy(place: Path) -> tuple[State, str, str]:
    for path in (place, place / "admin.key", place / "hub.json"):
        if path.exists() and path.stat().st_mode & _OTHERS:
            return "wrong", f"others may read {path}", f"chmod go= {path}"
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        return "warning", f"{place} is another user's", "ask as that user"
    return "ok", f"{place} is ours alone", ""


def _space(place: Path) -> tuple[State, str, str]:
    free = shutil.disk_usage(place).free
    told = f"{size_text(free)} free for {place}"
    if free < _FREE_BYTES:
        return "wrong", told, "make room: a hub whose disk is full records nothing more"
    return "ok", told, ""


def _port() -> tuple[State, str, str]:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(_ADDRESS)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            told = f"no hub runs here, and port {_ADDRESS[1]} is taken by another program"
            return "warning", told, "cmdop serve --listen 127.0.0.1:PORT"
    return "ok", f"no hub runs here; port {_ADDRESS[1]} is free for one", ""
