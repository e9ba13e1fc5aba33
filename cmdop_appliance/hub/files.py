"""The files of machines, for callers: who may ask, what is recorded of it, what comes of it.

Before a machine is asked for anything, one transaction looks whether its caller reaches it and may
do this there, and records what was asked. If nothing comes of that, this is recorded, too.
"""

import base64
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
import trio

from cmdop_appliance.auth import Caller, Reach
from cmdop_appliance.clock import Clock
from cmdop_appliance.errors import (
    ApplianceError,
    FileTooLarge,
    IdempotencyConflict,
    StorageFull,
    Unavailable,
)
from cmdop_appliance.hub.audit import Audit
from cmdop_appliance.hub.bus import Bus
from cmdop_appliance.hub.transfers import Transfer, find_link
from cmdop_appliance.model import Action
from cmdop_appliance.protocol.files import (
    Answer,
    AnyCall,
    Call,
    Copy,
    Delete,
    Exist,
    Existing,
    Mkdir,
    Move,
    Opened,
    Read,
    Stat,
    Write,
    Written,
)
from cmdop_appliance.protocol.limits import MESSAGE_BYTES, PATHS_ITEMS
from cmdop_appliance.store import audit, clients, commands, events, idempotency, machines
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.idempotency import Once
from cmdop_appliance.store.transaction import Tx, brief, reads, to_json

A = TypeVar("A", bound=Answer)

# Contents that are held whole, in an answer or a body (contract.md §5).
CONTENT_BYTES: Final = 10 * 1024 * 1024
# More is read a few at a time: each becomes up to six times its size as JSON.
_SMALL_BYTES: Final = 64 * 1024
_LARGE_READS: Final = 4
# So long one may hold its turn: 10 MiB at 1.4 Mbit/s. A machine that hangs is not to hold them all.
_LARGE_READ_S: Final = 60.0
# Paths in one question: base64 makes them a third longer.
_QUESTION_BYTES: Final = MESSAGE_BYTES // 2

# How the audit log calls what is asked, if it tells the content of a file or changes something.
_ACTIONS: Final[dict[type[Call], Action]] = {
    Read: "file.read",
    Write: "file.write",
    Delete: "file.delete",
    Move: "file.move",
    Copy: "file.copy",
    Mkdir: "file.mkdir",
}


@dataclass(frozen=True, slots=True)
class Content:
    """A file, or a part of it, held whole."""

    path: bytes
    size: int  # of the file
    data: bytes
    sha256: bytes | None  # of the file; None: `data` is a part


class Files:
    """Asks machines for what callers want of their files.

    Beside what a machine says of a failure, everything here raises MachineNotFound,
    SessionNotActive, FilesNotSupported, Forbidden (an observer wants to change something), and
    Unavailable when the link is lost in between: then it may have been done, or not.
    """

    def __init__(self, store: Store, bus: Bus, audit: Audit, clock: Clock) -> None:
        self._store = store
        self._bus = bus
        self._audit = audit
        self._clock = clock
        self._large_reads = trio.CapacityLimiter(_LARGE_READS)

    async def ask(
        self,
        caller: Caller,
        machine_id: str,
        call: AnyCall,
        kind: type[A],
        *,
        once: Once | None = None,
    ) -> A:
        """The machine's one answer, of `kind`, to a call that moves no bytes.

        What was carried out under the same `once` before is not asked for again: the first answer
        is the answer. If this hub died between the effect and its record, the request is asked
        anew, and the machine finds it done: it says `file_exists` or `file_not_found`, or makes
        again what it may overwrite.

        Raises:
            IdempotencyConflict: nothing was asked; the key came with another request before.
        """
        entry = self._entry(caller, machine_id, call)
        first = await self._enter(caller, machine_id, entry, once)
        if first is not None:
            return msgspec.json.decode(first, type=kind)
        async with self._transfer(caller, machine_id, call, entry) as transfer:
            answer = await transfer.answer()
        assert isinstance(answer, kind)  # the link has checked it
        if once is not None:
            # Two at once with one key are both done, and so is what the hub has no room to note.
            with suppress(IdempotencyConflict, StorageFull, Unavailable):
                await self._store.run(idempotency.claim, once, to_json(answer))
        return answer

    @asynccontextmanager
    async def open(
        self, caller: Caller, machine_id: str, call: Read | Write
    ) -> AsyncIterator[Transfer]:
        """A call that moves bytes; its first answer is still to be taken."""
        entry = self._entry(caller, machine_id, call)
        await self._enter(caller, machine_id, entry)
        async with self._transfer(caller, machine_id, call, entry) as transfer:
            yield transfer

    async def read(self, caller: Caller, machine_id: str, call: Read) -> Content:
        """What a Read gives. Of what is large, a few at a time are read in the whole hub.

        Raises:
            FileTooLarge: it is more than `CONTENT_BYTES`.
        """
        length = CONTENT_BYTES if call.length is None else call.length
        little = msgspec.structs.replace(call, length=min(length, _SMALL_BYTES))
        entry = self._entry(caller, machine_id, call)
        await self._enter(caller, machine_id, entry)
        async with self._transfer(caller, machine_id, little, entry) as transfer:
            opened = await transfer.answer()
            assert isinstance(opened, Opened)
            rest = opened.size - opened.first
            wanted = rest if call.length is None else min(rest, call.length)
            _require_content(opened.path, wanted)
            if wanted <= opened.end - opened.first:
                return await _content(opened, transfer)
        async with (
            self._large_reads,
            self._transfer(caller, machine_id, call, entry) as transfer,
        ):
            try:
                with trio.fail_after(_LARGE_READ_S):
                    opened = await transfer.answer()
                    assert isinstance(opened, Opened)
                    return await _content(opened, transfer)
            except trio.TooSlowError:
                raise Unavailable(
                    f"the machine did not send this file within {_LARGE_READ_S:.0f} s",
                    hint="GET …/files/download takes as long as it needs",
                ) from None

    async def write(self, caller: Caller, machine_id: str, call: Write, data: bytes) -> Written:
        """Put a file in place whose bytes are all here, and tell of it."""
        async with self.open(caller, machine_id, call) as transfer:
            await transfer.answer()
            await transfer.send(data)
            written = await transfer.finish(hashlib.sha256(data).digest())
        assert isinstance(written, Written)
        await self.uploaded(caller, machine_id, written)
        return written

    async def require_session(self, caller: Caller, machine_id: str) -> None:
        """Pass if the machine can be asked now, whatever for."""
        await self._store.run(_look, caller.reach, machine_id)

    async def first_upload(self, caller: Caller, machine_id: str, once: Once) -> Written | None:
        """What came of a Write under the same `once` before, if there was one.

        Raises:
            IdempotencyConflict: the key came with another request before.
        """
        first = await self._store.run(_first, caller.reach, machine_id, once)
        return None if first is None else msgspec.json.decode(first, type=Written)

    async def uploaded(
        self, caller: Caller, machine_id: str, written: Written, once: Once | None = None
    ) -> None:
        """Record the event of a file that is in place, and that its `once` is used up.

        Raises:
            StorageFull, Unavailable: this could not be recorded; the file is in place all the same.
        """
        now_ms = self._clock.now_ms()
        try:
            await self._store.run(_tell_uploaded, caller, machine_id, written, once, now_ms)
        except (StorageFull, Unavailable) as exc:
            raise type(exc)(
                f"{shown(written.path)[0]} is in place, whole; only its event file.uploaded is"
                f" missing: {exc.message}",
                hint=exc.hint,
            ) from exc

    async def exist(self, caller: Caller, machine_id: str, paths: Sequence[bytes]) -> list[bool]:
        """Which of these exist on the machine, in their order."""
        found: list[bool] = []
        for part in _questions(paths):
            answer = await self.ask(caller, machine_id, Exist(paths=part), Existing)
            found += answer.exist
        return found

    def _entry(self, caller: Caller, machine_id: str, call: AnyCall) -> Entry | None:
        """What the audit log says of a call; None: it only looks around."""
        action = _ACTIONS.get(type(call))
        if isinstance(call, Stat) and call.checksum:
            action = "file.read"
        if action is None:
            return None
        return Entry.by(caller, self._clock.now_ms(), action, machine_id, **_asked(call))

    async def _enter(
        self, caller: Caller, machine_id: str, entry: Entry | None, once: Once | None = None
    ) -> str | None:
        """Record what is asked, if it may be; or what came of it before.

        Raises:
            MachineNotFound, SessionNotActive, Forbidden, IdempotencyConflict: nothing was recorded.
        """
        if entry is None:
            await self._store.run(_look, caller.reach, machine_id)
            return None
        return await self._store.run(_record, caller, entry, once)

    @asynccontextmanager
    async def _transfer(
        self, caller: Caller, machine_id: str, call: AnyCall, entry: Entry | None
    ) -> AsyncIterator[Transfer]:
        """The call to the machine; if it fails, that follows the `entry` in the audit log."""
        try:
            link = await find_link(self._bus, machine_id)
            async with link.open(call, caller.key_id) as transfer:
                yield transfer
        except ApplianceError as exc:
            if entry is not None:
                details = {**entry.details, "asked": entry.action, "why": exc.code}
                now_ms = self._clock.now_ms()
                refusal = Entry.by(caller, now_ms, "file.refused", machine_id, **details)
                await self._audit.record_refusal(caller.key_id, refusal.refused())
            raise


def _asked(call: AnyCall) -> dict[str, object]:
    """What a call asks for, by the names of the API, without what is so by default."""
    asked: dict[str, object] = {}
    for field in msgspec.structs.fields(call):
        value = getattr(call, field.name)
        if value == field.default:
            continue
        match field.name:
            case "path" | "source" | "destination":
                asked[field.name], encoded = shown(value)
                if encoded is not None:
                    asked[f"{field.name}_base64"] = encoded
            case "upload":
                asked["upload_id"] = value
            case "mode":
                asked["mode"] = f"{value:04o}"
            case "if_match":
                asked["if_match"] = value.hex()
            case "if_version":  # any text of the caller's, and it changes only which part is sent
                pass
            case name:
                asked[name] = value
    return asked


def shown(path: bytes) -> tuple[str, str | None]:
    """A name or path as text, and as base64 if the text is not the whole truth."""
    try:
        return path.decode(), None
    except UnicodeDecodeError:
        return path.decode(errors="replace"), base64.b64encode(path).decode()


@brief
@reads
def _look(tx: Tx, reach: Reach, machine_id: str) -> None:
    commands.live_session(tx, reach, machine_id)


@brief
def _record(tx: Tx, caller: Caller, entry: Entry, once: Once | None) -> str | None:
    machine_id = entry.target
    if once is not None and (first := _first(tx, caller.reach, machine_id, once)) is not None:
        return first
    commands.live_session(tx, caller.reach, machine_id)
    if entry.action != "file.read":
        clients.require_operator(tx, caller.key_id, machine_id)
    audit.append(tx, entry)
    return None


@brief
@reads
def _first(tx: Tx, reach: Reach, machine_id: str, once: Once) -> str | None:
    """What came of the same request before; not for who reaches the machine no longer."""
    machines.get(tx, reach, machine_id)
    claim = idempotency.find(tx, once)
    return None if claim is None else claim.made_id


@brief
def _tell_uploaded(
    tx: Tx, caller: Caller, machine_id: str, written: Written, once: Once | None, now_ms: int
) -> None:
    path, path_base64 = shown(written.path)
    events.append(
        tx,
        caller.workspace_id,
        "file.uploaded",
        subject=machine_id,
        machine_id=machine_id,
        data={
            "machine_id": machine_id,
            "path": path,
            "path_base64": path_base64,
            "size": written.size,
            "sha256": written.sha256.hex(),
            "created": written.created,
            "user_email": caller.email,
        },
        now_ms=now_ms,
    )
    if once is not None:
        with suppress(IdempotencyConflict):  # another request with this key came at once
            idempotency.claim(tx, once, to_json(written))


def _require_content(path: bytes, size: int) -> None:
    if size > CONTENT_BYTES:
        raise FileTooLarge(
            f"{shown(path)[0]} has {size} bytes to answer with; {CONTENT_BYTES} fit",
            hint="use GET …/files/download, or ask for a part with `offset` and `length`",
        )


async def _content(opened: Opened, transfer: Transfer) -> Content:
    _require_content(opened.path, opened.end - opened.first)  # and the link takes no more
    data = bytearray()
    while piece := await transfer.receive():
        data += piece
    return Content(opened.path, opened.size, bytes(data), transfer.sha256)


def _questions(paths: Sequence[bytes]) -> Iterator[list[bytes]]:
    """The paths, in parts that fit one message; of none, one that has none."""
    part: list[bytes] = []
    size = 0
    for path in paths:
        if part and (size + len(path) > _QUESTION_BYTES or len(part) >= PATHS_ITEMS):
            yield part
            part, size = [], 0
        part.append(path)
        size += len(path)
    yield part
