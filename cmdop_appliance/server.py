"""`cmdop serve`: the whole hub in one nursery, opened bottom-up and closed top-down."""

import json
import os
import resource
import signal
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import trio

from cmdop_appliance import __version__
from cmdop_appliance.api.app import make_app
from cmdop_appliance.api.guard import HttpServer
from cmdop_appliance.api.hot import HotRoute
from cmdop_appliance.api.live_socket import serve_live_socket
from cmdop_appliance.api.programs import find_programs
from cmdop_appliance.api.terminal_socket import serve_terminal_socket
from cmdop_appliance.auth import Scope, new_key, new_link, new_secret, secret_hash, shown_prefix
from cmdop_appliance.clock import LeapWatch, SystemClock
from cmdop_appliance.config import Config, load_config
from cmdop_appliance.errors import StorageFull, Unavailable
from cmdop_appliance.front import Front, PeekedStream, is_for_socket, open_listeners
from cmdop_appliance.hub.callers import caller_of
from cmdop_appliance.hub.connection import LinkClosed, accept
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.hub.sign_ins import address_of
from cmdop_appliance.hub.welcome import serve_agent
from cmdop_appliance.ids import new_id
from cmdop_appliance.joining import agent_line, fetch_line
from cmdop_appliance.local_agent import run_local_agent
from cmdop_appliance.logs import log_to_stderr
from cmdop_appliance.model import DEFAULT_NAMESPACE, DEFAULT_WORKSPACE, ApiKey
from cmdop_appliance.private import write_private
from cmdop_appliance.protocol.handshake import pin_of
from cmdop_appliance.scheduler.loop import Scheduler
from cmdop_appliance.store import (
    api_keys,
    audit,
    deliveries,
    events,
    idempotency,
    metrics,
    runs,
    sessions,
    sign_ins,
    terminals,
    workspaces,
)
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.directory import claim
from cmdop_appliance.store.engine import Store, open_store
from cmdop_appliance.transfer import Room
from cmdop_appliance.webhooks.deliver import Deliverer
from cmdop_appliance.webhooks.sending import Sender

READY_FILE: Final = "hub.json"
ADMIN_KEY_FILE: Final = "admin.key"
EXIT_DISK_FAILED: Final = 74  # EX_IOERR, sysexits.h

# Addresses to listen on that are none to dial, and how this machine reaches them.
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
# Sessions whose grace is over, and commands that waited too long, are found within this.
_SWEEP_S: Final = 1.0
# Descriptors that we ask for, if the system lets us: one for each agent or caller, some for files.
_OPEN_FILES: Final = 65_536
# What the banner lets somebody do, to join and to sign in, is good for this long.
_BANNER_MS: Final = 3_600_000


def run(
    config_path: Path | None,
    *,
    data_dir: Path | None,
    listen: str | None,
    local_agent: bool | None,
) -> int:
    """Serve until SIGTERM or SIGINT; the exit code.

    Raises:
        StartupError: a bad configuration, a taken port, a data directory in use.
    """
    flags = {
        "data_dir": None if data_dir is None else str(data_dir),
        "listen": listen,
        "local_agent": local_agent,
    }
    config = load_config(config_path, flags=flags)
    log_to_stderr(config.log.level)
    umask = os.umask(0o077)  # whatever we create is ours alone
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, _raised(*open_files))
    try:
        with claim(config.data_dir):
            return trio.run(_serve, config, umask, open_files)
    finally:
        os.umask(umask)
        resource.setrlimit(resource.RLIMIT_NOFILE, open_files)


def _raised(soft: int, hard: int) -> tuple[int, int]:
    """The soft limit of open files as high as it may be, up to `_OPEN_FILES`; never lower."""
    if soft == resource.RLIM_INFINITY:
        return soft, hard
    most = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    return max(soft, most), hard


async def _serve(config: Config, umask: int, open_files: tuple[int, int]) -> int:
    data_dir = config.data_dir
    listeners = await open_listeners(*config.server.address)
    async with open_store(data_dir) as store:
        hub = await Hub.open(config, SystemClock(), store, data_dir)
        await _first_start(hub, data_dir)
        started = Entry.by_hub(hub.clock.now_ms(), "hub.started", version=__version__)
        await store.run(audit.append, started)
        url = _url(config, listeners)
        http = HttpServer(make_app(hub), is_for_others=is_for_socket)
        hot = HotRoute(hub, http)
        front = Front(
            serve_agent=partial(_serve_socket, hub, _serve_agent),
            serve_terminal=partial(_serve_socket, hub, serve_terminal_socket),
            serve_live=partial(_serve_socket, hub, serve_live_socket),
            serve_http=hot.serve,
        )
        sender = Sender(hub.networks, ca_file=config.webhooks.ca_file)
        deliverer = Deliverer(store, hub.bus, hub.clock, sender, hub.webhook_attempts)
        stop = trio.Event()
        async with trio.open_nursery() as services:
            await services.start(_set_on_signal, stop)
            services.start_soon(_stop_if_broken, store, stop)
            services.start_soon(_sweep, hub)
            services.start_soon(hub.outputs.flush_forever)
            services.start_soon(hub.recordings.run)
            services.start_soon(Scheduler(hub.store, hub.commands, hub.clock).run)
            services.start_soon(deliverer.run)
            services.start_soon(front.run, listeners)
            if config.server.local_agent:
                services.start_soon(run_local_agent, hub, url, data_dir, umask, open_files)
            await _announce(hub, url, data_dir)
            await stop.wait()
            (data_dir / READY_FILE).unlink(missing_ok=True)
            hub.bus.stop()
            http.stop()
            hot.stop()
            with trio.move_on_after(config.server.drain_ms / 1000):
                await front.drain()
            services.cancel_scope.cancel()
        with suppress(StorageFull, Unavailable):  # the agents send again what is not safe
            await hub.outputs.flush()
            await hub.callers.save_uses()
            await store.run(audit.append, Entry.by_hub(hub.clock.now_ms(), "hub.stopped"))
        hub.outputs.close()
        return EXIT_DISK_FAILED if store.is_broken else 0


async def _first_start(hub: Hub, data_dir: Path) -> None:
    """Put the store in order: links from before are gone; an empty one gets its admin key.

    The key's file comes first: a crash in between leaves a file that the next start replaces.
    """
    now_ms = hub.clock.now_ms()
    grace_until_ms = now_ms + hub.config.sessions.grace_ms
    await hub.store.run(sessions.recover, now_ms=now_ms, grace_until_ms=grace_until_ms)
    await hub.store.run(workspaces.set_created, now_ms)
    if await hub.store.run(api_keys.count):
        return
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


def _url(config: Config, listeners: list[trio.SocketListener]) -> str:
    """The address as this machine reaches it."""
    host, _ = config.server.address
    port = listeners[0].socket.getsockname()[1]
    host = _EVERYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _announce(hub: Hub, url: str, data_dir: Path) -> None:
    """Tell the person who started us (the banner) and programs (hub.json) that we are ready."""
    pin = pin_of(hub.identity.public_key)
    _, token = await hub.enrolments.issue(DEFAULT_WORKSPACE, _BANNER_MS, 1, [])
    host, _ = hub.config.server.address
    port = urlsplit(url).port
    public_url = hub.config.server.public_url
    join_url = public_url or (f"http://ADDRESS-OF-THIS-HUB:{port}" if host in _EVERYWHERE else url)
    ways = [agent_line(join_url, token)]
    if await trio.to_thread.run_sync(find_programs, data_dir):
        ways.insert(0, fetch_line(join_url, token))
    link = await _sign_in_link(hub)
    lines = [
        f"cmdop {__version__} at {url}",
        f"  data       {data_dir}",
        f"  API key    {data_dir / ADMIN_KEY_FILE}",
        *([f"  sign in    {address_of(link, public_url or url)}"] if link else []),
        *(f"  {label:<10} {line}" for label, line in zip(("join", "or"), ways, strict=False)),
        "             (one machine, within an hour; more: cmdop machines add)",
        "  Ctrl-C stops the hub; commands on the machines run on.",
    ]
    with suppress(OSError):  # nobody has to look
        print("\n".join(lines), flush=True)  # noqa: T201 - the banner is this program's output
    # Last, so that who waits for the file finds the banner whole.
    ready = {"url": url, "pid": os.getpid(), "version": __version__, "pin": pin}
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


async def _serve_socket(
    hub: Hub,
    serve: Callable[[Hub, PeekedStream, Room, str], Awaitable[None]],
    stream: PeekedStream,
) -> None:
    try:
        address = str(stream.socket.getpeername()[0])
        room = Room(stream.socket)
    except OSError:  # it has been reset since its request was read
        return
    with closing(room):
        try:
            await serve(hub, stream, room, address)
        except* LinkClosed:
            pass


async def _serve_agent(hub: Hub, stream: PeekedStream, room: Room, address: str) -> None:
    async with accept(stream, room, address, hub.proxies) as connection:
        await serve_agent(hub.sessions, connection)


async def _sweep(hub: Hub) -> None:
    watch = LeapWatch()
    while True:
        now_ms = hub.clock.now_ms()
        jobs: list[Callable[[], Awaitable[object]]] = [
            partial(hub.store.run, sessions.end_expired, now_ms),
            hub.commands.sweep,
            hub.terminals.sweep,
            hub.callers.save_uses,
        ]
        if watch.is_steady(now_ms, trio.current_time()):
            forgetting = (
                deliveries.forget,
                events.forget,
                idempotency.forget,
                metrics.roll_up,
                runs.forget,
                sign_ins.forget,
                terminals.forget,
            )
            jobs += [partial(hub.store.run, forget, now_ms) for forget in forgetting]
        for job in jobs:
            # A full disk passes, and may take one job and not another; a failed one ends the hub
            # by `_stop_if_broken`.
            with suppress(StorageFull, Unavailable):
                await job()
        await trio.sleep(_SWEEP_S)


async def _stop_if_broken(store: Store, stop: trio.Event) -> None:
    await store.wait_broken()
    stop.set()


async def _set_on_signal(
    stop: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            stop.set()
