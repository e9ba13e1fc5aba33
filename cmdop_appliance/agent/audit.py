"""`audit.log`: who widened what this machine allows, and what was denied; a JSON line each.

Written by whoever does it: the command line opens and closes windows, the agent sees them end and
denies commands. What concerns windows the agent tells the hub, also what happened while it was
away; `audit.told` is how far that has come.
"""

import errno
import functools
import json
import logging
import os
import pwd
from pathlib import Path
from typing import Final

import trio

from cmdop_appliance.agent.keeper.files import open_private
from cmdop_appliance.agent.outbox import Outbox
from cmdop_appliance.clock import SystemClock, rfc3339
from cmdop_appliance.private import write_private
from cmdop_appliance.protocol.limits import LABEL_CHARS
from cmdop_appliance.protocol.messages import Notice

log = logging.getLogger("cmdop.agent.audit")

# A hub decides how many commands are denied; beyond this size only windows are written.
DENIALS_UP_TO_BYTES: Final = 16 * 1024 * 1024
# How soon the hub is told.
_LOOK_S: Final = 1.0
# Read at a time; a line of ours is below 4 KiB.
_PIECE_BYTES: Final = 64 * 1024

_FILE: Final = "audit.log"
_TOLD: Final = "audit.told"


def append(state_dir: Path, event: str, message: str, **details: str | int) -> None:
    """Add a line, and wait until the disk holds it.

    Raises:
        OSError: it may not hold it.
    """
    fd = open_private(str(state_dir / _FILE), os.O_WRONLY | os.O_APPEND)
    try:
        _write(fd, event, message, details)
        os.fsync(fd)
    finally:
        os.close(fd)


def append_denial(state_dir: Path, command_id: str, code: str, message: str) -> None:
    """Add a line for a command that was denied, while there is room for such; no sync."""
    try:
        fd = open_private(str(state_dir / _FILE), os.O_WRONLY | os.O_APPEND)
        try:
            if os.fstat(fd).st_size < DENIALS_UP_TO_BYTES:
                details: dict[str, str | int] = {"command_id": command_id, "code": code}
                _write(fd, "command.denied", message, details)
        finally:
            os.close(fd)
    except OSError as exc:  # the command is denied all the same
        log.warning("denial not audited", extra={"command_id": command_id, "error": str(exc)})


async def tell_hub(state_dir: Path, outbox: Outbox) -> None:
    """Send the hub a notice for each line about a window, for as long as the agent runs."""
    offset: int | None = None
    is_readable = True
    while True:
        await trio.sleep(_LOOK_S)
        try:
            offset = _told(state_dir) if offset is None else offset
            end, notices = _news(state_dir, offset)
        except OSError as exc:
            if is_readable:
                log.warning("cannot read what to tell the hub", extra={"error": str(exc)})
            is_readable = False
            continue
        is_readable = True
        for notice in notices:
            await outbox.say(notice)
        if not outbox.is_open:
            continue  # all of it is said again, on the next connection
        offset = end
        if notices:
            await trio.to_thread.run_sync(_remember, state_dir, offset, abandon_on_cancel=True)


def _write(fd: int, event: str, message: str, details: dict[str, str | int]) -> None:
    uid, login = _who()
    time = rfc3339(SystemClock().now_ms())
    line = {"time": time, "event": event, "uid": uid, "login": login, **details, "message": message}
    data = json.dumps(line).encode() + b"\n"
    if os.write(fd, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@functools.cache
def _who() -> tuple[int, str]:
    """User id, and the name with which the person has signed in, behind sudo too."""
    uid = os.getuid()
    try:
        return uid, os.getlogin()
    except OSError:  # nobody has: a service, a container
        pass
    try:
        return uid, pwd.getpwuid(uid).pw_name
    except KeyError:
        return uid, str(uid)


def _news(state_dir: Path, offset: int) -> tuple[int, list[Notice]]:
    """What the whole lines from `offset` on say of windows, and where they end."""
    try:
        with (state_dir / _FILE).open("rb") as file:
            if offset > os.fstat(file.fileno()).st_size:  # somebody has put the old log away
                offset = 0
            file.seek(offset)
            piece = file.read(_PIECE_BYTES)
    except FileNotFoundError:
        return offset, []
    whole, newline, _ = piece.rpartition(b"\n")
    if not newline and len(piece) == _PIECE_BYTES:
        return offset + len(piece), []  # not a line of ours
    notices = [_notice(line) for line in whole.split(b"\n")]
    return offset + len(whole) + len(newline), [each for each in notices if each is not None]


def _notice(line: bytes) -> Notice | None:
    try:
        fields = json.loads(line)
        event = str(fields["event"])
        message = f"{fields['message']} (by {fields['login']}, uid {fields['uid']})"
    except (ValueError, KeyError, TypeError, RecursionError):  # damaged, or not a line of ours
        return None
    if not event.startswith("grant."):
        return None
    return Notice(event=_label(event), message=_label(message))


def _label(text: str) -> str:
    """As a message can carry it: a login name is bytes, and may not be UTF-8."""
    return text.encode("utf-8", "replace").decode()[:LABEL_CHARS]


def _told(state_dir: Path) -> int:
    try:
        return max(0, int((state_dir / _TOLD).read_text()))
    except (FileNotFoundError, ValueError):
        return 0


def _remember(state_dir: Path, offset: int) -> None:
    try:
        write_private(state_dir / _TOLD, f"{offset}\n")
    except OSError as exc:  # after a restart it is told once more
        log.warning("cannot note what was told", extra={"error": str(exc)})
