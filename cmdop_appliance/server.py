"""`cmdop serve`: the whole hub in one nursery, opened bottom-up and closed top-down."""

import gc
import logging
import os
import resource
import signal
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Final

import trio

from cmdop_appliance import __version__, announcing, upgrading
from cmdop_appliance.api.app import make_app
from cmdop_appliance.api.guard import HttpServer
from cmdop_appliance.api.hot import HotRoute
from cmdop_appliance.api.live_socket import serve_live_socket
from cmdop_appliance.api.terminal_socket import serve_terminal_socket
from cmdop_appliance.backup_schedule import BackupSchedule
from cmdop_appliance.clock import SystemClock
from cmdop_appliance.config import Config, load_config
from cmdop_appliance.errors import StartupError, StorageFull, Unavailable
from cmdop_appliance.front import (
    Front,
    PeekedStream,
    Tls,
    is_for_socket,
    listeners_on,
    open_listeners,
)
from cmdop_appliance.hub.connection import LinkClosed, accept
from cmdop_appliance.hub.disk import make_room_to_start
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.hub.sweep import sweep_forever
from cmdop_appliance.hub.waves import Waves
from cmdop_appliance.hub.welcome import serve_agent
from cmdop_appliance.local_agent import run_local_agent
from cmdop_appliance.logs import log_to_stderr
from cmdop_appliance.notify import service_manager
from cmdop_appliance.protocol.handshake import binding_of
from cmdop_appliance.scheduler.loop import Scheduler
from cmdop_appliance.service.folders import Version, home_of_this_program
from cmdop_appliance.store import api_keys, audit, sessions, workspaces
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.directory import claim
from cmdop_appliance.store.engine import Store, open_store
from cmdop_appliance.transfer import Room
from cmdop_appliance.webhooks.deliver import Deliverer
from cmdop_appliance.webhooks.sending import Sender

EXIT_DISK_FAILED: Final = 74  # EX_IOERR, sysexits.h

# A store that has not got on for so long will not by itself: who watches us is to start us again.
HUNG_S: Final = 60.0
# Descriptors that we ask for, if the system lets us: one for each agent or caller, some for files.
_OPEN_FILES: Final = 65_536

# Objects more than before until the young are looked at; how many such looks until those are that
# survived one; how many of these until all are: a million objects.
_COLLECT: Final = 5000, 10, 20

_log = logging.getLogger("cmdop.server")


def run(
    config_path: Path | None,
    *,
    data_dir: Path | None,
    listen: str | None,
    tls: str | None,
    local_agent: bool | None,
) -> int:
    """Serve until SIGTERM or SIGINT; the exit code.

    Raises:
        StartupError: a bad configuration, certificate or port, or a data directory in use.
    """
    flags = {
        "data_dir": None if data_dir is None else str(data_dir),
        "listen": listen,
        "tls": tls,
        "local_agent": local_agent,
    }
    service_manager()  # before anything is started
    if watcher := upgrading.watcher_of(os.environ):
        return upgrading.stand_trial(watcher, partial(_show, config_path, flags))
    config = load_config(config_path, flags=flags)
    log_to_stderr(config.log.level)
    if _renews(config):  # also while we start, or try a release: it ends whoever does not listen
        signal.signal(signal.SIGHUP, lambda *_: None)
    umask = os.umask(0o077)  # whatever we create is ours alone
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, _raised(*open_files))
    sockets = upgrading.handed_sockets(os.environ, config.server.listen)
    try:
        with claim(config.data_dir) as lock:
            verdict: upgrading.Verdict = "bad"
            while verdict == "bad":
                upgrading.put_back(config.data_dir)
                code, later, sockets = trio.run(_serve, config, umask, open_files, sockets)
                if later is None:
                    return code
                verdict = upgrading.try_out(config.data_dir, lock, later)
    finally:
        os.umask(umask)
        resource.setrlimit(resource.RLIMIT_NOFILE, open_files)
    if verdict == "good":
        assert later is not None
        upgrading.become(later, config.server.listen, sockets)
    return 0


def _raised(soft: int, hard: int) -> tuple[int, int]:
    """The soft limit of open files as high as it may be, up to `_OPEN_FILES`; never lower."""
    if soft == resource.RLIM_INFINITY:
        return soft, hard
    most = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    return max(soft, most), hard


def _show(config_path: Path | None, flags: Mapping[str, object]) -> None:
    """Start as `run` does, and end when that went well: nobody is served."""
    config = load_config(config_path, flags=flags)
    log_to_stderr(config.log.level)
    trio.run(_try, config)


async def _try(config: Config) -> None:
    data_dir = config.data_dir
    _, key_pin = await trio.to_thread.run_sync(_tls, config)
    listeners = await open_listeners("127.0.0.1", 0)
    async with open_store(data_dir, is_trial=True) as store:
        hub = await Hub.open(config, SystemClock(), store, data_dir, key_pin)
        await _put_in_order(hub, data_dir)
        front, *_ = _front(hub, None)
        async with trio.open_nursery() as services:
            services.start_soon(front.run, listeners)
            await upgrading.ask_ready(listeners[0].socket.getsockname())
            services.cancel_scope.cancel()
        hub.outputs.close()


def _front(hub: Hub, tls: Tls | None) -> tuple[Front, HotRoute, HttpServer]:
    http = HttpServer(make_app(hub), is_for_others=is_for_socket)
    hot = HotRoute(hub, http)
    front = Front(
        serve_agent=partial(_serve_socket, hub, _serve_agent),
        serve_terminal=partial(_serve_socket, hub, serve_terminal_socket),
        serve_live=partial(_serve_socket, hub, serve_live_socket),
        serve_http=hot.serve,
        tls=tls,
    )
    return front, hot, http


async def _serve(
    config: Config, umask: int, open_files: tuple[int, int], sockets: Sequence[int]
) -> tuple[int, Version | None, list[int]]:
    """Serve on these sockets; without any, where the configuration says.

    The exit code; or which release is to serve instead, and on which sockets.
    """
    data_dir = config.data_dir
    tls, key_pin = await trio.to_thread.run_sync(_tls, config)
    listeners = listeners_on(sockets) or await open_listeners(*config.server.address)
    await trio.to_thread.run_sync(make_room_to_start, config.disk, data_dir)
    async with open_store(data_dir) as store:
        hub = await Hub.open(config, SystemClock(), store, data_dir, key_pin)
        await _put_in_order(hub, data_dir)
        started = Entry.by_hub(hub.clock.now_ms(), "hub.started", version=__version__)
        await store.run(audit.append, started)
        url = announcing.url_of(config, listeners)
        front, hot, http = _front(hub, tls)
        upgrader = upgrading.Upgrader(store, hub.releases, home_of_this_program())
        await upgrader.settle(data_dir)
        sender = Sender(hub.networks, ca_file=config.webhooks.ca_file)
        deliverer = Deliverer(store, hub.bus, hub.clock, sender, hub.webhook_attempts)
        backups = None
        if config.backup.directory:
            backups = BackupSchedule(hub.backups, store, hub.clock, config.backup)
        stop = trio.Event()
        async with trio.open_nursery() as services:
            await services.start(_set_on_signal, stop)
            services.start_soon(_stop_if_broken, store, stop)
            services.start_soon(sweep_forever, hub)
            services.start_soon(hub.disk.watch)
            services.start_soon(hub.disk.check, store)
            services.start_soon(hub.outputs.flush_forever)
            services.start_soon(hub.recordings.run)
            services.start_soon(_scheduler(hub).run)
            services.start_soon(deliverer.run)
            if backups is not None:
                services.start_soon(backups.run)
            services.start_soon(front.run, listeners)
            services.start_soon(upgrader.run, stop)
            services.start_soon(Waves(store, hub.bus, hub.clock, config.upgrade).run)
            if _renews(config):
                await services.start(_renew_on_signal, hub, front, url)
            if config.server.local_agent:
                services.start_soon(run_local_agent, hub, url, data_dir, umask, open_files)
            _calm_collector()
            await announcing.announce(hub, url, data_dir, tls)
            services.start_soon(service_manager().keep_watchdog, lambda: store.stuck_s < HUNG_S)
            await stop.wait()
            kept = [os.dup(each.socket.fileno()) for each in listeners if upgrader.next]
            if upgrader.next is None:
                service_manager().stopping()
            announcing.take_back(data_dir)
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
        later = None if store.is_broken else upgrader.next
        return EXIT_DISK_FAILED if store.is_broken else 0, later, kept


def _calm_collector() -> None:
    """Look for garbage in cycles less often: there is little, and each look takes time.

    Python looks at everything again whenever that has grown by a quarter: 0.5 s of 2,000 machines,
    a sixth of the time in which they come back (measured).
    """
    gc.freeze()  # what was imported lives as long as the process
    gc.set_threshold(*_COLLECT)


def _tls(config: Config) -> tuple[Tls | None, str]:
    """How the port speaks TLS, and the pin of the certificate's key if the hub has made it.

    Raises:
        StartupError: there is no certificate that is good for it.
    """
    server = config.server
    if not server.speaks_tls:
        return None, ""
    from cmdop_appliance import certificates  # 40 ms, which plain HTTP need not pay

    if server.certificate:
        found = certificates.given_certificate(server.certificate, server.certificate_key)
    else:
        names = {server.public_host} - {""}
        found = certificates.own_certificate(config.data_dir / certificates.FOLDER, names)
    pin = certificates.key_pin(found.der) if found.is_own else ""
    pem = ssl.DER_cert_to_PEM_cert(found.der)
    return Tls(found.context, binding_of(found.der), pem), pin


def _renews(config: Config) -> bool:
    """True: SIGHUP means that the certificate is new, and not that our terminal is gone."""
    return bool(config.server.certificate) or service_manager().is_there


async def _renew_on_signal(
    hub: Hub,
    front: Front,
    url: str,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """SIGHUP: read the certificate again, for the connections to come."""
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            try:
                front.tls, _pin = await trio.to_thread.run_sync(_tls, hub.config)
            except StartupError as exc:
                _log.error("the new certificate is not used", extra={"why": exc.message})
                continue
            await announcing.write_ready(hub, url, hub.config.data_dir, front.tls)
            _log.info("the certificate was read again" if front.tls else "no certificate to read")


async def _put_in_order(hub: Hub, data_dir: Path) -> None:
    """Before anybody is served: links from before are gone; a store without a key gets one."""
    now_ms = hub.clock.now_ms()
    grace_until_ms = now_ms + hub.config.sessions.grace_ms
    await hub.store.run(sessions.recover, now_ms=now_ms, grace_until_ms=grace_until_ms)
    await hub.store.run(workspaces.set_created, now_ms)
    if not await hub.store.run(api_keys.count):
        await announcing.make_admin_key(hub, data_dir, now_ms)


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
    binding = stream.binding
    async with accept(stream, room, address, hub.proxies, binding=binding) as connection:
        await serve_agent(hub.sessions, connection)


def _scheduler(hub: Hub) -> Scheduler:
    return Scheduler(hub.store, hub.commands, hub.clock, lambda: not hub.disk.is_short)


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
