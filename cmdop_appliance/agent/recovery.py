"""How a command ended, from what the journal and the keeper know of it."""

import signal
from typing import cast

from cmdop_appliance.agent.command import Ending
from cmdop_appliance.agent.journal import Entry
from cmdop_appliance.agent.keeper_client import Exited, Record, Refused
from cmdop_appliance.protocol.messages import End


def ending_of(
    entry: Entry | None, record: Record | None, boot_id: str, written: tuple[int, int]
) -> Ending | None:
    """The end of a command that was under way when its agent or keeper died. None: it runs on.

    `boot_id` names the present boot; `written` is the size of its output files.
    """
    if entry is not None and entry.end is not None:
        return _unwatched(entry.end, entry.reason, entry.message, record, written)
    if record is None:
        message = "the agent was about to start it when it died; nobody knows whether it started"
        return _unwatched("lost", "start_unknown", message, None, written)
    match record.state:
        case "running":
            return None
        case "exited":
            return exit_of(record, record.started_ms)
        case "refused":
            return refusal(record)
    if record.boot_id != boot_id:
        message = "the machine was restarted while it ran"
        return _unwatched("lost", "rebooted", message, record, written)
    message = "its keeper was killed while it ran"
    if record.alive:
        message += f"; process {record.pid} still lives"
    return _unwatched("lost", "keeper_killed", message, record, written)


def exit_of(exited: Exited | Record, started_ms: int) -> Ending:
    """The end of a command that the keeper watched until there."""
    exit_code = None
    if exited.end == "exited":
        exit_code = 128 + signal_number(exited.signal) if exited.signal else exited.exit_code
    return Ending(
        end=cast("End", exited.end),  # the keeper's own words, checked by its CRC
        exit_code=exit_code,
        signal=exited.signal,
        started_ms=started_ms,
        duration_ms=exited.duration_ms,
        stdout_bytes=exited.stdout_bytes,
        stderr_bytes=exited.stderr_bytes,
    )


def refusal(refused: Refused | Record) -> Ending:
    """The end of a command that could not be started."""
    return Ending(end="failed", reason=refused.code, message=refused.message)


def signal_number(name: str) -> int:
    """`SIGTERM` → 15; real-time signals without a name are counted: `SIGRTMIN+2`."""
    base, _, offset = name.partition("+")
    return signal.Signals[base].value + int(offset or 0)


def _unwatched(
    end: End,
    reason: str | None,
    message: str | None,
    record: Record | None,
    written: tuple[int, int],
) -> Ending:
    """An end that no keeper saw: its output is what the files hold."""
    return Ending(
        end=end,
        reason=reason,
        message=message,
        started_ms=record.started_ms if record and record.state != "refused" else None,
        stdout_bytes=written[0],
        stderr_bytes=written[1],
    )
