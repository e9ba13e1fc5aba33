"""The tools of /mcp: what an AI model may ask for, each of them a route that is there anyway.

A tool asks its routes as any caller does, so that scope, reach, limits and the audit log hold. What
machines, commands and files say is given back as JSON strings, cut to what a model can read.
"""

import base64
from codecs import getincrementaldecoder
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict

from cmdop_appliance.api import exchange
from cmdop_appliance.api.cmdop import commands, files, machines, schedules
from cmdop_appliance.api.exchange import LIMIT_DEFAULT, LIMIT_MAX, Call
from cmdop_appliance.api.fields import Offset
from cmdop_appliance.api.registry import JSON, ROUTES, Handler, Route
from cmdop_appliance.errors import Unauthorized
from cmdop_appliance.model import CommandStatus
from cmdop_appliance.protocol.frames import STREAMS

Json = dict[str, Any]
Asked = Mapping[str, object]

# Of the request for a tool, what the requests for its routes have, too.
_HANDED_ON: Final = ("authorization", "idempotency-key")

# Of one stream of a command, or of a file, at once.
_BYTES_DEFAULT: Final = 16 * 1024
_BYTES_MAX: Final = 256 * 1024
_TEXT_CHARS: Final = 2000  # of one text in a list
# Clients and proxies give up on an answer after 60 s, many of them.
_WAIT_DEFAULT_S: Final = 30
_WAIT_MAX_S: Final = 300
_TIMEOUT_DEFAULT_S: Final = 600
_TIMEOUT_MAX_S: Final = 86_400

_SCHEDULE: Final = (
    *("id", "name", "description", "machine_id", "machine_ids", "tags", "command", "rule"),
    *("timezone", "enabled", "paused", "next_run", "last_run"),
)
_LISTED_COMMAND: Final = (
    *("id", "machine_id", "command", "status", "exit_code", "signal", "user_email"),
    *("created_at", "finished_at"),
)
_COMMAND: Final = (*_LISTED_COMMAND, "error", "duration", "stdout_bytes", "stderr_bytes")


class Refused(Exception):
    """A route refused what a tool asked; `error` is its word for it."""

    def __init__(self, error: Json) -> None:
        super().__init__(error["message"])
        self.error = error


class Arguments(Struct, forbid_unknown_fields=True):
    """What a tool is called with: a model learns of a name that it made up."""


_MachineId = Annotated[str, Meta(min_length=1, description="mach_…, as list_machines has it")]
_CommandId = Annotated[str, Meta(min_length=1, description="cmd_…")]
_Path = Annotated[str, Meta(min_length=1, description="an absolute path on the machine")]
_Offset = Annotated[Offset, Meta(description="skip so many")]
_Limit = Annotated[int, Meta(ge=1, le=LIMIT_MAX, description="at most so many")]
_Wait = Annotated[int, Meta(ge=0, le=_WAIT_MAX_S, description="seconds to wait for its end")]
_MaxBytes = Annotated[
    int, Meta(ge=1, le=_BYTES_MAX, description="the end of stdout and of stderr, so many bytes")
]


class Page(Arguments, kw_only=True):
    """Which part of a list."""

    limit: _Limit = LIMIT_DEFAULT
    offset: _Offset = 0


class OfMachine(Arguments, kw_only=True):
    """Which machine."""

    machine_id: _MachineId


class MachinePage(Page, kw_only=True):
    """Which machines."""

    status: machines.MachineStatus | None = None
    tags: Annotated[str, Meta(description="a,b: those that have both")] | None = None
    search: Annotated[str, Meta(description="a part of the name or host name")] | None = None


class CommandPage(Page, kw_only=True):
    """Which commands."""

    machine_id: _MachineId | None = None
    status: CommandStatus | None = None


class OutputAsked(Arguments, kw_only=True):
    """Of which command, and how much."""

    command_id: _CommandId
    wait: _Wait = 0
    max_bytes: _MaxBytes = _BYTES_DEFAULT


class Directory(Page, kw_only=True):
    """Which part of which directory."""

    machine_id: _MachineId
    path: _Path
    hidden: Annotated[bool, Meta(description="also names that begin with a dot")] = False


class FilePart(OfMachine, kw_only=True):
    """Which part of which file."""

    path: _Path
    offset: Annotated[Offset, Meta(description="the byte to begin at")] = 0
    max_bytes: Annotated[int, Meta(ge=1, le=_BYTES_MAX)] = _BYTES_DEFAULT


class Run(OfMachine, kw_only=True):
    """What to run, and how long."""

    command: Annotated[str, Meta(min_length=1, description="text for /bin/sh -c")]
    cwd: Annotated[str, Meta(description="working directory")] | None = None
    user: Annotated[str, Meta(description="run as this user of the machine")] | None = None
    timeout: Annotated[
        int, Meta(ge=1, le=_TIMEOUT_MAX_S, description="seconds after which it is ended")
    ] = _TIMEOUT_DEFAULT_S
    wait: _Wait = _WAIT_DEFAULT_S
    max_bytes: _MaxBytes = _BYTES_DEFAULT


class OfCommand(Arguments, kw_only=True):
    """Which command."""

    command_id: _CommandId


class Asking:
    """The routes, asked in the name of the caller of /mcp."""

    def __init__(self, call: Call[None, None]) -> None:
        self._call = call

    async def ask(self, handler: Handler, given: Asked | None = None, **path: str) -> Any:
        """What a route answers; `given` is its query, or its body.

        Raises:
            Refused: it was no answer.
            Unauthorized: the key has ended meanwhile.
        """
        return (await self._answer(handler, given, path))["data"]

    async def page(self, handler: Handler, given: Asked, **path: str) -> tuple[Any, Json]:
        """A page of a list, and its numbers. Raises: as `ask`."""
        answer = await self._answer(handler, given, path)
        return answer["data"], {n: answer["meta"][n] for n in ("total", "offset", "has_more")}

    async def command(self, command_id: str, most: int, wait_s: int) -> Json:
        """A command with `most` bytes of each output, once it has ended or after `wait_s`.

        Raises: as `ask`.
        """
        record = await self.ask(commands.get_command, id=command_id)
        if wait_s and record["finished_at"] is None:
            await self._call.hub.commands.wait_end(self._call.caller, command_id, wait_s)
            record = await self.ask(commands.get_command, id=command_id)
        shown = _picked(record, _COMMAND)
        for stream in STREAMS:
            raw = record[stream].encode()
            shown[stream] = raw[-most:].decode("utf-8", "ignore")
            shown[f"{stream}_truncated"] = record[f"{stream}_truncated"] or len(raw) > most
        return shown

    async def _answer(self, handler: Handler, given: Asked | None, path: dict[str, str]) -> Json:
        route, sent = route_of(handler), self._call.request
        headers = {name: sent.headers[name] for name in _HANDED_ON if name in sent.headers}
        headers |= {"x-request-id": sent.request_id, "content-type": JSON}
        said = {k: v for k, v in (given or {}).items() if v is not None}

        async def read_body() -> bytes:
            return msgspec.json.encode(said)

        request = exchange.Request(
            method=route.method,
            path=route.plane.prefixes[0] + route.path,
            query="" if route.body else urlencode({k: _word(v) for k, v in said.items()}),
            headers=headers,
            peer=sent.peer,
            read_body=read_body,
        )
        response = await exchange.respond(self._call.hub, route, path, request)
        assert isinstance(response.body, bytes)
        answer: Json = msgspec.json.decode(response.body)
        if response.status == Unauthorized.status:
            raise Unauthorized(answer["error"]["message"])
        if "error" in answer:
            raise Refused(answer["error"])
        return answer


_Ran = Callable[[Asking, Any], Awaitable[Json]]


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool: its name and words, what it takes, and the route by whose scopes it may be used."""

    name: str
    description: str
    takes: type[Arguments]
    route: Route
    run: _Ran
    changes: bool  # more than what is read


TOOLS: Final[dict[str, Tool]] = {}


def route_of(handler: Handler) -> Route:
    """The route that has this handler, the first of those that have."""
    return next(route for route in ROUTES if route.handler is handler)


def tool(
    handler: Handler, takes: type[Arguments], *, changes: bool = False
) -> Callable[[_Ran], _Ran]:
    """Enter a tool into the table, under its own name, with its docstring for the model.

    Who may call the route of `handler` may use it, and nobody else gets to see it.
    """

    def enter(run: _Ran) -> _Ran:
        name, words = run.__name__, " ".join((run.__doc__ or "").split())
        TOOLS[name] = Tool(name, words, takes, route_of(handler), run, changes)
        return run

    return enter


@tool(machines.list_machines, MachinePage)
async def list_machines(asking: Asking, given: MachinePage) -> Json:
    """The machines that this key reaches: id, name, whether it is online, system, tags."""
    items, numbers = await asking.page(machines.list_machines, asdict(given))
    return {"items": items, **numbers}


@tool(machines.get_machine, OfMachine)
async def get_machine(asking: Asking, given: OfMachine) -> Json:
    """One machine with the facts that it reports."""
    shown: Json = await asking.ask(machines.get_machine, id=given.machine_id)
    return shown


@tool(commands.list_commands, CommandPage)
async def list_commands(asking: Asking, given: CommandPage) -> Json:
    """Commands that ran, run or wait, newest first, without their output."""
    items, numbers = await asking.page(commands.list_commands, asdict(given))
    return {"items": [_picked(item, _LISTED_COMMAND) for item in items], **numbers}


@tool(commands.get_command, OutputAsked)
async def get_command_output(asking: Asking, given: OutputAsked) -> Json:
    """How a command went, and the end of what it wrote so far."""
    return await asking.command(given.command_id, given.max_bytes, given.wait)


@tool(files.list_files, Directory)
async def list_files(asking: Asking, given: Directory) -> Json:
    """The entries of a directory on a machine, by name."""
    query = asdict(given)
    found, numbers = await asking.page(files.list_files, query, id=query.pop("machine_id"))
    return {"path": found["path"], "items": found["files"], **numbers}


@tool(files.read_file, FilePart)
async def read_file(asking: Asking, given: FilePart) -> Json:
    """A part of a file on a machine; bytes that are no UTF-8 as base64. Go on at next_offset."""
    query = {"path": given.path, "offset": given.offset, "length": given.max_bytes}
    read = await asking.ask(files.read_file, query, id=given.machine_id)
    content, encoding = read["content"], read["encoding"]
    raw = content.encode() if encoding == "utf-8" else base64.b64decode(content)
    with suppress(UnicodeDecodeError):  # cut within a character, it is text all the same
        if text := getincrementaldecoder("utf-8")().decode(raw):
            content, encoding, raw = text, "utf-8", text.encode()
    end = given.offset + len(raw)
    return {
        "path": read["path"],
        "size": read["size"],
        "offset": given.offset,
        "content": content,
        "encoding": encoding,
        "next_offset": end if raw and end < read["size"] else None,
    }


@tool(schedules.list_schedules, Page)
async def list_schedules(asking: Asking, given: Page) -> Json:
    """Commands that the hub starts by a rule: where, when next, and how the last run went."""
    items, numbers = await asking.page(schedules.list_schedules, asdict(given))
    return {"items": [_picked(item, _SCHEDULE) for item in items], **numbers}


@tool(commands.run_command_async, Run, changes=True)
async def run_command(asking: Asking, given: Run) -> Json:
    """Run a shell command on a machine; tells its exit code and the end of its output.

    One that takes longer than `wait` is told as `running`, and runs on: get_command_output tells
    of it later, cancel_command ends it.
    """
    body = {name: getattr(given, name) for name in ("machine_id", "command", "cwd", "user")}
    body["timeout"] = given.timeout * 1000
    begun = await asking.ask(commands.run_command_async, body)
    return await asking.command(begun["id"], given.max_bytes, given.wait)


@tool(commands.cancel_command, OfCommand, changes=True)
async def cancel_command(asking: Asking, given: OfCommand) -> Json:
    """End a command that runs or waits, with all its processes."""
    shown: Json = await asking.ask(commands.cancel_command, id=given.command_id)
    return shown


def _word(value: object) -> str:
    """A value as a query has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _picked(record: Json, fields: tuple[str, ...]) -> Json:
    """Those fields of a record, long texts cut."""
    return {name: _cut(record[name]) for name in fields}


def _cut(value: Any) -> Any:
    is_long = isinstance(value, str) and len(value) > _TEXT_CHARS
    return f"{value[:_TEXT_CHARS]}…" if is_long else value
