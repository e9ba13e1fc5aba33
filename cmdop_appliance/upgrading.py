"""How the hub becomes a later release of itself, and stays what it is if that is no good.

The steps, and what whoever starts next finds if everything stops between any two of them:

1. The new program is unpacked beside this one. The hub serves. (Found: nothing happened.)
2. The hub drains and closes its store, and notes the trial in `upgrade.json`.
3. The new program is started on the same directory, as a child. It opens the store as a trial
   (store/trial.py), migrates it, starts what serves, asks itself whether it is ready, and ends.
   Nobody else can reach it, so it acknowledges nothing. (2, 3 found: the trial is taken back, the
   release that is current goes on.)
4. The link to the current release is switched, then the note goes. (Found: the new release, on the
   store as it was, which it migrates again.)
5. This process becomes the new program: same pid, same sockets, so that whoever dials meanwhile
   waits instead of being refused. (Found: the new release, on the store of its trial.)

A trial that fails is taken back by the same process, which then serves again. A trial lives no
longer than who watches it, and holds the lock of the directory as long as it lives.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Literal, NoReturn

import trio

from cmdop_appliance import __version__
from cmdop_appliance.agent.keeper.environment import process_environment
from cmdop_appliance.agent.linux import die_with_parent
from cmdop_appliance.errors import (
    ApplianceError,
    StartupError,
    StorageFull,
    Unavailable,
    UnusableProgram,
)
from cmdop_appliance.hub.releases import Releases, is_running
from cmdop_appliance.model import Upgrade
from cmdop_appliance.notify import service_manager
from cmdop_appliance.packed import ONEFILE
from cmdop_appliance.private import sync_directory, write_private
from cmdop_appliance.service.folders import Home, Version
from cmdop_appliance.store import trial, upgrades
from cmdop_appliance.store.engine import DATABASE_FILE, Store

HEALTHY_S: Final = 60.0  # so long a trial may take (trust.md, row 24) …
# … and longer with a large store, which it migrates: so much a second an SD card writes, too.
_MIGRATED_BYTES: Final = 10_000_000
_RETRY_S: Final = 5.0  # what found no room on the disk is recorded later
_NOTE: Final = "upgrade.json"
# Tells the new program that it is on trial: its descriptor of the socket to who watches it.
_TRIAL: Final = "CMDOP_TRIAL"
# What the program before us listened on, by descriptors.
_SOCKETS: Final = "CMDOP_SOCKETS"
_WELL: Final = b"well "  # and the version; anything else is why not
_WORD_BYTES: Final = 4096

_log = logging.getLogger("cmdop.upgrade")


# Of a trial: it is good; it is not, and all is as it was; the hub was told to stop meanwhile.
Verdict = Literal["good", "bad", "stopped"]


class Upgrader:
    """Waits for a release that the hub is to run itself, and prepares the switch."""

    def __init__(self, store: Store, releases: Releases, home: Home | None) -> None:
        self.next: Version | None = None  # which the hub stops for
        self._store = store
        self._releases = releases
        self._home = home
        self._unsettled: Path | None = None

    async def settle(self, data_dir: Path) -> None:
        """At a start: record what became of the upgrade for which the hub stopped, if for one.

        If the disk is too full for that, `run` does it as soon as it can.
        """
        self._unsettled = data_dir
        with suppress(StorageFull, Unavailable):
            await self._settle(data_dir)
            self._unsettled = None

    async def _settle(self, data_dir: Path) -> None:
        upgrade, why = await self._store.run(upgrades.open_one), _why_not(data_dir)
        if upgrade is not None and upgrade.status == "hub":
            if is_running(upgrade.version, upgrade.released_ms):
                _log.info("upgraded", extra={"version": upgrade.version})
                await self._releases.succeeded(upgrade)
                if self._home is not None:
                    await trio.to_thread.run_sync(self._home.prune)
            elif why is not None:
                await self._releases.failed(upgrade, why)
            else:
                self._releases.has_come.set()
        await self._releases.sweep()
        _forget(data_dir)

    async def run(self, stop: trio.Event) -> None:
        """Set `stop` when the hub is to end, so that `next` takes its place."""
        while self._unsettled is not None:
            await trio.sleep(_RETRY_S)
            await self.settle(self._unsettled)
        while True:
            await self._releases.has_come.wait()
            self._releases.has_come = trio.Event()
            upgrade = await self._store.run(upgrades.open_one)
            if upgrade is None or upgrade.status != "hub":
                continue
            try:
                self.next = await self._add(upgrade)
            except UnusableProgram as exc:
                _log.error("not upgraded", extra={"why": exc.message})
                await self._fail(upgrade, exc.message)
            else:
                stop.set()
                return

    async def _fail(self, upgrade: Upgrade, why: str) -> None:
        while True:
            with suppress(StorageFull, Unavailable):
                await self._releases.failed(upgrade, why)
                return
            await trio.sleep(_RETRY_S)

    async def _add(self, upgrade: Upgrade) -> Version:
        """Unpack it beside the one that runs.

        Raises:
            UnusableProgram: it does not run here, or it is another one.
        """
        if self._home is None:
            raise UnusableProgram("the hub does not run from an installed folder")
        add = partial(self._home.add, self._releases.program(upgrade))
        # Whoever is told to stop does not wait for it: the next start does it again.
        version = await trio.to_thread.run_sync(add, abandon_on_cancel=True)
        if version.number != upgrade.version:
            raise UnusableProgram(f"the program says that it is {version.number}")
        return version


# ── who watches ──────────────────────────────────────────────────────────────────────────────────


def put_back(data_dir: Path) -> None:
    """At a start, before the store is opened: a trial that was not ended did not happen.

    Raises:
        OSError: the directory cannot be written.
    """
    note = data_dir / _NOTE
    if note.exists() and _why_not(data_dir) is None:
        trial.take_back(data_dir)
        _note(data_dir, "the hub was stopped while it tried the new release")


def try_out(data_dir: Path, lock: int, version: Version) -> Verdict:
    """Have a release show what it can; if it is good, it is the current one from now on.

    The store is closed, and `lock` is the descriptor by which we hold its directory.

    Raises:
        OSError: the directory cannot be written.
    """
    if not trial.is_closed(data_dir):
        _note(data_dir, "the store could not be closed whole: is its disk full?")
        return "bad"
    _note(data_dir)
    why: str | None
    try:
        why = _trial(lock, version, patience_s(data_dir))
        if why == "":
            Home(version.path.parents[1]).switch(version)
    except OSError as exc:
        why = f"{version.name} cannot be used: {exc.strerror}"
    if why == "":
        _forget(data_dir)
        return "good"
    trial.take_back(data_dir)
    _note(data_dir, why or "the hub was told to stop")
    _log.error("not upgraded", extra={"why": why})
    return "bad" if why else "stopped"


def patience_s(data_dir: Path) -> float:
    """How long a trial with this store may take, in seconds."""
    return HEALTHY_S + (data_dir / DATABASE_FILE).stat().st_size / _MIGRATED_BYTES


def _trial(lock: int, version: Version, within_s: float) -> str | None:
    """Why a release is no good; "": it is. None: we are to stop. It has ended, with all it began.

    Raises:
        OSError: it cannot be started.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(  # in this thread, for it dies with the one that started it
            [version.program, *sys.argv[1:]],
            stdin=subprocess.DEVNULL,
            env={**process_environment(), _TRIAL: str(theirs.fileno())},
            pass_fds=[theirs.fileno(), lock],
            preexec_fn=die_with_parent,
        )
        theirs.close()
        try:
            return trio.run(_watch, ours, version.number, within_s)
        finally:
            process.kill()
            process.wait()


def become(version: Version, listen: str, sockets: Sequence[int]) -> NoReturn:
    """Be another release: this process stays, and so do its sockets and who started us.

    `listen`: what the sockets were opened for.

    Raises:
        StartupError: it cannot be started.
    """
    for handle in sockets:
        os.set_inheritable(handle, True)
    environ = {
        **process_environment(),
        **service_manager().environment(),
        _SOCKETS: " ".join([listen, *map(str, sockets)]),
    }
    environ.pop(ONEFILE, None)  # of the program that we were
    program = str(version.program)
    try:
        os.execve(program, [program, *sys.argv[1:]], environ)  # noqa: S606 - there is no shell
    except OSError as exc:
        raise StartupError(f"cannot start {program}: {exc.strerror}") from exc


async def _watch(words: socket.socket, number: str, within_s: float) -> str | None:
    """Why the release on trial is no good; "": it is. None: we are to stop."""
    verdict: str | None = f"it was not ready within {within_s:.0f} s"
    with trio.move_on_after(within_s):
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                nonlocal verdict
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    async for _ in signals:
                        verdict = None
                        nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            nursery.start_soon(service_manager().keep_watchdog, lambda: True)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(words))
            said = b""
            with suppress(trio.BrokenResourceError):
                while piece := await stream.receive_some(_WORD_BYTES - len(said)):
                    said += piece
            verdict = _verdict(said, number)
            nursery.cancel_scope.cancel()
    return verdict


def _verdict(said: bytes, number: str) -> str:
    if said == _WELL + number.encode():
        return ""
    text = said.decode(errors="replace")
    return ascii(text) if text else "it ended without a word: the hub's log may have some"


def _note(data_dir: Path, why_not: str | None = None) -> None:
    """Keep that a trial is under way, or that it failed; once this returns, the disk holds it."""
    write_private(data_dir / _NOTE, json.dumps({"from": __version__, "why_not": why_not}) + "\n")


def _why_not(data_dir: Path) -> str | None:
    """Why a trial failed; None: it did not, or there was none."""
    try:
        why: str | None = json.loads((data_dir / _NOTE).read_text())["why_not"]
    except FileNotFoundError:
        return None
    return why


def _forget(data_dir: Path) -> None:
    (data_dir / _NOTE).unlink(missing_ok=True)
    sync_directory(data_dir)


# ── who is on trial, and who comes after ─────────────────────────────────────────────────────────


def watcher_of(environ: MutableMapping[str, str]) -> socket.socket | None:
    """Who watches us, if we are on trial; taken out of `environ`, for nobody else."""
    handle = environ.pop(_TRIAL, None)
    if handle is None:
        return None
    os.set_inheritable(int(handle), False)
    return socket.socket(fileno=int(handle))


def stand_trial(watcher: socket.socket, show: Callable[[], None]) -> int:
    """Tell the watcher whether `show` got through; the exit code."""
    try:
        show()
    except ApplianceError as exc:
        watcher.sendall(exc.message.encode()[:_WORD_BYTES])
        return 1
    watcher.sendall(_WELL + __version__.encode())
    return 0


def handed_sockets(environ: MutableMapping[str, str], listen: str) -> list[int]:
    """What the program before us listened on, if that is what we are to listen on.

    Taken out of `environ`; whoever is given them closes them.
    """
    before, *handles = environ.pop(_SOCKETS, "").split(" ")
    sockets = [int(handle) for handle in handles]
    for handle in sockets:
        os.set_inheritable(handle, False)
        if before != listen:
            os.close(handle)
    return sockets if before == listen else []


async def ask_ready(address: tuple[str, int]) -> None:
    """Ask who listens there whether it can do what it is asked for.

    Raises:
        StartupError: it cannot.
    """
    stream = await trio.open_tcp_stream(*address)
    async with stream:
        await stream.send_all(b"GET /readyz HTTP/1.1\r\nHost: trial\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := await stream.receive_some():
            answer += piece
    if not answer.startswith(b"HTTP/1.1 200"):
        raise StartupError(f"the new release is not ready: {answer[-500:]!a}")
