"""/schedules: commands that the hub starts by a rule."""

from functools import partial
from typing import Annotated, Any, ClassVar, Final

import trio
from msgspec import Meta, Struct

from cmdop_appliance.api.cmdop.commands import READ, output_of
from cmdop_appliance.api.cmdop.machines import Deleted
from cmdop_appliance.api.cmdop.schedule_records import (
    ScheduleBody,
    ScheduleChanges,
    ScheduleView,
    edited,
    given_of,
    new_schedule,
    rule_of,
    view_of,
)
from cmdop_appliance.api.exchange import LIMIT_MAX, Call, Listed, Paged, Window, read_paging
from cmdop_appliance.api.fields import AnyText, Time, since_ms, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Reach, Scope
from cmdop_appliance.clock import rfc3339
from cmdop_appliance.errors import (
    Conflict,
    Forbidden,
    IdempotencyConflict,
    MachineNotFound,
    ScheduleNotFound,
    SessionNotActive,
    ValidationFailed,
)
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import CommandStatus, RunStatus, Schedule
from cmdop_appliance.scheduler import editing, firing
from cmdop_appliance.scheduler.cron import Rule
from cmdop_appliance.store import runs
from cmdop_appliance.store import schedules as rows
from cmdop_appliance.store.idempotency import claim
from cmdop_appliance.store.listing import Page, Paging
from cmdop_appliance.store.runs import Past
from cmdop_appliance.store.transaction import Tx, reads

# Output in a line of a history, per stream: a page of 100 is some 3 MB at the most.
_OUTPUT_BYTES: Final = 16 * 1024

Instants = Annotated[int, Meta(ge=1, le=1000)]


class ScheduleList(Paged, frozen=True):
    """Filters of the list of schedules; a machine is included by name, or by all of their tags."""

    ORDER: ClassVar = rows.ORDER

    machine_id: str | None = None
    enabled: bool | None = None


class RunList(Window, frozen=True):
    """Which part of a history."""

    since: Time | None = None


class PreviewQuery(Struct, frozen=True):
    """How far to look ahead."""

    count: Instants = 5


class PreviewBody(Struct, kw_only=True):
    """A rule, and how far to look ahead."""

    cron: AnyText
    timezone: AnyText = "UTC"
    count: Instants = 5


class Started(Struct, frozen=True, kw_only=True):
    """What a run by hand has started, by machine; `command_id` is the first of them."""

    command_id: str
    status: CommandStatus
    commands: dict[str, str]


class RunView(Struct, frozen=True, kw_only=True):
    """What became of a schedule on one machine. Times RFC 3339, `duration` ms.

    `status` is that of its command; where none was made, `reason` and `message` say why. Of the
    output there is the head and the tail, and null for who may not read commands.
    """

    id: str
    schedule_id: str
    scheduled_at: Time | None  # null: it was asked for by hand
    first_scheduled_at: Time | None  # it stands for all instants from then to `scheduled_at`
    machine_id: str | None
    command_id: str | None
    status: CommandStatus | RunStatus
    reason: str | None
    message: str | None
    clock_was_ahead: bool  # of what the hub's clock was set to later
    started_at: Time | None
    finished_at: Time | None
    exit_code: int | None
    duration: int | None
    stdout: str | None
    stderr: str | None
    stdout_truncated: bool
    stderr_truncated: bool


class Instant(Struct, frozen=True, kw_only=True):
    """An instant at which a rule comes due."""

    utc: Time
    local: str  # ISO 8601, with the offset of the zone
    note: str | None  # what a change of the clocks does to it


class Preview(Struct, frozen=True, kw_only=True):
    """A rule in words, and when it comes due next."""

    description: str
    next_runs: list[Instant]


@route(
    "GET",
    "/schedules",
    scope=Scope.SCHEDULES_READ,
    query=ScheduleList,
    answer=list[ScheduleView],
)
async def list_schedules(call: Call[None, ScheduleList]) -> Listed:
    """The schedules of the workspace, newest first."""
    page = await call.hub.store.run(
        rows.page,
        call.caller.reach,
        read_paging(call.query),
        machine_id=call.query.machine_id,
        is_enabled=call.query.enabled,
    )
    return Listed([_view(call, schedule) for schedule in page.items], page)


@route(
    "POST",
    "/schedules",
    scope=Scope.SCHEDULES_WRITE,
    body=ScheduleBody,
    answer=ScheduleView,
    errors=(MachineNotFound, Forbidden, Conflict, IdempotencyConflict, ValidationFailed),
    status=201,
)
async def create_schedule(call: Call[ScheduleBody, None]) -> ScheduleView:
    """Make a schedule: from its next instant on, its command runs by itself."""
    now_ms = call.hub.clock.now_ms()
    new = editing.decided(new_schedule(new_id("sched"), call.caller, call.body, now_ms), now_ms)
    return _view(call, await call.hub.store.run(editing.make, call.caller, new, call.once))


@route(
    "GET",
    "/schedules/:id",
    scope=Scope.SCHEDULES_READ,
    answer=ScheduleView,
    errors=(ScheduleNotFound,),
)
async def get_schedule(call: Call[None, None]) -> ScheduleView:
    """One schedule."""
    return _view(call, await _find(call))


@route(
    "PATCH",
    "/schedules/:id",
    scope=Scope.SCHEDULES_WRITE,
    body=ScheduleChanges,
    answer=ScheduleView,
    errors=(ScheduleNotFound, MachineNotFound, Forbidden, ValidationFailed),
)
async def edit_schedule(call: Call[ScheduleChanges, None]) -> ScheduleView:
    """Change a schedule. With another rule, or once it is enabled, it begins anew from now."""
    given = given_of(call.body)
    rule_of(given.get("cron", "@daily"), given.get("timezone", "UTC"))
    schedule, ended = await call.hub.store.run(
        editing.change,
        call.caller,
        call.path["id"],
        partial(edited, caller=call.caller, body=call.body),
        sorted(given),
        call.hub.clock.now_ms(),
    )
    await call.hub.commands.entered(ended)
    return _view(call, schedule)


@route(
    "DELETE",
    "/schedules/:id",
    scope=Scope.SCHEDULES_WRITE,
    answer=Deleted,
    errors=(ScheduleNotFound, Forbidden),
)
async def delete_schedule(call: Call[None, None]) -> Deleted:
    """Delete a schedule and its history; what it has started runs on, what waits does not."""
    now_ms = call.hub.clock.now_ms()
    ended = await call.hub.store.run(editing.delete, call.caller, call.path["id"], now_ms)
    await call.hub.commands.entered(ended)
    return Deleted()


@route(
    "POST",
    "/schedules/:id/run",
    scope=Scope.SCHEDULES_WRITE,
    answer=Started,
    errors=(ScheduleNotFound, MachineNotFound, SessionNotActive, Forbidden, IdempotencyConflict),
)
async def run_schedule(call: Call[None, None]) -> Started:
    """Run it now, also one that is disabled: on each of its machines that is there."""
    made, commands = await call.hub.store.run(
        firing.run_now,
        call.hub.audit,
        call.caller,
        call.path["id"],
        call.once,
        call.hub.clock.now_ms(),
    )
    await call.hub.commands.entered(commands)
    by_machine = {
        run.machine_id: run.command_id for run in made if run.machine_id and run.command_id
    }
    return Started(
        command_id=next(iter(by_machine.values())), status="running", commands=by_machine
    )


@route(
    "GET",
    "/schedules/:id/history",
    scope=Scope.SCHEDULES_READ,
    query=RunList,
    answer=list[RunView],
    errors=(ScheduleNotFound,),
)
async def list_schedule_history(call: Call[None, RunList]) -> Listed:
    """What became of a schedule, newest first, and why where nothing ran; kept for 90 days."""
    page = await call.hub.store.run(
        _history,
        call.caller.reach,
        call.path["id"],
        Paging(min(call.query.limit, LIMIT_MAX), call.query.offset),
        since_ms(call.query.since),
    )
    return Listed([await _run_view(call, past) for past in page.items], page)


@route(
    "GET",
    "/schedules/:id/preview",
    scope=Scope.SCHEDULES_READ,
    query=PreviewQuery,
    answer=Preview,
    errors=(ScheduleNotFound, ValidationFailed),
)
async def preview_schedule(call: Call[None, PreviewQuery]) -> Preview:
    """When a schedule comes due next, also one that is disabled."""
    schedule = await _find(call)
    rule = rule_of(schedule.cron, schedule.timezone)
    return await _preview(rule, call.hub.clock.now_ms(), call.query.count)


@route(
    "POST",
    "/schedules/preview",
    scope=Scope.SCHEDULES_READ,
    body=PreviewBody,
    answer=Preview,
    errors=(IdempotencyConflict, ValidationFailed),
)
async def preview_rule(call: Call[PreviewBody, None]) -> Preview:
    """When a rule would come due; nothing is made of it."""
    rule, after_ms = rule_of(call.body.cron, call.body.timezone), call.hub.clock.now_ms()
    if call.once is not None:
        after_ms = (await call.hub.store.run(claim, call.once, "")).created_ms
    return await _preview(rule, after_ms, call.body.count)


@reads
def _history(
    tx: Tx, reach: Reach, schedule_id: str, paging: Paging, since_ms: int | None
) -> Page[Past]:
    schedule = rows.get(tx, reach, schedule_id)
    return runs.page(tx, reach, schedule.id, paging, since_ms=since_ms)


async def _preview(rule: Rule, after_ms: int, count: int) -> Preview:
    # In a thread: a thousand leap days take 0.2 s to find.
    firings = await trio.to_thread.run_sync(rule.preview, after_ms, count)
    instants = [
        Instant(utc=rfc3339(each.at_ms), local=each.local, note=each.note) for each in firings
    ]
    return Preview(description=rule.description, next_runs=instants)


async def _run_view(call: Call[None, RunList], past: Past) -> RunView:
    run, command = past.run, past.command
    shown: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), "" if command is None else None)
    shown |= dict.fromkeys(("stdout_truncated", "stderr_truncated"), False)
    if command is not None and any(call.caller.allows(scope) for scope in READ):
        output = await output_of(call.hub, command, _OUTPUT_BYTES)
        shown = {name: output[name] for name in shown}
    reason, message = run.reason, run.message
    if command is not None and command.finished_ms is not None:
        reason, message = command.error_code, command.error_message
        if command.started_ms is None:
            reason = reason or command.status
    return RunView(
        id=run.id,
        schedule_id=run.schedule_id,
        scheduled_at=when(run.scheduled_ms),
        first_scheduled_at=when(run.first_ms),
        machine_id=run.machine_id,
        command_id=run.command_id,
        status=run.status if command is None else command.status,
        reason=reason,
        message=message,
        clock_was_ahead=run.is_ahead,
        started_at=None if command is None else when(command.started_ms),
        finished_at=None if command is None else when(command.finished_ms),
        exit_code=None if command is None else command.exit_code,
        duration=None if command is None else command.duration_ms,
        **shown,
    )


async def _find(call: "Call[Any, Any]") -> Schedule:
    return await call.hub.store.run(rows.get, call.caller.reach, call.path["id"])


def _view(call: "Call[Any, Any]", schedule: Schedule) -> ScheduleView:
    return view_of(schedule, firing.paused(call.hub.clock.now_ms()))
