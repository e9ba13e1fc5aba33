"""How those who start the hub find it: the banner, hub.json, and the first key to it."""

import json
import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import trio

from cmdop_appliance import __version__
from cmdop_appliance.api.programs import find_programs
from cmdop_appliance.auth import Scope, new_key, new_link, new_secret, secret_hash, shown_prefix
from cmdop_appliance.config import Config
from cmdop_appliance.front import Tls
from cmdop_appliance.hub.callers import caller_of
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.hub.sign_ins import address_of
from cmdop_appliance.ids import new_id
from cmdop_appliance.joining import agent_line, fetch_line
from cmdop_appliance.model import DEFAULT_NAMESPACE, DEFAULT_WORKSPACE, ApiKey
from cmdop_appliance.notify import goes_to_journal, service_manager
from cmdop_appliance.private import write_private
from cmdop_appliance.protocol.handshake import pin_of
from cmdop_appliance.store import api_keys, audit
from cmdop_appliance.store.audit import Entry

READY_FILE: Final = "hub.json"
ADMIN_KEY_FILE: Final = "admin.key"

# Addresses to listen on that are none to dial, and how this machine reaches them.
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
# What the banner lets somebody do, to join and to sign in, is good for this long.
_BANNER_MS: Final = 3_600_000


async def make_admin_key(hub: Hub, data_dir: Path, now_ms: int) -> None:
    """Make the first key, and put it into a file that only we can read.

    The file comes first: a crash in between leaves one that the next start replaces.
    """
    secret = new_key()
    await trio.to_thread.run_sync(write_private, data_dir / ADMIN_KEY_FILE, f"{secret}\n")
    key = ApiKey(
        id=new_id("key"),
        workspace_id=DEFAULT_WORKSPACE,
        namespace=DEFAULT_NAMESPACE,
        name="admin",
        key_prefix=shown_prefix(secret),
        scopes=[Scope.ADMIN],
        created_ms=now_ms,
        expires_ms=None,
    )
    entry = Entry.by_hub(now_ms, "api_key.created", key.id, name=key.name, scopes=key.scopes)
    await hub.store.run(entry.recording(api_keys.insert), key, secret_hash(secret))


def url_of(config: Config, listeners: list[trio.SocketListener]) -> str:
    """The address as this machine reaches it."""
    host, _ = config.server.address
    port = listeners[0].socket.getsockname()[1]
    host = _EVERYWHERE.get(host, host)
    scheme = "https" if config.server.speaks_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def announce(hub: Hub, url: str, data_dir: Path, tls: Tls | None) -> None:
    """Say that we are ready: to who started us (the banner), to programs (hub.json), to systemd."""
    if goes_to_journal(os.environ, sys.stdout):  # which others read: no token, no link
        sign_in = shlex.join(["cmdop", "--data-dir", str(data_dir), "dashboard"])
        lines = [f"cmdop {__version__} at {url}; a browser is signed in by: {sign_in}"]
        if hub.key_pin:
            lines.append(f"TLS key {hub.key_pin}")
    else:
        lines = await _banner(hub, url, data_dir)
    with suppress(OSError):  # nobody has to look
        print("\n".join(lines), flush=True)  # noqa: T201 - the banner is this program's output
    # Last, so that who waits for it finds the banner whole.
    await write_ready(hub, url, data_dir, tls)
    service_manager().ready(f"at {url}")


def take_back(data_dir: Path) -> None:
    """Programs are not to look for the hub any more."""
    (data_dir / READY_FILE).unlink(missing_ok=True)


async def _banner(hub: Hub, url: str, data_dir: Path) -> list[str]:
    """What a person needs for the first minute; it lets whoever reads it in."""
    _, token = await hub.enrolments.issue(DEFAULT_WORKSPACE, _BANNER_MS, 1, [])
    host, _ = hub.config.server.address
    port = urlsplit(url).port
    public_url = hub.config.server.public_url
    scheme = urlsplit(url).scheme
    elsewhere = f"{scheme}://ADDRESS-OF-THIS-HUB:{port}" if host in _EVERYWHERE else url
    join_url = public_url or elsewhere
    ways = [agent_line(join_url, token)]
    if await trio.to_thread.run_sync(find_programs, data_dir):
        ways.insert(0, fetch_line(join_url, token, hub.key_pin))
    link = await _sign_in_link(hub)
    return [
        f"cmdop {__version__} at {url}",
        f"  data       {data_dir}",
        f"  API key    {data_dir / ADMIN_KEY_FILE}",
        *([f"  TLS key    {hub.key_pin} (of its own certificate)"] if hub.key_pin else []),
        *([f"  sign in    {address_of(link, public_url or url)}"] if link else []),
        *(f"  {label:<10} {line}" for label, line in zip(("join", "or"), ways, strict=False)),
        "             (one machine, within an hour; more: cmdop machines add)",
        "  Ctrl-C stops the hub; commands on the machines run on.",
    ]


async def write_ready(hub: Hub, url: str, data_dir: Path, tls: Tls | None) -> None:
    """Write for programs of this machine where the hub is, and what proves that it is the hub."""
    pin = pin_of(hub.identity.public_key)
    ready = {"url": url, "pid": os.getpid(), "version": __version__, "pin": pin}
    if tls is not None:
        ready["certificate"] = tls.certificate
    await trio.to_thread.run_sync(write_private, data_dir / READY_FILE, json.dumps(ready) + "\n")


async def _sign_in_link(hub: Hub) -> str | None:
    """A link for one browser, good for an hour; None: no key is there that it could stand for."""
    now_ms = hub.clock.now_ms()
    key = await hub.store.run(api_keys.oldest_admin, DEFAULT_WORKSPACE, now_ms)
    if key is None:
        return None
    await hub.store.run(audit.append, Entry.by_hub(now_ms, "sign_in.link_made", key.id))
    link = new_link(new_secret())
    hub.sign_ins.put_link(caller_of(key), link, _BANNER_MS)
    return link
