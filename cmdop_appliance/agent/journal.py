"""What the agent must not forget: starts that it tried, ends that it decided, ids done with.

One line per fact: CRC-32, space, JSON; the last line about an id counts. A torn or damaged line is
skipped. Only a start is synced, and before it happens: a killed process leaves the page cache
whole, and after a power cut the boot id tells that nothing runs any more.
"""

import errno
import json
import logging
import os
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, get_args

from cmdop_appliance.agent.keeper.files import open_private
from cmdop_appliance.private import sync_directory
from cmdop_appliance.protocol.messages import End

log = logging.getLogger("cmdop.agent.journal")

# Ids that are done with stay known for so long, and so never run again (semantics.md, Commands 3).
TOMBSTONE_S: Final = 7 * 24 * 3600
# The newest stay whatever the clock says, for it may jump; some 20 MB of memory hold the most.
TOMBSTONES_AT_LEAST: Final = 10_000
TOMBSTONES_AT_MOST: Final = 100_000
# Reading this takes some 0.2 s at start; a smaller journal is not worth a rewrite.
COMPACT_ABOVE_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One command that the hub has not acknowledged. Without `end` its start was tried.

    `end`, `reason` and `message` stand here only when the agent itself decided them: what really
    ran has its end in the keeper's records.
    """

    id: str
    spec_hash: bytes | None = None  # None: cancelled before any dispatch was seen
    boot_id: str | None = None  # the boot in which it was to start; None: it never was
    end: End | None = None
    reason: str | None = None
    message: str | None = None
    serial_key: str | None = None


class Journal:
    """The journal of one state directory, open for appending."""

    def __init__(self, path: Path) -> None:
        """Read and tidy the journal at `path`; there need not be one yet.

        Raises:
            OSError: the directory cannot be written.
        """
        self.entries: dict[str, Entry] = {}
        self.tombstones: dict[str, int] = {}  # id → when, seconds since 1970
        self._horizon = ""  # of the ids whose tombstones were let go, the newest
        self._path = path
        self._fd = -1
        self._size = 0
        self._compact_at = 0
        self._read()
        self._compact()

    def close(self) -> None:
        """Close the file; nothing is lost, whatever was synced."""
        os.close(self._fd)

    def starting(self, entries: Iterable[Entry]) -> None:
        """Record that these commands are about to start. It holds only once `sync` is done.

        Raises:
            OSError: nothing was recorded.
        """
        entries = list(entries)
        if self._size > self._compact_at:  # here alone, because no `sync` can be under way
            self._compact()
        self._append([_entry_line(entry) for entry in entries])
        self.entries.update((entry.id, entry) for entry in entries)

    def sync(self) -> None:
        """Wait until the disk holds it all. It blocks: call it in a thread, never `starting` then.

        Raises:
            OSError: it may not hold it.
        """
        os.fdatasync(self._fd)

    def ended(self, entry: Entry) -> None:
        """Record an end that the agent decided; on a full disk it holds until the agent ends."""
        self.entries[entry.id] = entry
        self._append_or_log([_entry_line(entry)])

    def forget(self, command_id: str) -> None:
        """Leave a tombstone: nobody needs this command any more, and it must never start."""
        self.entries.pop(command_id, None)
        self.tombstones[command_id] = now = int(time.time())
        lines = [_tombstone_line(command_id, now)]
        if len(self.tombstones) > TOMBSTONES_AT_MOST:
            surplus = max(1, TOMBSTONES_AT_MOST // 100)  # one line for many
            lines += self._let_go(list(islice(self.tombstones, surplus)))
        self._append_or_log(lines)

    def is_beyond_memory(self, command_id: str) -> bool:
        """True: there was a tombstone for an id as old as this, or for a newer one, which is gone.

        A hub that was restored from a backup may ask for what ran here long ago. Only for it that
        counts: the hub's clock, which ids tell, may have been set back since.
        """
        return command_id <= self._horizon

    def forget_all(self) -> None:
        """Leave a tombstone for every command."""
        for command_id in list(self.entries):
            self.forget(command_id)

    def _let_go(self, command_ids: list[str]) -> list[bytes]:
        """Drop tombstones; what the journal has to say of it."""
        for command_id in command_ids:
            del self.tombstones[command_id]
        newest = max(command_ids, default="")
        if newest <= self._horizon:
            return []
        self._horizon = newest
        return [_horizon_line(newest)]

    def _append_or_log(self, lines: list[bytes]) -> None:
        try:
            self._append(lines)
        except OSError as exc:
            log.warning("journal cannot be written", extra={"error": str(exc)})

    def _append(self, lines: list[bytes]) -> None:
        data = b"".join(lines)
        try:
            written = os.write(self._fd, data)
        except OSError:
            written = 0
        if written < len(data):
            os.ftruncate(self._fd, self._size)  # a torn line would spoil the one after it
            raise OSError(errno.ENOSPC, "the journal cannot be written")
        self._size += written

    def _read(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        damaged = 0
        for line in data.split(b"\n"):
            if not line:
                continue
            try:
                self._apply(_fields(line))
            except (ValueError, KeyError, TypeError):
                damaged += 1
        if damaged:
            log.warning("journal had damaged lines", extra={"lines": damaged})

    def _apply(self, fields: dict[str, Any]) -> None:
        command_id = str(fields.pop("id"))
        if "beyond" in fields:
            self._horizon = max(self._horizon, command_id)
            return
        if "gone" in fields:
            self.entries.pop(command_id, None)
            self.tombstones[command_id] = int(fields["gone"])
            return
        if (spec_hash := fields.get("spec_hash")) is not None:
            fields["spec_hash"] = bytes.fromhex(spec_hash)
        if fields.get("end", "lost") not in get_args(End):
            raise ValueError("no such end")
        self.entries[command_id] = Entry(command_id, **fields)

    def _compact(self) -> None:
        oldest = int(time.time()) - TOMBSTONE_S
        surplus = len(self.tombstones) - TOMBSTONES_AT_LEAST
        old = [key for key, at in self.tombstones.items() if at < oldest]
        self._let_go(old[: max(0, surplus)])
        lines = [_horizon_line(self._horizon)] if self._horizon else []
        lines += [_tombstone_line(key, at) for key, at in self.tombstones.items()]
        lines += [_entry_line(entry) for entry in self.entries.values()]
        data = b"".join(lines)
        fresh = self._path.with_suffix(".new")
        fd = open_private(str(fresh), os.O_WRONLY | os.O_TRUNC | os.O_APPEND)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            os.fsync(fd)
            fresh.rename(self._path)
            sync_directory(self._path.parent)
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size = fd, len(data)
        self._compact_at = max(COMPACT_ABOVE_BYTES, 2 * len(data))


def _entry_line(entry: Entry) -> bytes:
    fields: dict[str, str | None] = {
        "id": entry.id,
        "spec_hash": entry.spec_hash.hex() if entry.spec_hash else None,
        "boot_id": entry.boot_id,
        "end": entry.end,
        "reason": entry.reason,
        "message": entry.message,
        "serial_key": entry.serial_key,
    }
    return _line({key: value for key, value in fields.items() if value is not None})


def _tombstone_line(command_id: str, at_s: int) -> bytes:
    return _line({"id": command_id, "gone": at_s})


def _horizon_line(command_id: str) -> bytes:
    return _line({"id": command_id, "beyond": True})


def _line(fields: dict[str, Any]) -> bytes:
    body = json.dumps(fields, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _fields(line: bytes) -> dict[str, Any]:
    checksum, _, body = line.partition(b" ")
    if int(checksum, 16) != zlib.crc32(body):
        raise ValueError("damaged")
    fields = json.loads(body)
    if not isinstance(fields, dict):
        raise TypeError("not a record")
    return fields
