"""The agent's way to its keeper: find the one that runs, or start one, and talk to it."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import trio

from cmdop_appliance.agent.keeper.environment import original_environment, process_environment
from cmdop_appliance.agent.keeper.files import make_private_folder, open_private, screen_folder
from cmdop_appliance.agent.keeper.link import MAX_LINE_BYTES
from cmdop_appliance.agent.keeper.main import ALREADY_KEPT, WIRE_VERSION
from cmdop_appliance.agent.keeper.records import Record, read_log, record_of
from cmdop_appliance.agent.keeper.segments import kept, read_segments
from cmdop_appliance.errors import LocalProtocolError, StartupError, TerminalsNotSupported
from cmdop_appliance.packed import own_program
from cmdop_appliance.protocol.terminals import Size
from cmdop_appliance.sockets import QuickStream

__all__ = [
    "Exited",
    "Keeper",
    "KeeperLost",
    "Record",
    "Refused",
    "Started",
    "Taken",
    "Written",
    "kept_screen",
    "open_keeper",
    "output_path",
    "read_log",
    "read_screen",
]

# A keeper from source is there in 60 ms, a packed one may unpack itself, maybe to a slow disk.
START_TIMEOUT_S: Final = 20.0
# The keeper reads at once or is stopped: a line is sent whole within this, or the link is cut.
SEND_TIMEOUT_S: Final = 10.0

_RETRY_S: Final = 0.01  # between two tries to connect
_READ_BYTES: Final = 64 * 1024
_ERROR_TAIL_BYTES: Final = 2000  # of keeper.err, in the message of a StartupError

# What the interpreter runs when the program is not packed; `sys.argv` is ['-c', 'keeper', state
# directory, folder of the package], so that `ps` names the keeper and whose it is.
_FROM_SOURCE: Final = (
    "import sys; sys.path.insert(0, sys.argv[3]);"
    " from cmdop_appliance.agent.keeper.main import main; sys.exit(main(sys.argv[2]))"
)


class KeeperLost(trio.BrokenResourceError):
    """The keeper has gone, or another agent has taken our place. Its commands may run on."""


class Started(msgspec.Struct, frozen=True, tag_field="event", tag="started"):
    """The command runs; `pid` leads its session and process group."""

    id: str
    pid: int
    start_ticks: int  # clock ticks after boot: with the pid, names the process for good
    slot: int  # of its output files, see `output_path`
    started_ms: int  # since 1970-01-01 UTC


class Refused(msgspec.Struct, frozen=True, tag_field="event", tag="refused"):
    """The command was not started: user_not_found, user_denied, cwd_missing or exec_failed."""

    id: str
    code: str
    message: str


class Exited(msgspec.Struct, frozen=True, tag_field="event", tag="exited"):
    """The command has ended; if it was made to, so have its descendants (keeper/ending.py)."""

    id: str
    exit_code: int | None  # of a command that exited by itself
    signal: str | None  # that ended its leader, such as "SIGTERM"
    end: Literal["exited", "timeout", "cancelled", "idle"]
    duration_ms: int
    stdout_bytes: int  # written when the leader ended; in a terminal: until it was closed
    stderr_bytes: int
    killed: str | None  # the strongest signal it took to end it; None: it ended by itself


class Written(msgspec.Struct, frozen=True, tag_field="event", tag="written"):
    """A terminal's output can be read up to `end`, which is what a `watch` waited for."""

    id: str
    end: int


class Taken(msgspec.Struct, frozen=True, tag_field="event", tag="taken"):
    """What `writer` typed is typed up to `offset`, whatever else was sent: go on there."""

    id: str
    writer: str
    offset: int


class _Hello(msgspec.Struct, frozen=True, tag_field="event", tag="hello"):
    version: int
    keeper_id: str
    boot_id: str
    pid: int
    features: tuple[str, ...] = ()  # a keeper of the first release names none


class _Ready(msgspec.Struct, frozen=True, tag_field="event", tag="ready"):
    pass


Event = Started | Refused | Exited | Written | Taken

_decode: Final = msgspec.json.Decoder(Event | _Hello | _Ready).decode
# Not msgspec's: a path that is no UTF-8 travels as surrogates, as in `os.fsencode`.
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


class Keeper(trio.abc.AsyncResource):
    """A connection to the keeper. Its methods raise `KeeperLost` once that has gone."""

    keeper_id: str  # another one: another process, which knows its predecessor's ends by its log
    boot_id: str
    pid: int
    has_pty: bool  # False: a keeper of an earlier release, which runs on until it has no command
    records: dict[str, Record]  # of every known command, as they were when we connected

    def __init__(self, stream: QuickStream) -> None:
        self._stream = stream
        self._sending = trio.Lock()
        self._received = bytearray()
        self._early: deque[Event] = deque()  # what happened while we were told of terminals
        self.records = {}

    async def start(
        self,
        *,
        id: str,  # noqa: A002 - its name in every event
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        operator: str | None = None,
        stdin: bytes | None = None,
        timeout_ms: int | None = None,
        pty: Size | None = None,
        is_terminal: bool = False,
        idle_ms: int | None = None,
    ) -> None:
        """Ask for a start; `Started` or `Refused` answers. A known id is answered by its `Record`.

        `env` comes on top of the original environment, and the `operator`, who asked, on top of
        both as CMDOP_OPERATOR. Without `cwd` it runs in the user's home, without `stdin` it reads
        nothing. `timeout_ms` counts from the start, agent or no agent.

        With `pty` it runs in a terminal of this size: what it writes there is its stdout, and
        `stdin` is typed, then the end of file. With `is_terminal`, too, people type, see `type`:
        there is no `stdin`, an empty `argv` is the login shell, its output is read with
        `read_screen`, and it is ended when nobody has typed for `idle_ms`.

        Raises:
            LocalProtocolError: it does not fit into one line of `MAX_LINE_BYTES`.
            TerminalsNotSupported: this keeper has no `pty`.
        """
        if pty is not None and not self.has_pty:
            raise TerminalsNotSupported(
                "the keeper of an earlier release runs here;"
                " it is replaced when its commands have ended"
            )
        asked_by = {} if operator is None else {"CMDOP_OPERATOR": operator}
        await self._send(
            {
                "do": "start",
                "id": id,
                "argv": argv,
                "env": {**(env or {}), **asked_by},
                "cwd": cwd,
                "user": user,
                "stdin": None if stdin is None else base64.b64encode(stdin).decode(),
                "timeout_ms": timeout_ms,
                "pty": None if pty is None else {"cols": pty.cols, "rows": pty.rows},
                "terminal": is_terminal,
                "idle_ms": idle_ms,
            }
        )

    async def cancel(self, command_id: str) -> None:
        """End a command and all its descendants; `Exited` follows. Nothing if it has ended."""
        await self._send({"do": "cancel", "id": command_id})

    async def forget(self, command_ids: Iterable[str]) -> None:
        """Drop the records and output files of commands that have ended, for good."""
        await self._send({"do": "forget", "ids": list(command_ids)})

    async def type(self, terminal_id: str, writer: str, offset: int, data: bytes) -> None:
        """Type what stands at `offset` of what `writer` types; a `Taken` answers.

        What was taken before is not typed again. What stands behind a gap is not typed at all, nor
        what comes while 64 KiB wait for a program that does not read.
        """
        await self._send(
            {
                "do": "input",
                "id": terminal_id,
                "writer": writer,
                "offset": offset,
                "data": base64.b64encode(data).decode(),
            }
        )

    async def resize(self, terminal_id: str, cols: int, rows: int) -> None:
        """Give a terminal this size. Nothing if it has ended."""
        await self._send({"do": "resize", "id": terminal_id, "cols": cols, "rows": rows})

    async def watch(self, terminal_id: str, offset: int) -> None:
        """Ask for one `Written` as soon as there is output behind `offset`.

        One `Written` answers all watches of a terminal, once the lowest offset is passed. Nothing
        if it has ended: `Exited` says where.
        """
        await self._send({"do": "watch", "id": terminal_id, "offset": offset})

    async def touch(self, terminal_id: str) -> None:
        """Somebody is there: count its idle time from now on."""
        await self._send({"do": "touch", "id": terminal_id})

    async def next_event(self) -> Event | Record:
        """Wait for the next event, which a cancellation does not lose. For one task at a time."""
        if self._early:
            return self._early.popleft()
        event = await self._next()
        assert not isinstance(event, _Hello | _Ready)
        return event

    async def greet(self) -> None:
        """Read what the keeper tells about itself and its commands. First of all, and once."""
        hello = await self._next()
        if not isinstance(hello, _Hello) or hello.version != WIRE_VERSION:
            raise StartupError(
                "the keeper of an older or newer version runs here",
                hint="it can be replaced when its commands have ended: stop it with SIGTERM then",
            )
        self.keeper_id, self.boot_id, self.pid = hello.keeper_id, hello.boot_id, hello.pid
        self.has_pty = "pty" in hello.features
        await self._learn()
        if self.has_pty:
            await self._send({"do": "terminals"})
            await self._learn()

    async def _learn(self) -> None:
        while not isinstance(event := await self._next(), _Ready):
            if isinstance(event, Record):
                self.records[event.id] = event
            else:
                assert not isinstance(event, _Hello)
                self._early.append(event)

    async def aclose(self) -> None:
        """Hang up. The keeper and its commands go on."""
        await self._stream.aclose()

    async def _send(self, request: dict[str, Any]) -> None:
        line = _encode(request).encode() + b"\n"
        if len(line) > MAX_LINE_BYTES:
            raise LocalProtocolError(
                f"a command with its environment and input is at most {MAX_LINE_BYTES} bytes,"
                f" this one has {len(line)}"
            )
        async with self._sending:
            # Half a line would spoil all that follows, so no cancellation from outside.
            with trio.move_on_after(SEND_TIMEOUT_S, shield=True) as scope:
                try:
                    await self._stream.send_all(line)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    raise KeeperLost("the keeper has gone") from error
            if scope.cancelled_caught:
                await trio.aclose_forcefully(self._stream)
                raise KeeperLost(f"the keeper has read nothing for {SEND_TIMEOUT_S:.0f} s")

    async def _next(self) -> Event | Record | _Hello | _Ready:
        while (end := self._received.find(b"\n")) < 0:
            try:
                data = await self._stream.receive_some(_READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise KeeperLost("the keeper has gone") from error
            if not data:
                raise KeeperLost("the keeper has gone")
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        if line.startswith(b'{"event":"record"'):
            record = msgspec.json.decode(line)
            return record_of(record, record["state"])
        event: Event | _Hello | _Ready = _decode(line)
        return event


@asynccontextmanager
async def open_keeper(state_dir: Path) -> AsyncIterator[Keeper]:
    """A connection to the keeper of `state_dir`, which is started when none runs.

    The keeper lives on when the context is left; an agent that connects later replaces this one.

    Raises:
        StartupError: it cannot be started, or does not answer within `START_TIMEOUT_S`.
    """
    keeper = None
    with trio.move_on_after(START_TIMEOUT_S):
        keeper = await _connect_or_launch(state_dir)
    if keeper is None:
        raise StartupError(
            f"the keeper of {state_dir} has not answered for {START_TIMEOUT_S:.0f} s",
            hint=f"see {_folder(state_dir) / 'keeper.err'}",
        )
    async with keeper:
        yield keeper


def output_path(state_dir: Path, slot: int, stream: Literal["stdout", "stderr"]) -> Path:
    """The file that a command's output goes to, as it comes."""
    return Path(f"{state_dir}/keeper/output/{slot}.{stream[3:]}")  # two for each command


def read_screen(state_dir: Path, slot: int, offset: int, most: int) -> tuple[int, bytes]:
    """At most `most` bytes of a terminal's output from `offset` on, and where they stand.

    That is later where earlier ones are not kept. At the present end, and once it is forgotten,
    there are none. Raises OSError when they cannot be read.
    """
    return read_segments(str(_folder(state_dir) / screen_folder(slot)), offset, most)


def kept_screen(state_dir: Path, slot: int) -> tuple[int, int]:
    """Where the output of a terminal that can be read begins and ends now."""
    return kept(str(_folder(state_dir) / screen_folder(slot)))


def _folder(state_dir: Path) -> Path:
    return state_dir / "keeper"


async def _connect_or_launch(state_dir: Path) -> Keeper:
    process = None
    while (keeper := await _connect(_folder(state_dir))) is None:
        if process is None:
            process = await trio.to_thread.run_sync(_launch, state_dir)
        elif process.poll() == ALREADY_KEPT:
            process = None  # that one is about to answer, or about to end
        elif process.returncode is not None:
            raise _cannot_start(state_dir, process.returncode)
        await trio.sleep(_RETRY_S)
    return keeper


async def _connect(folder: Path) -> Keeper | None:
    """The keeper that listens in this folder; None when none does."""
    try:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        connection = trio.socket.socket(trio.socket.AF_UNIX)
        try:
            # An address holds 108 bytes (unix(7)); a state directory may be deeper.
            await connection.connect(f"/proc/self/fd/{fd}/keeper.sock")
        except BaseException as error:
            connection.close()
            if isinstance(error, FileNotFoundError | ConnectionRefusedError):
                return None
            raise
    finally:
        os.close(fd)
    keeper = Keeper(QuickStream(trio.SocketStream(connection)))
    try:
        await keeper.greet()
    except BaseException as error:
        await trio.aclose_forcefully(keeper)
        if isinstance(error, KeeperLost):  # it was about to end
            return None
        raise
    return keeper


def _launch(state_dir: Path) -> subprocess.Popen[bytes]:
    state_dir = state_dir.absolute()
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = _folder(state_dir)
    make_private_folder(str(folder))
    if getattr(sys, "frozen", False):
        argv = [own_program(), "keeper", str(state_dir)]
    else:
        package = str(Path(__file__).resolve().parents[2])
        argv = [sys.executable, "-I", "-S", "-c", _FROM_SOURCE, "keeper", str(state_dir), package]
    errors = open_private(str(folder / "keeper.err"), os.O_WRONLY | os.O_APPEND)
    try:
        process = subprocess.Popen(
            argv,
            env=original_environment(process_environment()),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    finally:
        os.close(errors)
    # It may outlive us or end before us: wait for it aside, so that it never stays a zombie.
    threading.Thread(target=process.wait, name="keeper", daemon=True).start()
    return process


def _cannot_start(state_dir: Path, exit_code: int) -> StartupError:
    errors = _folder(state_dir) / "keeper.err"
    tail = errors.read_bytes()[-_ERROR_TAIL_BYTES:].decode(errors="replace").strip()
    return StartupError(
        f"the keeper of {state_dir} has exited with {exit_code}: {tail}", hint=f"see {errors}"
    )
