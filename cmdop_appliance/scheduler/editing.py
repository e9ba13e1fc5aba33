"""Schedules as callers make, change and delete them: each in one transaction with its record.

A schedule puts onto a machine later what is asked for now: whoever may only look at the machine has
no say in it.
"""

from collections.abc import Callable, Sequence

import msgspec

from cmdop_appliance.auth import Caller
from cmdop_appliance.errors import Conflict, ScheduleNotFound
from cmdop_appliance.hub import ends
from cmdop_appliance.model import Command, Schedule
from cmdop_appliance.protocol.messages import Spec
from cmdop_appliance.scheduler.cron import Rule
from cmdop_appliance.scheduler.firing import paused
from cmdop_appliance.store import audit, clients, firings, machines, schedules
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.idempotency import Once, claim
from cmdop_appliance.store.transaction import Tx


def decided(schedule: Schedule, now_ms: int) -> Schedule:
    """The schedule with the first instant after now, if it is enabled; its rule must be one.

    By a clock that is certainly wrong nothing is decided: when it is right, that is done anew.
    """
    next_ms = None
    if schedule.is_enabled:
        next_ms = Rule.parse(schedule.cron, schedule.timezone).next(now_ms)
    decided_ms = now_ms if paused(now_ms) is None else 0
    return msgspec.structs.replace(schedule, next_ms=next_ms, decided_ms=decided_ms)


def make(tx: Tx, caller: Caller, schedule: Schedule, once: Once | None) -> Schedule:
    """The new schedule, or the one that the same request made before, as it is now.

    Raises:
        MachineNotFound, Forbidden, Conflict, IdempotencyConflict: nothing was recorded.
    """
    if once is not None and (made := claim(tx, once, schedule.id).made_id) != schedule.id:
        try:
            return schedules.get(tx, caller.reach, made)
        except ScheduleNotFound:
            raise Conflict(
                "the schedule that this request made was deleted", schedule_id=made
            ) from None
    _require_machines(tx, caller, schedule)
    schedules.insert(tx, schedule)
    _require_operator(tx, caller, schedule)
    details = {"name": schedule.name, **_target_of(schedule)}
    entry = Entry.by(caller, schedule.created_ms, "schedule.created", schedule.id, **details)
    audit.append(tx, entry)
    return schedule


def change(
    tx: Tx,
    caller: Caller,
    schedule_id: str,
    edit: Callable[[Schedule], Schedule],
    names: Sequence[str],
    now_ms: int,
) -> tuple[Schedule, list[Command]]:
    """The schedule as `edit` makes it; `names` are what the record says was changed.

    With another rule, or once it is enabled, it begins anew: what came due before is left alone.
    What waits for its machine to be run as it was asked for before has ended: the commands.

    Raises:
        ScheduleNotFound, MachineNotFound, Forbidden: nothing was recorded.
        ValidationFailed: `edit` says so.
    """
    before = schedules.get(tx, caller.reach, schedule_id)
    _require_operator(tx, caller, before)
    after = edit(before)
    if after == before:
        return before, []
    means_other = _what_of(after) != _what_of(before)
    if means_other:  # whoever says what is run, answers for it
        spec = msgspec.structs.replace(after.spec, operator=caller.email)
        after = msgspec.structs.replace(after, spec=spec, operator=caller.email)
    if _rule_of(after) != _rule_of(before):
        after = decided(after, now_ms)
        firings.mark_ahead(tx, before.id, now_ms)
    after = msgspec.structs.replace(after, updated_ms=now_ms)
    if _target_of(after) != _target_of(before):
        _require_machines(tx, caller, after)
    schedules.update(tx, before, after)
    _require_operator(tx, caller, after)
    audit.append(tx, Entry.by(caller, now_ms, "schedule.changed", schedule_id, changed=names))
    if after.is_enabled and not means_other:
        return after, []
    return after, _end_unsent(tx, after, now_ms)


def delete(tx: Tx, caller: Caller, schedule_id: str, now_ms: int) -> list[Command]:
    """Take a schedule out. What it has started runs on; what waits for its machine has ended.

    Raises:
        ScheduleNotFound, Forbidden: nothing was recorded.
    """
    schedule = schedules.get(tx, caller.reach, schedule_id)
    _require_operator(tx, caller, schedule)
    schedules.delete(tx, schedule_id)
    entry = Entry.by(caller, now_ms, "schedule.deleted", schedule_id, name=schedule.name)
    audit.append(tx, entry)
    return _end_unsent(tx, schedule, now_ms)


def _end_unsent(tx: Tx, schedule: Schedule, now_ms: int) -> list[Command]:
    message = "its schedule was changed or deleted before its machine was there"
    return [
        ended
        for command in firings.unsent(tx, schedule.id)
        for ended in ends.end_here(tx, command, "cancelled", "schedule_changed", message, now_ms)
    ]


def _what_of(schedule: Schedule) -> tuple[str, Spec, dict[str, list[str]]]:
    spec = msgspec.structs.replace(schedule.spec, operator=None, serial_key=None)
    return schedule.command, spec, _target_of(schedule)


def _rule_of(schedule: Schedule) -> tuple[str, str, bool]:
    return schedule.cron, schedule.timezone, schedule.is_enabled


def _target_of(schedule: Schedule) -> dict[str, list[str]]:
    if schedule.tags is not None:
        return {"tags": schedule.tags}
    return {"machine_ids": schedules.named(schedule)}


def _require_machines(tx: Tx, caller: Caller, schedule: Schedule) -> None:
    for machine_id in schedules.named(schedule):
        machines.get(tx, caller.reach, machine_id)


def _require_operator(tx: Tx, caller: Caller, schedule: Schedule) -> None:
    for member in firings.members(tx, schedule.id):
        clients.require_operator(tx, caller.key_id, member.machine_id)
