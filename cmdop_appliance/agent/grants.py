"""Windows: for a while commands may run although agent.toml says no.

A person at the machine opens one; `grant.json` says of which boot it is, and how far the clock
that nobody can set may run. It ends by itself, and with the boot. What runs then runs on.
Opening, closing and expiry go one after another (a lock on the directory) and are audited.
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import trio

from cmdop_appliance.agent.audit import append
from cmdop_appliance.agent.keeper.linux import boot_id
from cmdop_appliance.clock import SystemClock, rfc3339
from cmdop_appliance.private import sync_directory, write_private

log = logging.getLogger("cmdop.agent.grants")

# Whoever opens a window and forgets it has one for a day at most.
WINDOW_MOST_MS: Final = 24 * 3600 * 1000
# How soon after its end the expiry of a window is audited; it allows nothing from its end on.
_LOOK_S: Final = 1.0
# Between two tries to audit an expiry, when the disk is full.
_RETRY_S: Final = 60.0

_FILE: Final = "grant.json"


@dataclass(frozen=True, slots=True)
class Window:
    """An open window, or one whose end was not audited yet."""

    boot_id: str
    until_ms: int  # CLOCK_BOOTTIME: it counts suspended time, too

    @property
    def left_ms(self) -> int:
        """Milliseconds until it ends; 0 or less: it has ended."""
        left = self.until_ms - _now_ms()
        return left if self.boot_id == boot_id() and left <= WINDOW_MOST_MS else 0


def is_open(state_dir: Path) -> bool:
    """True: commands may run now."""
    return left_ms(state_dir) > 0


def left_ms(state_dir: Path) -> int:
    """Milliseconds until the open window ends; 0: there is none."""
    window = _read(state_dir)
    return max(0, window.left_ms) if window else 0


def open_window(state_dir: Path, duration_ms: int) -> str:
    """Let commands run for so long from now on, at most `WINDOW_MOST_MS`; when that ends, RFC 3339.

    It takes the place of a window that is open.

    Raises:
        OSError: the directory cannot be written; there is no new window.
    """
    until = rfc3339(SystemClock().now_ms() + duration_ms)
    with _locked(state_dir):
        _expire(state_dir)
        window = Window(boot_id(), _now_ms() + duration_ms)
        append(
            state_dir,
            "grant.opened",
            f"commands may run for {duration_ms / 1000:g} s, until {until}",
            duration_ms=duration_ms,
            until=until,
        )
        write_private(state_dir / _FILE, json.dumps(asdict(window)) + "\n")
    return until


def close_window(state_dir: Path) -> bool:
    """End the open window now. False: there is none.

    Raises:
        OSError: the directory cannot be written; the window may be open.
    """
    with _locked(state_dir):
        _expire(state_dir)
        if _read(state_dir) is None:
            return False
        _remove(state_dir)  # first of all: a full audit log must not keep it open
        append(state_dir, "grant.closed", "the window for commands was closed")
    return True


async def audit_expiry(state_dir: Path) -> None:
    """Audit the end of each window that ends by itself, for as long as the agent runs."""
    while True:
        window = _read(state_dir)
        if window is not None and window.left_ms <= 0:
            try:
                await trio.to_thread.run_sync(_expire_locked, state_dir, abandon_on_cancel=True)
            except OSError as exc:
                log.warning("expiry not audited", extra={"error": str(exc)})
                await trio.sleep(_RETRY_S)
        await trio.sleep(_LOOK_S)


def _expire_locked(state_dir: Path) -> None:
    with _locked(state_dir):
        _expire(state_dir)


def _expire(state_dir: Path) -> None:
    window = _read(state_dir)
    if window is not None and window.left_ms <= 0:
        how = "by itself" if window.boot_id == boot_id() else "with the restart of the machine"
        append(state_dir, "grant.expired", f"the window for commands has ended {how}")
        _remove(state_dir)


def _read(state_dir: Path) -> Window | None:
    try:
        fields = json.loads((state_dir / _FILE).read_bytes())
        return Window(str(fields["boot_id"]), int(fields["until_ms"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return Window("", 0)  # damaged: it allows nothing, and its end is audited


def _remove(state_dir: Path) -> None:
    (state_dir / _FILE).unlink()
    sync_directory(state_dir)


def _now_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


@contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    """One at a time; whoever holds it needs it for a few writes only."""
    fd = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
