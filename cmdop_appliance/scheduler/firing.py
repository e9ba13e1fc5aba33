"""What becomes of schedules that have come due, as transactions: runs, missed, skipped.

A firing is decided once, with the instant that comes next (semantics.md, Schedules). Every command
that it makes is queued, so that a machine that is away for a moment, or asleep, runs it later.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final

import msgspec

from cmdop_appliance import RELEASED_MS
from cmdop_appliance.auth import Caller, Reach
from cmdop_appliance.clock import rfc3339
from cmdop_appliance.errors import MachineNotFound
from cmdop_appliance.hub import ends, runs
from cmdop_appliance.hub.audit import Audit
from cmdop_appliance.hub.commands import DELIVER_MS, hash_of
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Command, EventType, Overlap, Run, RunStatus, Schedule
from cmdop_appliance.scheduler.cron import CronError, Rule
from cmdop_appliance.store import clients, firings, restored, schedules
from cmdop_appliance.store import commands as rows
from cmdop_appliance.store import runs as history
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.firings import Member
from cmdop_appliance.store.idempotency import Once, claim
from cmdop_appliance.store.transaction import Tx, reads

# With misfire `skip` a firing still counts as in time: a hub that is busy, or just restarts.
IN_TIME_MS: Final = 30_000
# Firings of one schedule that are listed one by one when they were missed together: some 200 kB.
# All before them have one row.
MISSED_MOST: Final = 1000
# Schedules, and rows that are written for them, of one transaction: some 50 ms of the writer.
SCHEDULES_MOST: Final = 250
_ROWS_MOST: Final = 1000
# Schedules that are set right in one transaction; each may have thousands of rows to mark.
_SET_RIGHT_MOST: Final = 5
# So many commands of a schedule may be under way on a machine when it fires once more.
_UNDER_WAY: Final[dict[Overlap, int]] = {"skip": 0, "queue": 1}


@dataclass(slots=True)
class Fired:
    """What one transaction decided."""

    changed: list[Command] = field(default_factory=list)  # new ones, and those that they end
    to_cancel: list[Command] = field(default_factory=list)  # their machines are to be told


def paused(now_ms: int) -> str | None:
    """Why nothing fires now: the clock is certainly wrong. None: it may be right."""
    if now_ms >= RELEASED_MS:
        return None
    return (
        f"the hub's clock shows {rfc3339(now_ms)}, which is before this version was made"
        f" ({rfc3339(RELEASED_MS)}): nothing fires until it is set"
    )


# ── by time ──────────────────────────────────────────────────────────────────────────────────────


def fire(tx: Tx, now_ms: int) -> Fired:
    """Decide on what has come due, the first first, and as much of it as goes at once."""
    _set_right(tx, now_ms)
    fired = Fired()
    due = firings.due(tx, now_ms, SCHEDULES_MOST)
    if not due:
        return fired
    firing = _Firing(tx, due[-1], now_ms, fired)
    decided: list[tuple[str, int | None]] = []
    for schedule in due:
        decided.append((schedule.id, firing.decide(schedule)))
        if len(firing.runs) + len(fired.changed) > _ROWS_MOST:
            break
    history.insert(tx, firing.runs)
    rows.insert(tx, *firing.commands)
    firings.decide(tx, decided, now_ms)
    firing.tell()
    return fired


def _set_right(tx: Tx, now_ms: int) -> None:
    """If the clock was set back from where it was wrong, go on from now."""
    for schedule in firings.ahead(tx, now_ms, _SET_RIGHT_MOST):
        firings.mark_ahead(tx, schedule.id, now_ms)
        firings.decide(tx, [(schedule.id, _next(schedule, now_ms))], now_ms)


@reads
def moved(tx: Tx) -> list[tuple[Schedule, int | None]]:
    """The schedules whose rule tells another next instant: the zones are newer than that."""
    worked_out = ((each, _next(each, each.decided_ms)) for each in firings.enabled(tx))
    return [(each, next_ms) for each, next_ms in worked_out if next_ms != each.next_ms]


def _next(schedule: Schedule, after_ms: int) -> int | None:
    try:
        return Rule.parse(schedule.cron, schedule.timezone).next(after_ms)
    except CronError:  # of a zone that is no more; when it comes due, its history says so
        return schedule.next_ms


class _Firing:
    """One transaction's firings, gathered so that each table is written once."""

    def __init__(self, tx: Tx, last: Schedule, now_ms: int, fired: Fired) -> None:
        self._tx = tx
        self._now_ms = now_ms
        self._fired = fired
        self._restored_ms = restored.until_ms(tx)
        self._decided = firings.decided_due(tx, last, now_ms)
        self._members: dict[str, list[Member]] = defaultdict(list)
        for member in _in_order(firings.members_due(tx, last)):
            self._members[member.schedule_id].append(member)
        self._open: dict[tuple[str, str], list[Command]] = defaultdict(list)
        for command in firings.open_due(tx, last):
            assert command.schedule_id is not None
            self._open[command.schedule_id, command.machine_id].append(command)
        self._told: list[tuple[EventType, Schedule, Run, dict[str, Any]]] = []
        self.runs: list[Run] = []
        self.commands: list[Command] = []

    def decide(self, schedule: Schedule) -> int | None:
        """Run, skip or miss what has come due; the next instant, None if there is none any more."""
        assert schedule.next_ms is not None
        try:
            rule = Rule.parse(schedule.cron, schedule.timezone)
        except CronError as exc:
            message = f"{exc}; the schedule is disabled"
            self._nothing(schedule, schedule.next_ms, "invalid_rule", message)
            return None
        next_ms = rule.next(self._now_ms)
        if not schedule.decided_ms:  # by a clock that was certainly wrong
            return next_ms
        instants, has_older = rule.newest(schedule.next_ms - 1, self._now_ms, MISSED_MOST + 1)
        instants = [at for at in instants if self._is_open(schedule, at)]
        first_ms = schedule.next_ms if has_older else None
        if unsure := [at for at in instants if at <= self._restored_ms]:
            message = "the hub was restored from a backup; nobody knows whether it ran before"
            self._missed(schedule, unsure, first_ms, "hub_restored", message)
            instants, first_ms = instants[len(unsure) :], None
        if not instants:
            return next_ms
        late_ms = self._now_ms - instants[-1]
        window_ms = schedule.misfire_window_ms if schedule.misfire == "run_once" else IN_TIME_MS
        if late_ms <= max(window_ms, IN_TIME_MS):
            *missed, newest = instants
            reason, message = "newer_firing", f"only the newest firing ran, of {rfc3339(newest)}"
        else:
            missed, newest = instants, None
            reason, message = "too_late", f"nobody could start it within {window_ms // 1000} s"
            if schedule.misfire == "skip":
                reason, message = "misfire_skip", "nobody could start it in time"
        if missed:
            message += "; the hub was down, or its clock leapt"
            self._missed(schedule, missed, first_ms, reason, message)
        if newest is not None:
            self._run(schedule, newest)
        return next_ms

    def _is_open(self, schedule: Schedule, at_ms: int) -> bool:
        """Whether it is to be decided: not before, or by a clock that was ahead, and now in time.

        Nor are there firings before the schedule: a clock that was back for a while invents them.
        """
        if at_ms <= schedule.created_ms <= self._now_ms:
            return False
        is_claimed = self._decided.get((schedule.id, at_ms))
        return is_claimed is None or (not is_claimed and self._now_ms - at_ms <= IN_TIME_MS)

    def tell(self) -> None:
        """Record the events of what ran nothing."""
        for kind, schedule, run, more in self._told:
            runs.tell(self._tx, kind, schedule, run, self._now_ms, **more)

    def _missed(
        self, schedule: Schedule, missed: list[int], first_ms: int | None, reason: str, message: str
    ) -> None:
        """A row for each, and one event for all of them."""
        entered = [
            self._row(
                schedule,
                at_ms,
                status="missed",
                reason=reason,
                message=message,
                first_ms=first_ms if number == 0 else None,
            )
            for number, at_ms in enumerate(missed)
        ]
        since = rfc3339(first_ms if first_ms is not None else missed[0])
        more = {"missed": len(missed), "since": since, "has_more": first_ms is not None}
        self._told.append(("schedule.missed", schedule, entered[-1], more))

    def _run(self, schedule: Schedule, at_ms: int) -> None:
        members = self._members[schedule.id]
        if not members:
            reason, message = "no_machines", "no machine carries all of its tags"
            if schedule.tags is None:
                reason, message = "machine_removed", "its machine was removed"
            self._nothing(schedule, at_ms, reason, message)
        for position, member in enumerate(members):
            under_way = self._make_room(schedule, member)
            if under_way is not None:
                message = f"{under_way.id} of the same schedule is {under_way.status} there still"
                self._nothing(schedule, at_ms, "overlap", message, member.machine_id, position)
                continue
            run = self._row(schedule, at_ms, member.machine_id, position, command_id=new_id("cmd"))
            keep_ms = schedule.misfire_window_ms if schedule.misfire == "run_once" else 0
            until_ms = max(at_ms + keep_ms, self._now_ms + DELIVER_MS)
            command = _command(schedule, run, member, self._now_ms, until_ms)
            self.commands.append(command)
            self._fired.changed.append(command)

    def _make_room(self, schedule: Schedule, member: Member) -> Command | None:
        """End what makes way for a new command there; or the one in its way."""
        before = self._open[schedule.id, member.machine_id]
        sent = [command for command in before if command.session_id is not None]
        # A machine that is away does not tell what has ended there. What is under way still, the
        # new one waits for: they have one serial key.
        most = _UNDER_WAY.get(schedule.overlap, len(sent))
        if member.session_id is not None and len(sent) > most:
            return sent[-1]
        for command in before:
            if command.session_id is None:
                message = "a newer firing took its place before its machine was there"
                self._fired.changed += ends.end_here(
                    self._tx, command, "cancelled", "superseded", message, self._now_ms
                )
            elif schedule.overlap == "cancel_previous" and command.cancel_requested_ms is None:
                reach = Reach(schedule.workspace_id)
                rows.request_cancel(self._tx, reach, command.id, self._now_ms)
                self._fired.to_cancel.append(command)
        return None

    def _nothing(
        self,
        schedule: Schedule,
        at_ms: int,
        reason: str,
        message: str,
        machine_id: str | None = None,
        position: int = 0,
    ) -> None:
        """A row of a firing that ran nothing, and its event."""
        machine_id = machine_id or schedule.machine_id
        run = self._row(
            schedule, at_ms, machine_id, position, status="skipped", reason=reason, message=message
        )
        self._told.append(("schedule.skipped", schedule, run, {}))

    def _row(
        self,
        schedule: Schedule,
        at_ms: int,
        machine_id: str | None = None,
        position: int = 0,
        *,
        status: RunStatus = "started",
        **columns: Any,
    ) -> Run:
        run = Run(
            id=new_id("run"),
            workspace_id=schedule.workspace_id,
            schedule_id=schedule.id,
            scheduled_ms=at_ms,
            claim_ms=at_ms,
            position=position,
            machine_id=machine_id,
            status=status,
            created_ms=self._now_ms,
            **{"command_id": None, **columns},
        )
        self.runs.append(run)
        return run


# ── by hand ──────────────────────────────────────────────────────────────────────────────────────


def run_now(
    tx: Tx, log: Audit, caller: Caller, schedule_id: str, once: Once | None, now_ms: int
) -> tuple[list[Run], list[Command]]:
    """The runs on every machine that is there, and the commands that changed.

    It has nothing to do with when the schedule comes due, nor with what of it is under way: behind
    that it waits, unless they overlap.

    Raises:
        ScheduleNotFound, MachineNotFound, SessionNotActive, Forbidden, IdempotencyConflict:
            nothing was recorded.
    """
    schedule = schedules.get(tx, caller.reach, schedule_id)
    run_id = new_id("run")
    if once is not None and (made := claim(tx, once, run_id).made_id) != run_id:
        return history.made_by_hand(tx, caller.reach, made), []
    members = _in_order(firings.members(tx, schedule.id))
    if not members:
        raise MachineNotFound("the schedule has no machine", schedule_id=schedule_id)
    for member in members:
        clients.require_operator(tx, caller.key_id, member.machine_id)
    if all(member.session_id is None for member in members):
        rows.live_session(tx, caller.reach, members[0].machine_id)  # raises: it has none
    made_runs = list(_by_hand(schedule, members, run_id, now_ms))
    made_commands = [
        _command(schedule, run, member, now_ms, now_ms + DELIVER_MS, caller)
        for run, member in zip(made_runs, members, strict=True)
        if run.command_id is not None
    ]
    history.insert(tx, made_runs)
    for run in made_runs:
        if run.command_id is None:
            runs.tell(tx, "schedule.skipped", schedule, run, now_ms)
    rows.insert(tx, *made_commands)
    command_ids = [command.id for command in made_commands]
    entry = Entry.by(caller, now_ms, "schedule.run", schedule.id, command_ids=command_ids)
    log.append(tx, caller.key_id, entry)
    return made_runs, made_commands


def _by_hand(
    schedule: Schedule, members: list[Member], first_id: str, now_ms: int
) -> Iterator[Run]:
    for position, member in enumerate(members):
        is_there = member.session_id is not None
        yield Run(
            id=new_id("run") if position else first_id,
            workspace_id=schedule.workspace_id,
            schedule_id=schedule.id,
            scheduled_ms=None,
            first_run_id=first_id,
            position=position,
            machine_id=member.machine_id,
            command_id=new_id("cmd") if is_there else None,
            status="started" if is_there else "skipped",
            reason=None if is_there else "machine_offline",
            message=None if is_there else "the machine was not connected",
            created_ms=now_ms,
        )


# ── both ─────────────────────────────────────────────────────────────────────────────────────────


def _in_order(members: list[Member]) -> list[Member]:
    """As they joined: the positions of runs follow it."""
    return sorted(members, key=attrgetter("machine_id"))


def _command(
    schedule: Schedule,
    run: Run,
    member: Member,
    now_ms: int,
    until_ms: int,
    caller: Caller | None = None,
) -> Command:
    assert run.command_id is not None
    spec = schedule.spec
    if caller is not None:
        spec = msgspec.structs.replace(spec, operator=caller.email)
    return Command(
        id=run.command_id,
        workspace_id=schedule.workspace_id,
        machine_id=member.machine_id,
        session_id=member.session_id,
        schedule_id=schedule.id,
        run_id=run.id,
        command=schedule.command,
        spec=spec,
        spec_hash=hash_of(spec),
        status="pending",
        operator=schedule.operator if caller is None else caller.email,
        created_ms=now_ms,
        start_until_ms=until_ms,
        is_bounded=False,
        is_queued=caller is None,
    )
