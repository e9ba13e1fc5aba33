"""What the hub asks of this machine's files, each call in a task of its own.

The work blocks, so it is done in threads, of which calls have a number of their own: a disk that
hangs holds up files, never commands. A call ends with the connection that it came by; what an
upload has brought by then is kept (files/uploads.py).
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import trio

from cmdop_appliance.agent.files.failures import FileFailure, Stopped
from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.outbox import Outbox
from cmdop_appliance.errors import RemoteProtocolError
from cmdop_appliance.protocol.files import AnyAnswer, AnyCall, Read, Write, is_transfer
from cmdop_appliance.protocol.frames import Data
from cmdop_appliance.protocol.limits import DATA_BYTES, FILE_CALLS, QUICK_CALLS
from cmdop_appliance.protocol.messages import (
    FileAnswer,
    FileCall,
    FileCredit,
    FileEnd,
    FileFailed,
    FileStop,
)
from cmdop_appliance.transfer import Incoming, Outgoing

# What the hub says of files.
FromHub = FileCall | FileStop | FileCredit | FileEnd | Data

# One read of a file, in a thread: some 0.5 ms of work, so that the way there and back is little.
_READ_BYTES: Final = 4 * DATA_BYTES
# Calls that the hub waits for: more than it may have, because an answer and the next call cross.
_OPEN: Final = 2 * FILE_CALLS
# What nobody goes on with is looked for this often (semantics.md: at most one temporary, swept).
_SWEEP_S: Final = 3600.0

T = TypeVar("T")

log = logging.getLogger("cmdop.agent.transfers")


class Transfers:
    """Lives as long as the agent."""

    def __init__(self, files: Files, outbox: Outbox) -> None:
        self._files = files
        self._outbox = outbox
        self._open: dict[int, _Call] = {}  # those that the hub of this connection waits for
        self._new, self._to_do = trio.open_memory_channel[_Call](0)
        self._quick = trio.Semaphore(QUICK_CALLS)
        self._transfers = trio.Semaphore(FILE_CALLS - QUICK_CALLS)
        self._threads = trio.CapacityLimiter(FILE_CALLS)

    async def run(self) -> None:
        """Carry out calls until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            async for call in self._to_do:
                nursery.start_soon(self._carry_out, call)

    async def hear(self, message: FromHub) -> None:
        """Take what the hub says; waits for no disk.

        Raises:
            RemoteProtocolError: it does not belong here.
        """
        call = self._open.get(message.id)
        if isinstance(message, FileCall):
            await self._begin(message)
        elif isinstance(message, FileStop):
            if call is not None:
                del self._open[message.id]
                call.stop()
        elif call is not None:  # else it has ended meanwhile
            call.hear(message)

    def hold(self) -> None:
        """The connection has ended, and all calls with it."""
        for call in self._open.values():
            call.stop()
        self._open.clear()

    async def _begin(self, message: FileCall) -> None:
        if message.id in self._open:
            raise RemoteProtocolError(f"call {message.id} was made twice")
        if len(self._open) >= _OPEN:
            raise RemoteProtocolError(f"more than {_OPEN} calls for files")
        call = self._open[message.id] = _Call(message.id, message.call, self._outbox, self._threads)
        await self._new.send(call)

    async def _carry_out(self, call: "_Call") -> None:
        places = self._transfers if is_transfer(call.what) else self._quick
        with call.wait:
            await places.acquire()
        if call.wait.cancelled_caught:
            return
        try:
            await self._answer(call)
        finally:
            places.release()
            if self._open.get(call.id) is call:
                del self._open[call.id]

    async def _answer(self, call: "_Call") -> None:
        try:
            await call.run(self._files)
        except FileFailure as exc:
            await call.fail(exc)
        except Exception:  # the one owner of a call
            log.exception("a call for files failed")
            message = "the agent failed; its log on the machine has more"
            await call.fail(FileFailure("file_io_error", message))

    async def _sweep(self) -> None:
        while True:
            await trio.to_thread.run_sync(self._files.sweep, abandon_on_cancel=True)
            await trio.sleep(_SWEEP_S)


class _Call:
    """One call, and what of it is under way."""

    def __init__(
        self, number: int, what: AnyCall, outbox: Outbox, threads: trio.CapacityLimiter
    ) -> None:
        self.id = number
        self.what = what
        self.wait = trio.CancelScope()  # for a place
        self._outbox = outbox
        self._threads = threads
        self._is_stopped = False
        self._incoming: Incoming | None = None
        self._outgoing: Outgoing | None = None
        self._sha256: bytes | None = None  # that the hub gave at the end of a Write

    def hear(self, message: FileCredit | FileEnd | Data) -> None:
        match message:
            case FileCredit() if self._outgoing is not None:
                self._outgoing.allow(message.offset)
            case Data() if self._incoming is not None:
                self._incoming.put(message)
            case FileEnd() if self._incoming is not None:
                self._sha256 = message.sha256
                self._incoming.finish(message.end)
            case _:
                raise RemoteProtocolError(f"what does not belong to call {self.id}")

    def stop(self) -> None:
        self._is_stopped = True
        self.wait.cancel()
        for flow in (self._incoming, self._outgoing):
            if flow is not None:
                flow.fail(Stopped())

    async def run(self, files: Files) -> None:
        match self.what:
            case Read() as read:
                await self._read(files, read)
            case Write() as write:
                await self._write(files, write)
            case other:
                await self._say(
                    await self._in_thread(partial(files.carry_out, other, lambda: self._is_stopped))
                )

    async def fail(self, failure: FileFailure) -> None:
        """Tell that it came to nothing, behind all that was sent of it."""
        failed = FileFailed(
            id=self.id, code=failure.code, message=failure.message, offset=failure.offset
        )
        if self._is_stopped:
            return
        if self._outgoing is None:
            await self._outbox.say(failed)
        else:
            await self._outbox.send(failed)

    async def _say(self, answer: AnyAnswer) -> None:
        if not self._is_stopped:
            await self._outbox.say(FileAnswer(id=self.id, answer=answer))

    async def _read(self, files: Files, read: Read) -> None:
        reading = await self._in_thread(partial(files.open, read))
        try:
            at, end = reading.opened.first, reading.opened.end
            self._outgoing = outgoing = Outgoing(at)
            await self._say(reading.opened)
            while True:
                room = await outgoing.wait_room() if at < end else 1
                most = min(room, _READ_BYTES)
                data = memoryview(await self._in_thread(partial(reading.read, most)))
                if not data:
                    break
                at += len(data)
                outgoing.offset = at
                for start in range(0, len(data), DATA_BYTES):
                    part = data[start : start + DATA_BYTES]
                    await self._send(Data(self.id, at - len(data) + start, part))
            await self._send(FileEnd(id=self.id, end=at, sha256=reading.sha256))
        finally:
            await self._in_thread(reading.close, always=True)

    async def _write(self, files: Files, write: Write) -> None:
        writing = await self._in_thread(partial(files.place, write, lambda: self._is_stopped))
        try:
            self._incoming = incoming = Incoming(write.offset)
            if self._is_stopped:  # while the file was placed, and nothing else would tell
                raise Stopped
            await self._say(writing.placed)
            while data := await incoming.take():
                if (limit := incoming.grant()) is not None:
                    await self._outbox.say(FileCredit(id=self.id, offset=limit))
                await self._in_thread(partial(writing.write, data))
            finish = partial(writing.finish, incoming.end, self._sha256)
            await self._say(await self._in_thread(finish))
        finally:
            await self._in_thread(writing.close, always=True)

    async def _send(self, item: Data | FileEnd) -> None:
        if self._is_stopped:
            raise Stopped
        await self._outbox.send(item)

    async def _in_thread(self, work: Callable[[], T], *, always: bool = False) -> T:
        """`work` in a thread; not when the call was stopped, unless `always`.

        Only the end of the agent cancels it: a thread that a dead disk holds must not hold that.
        """
        if self._is_stopped and not always:
            raise Stopped
        return await trio.to_thread.run_sync(work, limiter=self._threads, abandon_on_cancel=True)
