"""The service manager that started us: systemd's notification protocol, sd_notify(3)."""

import functools
import os
import socket
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Final, TextIO

import trio

# What it starts us with. Whoever has these speaks for our service: no command is to have them.
_SOCKET: Final = "NOTIFY_SOCKET"
_WATCHDOG: Final = "WATCHDOG_USEC"
_WATCHDOG_OF: Final = "WATCHDOG_PID"
_SEND_S: Final = 1.0  # so long a message may wait for room in the manager's queue


class ServiceManager:
    """Whoever is to know how we are; one that is not there is told nothing."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Takes what is meant for us out of `environ`, so that what we start does not get it."""
        self._address = environ.pop(_SOCKET, "")
        watchdog, of = environ.pop(_WATCHDOG, ""), environ.pop(_WATCHDOG_OF, "")
        is_ours = of in ("", str(os.getpid())) and watchdog.isdecimal()
        self._watchdog_us = int(watchdog) if is_ours else 0

    @property
    def is_there(self) -> bool:
        """Whether somebody is to be told."""
        return self._address != ""

    def environment(self) -> dict[str, str]:
        """What the program must be run with that takes our place in this process: nobody else."""
        if not self._address:
            return {}
        watchdog = {_WATCHDOG: str(self._watchdog_us)} if self._watchdog_us else {}
        return {_SOCKET: self._address, **watchdog}

    def ready(self, status: str) -> None:
        """We serve; `status` is one line for whoever looks."""
        self._tell(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """One line for whoever looks."""
        self._tell(f"STATUS={_line(status)}")

    def stopping(self) -> None:
        """We end, as we were told to."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """We are well: for whoever is not in Trio's loop and must not be taken for hung."""
        if self._watchdog_us:
            self._tell("WATCHDOG=1")

    async def keep_watchdog(self, is_well: Callable[[], bool]) -> None:
        """Until cancelled, say that we are alive, as long as `is_well` says so.

        Returns at once if the manager does not watch us.
        """
        if not self._watchdog_us:
            return
        while True:
            if is_well():
                self.alive()
            await trio.sleep(self._watchdog_us / 1_000_000 / 2)

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        # Nobody has to listen.
        with suppress(OSError), socket.socket(socket.AF_UNIX, kind) as sender:
            sender.settimeout(_SEND_S)
            sender.sendto(text.encode(), address)


def _line(text: str) -> str:
    return " ".join(text.split())


@functools.cache
def service_manager() -> ServiceManager:
    """The one of this process; asked for before anything is started, which must not speak to it."""
    return ServiceManager(os.environ)


def goes_to_journal(environ: Mapping[str, str], stream: TextIO) -> bool:
    """Whether what is written there ends in systemd's journal, which is not for our eyes alone."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    # A shell in a desktop has the variable, too, and writes elsewhere.
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
