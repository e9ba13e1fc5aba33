"""Calls for files on one connection of a machine: what is asked, and the bytes that belong to it.

A call lives in an `async with`; leaving it early tells the machine to stop. What a machine sends is
bounded by the credit that it was given, and held to the call: which answers are answers to it, and
how much of a file the first of them announced.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import trio

from cmdop_appliance import errors
from cmdop_appliance.errors import (
    ApplianceError,
    FilesNotSupported,
    RemoteProtocolError,
    Unavailable,
)
from cmdop_appliance.hub import links
from cmdop_appliance.hub.bus import Bus
from cmdop_appliance.hub.connection import LinkClosed
from cmdop_appliance.hub.file_places import FilePlaces
from cmdop_appliance.hub.line import Line
from cmdop_appliance.protocol import files
from cmdop_appliance.protocol.answers import fits
from cmdop_appliance.protocol.files import AnyAnswer, AnyCall
from cmdop_appliance.protocol.frames import Data
from cmdop_appliance.protocol.limits import DATA_BYTES
from cmdop_appliance.protocol.messages import (
    FileAnswer,
    FileCall,
    FileCredit,
    FileEnd,
    FileFailed,
    FileStop,
    clean,
)
from cmdop_appliance.transfer import Incoming, Outgoing

# What a machine says of files.
FromMachine = FileAnswer | FileFailed | FileCredit | FileEnd | Data

# A machine that takes nothing of a file for so long is waited for no longer: as a client is that
# sends nothing of one (api/bulk.py).
_NO_ROOM_S: Final = 60.0
# What a machine may say of a failure; any other word is an unknown failure of it.
_FAILURES: Final[dict[str, type[ApplianceError]]] = {
    kind.code: kind
    for kind in (
        errors.FileNotFound,
        errors.InvalidPath,
        errors.InvalidRequest,
        errors.NotADirectory,
        errors.IsADirectory,
        errors.NotARegularFile,
        errors.ChecksumMismatch,
        errors.FilePermissionDenied,
        errors.PathNotAllowed,
        errors.FileChanged,
        errors.NoSpace,
        errors.FileIoError,
        errors.FileExists,
        errors.DirectoryNotEmpty,
        errors.ChangedDuringRead,
        errors.OffsetMismatch,
        errors.Unavailable,
    )
}


@dataclass(frozen=True, slots=True)
class FindLink:
    """Bus question: who carries calls for this machine's files?"""


def files_subject(machine_id: str) -> str:
    """Where connections of a machine are asked for their `FileLink`."""
    return f"files.{machine_id}"


async def find_link(bus: Bus, machine_id: str) -> "FileLink":
    """The way to the files of a machine that is connected now.

    Raises:
        SessionNotActive: it is not.
        FilesNotSupported: its agent is too old.
    """
    link = await links.find(bus, files_subject(machine_id), FindLink(), FileLink, machine_id)
    if not link.is_supported:
        raise FilesNotSupported(
            "the agent of this machine is of a release that carries no files",
            hint="install the hub's release there, and start the agent again",
            machine_id=machine_id,
        )
    return link


class FileLink:
    """What one connection carries of files."""

    def __init__(self, line: Line) -> None:
        self.is_supported = False  # by the agent, which says so when it is ready
        self._line = line
        self._open: dict[int, Transfer] = {}
        self._next_id = 0
        self._is_over = False

    @cached_property
    def _places(self) -> FilePlaces:  # 2 KB, which few connections ever need
        return FilePlaces()

    @asynccontextmanager
    async def open(self, call: AnyCall, key_id: str) -> AsyncIterator["Transfer"]:
        """Ask the machine, for an API key; waits while it has as many calls as it takes.

        Raises:
            Unavailable: the connection is over or stands still, or no place came free in time.
        """
        async with self._places.hold(call, key_id):
            if self._is_over:
                raise _lost()
            if self._line.is_crowded:
                raise Unavailable(
                    "the connection to the machine takes nothing now", hint="try again in a moment"
                )
            transfer = Transfer(self._next_id, call, self._line)
            self._next_id += 1
            self._open[transfer.id] = transfer
            try:
                with _as_unavailable():
                    self._line.post(FileCall(id=transfer.id, call=call))
                yield transfer
            finally:
                del self._open[transfer.id]
                if not transfer.is_over and not self._is_over:
                    with suppress(LinkClosed):
                        self._line.post(FileStop(id=transfer.id))

    def hear(self, message: FromMachine) -> None:
        """Take what the machine says; never waits.

        Raises:
            RemoteProtocolError: it was never asked that.
        """
        transfer = self._open.get(message.id)
        if transfer is not None:
            transfer.hear(message)
        elif message.id >= self._next_id:
            raise RemoteProtocolError(f"an answer to call {message.id}, which nobody made")

    def shut(self) -> None:
        """The connection is over, and with it all that was not answered."""
        self._is_over = True
        for transfer in self._open.values():
            if not transfer.is_over:
                transfer.fail(_lost())


class Transfer:
    """One call. What it raises is what the machine said, or `Unavailable`: its link was lost."""

    def __init__(self, number: int, call: AnyCall, line: Line) -> None:
        self.id = number
        self.is_over = False  # True: the machine has said its last
        self.sha256: bytes | None = None  # of a Read that has ended: of the file, if all was read
        self._line = line
        self._answers: list[AnyAnswer] = []  # heard and not taken: at most two
        self._asked: AnyCall | FileEnd | None = call  # what is to be answered now, if anything
        self._opened: files.Opened | None = None
        self._incoming: Incoming | None = None
        self._outgoing: Outgoing | None = None
        self._failure: ApplianceError | None = None
        self._news = trio.Event()

    async def answer(self) -> AnyAnswer:
        """The next answer."""
        while not self._answers:
            if self._failure is not None:
                raise self._failure
            self._news = trio.Event()
            await self._news.wait()
        return self._answers.pop(0)

    async def receive(self) -> bytearray:
        """Of a Read that was answered: the next bytes; empty: that was all."""
        assert self._incoming is not None
        data = await self._incoming.take()
        limit = self._incoming.grant()
        if limit is not None:
            with _as_unavailable():
                self._line.post(FileCredit(id=self.id, offset=limit))
        return data

    async def send(self, data: bytes | bytearray) -> None:
        """Of a Write that was answered: more bytes; waits until the machine has room."""
        outgoing = self._outgoing
        assert outgoing is not None
        rest = memoryview(data)
        while rest:
            room = await _room(outgoing)
            part, rest = rest[: min(room, DATA_BYTES)], rest[min(room, DATA_BYTES) :]
            with _as_unavailable():
                await self._line.post_data(Data(self.id, outgoing.offset, part))
            outgoing.offset += len(part)

    async def finish(self, sha256: bytes | None) -> AnyAnswer:
        """Of a Write: that was all; its last answer."""
        assert self._outgoing is not None
        self._asked = FileEnd(id=self.id, end=self._outgoing.offset, sha256=sha256)
        with _as_unavailable():
            await self._line.post_data(self._asked)
        return await self.answer()

    def hear(self, message: FromMachine) -> None:
        """Take what the machine says.

        Raises:
            RemoteProtocolError: it does not belong here.
        """
        if self.is_over:
            raise RemoteProtocolError(f"more of call {self.id}, which has ended")
        match message:
            case FileAnswer():
                self._hear_answer(message.answer)
            case FileFailed():
                self.is_over = True
                self.fail(_failure(message))
            case FileCredit() if self._outgoing is not None:
                self._outgoing.allow(message.offset)
            case Data() if self._incoming is not None and self._opened is not None:
                if message.offset + len(message.data) > self._opened.end:
                    raise RemoteProtocolError(f"call {self.id} was to end at {self._opened.end}")
                self._incoming.put(message)
            case FileEnd() if self._incoming is not None and self._opened is not None:
                if message.end != self._opened.end:
                    raise RemoteProtocolError(f"call {self.id} was to end at {self._opened.end}")
                self._incoming.finish(message.end)
                self.sha256 = message.sha256
                self.is_over = True
            case _:
                raise RemoteProtocolError(f"what does not belong to call {self.id}")

    def fail(self, failure: ApplianceError) -> None:
        """There will be no answer."""
        self._failure = failure
        self._news.set()
        for flow in (self._incoming, self._outgoing):
            if flow is not None:
                flow.fail(failure)

    def _hear_answer(self, answer: AnyAnswer) -> None:
        if self._asked is None or not fits(self._asked, answer):
            raise RemoteProtocolError(f"{type(answer).__name__} is no answer to call {self.id}")
        match answer:
            case files.Opened():
                self._opened = answer
                self._incoming = Incoming(answer.first)
            case files.Placed():
                self._outgoing = Outgoing(answer.offset)
            case _:
                self.is_over = True
        self._asked = None
        self._answers.append(answer)
        self._news.set()


async def _room(outgoing: Outgoing) -> int:
    with trio.move_on_after(_NO_ROOM_S):
        return await outgoing.wait_room()
    raise Unavailable(
        f"the machine has taken nothing of the file for {_NO_ROOM_S:g} s",
        hint="what it writes to may hang; send the file again when that is mended",
    )


@contextmanager
def _as_unavailable() -> Iterator[None]:
    """A link that is closed is unavailable to whoever asks."""
    try:
        yield
    except LinkClosed as exc:
        raise _lost() from exc


def _lost() -> Unavailable:
    return Unavailable(
        "the connection to the machine was lost; what was under way may be done, or not",
        hint="look at the file (…/files/stat), and ask again",
    )


def _failure(message: FileFailed) -> ApplianceError:
    kind = _FAILURES.get(message.code, errors.FileIoError)
    failure = kind(clean(message.message))
    if message.offset is not None:
        failure.details["offset"] = message.offset
    return failure
