"""Schedules as they are read and shown: bodies, records, and one into the other."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from cmdop_appliance.api.cmdop.api_keys import handed_on
from cmdop_appliance.api.cmdop.commands import CommandBody, spec_of
from cmdop_appliance.api.fields import (
    AnyText,
    Description,
    Duration,
    EnvName,
    Tags,
    Text,
    Time,
    Title,
    changes_of,
    when,
)
from cmdop_appliance.auth import Caller
from cmdop_appliance.errors import ValidationFailed
from cmdop_appliance.model import Misfire, Notify, Overlap, Schedule
from cmdop_appliance.protocol.messages import Spec
from cmdop_appliance.scheduler.cron import CronError, Rule

_DAY_MS: Final = 86_400_000
_MACHINES: Final = 1000  # as in a batch (contract.md §4)
_TARGETS: Final = ("machine_id", "machine_ids", "tags")
# What a schedule can be without: null takes it off. Of all else, null says nothing.
_TAKEN_OFF: Final = ("timeout", "cwd", "user")
# What a body calls a field of the record, where that is all there is to it.
_FIELDS: Final = {
    "name": "name",
    "description": "description",
    "command": "command",
    "cron": "cron",
    "timezone": "timezone",
    "enabled": "is_enabled",
    "overlap": "overlap",
    "misfire": "misfire",
    "misfire_window": "misfire_window_ms",
}

MachineIds = Annotated[list[Text], Meta(min_length=1, max_length=_MACHINES)]
Group = Annotated[Tags, Meta(min_length=1)]
MisfireWindow = Annotated[int, Meta(ge=1000, le=30 * _DAY_MS)]


class NotifyBody(Struct, frozen=True, kw_only=True):
    """Which ends to tell by an event; what is left out stays as it is, at first false."""

    on_success: bool | UnsetType = UNSET
    on_failure: bool | UnsetType = UNSET


class ScheduleBody(Struct, kw_only=True):
    """A rule and what it runs: on one machine, on those named, or on all that carry all `tags`.

    Exactly one of the three says where. Durations in ms.
    """

    name: Title
    description: Description = ""
    machine_id: Text | UnsetType | None = UNSET
    machine_ids: MachineIds | UnsetType | None = UNSET
    tags: Group | UnsetType | None = UNSET
    command: Text
    cron: AnyText
    timezone: AnyText = "UTC"
    enabled: bool = True
    timeout: Duration | None = None
    cwd: Text | None = None
    env: dict[EnvName, AnyText] = {}
    user: Text | None = None
    overlap: Overlap = "skip"
    misfire: Misfire = "run_once"
    misfire_window: MisfireWindow = _DAY_MS
    notify: NotifyBody = NotifyBody()


class ScheduleChanges(Struct, kw_only=True):
    """What to change; what is left out, or null, stays as it is.

    But null takes off a `timeout`, `cwd` or `user`. One of `machine_id`, `machine_ids` and `tags`
    takes the place of whichever said where before.
    """

    name: Title | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    machine_id: Text | UnsetType | None = UNSET
    machine_ids: MachineIds | UnsetType | None = UNSET
    tags: Group | UnsetType | None = UNSET
    command: Text | UnsetType = UNSET
    cron: AnyText | UnsetType = UNSET
    timezone: AnyText | UnsetType | None = UNSET
    enabled: bool | UnsetType | None = UNSET
    timeout: Duration | UnsetType | None = UNSET
    cwd: Text | UnsetType | None = UNSET
    env: dict[EnvName, AnyText] | UnsetType | None = UNSET
    user: Text | UnsetType | None = UNSET
    overlap: Overlap | UnsetType | None = UNSET
    misfire: Misfire | UnsetType | None = UNSET
    misfire_window: MisfireWindow | UnsetType | None = UNSET
    notify: NotifyBody | UnsetType | None = UNSET


class LastRun(Struct, frozen=True, kw_only=True):
    """The newest run that began and has ended; `duration` in ms."""

    at: Time
    exit_code: int | None
    duration: int | None


class NotifyView(Struct, frozen=True, kw_only=True):
    """Which ends are told by `schedule.completed` and `schedule.failed`."""

    on_success: bool
    on_failure: bool


class ScheduleView(Struct, frozen=True, kw_only=True):
    """The public record of a schedule. Times RFC 3339, durations ms.

    One of `machine_id`, `machine_ids` and `tags` says where it runs; the others are null.
    """

    id: str
    name: str
    description: str
    machine_id: str | None
    machine_ids: list[str] | None
    tags: list[str] | None
    command: str
    cron: str
    rule: str  # the same in words
    timezone: str
    enabled: bool
    timeout: int | None
    cwd: str | None
    env: dict[str, str]
    user: str | None
    overlap: Overlap
    misfire: Misfire
    misfire_window: int
    notify: NotifyView
    next_run: Time | None  # null: it is disabled
    last_run: LastRun | None
    paused: str | None  # why the hub fires nothing now
    user_email: str
    created_at: Time | None
    updated_at: Time | None


def new_schedule(schedule_id: str, caller: Caller, body: ScheduleBody, now_ms: int) -> Schedule:
    """The schedule that a body asks for; when it comes due is not decided yet.

    Raises:
        ValidationFailed, Forbidden: as `edited`.
    """
    if not set(_TARGETS) & given_of(body).keys():
        raise ValidationFailed(
            "Validation failed", machine_id="is required, or else machine_ids or tags"
        )
    blank = Schedule(
        id=schedule_id,
        workspace_id=caller.workspace_id,
        name="",
        description="",
        machine_id=None,
        machine_ids=None,
        tags=None,
        command="",
        spec=Spec(argv=[""]),
        cron="",
        timezone="",
        is_enabled=True,
        overlap="skip",
        misfire="run_once",
        misfire_window_ms=0,
        notify=Notify(),
        operator=caller.email,
        created_ms=now_ms,
        updated_ms=now_ms,
        next_ms=None,
        decided_ms=now_ms,
    )
    return edited(blank, caller, body)


def edited(before: Schedule, caller: Caller, body: ScheduleBody | ScheduleChanges) -> Schedule:
    """A schedule as a body wants it.

    Raises:
        ValidationFailed: no such rule, or more than one says where, or more than a machine takes.
        Forbidden: tags that reach farther than the caller's key.
    """
    given = given_of(body)
    fields = {_FIELDS[name]: value for name, value in given.items() if name in _FIELDS}
    notify = msgspec.structs.replace(before.notify, **changes_of(given.get("notify", NotifyBody())))
    after = msgspec.structs.replace(before, **fields, **_target(caller, given), notify=notify)
    is_begun = after.is_enabled and not before.is_enabled
    if is_begun or {"cron", "timezone"} & given.keys():
        rule_of(after.cron, after.timezone)
    return msgspec.structs.replace(after, spec=_spec(after, caller, given))


def given_of(body: ScheduleBody | ScheduleChanges) -> dict[str, Any]:
    """What a body says: a record that was read can be sent back, with all its nulls."""
    given = changes_of(body)
    return {name: given[name] for name in given if given[name] is not None or name in _TAKEN_OFF}


def rule_of(cron: str, timezone: str) -> Rule:
    """The rule that these say.

    Raises:
        ValidationFailed: they say none; `details` has the reason.
    """
    try:
        return Rule.parse(cron, timezone)
    except CronError as exc:
        raise ValidationFailed("Validation failed", **{exc.field: str(exc)}) from None


def view_of(schedule: Schedule, paused: str | None) -> ScheduleView:
    """The public record of a schedule."""
    last_run = None
    if (at := when(schedule.last_at_ms)) is not None:
        last_run = LastRun(
            at=at, exit_code=schedule.last_exit_code, duration=schedule.last_duration_ms
        )
    spec, notify = schedule.spec, schedule.notify
    return ScheduleView(
        id=schedule.id,
        name=schedule.name,
        description=schedule.description,
        machine_id=schedule.machine_id,
        machine_ids=schedule.machine_ids,
        tags=schedule.tags,
        command=schedule.command,
        cron=schedule.cron,
        rule=_in_words(schedule),
        timezone=schedule.timezone,
        enabled=schedule.is_enabled,
        timeout=spec.timeout_ms,
        cwd=spec.cwd,
        env=spec.env,
        user=spec.user,
        overlap=schedule.overlap,
        misfire=schedule.misfire,
        misfire_window=schedule.misfire_window_ms,
        notify=NotifyView(on_success=notify.on_success, on_failure=notify.on_failure),
        next_run=when(schedule.next_ms),
        last_run=last_run,
        paused=paused,
        user_email=schedule.operator,
        created_at=when(schedule.created_ms),
        updated_at=when(schedule.updated_ms),
    )


def _spec(schedule: Schedule, caller: Caller, given: dict[str, Any]) -> Spec:
    """What its commands are, as if they were asked for one by one by whoever made it."""
    spec = schedule.spec
    held: dict[str, Any] = {
        "cwd": spec.cwd,
        "env": spec.env,
        "user": spec.user,
        "timeout": spec.timeout_ms,
    }
    asked = CommandBody(
        command=schedule.command,
        serial_key=None if schedule.overlap == "allow" else f"schedule:{schedule.id}",
        **{name: given.get(name, value) for name, value in held.items()},
    )
    return msgspec.structs.replace(spec_of(asked, caller), operator=schedule.operator)


def _target(caller: Caller, given: dict[str, Any]) -> dict[str, Any]:
    """Where it runs from now on; nothing, if that stays."""
    asked = [name for name in _TARGETS if name in given]
    if not asked:
        return {}
    first, *others = asked
    if others:
        reason = f"there is {first} already: give one of machine_id, machine_ids and tags"
        raise ValidationFailed("Validation failed", **dict.fromkeys(others, reason))
    value = given[first]
    if first == "tags":
        value = handed_on(caller, value)
    elif first == "machine_ids":
        value = list(dict.fromkeys(value))
    return {**dict.fromkeys(_TARGETS), first: value}


def _in_words(schedule: Schedule) -> str:
    try:
        return Rule.parse(schedule.cron, schedule.timezone).description
    except CronError as exc:  # the zones of this machine are not those under which it was made
        return str(exc)
