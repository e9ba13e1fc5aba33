"""/commands: run, follow, cancel."""

import functools
import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Struct

from cmdop_appliance.api import streams
from cmdop_appliance.api.exchange import Call, Listed, Paged, Response, read_paging
from cmdop_appliance.api.fields import (
    AnyText,
    CommandStatuses,
    Duration,
    EnvName,
    Key,
    Offset,
    Text,
    Time,
    since_ms,
    when,
)
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Caller, Scope
from cmdop_appliance.errors import (
    CommandNotFound,
    CommandNotRunning,
    IdempotencyConflict,
    MachineNotFound,
    OutputForgotten,
    RangeNotSatisfiable,
    SessionNotActive,
    Unavailable,
    ValidationFailed,
)
from cmdop_appliance.hub.commands import Ask
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.hub.live_stream import Held, nothing_of
from cmdop_appliance.model import COMMAND_STATUSES, Command, CommandStatus
from cmdop_appliance.protocol.frames import STREAMS, StreamName
from cmdop_appliance.protocol.limits import ARGUMENT_BYTES, SPEC_BYTES, STDIN_BYTES
from cmdop_appliance.protocol.messages import Spec
from cmdop_appliance.protocol.terminals import Size
from cmdop_appliance.store import commands as rows

DEFAULT_SHELL: Final = "/bin/sh -c"
# Output inside JSON, per stream; all of it is at /output (contract.md §4).
_JSON_BYTES: Final = 1024 * 1024
# `async` answers once the machine has begun, or after this long without a word from it.
_BEGIN_S: Final = 1.0

_log = logging.getLogger("cmdop.api")


class CommandBody(Struct, kw_only=True):
    """What to run. `timeout` is in ms; the rest is as a shell on the machine would take it."""

    command: Text
    cwd: Text | None = None
    env: dict[EnvName, AnyText] = {}
    timeout: Duration | None = None
    user: Text | None = None
    stdin: str | None = None
    shell: Text = DEFAULT_SHELL
    queue: bool = False  # wait for a machine that is away, for `queue_timeout` ms at the most
    queue_timeout: Duration | None = None
    supersede_key: Key | None = None  # take the place of unsent commands with the same key
    serial_key: Key | None = None  # run after those before it with the same key
    pty: bool = False  # in a terminal of 80 × 24, to which both streams go: all of it is stdout


class SingleBody(CommandBody, kw_only=True):
    """`CommandBody` for one machine."""

    machine_id: Text


class CommandList(Paged, frozen=True):
    """Filters of a list of commands."""

    ORDER: ClassVar = rows.ORDER

    machine_id: str | None = None
    session_id: str | None = None
    batch_id: str | None = None
    status: CommandStatuses | None = None  # a,b: either
    since: Time | None = None


class OutputQuery(Struct, frozen=True):
    """Which bytes of which stream."""

    stream: StreamName = "stdout"
    offset: Offset = 0


class CommandError(Struct, frozen=True):
    """Why a command could not start, or what nobody can prove of its end."""

    code: str
    message: str


class CommandView(Struct, frozen=True, kw_only=True):
    """The public record of a command. Times RFC 3339, `duration` and `timeout` ms."""

    id: str
    machine_id: str
    session_id: str | None  # null: it was never sent
    batch_id: str | None
    schedule_id: str | None  # the schedule that started it
    command: str
    status: CommandStatus
    exit_code: int | None
    signal: str | None
    error: CommandError | None
    duration: int | None
    timeout: int | None
    cwd: str | None
    user: str | None
    user_email: str
    queue: bool
    supersede_key: str | None
    serial_key: str | None
    cancel_requested: bool
    late: bool  # it was lost because its machine was silent, which has returned
    unknown_to_hub: bool  # only its machine knows what was asked: this hub was restored
    stale_since: Time | None  # its machine was last heard of then, and is not connected
    created_at: Time
    started_at: Time | None
    finished_at: Time | None


class CommandWithOutput(CommandView, frozen=True, kw_only=True):
    """A command and its output so far: at most 1 MiB of each stream, its head and its tail.

    Bytes and, once it has ended, sha256 (hexadecimal) are of all that the command wrote.
    """

    stdout: str
    stderr: str
    stdout_bytes: int
    stderr_bytes: int
    stdout_sha256: str | None
    stderr_sha256: str | None
    stdout_truncated: bool
    stderr_truncated: bool
    stdout_lossy: bool
    stderr_lossy: bool
    output_forgotten: bool  # it is kept no longer


class Begun(Struct, frozen=True):
    """A command that was sent to its machine."""

    id: str
    status: CommandStatus


class Cancelled(Struct, frozen=True):
    """The cancel is recorded; the process tree ends within 10 s."""

    cancelled: bool = True


# Whoever may run a command may see how it went.
READ: Final = (Scope.SESSIONS_READ, Scope.COMMANDS_EXECUTE)
_START_ERRORS: Final = (
    MachineNotFound,
    SessionNotActive,
    IdempotencyConflict,
    ValidationFailed,
)


@route(
    "POST",
    "/commands",
    scope=Scope.COMMANDS_EXECUTE,
    body=SingleBody,
    answer=CommandWithOutput,
    errors=_START_ERRORS,
)
async def run_command(call: Call[SingleBody, None]) -> CommandWithOutput:
    """Run a command and wait for its end. A timeout is an answer, not an error."""
    timeout_ms = call.hub.config.commands.sync_timeout_ms
    spec = spec_of(call.body, call.caller, default_timeout_ms=timeout_ms)
    ask = ask_of(call)
    command = await call.hub.commands.run(
        call.caller, call.body.machine_id, call.body.command, spec, ask
    )
    return await with_output(call.hub, command)


@route(
    "POST",
    "/commands/async",
    scope=Scope.COMMANDS_EXECUTE,
    body=SingleBody,
    answer=Begun,
    errors=_START_ERRORS,
)
async def run_command_async(call: Call[SingleBody, None]) -> Begun:
    """Start a command; follow it at /commands/:id or /commands/:id/stream."""
    command = await call.hub.commands.start(
        call.caller,
        call.body.machine_id,
        call.body.command,
        spec_of(call.body, call.caller),
        ask_of(call),
    )
    command = await call.hub.commands.wait_started(command, _BEGIN_S)
    return Begun(command.id, "pending" if command.status == "pending" else "running")


@route("GET", "/commands", scope=READ, query=CommandList, answer=list[CommandView])
async def list_commands(call: Call[None, CommandList]) -> Listed:
    """The commands of the workspace, newest first."""
    page = await call.hub.store.run(
        rows.page,
        call.caller.reach,
        read_paging(call.query),
        machine_id=call.query.machine_id,
        session_id=call.query.session_id,
        batch_id=call.query.batch_id,
        statuses=_read_statuses(call.query.status),
        since_ms=since_ms(call.query.since),
    )
    return Listed([CommandView(**_fields(command)) for command in page.items], page)


@route(
    "GET",
    "/commands/:id",
    scope=READ,
    answer=CommandWithOutput,
    errors=(CommandNotFound,),
)
async def get_command(call: Call[None, None]) -> CommandWithOutput:
    """One command with its output so far."""
    return await with_output(call.hub, await _find(call))


@route(
    "DELETE",
    "/commands/:id",
    scope=Scope.COMMANDS_EXECUTE,
    answer=Cancelled,
    errors=(CommandNotFound, CommandNotRunning),
)
async def cancel_command(call: Call[None, None]) -> Cancelled:
    """End a command: SIGTERM to its process group, SIGKILL to every descendant after 10 s.

    One that was not sent yet never will be; one whose machine is away ends when that returns.
    """
    await call.hub.commands.cancel(call.caller, call.path["id"])
    return Cancelled()


@route(
    "GET",
    "/commands/:id/output",
    scope=READ,
    query=OutputQuery,
    answer=bytes,
    media="application/octet-stream",
    errors=(CommandNotFound, OutputForgotten, RangeNotSatisfiable),
)
async def get_command_output(call: Call[None, OutputQuery]) -> Response:
    """All bytes of one stream, as far as they are here; `Range` is honoured.

    Of a stream longer than the hub keeps, a line stands for the middle: `X-Cmdop-Truncated` has
    its first and last byte, and there is no `Content-Length`.
    """
    command, stream = await _find(call), call.query.stream
    held = (await call.hub.outputs.held(command.id))[stream]
    if held.is_forgotten:
        raise OutputForgotten(
            f"the {held.size} bytes of this output are kept no longer",
            hint="`[retention] output_ms` and `[disk] machine_bytes` say how long",
            command_id=command.id,
        )
    asked = call.request.headers.get("range", "")
    part = streams.read_range(asked, call.query.offset, held)
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f'attachment; filename="{command.id}.{stream}"',
        "Accept-Ranges": "bytes",
    }
    has_gap = part.first < held.gap_end and held.gap < part.end
    if has_gap:
        headers["X-Cmdop-Truncated"] = f"{max(part.first, held.gap)}-{held.gap_end - 1}"
    else:
        headers["Content-Length"] = str(part.end - part.first)
    if part.partial:
        headers["Content-Range"] = f"bytes {part.first}-{part.end - 1}/{held.size}"
    body = streams.output_bytes(call.hub, command.id, stream, part, mark_gap=has_gap)
    return Response(206 if part.partial else 200, headers, body)


@route(
    "GET",
    "/commands/:id/stream",
    scope=READ,
    answer=bytes,
    media=streams.MEDIA,
    event_id=streams.EVENT_ID,
    errors=(CommandNotFound,),
)
async def stream_command(call: Call[None, None]) -> Response:
    """Server-sent events: output as it comes, then `end` with the record.

    Events `stdout` and `stderr` carry `{"data": base64}`; `id` is the two byte offsets after the
    event, and `Last-Event-ID` goes on from there without gap or repeat. `gap` with `{"stream",
    "from", "to"}` stands for bytes that the hub did not keep.
    """
    command = await _find(call)
    seen = streams.read_event_id(call.request.headers.get("last-event-id"))
    describe = functools.partial(with_output, call.hub)
    events = streams.command_events(call, command, seen, describe)
    return Response(200, dict(streams.HEADERS), events)


def _read_statuses(text: str | None) -> tuple[CommandStatus, ...] | None:
    if text is None:
        return None
    named = text.split(",")
    return tuple(status for status in COMMAND_STATUSES if status in named)


def _fields(command: Command) -> dict[str, Any]:
    error = None
    if command.error_code is not None:
        error = CommandError(command.error_code, command.error_message or "")
    return {
        "id": command.id,
        "machine_id": command.machine_id,
        "session_id": command.session_id,
        "batch_id": command.batch_id,
        "schedule_id": command.schedule_id,
        "command": command.command,
        "status": command.status,
        "exit_code": command.exit_code,
        "signal": command.signal,
        "error": error,
        "duration": command.duration_ms,
        "timeout": command.spec.timeout_ms,
        "cwd": command.spec.cwd,
        "user": command.spec.user,
        "user_email": command.operator,
        "queue": command.is_queued,
        "supersede_key": command.supersede_key,
        "serial_key": command.spec.serial_key,
        "cancel_requested": command.cancel_requested_ms is not None,
        "late": command.is_late,
        "unknown_to_hub": command.is_unknown_to_hub,
        "stale_since": when(command.stale_ms),
        "created_at": when(command.created_ms),
        "started_at": when(command.started_ms),
        "finished_at": when(command.finished_ms),
    }


async def with_output(hub: Hub, command: Command) -> CommandWithOutput:
    """The public record of a command, with its output so far, as far as it can be read now."""
    shown = await output_of(hub, command, _JSON_BYTES)
    for stream in STREAMS:
        digest: bytes | None = getattr(command, f"{stream}_sha256")
        shown[f"{stream}_sha256"] = None if digest is None else digest.hex()
    return CommandWithOutput(**_fields(command), **shown)


async def output_of(hub: Hub, command: Command, most: int) -> dict[str, Any]:
    """Of each stream so far at most `most` bytes as text, its length, and what became of it."""
    held: dict[StreamName, Held] = {
        "stdout": nothing_of(command.stdout_bytes or 0),
        "stderr": nothing_of(command.stderr_bytes or 0),
    }
    shown: dict[str, Any] = {"output_forgotten": False}
    with _what_can_be_read(command):
        held = await hub.outputs.held(command.id)
        shown["output_forgotten"] = any(stream.is_forgotten for stream in held.values())
    for stream in STREAMS:
        size, raw = held[stream].size, b""
        with _what_can_be_read(command):
            raw = await _excerpt(hub, command.id, stream, size, most)
        text = raw.decode("utf-8", "replace")
        shown[stream] = text
        shown[f"{stream}_bytes"] = size
        shown[f"{stream}_truncated"] = size > len(raw)
        shown[f"{stream}_lossy"] = "\ufffd" in text and raw != text.encode()
    return shown


@contextmanager
def _what_can_be_read(command: Command) -> Iterator[None]:
    """Go on without what cannot be: what is recorded must not look as if it were not."""
    try:
        yield
    except (OSError, Unavailable):
        _log.exception("output cannot be read", extra={"command_id": command.id})


async def _excerpt(hub: Hub, command_id: str, stream: StreamName, size: int, most: int) -> bytes:
    if not size:
        return b""
    if size <= most:
        return await hub.outputs.read(command_id, stream, 0, size)
    half = most // 2
    head = await hub.outputs.read(command_id, stream, 0, half)
    return head + await hub.outputs.read(command_id, stream, size - half, half)


_split: Final = functools.lru_cache(maxsize=64)(shlex.split)  # nearly always the default


def spec_of(body: CommandBody, caller: Caller, default_timeout_ms: int | None = None) -> Spec:
    """The spec of a body.

    Raises:
        ValidationFailed: a part of it is more than a machine takes.
    """
    try:
        shell = _split(body.shell)
    except ValueError as exc:
        raise ValidationFailed("Validation failed", shell=str(exc).lower()) from None
    stdin = None if body.stdin is None else body.stdin.encode()
    spec = Spec(
        argv=[*shell, body.command],
        cwd=body.cwd,
        env=body.env,
        user=body.user,
        stdin=stdin,
        timeout_ms=body.timeout or default_timeout_ms,
        operator=caller.email,
        serial_key=body.serial_key,
        pty=Size() if body.pty else None,
    )
    reasons = {}
    if body.queue_timeout is not None and not body.queue:
        reasons["queue_timeout"] = "needs `queue`: true"
    if len(body.command.encode()) > ARGUMENT_BYTES:
        reasons["command"] = f"is longer than {ARGUMENT_BYTES} bytes; pass the rest as stdin"
    if stdin is not None and len(stdin) > STDIN_BYTES:
        reasons["stdin"] = f"is longer than {STDIN_BYTES} bytes; upload a file instead"
    if not reasons and len(msgspec.json.encode(spec)) > SPEC_BYTES:
        reasons["body"] = f"command, env and stdin are more than {SPEC_BYTES} bytes as JSON"
    if reasons:
        raise ValidationFailed("Validation failed", **reasons)
    return spec


def ask_of(call: "Call[Any, Any]") -> Ask:
    """How the body wants its command carried out."""
    body: CommandBody = call.body
    queue_ms = None
    if body.queue:
        queue_ms = body.queue_timeout or call.hub.config.commands.queue_timeout_ms
    return Ask(
        queue_ms=queue_ms,
        supersede_key=body.supersede_key,
        once=call.once,
    )


async def _find(call: "Call[Any, Any]") -> Command:
    return await call.hub.store.run(rows.get, call.caller.reach, call.path["id"])
