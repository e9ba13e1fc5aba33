"""/api/admin/machines/:id/messages: a machine's commands, told as a conversation.

There is no second store: a command is the message of its caller, and once it has ended, its
output is the answer of its machine.
"""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from cmdop_appliance.api.cmdop.commands import READ
from cmdop_appliance.api.exchange import Call
from cmdop_appliance.api.fields import Key
from cmdop_appliance.api.registry import SDK2, route
from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import MachineNotFound
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.ids import order_of
from cmdop_appliance.model import Command
from cmdop_appliance.protocol.frames import STREAMS, StreamName
from cmdop_appliance.store import commands as rows
from cmdop_appliance.store import machines
from cmdop_appliance.store.transaction import Tx, reads

# The client takes up to 4 MiB of JSON in one event; a byte of output becomes 6 there at the most.
REPLY_BYTES: Final = 512 * 1024
# It takes 16 MiB for a whole list, in which a byte becomes 3 at the most.
_LIST_BYTES: Final = 4 * 1024 * 1024
_LIMIT_MAX: Final = 500  # the client asks for no more


class MessageList(Struct, frozen=True):
    """Which messages: the newest `limit`; of `session` only what was asked in it."""

    limit: Annotated[int, Meta(ge=1, le=_LIMIT_MAX)] = 100
    session: Key | None = None


class Message(Struct, frozen=True, kw_only=True):
    """What was asked, or answered. `seq` grows with the time of the command, but for ties."""

    id: str
    seq: int
    author_kind: Literal["user", "machine"]
    author_id: str
    role: Literal["user", "assistant"]
    content: str
    created_at: int  # ms since 1970 UTC


@route(
    "GET",
    "/admin/machines/:id/messages",
    scope=READ,
    query=MessageList,
    answer=list[Message],
    errors=(MachineNotFound,),
    plane=SDK2,
)
async def list_messages(call: Call[None, MessageList]) -> list[Message]:
    """The newest messages, oldest first. A long one is its head and its tail."""
    limit = call.query.limit
    commands = await call.hub.store.run(
        _newest, call.caller.reach, call.path["id"], limit, call.query.session
    )
    most = min(REPLY_BYTES, _LIST_BYTES // limit)
    messages: list[Message] = []
    for command in commands:
        if command.finished_ms is not None:
            messages.append(
                _answer(command, command.finished_ms, await reply(call.hub, command, most))
            )
        if len(messages) < limit:
            messages.append(_question(command, most))
        if len(messages) >= limit:
            break
    return messages[::-1]


@reads
def _newest(tx: Tx, reach: Reach, machine_id: str, most: int, session: str | None) -> list[Command]:
    machines.get(tx, reach, machine_id)
    return rows.newest_of(tx, reach, machine_id, most, serial_key=session)


def _question(command: Command, most: int) -> Message:
    text = command.command.encode()
    return Message(
        id=command.id,
        seq=order_of(command.id) * 2,
        author_kind="user",
        author_id=command.operator,
        role="user",
        content=_shortened(text[:most], text[-most:], len(text), most),
        created_at=command.created_ms,
    )


def _answer(command: Command, finished_ms: int, content: str) -> Message:
    return Message(
        id=f"{command.id}-reply",
        seq=order_of(command.id) * 2 + 1,
        author_kind="machine",
        author_id=command.machine_id,
        role="assistant",
        content=content,
        created_at=finished_ms,
    )


async def reply(hub: Hub, command: Command, most: int = REPLY_BYTES) -> str:
    """What a command wrote, stdout first, in `most` bytes and a line for what is left out.

    If it wrote nothing, why it could not.
    """
    sizes = await hub.outputs.sizes(command.id)
    texts = [await _text(hub, command.id, name, sizes[name], most // 2) for name in STREAMS]
    return "".join(texts) or command.error_message or ""


async def _text(hub: Hub, command_id: str, stream: StreamName, size: int, most: int) -> str:
    if size <= most:
        return (await hub.outputs.read(command_id, stream, 0, size)).decode("utf-8", "replace")
    half = most // 2
    head = await hub.outputs.read(command_id, stream, 0, half)
    tail = await hub.outputs.read(command_id, stream, size - half, half)
    return _shortened(head, tail, size, most)


def _shortened(head: bytes, tail: bytes, size: int, most: int) -> str:
    """`most` bytes of text from its two ends, if it is longer."""
    if size <= most:
        return head.decode("utf-8", "replace")
    half = most // 2
    first, last = (part.decode("utf-8", "replace") for part in (head[:half], tail[-half:]))
    return f"{first}\n[… {size - 2 * half} bytes left out …]\n{last}"
