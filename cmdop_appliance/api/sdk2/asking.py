"""/api/admin/machines/:id/ask: a prompt is a command, and what it writes is the answer."""

from codecs import getincrementaldecoder
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final

import msgspec
import trio
from msgspec import Meta, Struct

from cmdop_appliance.api import streams
from cmdop_appliance.api.cmdop.commands import CommandBody, spec_of
from cmdop_appliance.api.exchange import Call, Response
from cmdop_appliance.api.fields import Key, Text
from cmdop_appliance.api.registry import SDK2, route
from cmdop_appliance.api.sdk2.messages import reply
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import (
    Forbidden,
    IdempotencyConflict,
    MachineNotFound,
    SessionNotActive,
    ValidationFailed,
)
from cmdop_appliance.hub.commands import Ask
from cmdop_appliance.model import Command
from cmdop_appliance.protocol.frames import STREAMS
from cmdop_appliance.store import sessions

# Kinds of events, as the client numbers them.
_TOKEN: Final = 1
_NOTICE: Final = 13
# The client gives up once 256 events wait for its reader. Small ones are sent no faster than this,
# so that he may be busy for a minute.
PACE_S: Final = 0.25


class AskBody(Struct, kw_only=True):
    """A prompt. Those of one `session` run one after the other.

    `pin`, `engine` and `model` choose nothing here: there is no model between prompt and shell.
    """

    prompt: Text
    session: Key | None = None
    working_dir: Text | None = None
    attachment_ids: Annotated[list[str], Meta(extra_json_schema={"maxItems": 0})] = []
    project_root_id: Annotated[str | None, Meta(extra_json_schema={"const": None})] = None


@route(
    "POST",
    "/admin/machines/:id/ask",
    scope=Scope.COMMANDS_EXECUTE,
    body=AskBody,
    answer=bytes,
    media=streams.MEDIA,
    errors=(Forbidden, IdempotencyConflict, MachineNotFound, ValidationFailed),
    plane=SDK2,
)
async def ask_machine(call: Call[AskBody, None]) -> Response:
    """Run the prompt and stream what it writes, then `done` with the whole reply.

    The command runs on when its reader goes away. A machine that is not there is told as an
    `error` of the stream, `machine_offline`: of another status the client shows no message.
    """
    body = call.body
    reasons = {
        name: "is not supported: a prompt is a command, and has no files"
        for name in ("attachment_ids", "project_root_id")
        if getattr(body, name)
    }
    if reasons:
        raise ValidationFailed("Validation failed", **reasons)
    run = CommandBody(command=body.prompt, cwd=body.working_dir, serial_key=body.session)
    spec = spec_of(run, call.caller)
    try:
        command = await call.hub.commands.start(
            call.caller, call.path["id"], body.prompt, spec, Ask(once=call.once)
        )
    except SessionNotActive as exc:
        status = exc.details["current_status"]
        frames = _failed("machine_offline", f"the machine is not connected ({status})")
        return Response(200, dict(streams.HEADERS), b"".join(frames))
    return Response(200, dict(streams.HEADERS), _frames(call, command))


async def _frames(call: Call[Any, Any], command: Command) -> AsyncGenerator[bytes, None]:
    decoders = {name: getincrementaldecoder("utf-8")("replace") for name in STREAMS}
    next_s = trio.current_time()
    async with aclosing(streams.follow(call, command, dict.fromkeys(STREAMS, 0))) as parts:
        async for part in parts:
            match part:
                case streams.Piece(stream, data):
                    if len(data) < streams.READ_BYTES:
                        await trio.sleep_until(next_s)
                    next_s = trio.current_time() + PACE_S
                    delta = decoders[stream].decode(data)
                    yield _event(_TOKEN, command, {"delta": delta, "stream": stream})
                case streams.Gap(stream, first, end):
                    note = f"\n[… {end - first} bytes not kept …]\n"
                    yield _event(_TOKEN, command, {"delta": note, "stream": stream})
                case Command(finished_ms=None):
                    if await _is_away(call, part):
                        break
                    yield _event(_NOTICE, command, {"command_id": command.id})  # comments it drops
                case Command():
                    for name in STREAMS:
                        if rest := decoders[name].decode(b"", final=True):
                            yield _event(_TOKEN, command, {"delta": rest, "stream": name})
                    yield _done(_why(part), await reply(call.hub, part))
                    return
    for frame in _failed("internal", f"{command.id} goes on unseen: its machine or this hub left"):
        yield frame


async def _is_away(call: Call[Any, Any], command: Command) -> bool:
    """True: its machine is gone for longer than a short break of the link."""
    run, reach = call.hub.store.run, call.caller.reach
    return await run(sessions.live_of, reach, command.machine_id) is None


def _why(command: Command) -> str | None:
    """Why a command did not complete, in words."""
    match command:
        case Command(status="completed"):
            return None
        case Command(status="failed", signal=str(signal)):
            return f"ended by {signal}"
        case Command(status="failed", exit_code=int(code)):
            return f"exit code {code}"
    return command.error_message or command.status


def _failed(code: str, message: str) -> list[bytes]:
    """A stream's end without a reply."""
    return [_frame({"type": "error", "code": code, "message": message}), _done(message, "")]


def _event(kind: int, command: Command, payload: dict[str, str]) -> bytes:
    frame = {"type": "event", "event_type": kind, "payload": payload}
    return _frame({**frame, "machine_id": command.machine_id})


def _done(error: str | None, text: str) -> bytes:
    frame = {"type": "done", "success": error is None, "text": text}
    return _frame(frame if error is None else {**frame, "error": error})


def _frame(frame: dict[str, object]) -> bytes:
    return b"data: " + msgspec.json.encode(frame) + b"\n\n"
