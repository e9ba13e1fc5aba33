"""A terminal from its keeper's side: what programs write to it, and what people type into it."""

import fcntl
import os
import struct
import termios
from collections import deque
from collections.abc import Iterator

from cmdop_appliance.agent.keeper.segments import Segments

PENDING_BYTES = 64 * 1024  # typed and not yet taken by the terminal, whose program does not read
PENDING_PARTS = 256  # of several writers in turn; those of one are joined
WRITERS = 64  # whose place is remembered; what they typed is taken once

_IUTF8 = 0o40000  # asm-generic/termbits.h: to erase a character is to erase all its bytes


class CommandFile:
    """Where a command's output goes that runs in a terminal."""

    __slots__ = ("_fd", "end", "stored_end")

    def __init__(self, fd: int) -> None:
        """Append to `fd`, which is this object's to close."""
        self._fd = fd
        self.end = self.stored_end = 0

    def append(self, data: memoryview) -> memoryview:
        """Add output. Returns what the disk did not take."""
        while data:
            try:
                written = os.write(self._fd, data)
            except OSError:
                break
            data = data[written:]
            self.end = self.stored_end = self.end + written
        return data

    def close(self) -> None:
        """Nothing more comes."""
        os.close(self._fd)


class _Part:
    """Of what one writer typed, the bytes up to `end`."""

    __slots__ = ("data", "end", "writer")

    def __init__(self, writer: str, end: int, data: bytes) -> None:
        self.writer = writer
        self.end = end
        self.data = bytearray(data)


class Pty:
    """One terminal. Neither reading nor typing waits for anything."""

    __slots__ = (
        "_left",
        "_owed",
        "_parts",
        "_taken",
        "id",
        "is_hung_up",
        "master",
        "output",
        "watched",
    )

    def __init__(self, command_id: str, master: int, output: Segments | CommandFile) -> None:
        """`master` and `output` are this object's to close."""
        self.id = command_id
        self.master = master
        self.output = output
        self.watched: int | None = None  # output behind this offset is to be told, once
        self.is_hung_up = False  # no program has it open, as of the last look
        self._left = b""  # read, and waiting for the disk
        self._parts: deque[_Part] = deque()  # typed, and waiting for the program to read
        self._taken: dict[str, int] = {}  # by writer, the last to type at the end
        self._owed: dict[str, None] = {}  # writers who are to be told once more where they are

    def read(self, buffer: memoryview) -> int:
        """Store what programs have written, at most a bufferful. Returns its bytes."""
        if self._left:
            self._left = bytes(self.output.append(memoryview(self._left)))
        count = 0
        self.is_hung_up = False
        while count < len(buffer) and not self._left:
            try:
                got = os.readv(self.master, [buffer[count:]])
            except BlockingIOError:
                break
            except OSError:  # EIO
                got = 0
            if not got:
                self.is_hung_up = True
                break
            count += got
        self._left += bytes(self.output.append(buffer[:count]))
        return count

    @property
    def is_stuck(self) -> bool:
        """True: the disk does not take what was read; nothing more is read until it does."""
        return bool(self._left)

    def put(self, data: bytes) -> None:
        """Type this before all else, whatever its size; nobody is told."""
        self._parts.append(_Part("", len(data), data))

    def type(self, writer: str, offset: int, data: bytes) -> None:
        """Note what is new of it, as far as there is room. `flush` types it, and tells how far."""
        taken = self._taken.pop(writer, 0)
        fresh = data[taken - offset :] if offset <= taken else b""
        room = PENDING_BYTES - self.pending_bytes
        if len(self._parts) >= PENDING_PARTS and self._parts[-1].writer != writer:
            room = 0
        fresh = fresh[: max(0, room)]
        self._taken[writer] = taken = taken + len(fresh)
        if fresh:
            self._note(writer, taken, fresh)
        if not fresh or taken != offset + len(data):
            self._owed[writer] = None
        if len(self._taken) > WRITERS:
            oldest = next(iter(self._taken))
            del self._taken[oldest]
            self._owed.pop(oldest, None)

    def _note(self, writer: str, end: int, fresh: bytes) -> None:
        if self._parts and (last := self._parts[-1]).writer == writer:
            last.data += fresh
            last.end = end
        else:
            self._parts.append(_Part(writer, end, fresh))

    def flush(self) -> Iterator[tuple[str, int]]:
        """Type what waits, as far as the terminal takes it. Yields who is typed up to where."""
        while self._parts:
            part = self._parts[0]
            try:
                written = os.write(self.master, part.data)
            except OSError:  # BlockingIOError: the program does not read
                return
            del part.data[:written]
            if not part.data:
                self._parts.popleft()
            if part.writer:
                yield part.writer, part.end - len(part.data)
        for writer in self._owed:
            yield writer, self._taken[writer]
        self._owed.clear()

    @property
    def pending_bytes(self) -> int:
        """What was typed and waits for the program to read."""
        return sum(len(part.data) for part in self._parts)

    def resize(self, cols: int, rows: int) -> None:
        """Give it this size; the program in front is sent SIGWINCH."""
        _set_size(self.master, cols, rows)

    def close(self) -> None:
        """Hang up. Whoever has it open is told by the system."""
        os.close(self.master)
        self.output.close()


def open_pty(cols: int, rows: int, *, echoes: bool) -> tuple[int, int, str]:
    """Master, slave and its path of a new terminal of this size. Raises OSError for none.

    `echoes`: it shows what is typed, until a program says otherwise.
    """
    master, slave = os.openpty()
    try:
        os.set_blocking(master, False)
        _set_size(master, cols, rows)
        attributes = termios.tcgetattr(slave)
        attributes[0] |= _IUTF8
        if not echoes:
            attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        path = os.ttyname(slave)
    except BaseException:
        os.close(master)
        os.close(slave)
        raise
    return master, slave, path


def end_of_file(stdin: bytes) -> bytes:
    """What is typed behind `stdin` so that a program reads its end, as a new terminal has it."""
    # In the middle of a line the first one only sends what was typed of it.
    return b"\x04" if not stdin or stdin.endswith(b"\n") else b"\x04\x04"


def _set_size(fd: int, cols: int, rows: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
