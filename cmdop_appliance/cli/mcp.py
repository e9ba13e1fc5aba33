"""`cmdop mcp`: the hub's MCP server on standard input and output, for a program that starts it."""

import json
import sys
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, BinaryIO, Final

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.connection import Hub, hub_options
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.sdk import CmdopError
from cmdop_appliance.sdk.transport import TIMEOUT_S, Transport

_LINE_BYTES: Final = 1024 * 1024  # as much as a hub takes in one request, unless it is told to
_AT_ONCE: Final = 8  # requests that one may wait for; more wait for these
# JSON-RPC 2.0, section 5.1.
_NOT_JSON: Final = -32700
_NOT_A_REQUEST: Final = -32600
_NO_ANSWER: Final = -32000
_ADD: Final = """\
an MCP client is to start this, and to write to its standard input:
  claude mcp add cmdop -- cmdop mcp
  codex mcp add cmdop -- cmdop mcp"""


@click.command()
@hub_options
def mcp(hub: Hub) -> None:
    """Let an AI client use the hub's machines, as far as the key allows (docs/mcp.md).

    One JSON-RPC message a line comes on standard input, each answer is a line on standard output.
    """
    if sys.stdin.isatty():
        print(_ADD, file=sys.stderr)
    try:
        transports = [
            Transport(hub.url, hub.key, timeout_s=TIMEOUT_S, certificate=hub.certificate)
            for _ in range(_AT_ONCE)
        ]
    except CmdopError as exc:
        raise Failure(str(exc), exit_code=failures.USAGE) from exc
    lines, writing = SimpleQueue[bytes | None](), Lock()
    workers = [
        Thread(target=_answer_all, args=(transport, lines, writing), daemon=True)
        for transport in transports
    ]
    for worker in workers:
        worker.start()
    for line in _lines(sys.stdin.buffer):
        lines.put(line)
    for _ in workers:
        lines.put(None)
    for worker in workers:
        worker.join()


def _lines(source: BinaryIO) -> Iterator[bytes]:
    """Its lines; of one that is too long no more than shows that it is."""
    while line := source.readline(_LINE_BYTES + 1):
        rest = line
        while len(rest) > _LINE_BYTES and not rest.endswith(b"\n"):
            rest = source.readline(_LINE_BYTES + 1)
        if line.strip():
            yield line


def _answer_all(transport: Transport, lines: SimpleQueue[bytes | None], writing: Lock) -> None:
    while (line := lines.get()) is not None:
        answer = _answer(transport, line)
        if answer is not None:
            try:
                with writing:
                    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
                    sys.stdout.buffer.flush()
            except OSError:  # whoever started this is gone
                return


def _answer(transport: Transport, line: bytes) -> dict[str, Any] | None:
    """What the hub says to a line; None: it is nothing to which anybody answers."""
    if len(line) > _LINE_BYTES:
        return _failed(_NOT_A_REQUEST, f"a message has more than {_LINE_BYTES} bytes")
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as exc:
        return _failed(_NOT_JSON, f"malformed JSON: {exc}")
    if not isinstance(message, dict):
        return _failed(_NOT_A_REQUEST, "send one object a line: batches are not supported")
    if "method" not in message or "id" not in message:
        return None
    if message["id"] is None:
        return _failed(_NOT_A_REQUEST, "the id of a request is a string or a whole number")
    try:
        return transport.long_request("POST", "/mcp", body=message)
    except CmdopError as exc:
        shown = failures.as_failure(exc)
        why = f"{shown.message} ({shown.hint})" if shown.hint else shown.message
        return _failed(_NO_ANSWER, why, message["id"])


def _failed(code: int, why: str, message_id: object = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": message_id, "error": {"code": code, "message": why}}
