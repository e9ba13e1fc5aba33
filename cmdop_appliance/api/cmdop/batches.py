"""/commands/batch: one command on many machines, side by side or in waves."""

import math
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from cmdop_appliance.api.cmdop.commands import (
    READ,
    CommandBody,
    CommandWithOutput,
    ask_of,
    spec_of,
    with_output,
)
from cmdop_appliance.api.exchange import Call
from cmdop_appliance.api.fields import AtLeastOne, Count, Share, Text
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import (
    BatchNotFound,
    Conflict,
    IdempotencyConflict,
    ValidationFailed,
)
from cmdop_appliance.model import Batch, Command, Refusal

# Machines in one batch (contract.md §4).
_BATCH_MACHINES: Final = 1000


class BatchBody(CommandBody, kw_only=True):
    """`CommandBody` for many machines; duplicates collapse.

    Numbers of machines may be shares, such as "25%", rounded up.
    """

    machine_ids: Annotated[list[Text], Meta(min_length=1, max_length=_BATCH_MACHINES)]
    concurrency: AtLeastOne | Share | None = None  # commands under way at a time; null: all
    canary: bool | Count = False  # so many must complete before the rest starts; true: one
    max_errors: Count | Share | None = None  # more, and the rest is skipped; null: none is


class BatchQuery(Struct, frozen=True):
    """Whether to wait for the ends, or to answer with what was recorded."""

    wait: bool = True


class Failure(Struct, frozen=True):
    """Why nothing was recorded for one machine of a batch."""

    error: Refusal


BatchAnswer = dict[str, CommandWithOutput | Failure]  # by machine id


@route(
    "POST",
    "/commands/batch",
    scope=Scope.COMMANDS_EXECUTE,
    body=BatchBody,
    query=BatchQuery,
    answer=BatchAnswer,
    errors=(IdempotencyConflict, ValidationFailed),
)
async def run_command_batch(call: Call[BatchBody, BatchQuery]) -> BatchAnswer:
    """Run a command on many machines, side by side or in waves, and wait for all.

    Without `wait` a command ends by no timeout but its own, as one of POST /commands/async.
    """
    body = call.body
    patience_ms = call.hub.config.commands.sync_timeout_ms if call.query.wait else None
    machine_ids = list(dict.fromkeys(body.machine_ids))
    total = len(machine_ids)
    batch, commands = await call.hub.batches.start(
        call.caller,
        machine_ids,
        body.command,
        spec_of(body, call.caller, patience_ms),
        ask_of(call),
        concurrency=total if body.concurrency is None else _share_of(total, body.concurrency),
        canary=int(body.canary),
        max_errors=None if body.max_errors is None else _share_of(total, body.max_errors),
    )
    return await _batch_answer(call, batch, commands, wait=call.query.wait)


@route(
    "GET",
    "/commands/batch/:id",
    scope=READ,
    answer=BatchAnswer,
    errors=(BatchNotFound,),
)
async def get_command_batch(call: Call[None, None]) -> BatchAnswer:
    """A batch as it stands; its id is the `batch_id` of its commands."""
    batch, commands = await call.hub.batches.find(call.caller, call.path["id"])
    return await _batch_answer(call, batch, commands, wait=False)


@route(
    "POST",
    "/commands/batch/:id/resume",
    scope=Scope.COMMANDS_EXECUTE,
    query=BatchQuery,
    answer=BatchAnswer,
    errors=(BatchNotFound, Conflict, IdempotencyConflict),
)
async def resume_command_batch(call: Call[None, BatchQuery]) -> BatchAnswer:
    """Run what a batch skipped when errors stopped it, as a new batch in the same waves."""
    batch, commands = await call.hub.batches.resume(call.caller, call.path["id"], call.once)
    return await _batch_answer(call, batch, commands, wait=call.query.wait)


async def _batch_answer(
    call: "Call[Any, Any]", batch: Batch, commands: list[Command], *, wait: bool
) -> BatchAnswer:
    if wait:
        commands = await call.hub.batches.wait_ends(call.caller, batch)
    answer: BatchAnswer = {
        machine_id: Failure(refusal) for machine_id, refusal in batch.refused.items()
    }
    for command in commands:
        answer[command.machine_id] = await with_output(call.hub, command)
    return answer


def _share_of(total: int, number: int | str) -> int:
    """A number of machines, or what a share such as "25%" of them is, rounded up."""
    if isinstance(number, int):
        return number
    return math.ceil(total * int(number.removesuffix("%")) / 100)
