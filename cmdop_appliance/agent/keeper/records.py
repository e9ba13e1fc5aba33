"""What is known of each command, and the log that lets this knowledge outlive the keeper.

The log is the list of events as the agent is told them, one line each: CRC-32, space, JSON. A
killed keeper leaves the page cache whole and a power cut is a new boot id, so nothing is synced;
a torn or damaged line is skipped. Replaying the events gives the records.
"""
# ruff: noqa: PTH104, PTH118, PTH123 - without pathlib, see the package

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable

from cmdop_appliance.agent.keeper import linux
from cmdop_appliance.agent.keeper.files import open_private

TYPE_CHECKING = False  # importing typing costs 1.7 MB of memory; type checkers know this name
if TYPE_CHECKING:
    from typing import Any

    Event = dict[str, Any]
else:
    Event = dict

# A smaller log is read in some 20 ms; a larger one is rewritten once most of it is forgotten.
COMPACT_ABOVE_BYTES = 1024 * 1024

encode: Callable[[object], str] = json.JSONEncoder(separators=(",", ":")).encode


class Record:
    """All that is known of one command.

    `state` is `running`, `exited` (by itself or ended by us), `refused` (it never ran: `code` and
    `message` say why) or `orphaned` (its keeper died first, `alive` tells if it still runs).
    """

    __slots__ = (
        "alive",
        "boot_id",
        "code",
        "cols",
        "duration_ms",
        "end",
        "exit_code",
        "id",
        "is_terminal",
        "keeper_id",
        "killed",
        "message",
        "pid",
        "rows",
        "signal",
        "slot",
        "start_ticks",
        "started_ms",
        "state",
        "stderr_bytes",
        "stdout_bytes",
    )

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - its name in every event
        state: str,
        pid: int = 0,
        start_ticks: int = 0,
        slot: int | None = None,
        started_ms: int = 0,
        boot_id: str = "",
        keeper_id: str = "",
        exit_code: int | None = None,
        signal: str | None = None,
        end: str = "",
        killed: str | None = None,
        duration_ms: int = 0,
        stdout_bytes: int = 0,
        stderr_bytes: int = 0,
        code: str = "",
        message: str = "",
        alive: bool = False,
        cols: int = 0,
        rows: int = 0,
        is_terminal: bool = False,
    ) -> None:
        self.id = id
        self.state = state
        self.pid = pid  # of the leader: also its process group and session
        self.start_ticks = start_ticks  # clock ticks after boot
        self.slot = slot  # names its output files
        self.started_ms = started_ms  # since 1970-01-01 UTC
        self.boot_id = boot_id
        self.keeper_id = keeper_id
        self.exit_code = exit_code
        self.signal = signal  # that ended the leader, such as "SIGTERM"
        self.end = end  # "exited", "timeout", "cancelled" or "idle"
        self.killed = killed  # the strongest signal it took to end it, None: ended by itself
        self.duration_ms = duration_ms
        self.stdout_bytes = stdout_bytes  # see keeper_client.Exited
        self.stderr_bytes = stderr_bytes
        self.code = code
        self.message = message
        self.alive = alive
        self.cols = cols  # of its screen now; 0: it is no terminal
        self.rows = rows
        self.is_terminal = is_terminal  # people type into it

    def as_event(self) -> Event:
        """The whole record as one event; an orphan is looked at now."""
        if self.state == "orphaned":
            self.alive = linux.is_alive(self.pid, self.start_ticks, self.boot_id)
        event = {"event": "record", **{name: getattr(self, name) for name in self.__slots__}}
        if not self.is_terminal:  # an agent that was rolled back to the first release knows none
            for name in ("cols", "rows", "is_terminal"):
                del event[name]
        return event


def record_of(event: Event, state: str) -> Record:
    """A record with what an event tells, and in the state that the event leads to."""
    fields = {**event, "state": state}
    del fields["event"]
    return Record(**fields)


def apply(records: dict[str, Record], event: Event) -> None:
    """What an event changes in what is known."""
    match event["event"]:
        case "started":
            records[event["id"]] = record_of(event, "running")
        case "refused":
            records[event["id"]] = record_of(event, "refused")
        case "record":  # a compacted log begins with these
            records[event["id"]] = record_of(event, event["state"])
        case "exited":
            record = records[event["id"]]
            record.state = "exited"
            for name, value in event.items():
                if name != "event":
                    setattr(record, name, value)
        case "forgotten":
            for command_id in event["ids"]:
                records.pop(command_id, None)


def read_log(state_dir: str | os.PathLike[str]) -> dict[str, Record]:
    """The records a keeper left behind, by command id. Only right while no keeper runs.

    What had started and has no end is `orphaned`. No log gives no records.
    """
    records: dict[str, Record] = {}
    try:
        with open(os.path.join(state_dir, "keeper", "keeper.log"), "rb") as file:
            for line in file:
                _replay(records, line)
    except FileNotFoundError:
        return {}
    for record in records.values():
        if record.state in ("running", "orphaned"):
            record.state = "orphaned"
            record.alive = linux.is_alive(record.pid, record.start_ticks, record.boot_id)
    return records


class Log:
    """Appends events to `keeper.log` in the current directory."""

    def __init__(self) -> None:
        self._fd = open_private("keeper.log", os.O_WRONLY | os.O_APPEND)
        self.size_bytes = os.fstat(self._fd).st_size
        # The last writer may have died inside a line: what follows must not be part of it.
        self._torn = self.size_bytes > 0
        self._compacted_bytes = 0

    def append(self, line: str) -> None:
        """Add one event, encoded. Raises OSError when the disk does not take it."""
        data = _sealed(line)
        if self._torn:
            data = b"\n" + data
        self._torn = True
        written = os.write(self._fd, data)
        self.size_bytes += written
        self._torn = written < len(data)

    def is_worth_compacting(self) -> bool:
        """True: large, and grown to twice what the last rewrite had to keep."""
        return self.size_bytes > max(COMPACT_ABOVE_BYTES, 2 * self._compacted_bytes)

    def compact(self, records: Iterable[Record]) -> None:
        """Replace the log by one that holds these records only; the old one stays until then."""
        fd = open_private("keeper.log.new", os.O_WRONLY | os.O_APPEND | os.O_TRUNC)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.writelines(_sealed(encode(record.as_event())) for record in records)
            os.rename("keeper.log.new", "keeper.log")
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd = fd
        self._torn = False
        self.size_bytes = self._compacted_bytes = os.fstat(fd).st_size


def _sealed(line: str) -> bytes:
    data = line.encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(data), data)


def _replay(records: dict[str, Record], line: bytes) -> None:
    checksum, _, data = line.rstrip(b"\n").partition(b" ")
    if checksum == b"%08x" % zlib.crc32(data):
        try:
            apply(records, json.loads(data))
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
        ):  # another version's line, or its start was torn
            return
