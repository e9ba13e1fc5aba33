"""The shapes of schedules: plain JSON objects, typed for the reader, never converted."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

Overlap = Literal["skip", "queue", "allow", "cancel_previous"]
Misfire = Literal["run_once", "skip"]


class Notify(TypedDict, total=False):
    """Of which ends a schedule tells by `schedule.completed` and `schedule.failed`."""

    on_success: bool
    on_failure: bool


class LastRun(TypedDict):
    """The newest run of a schedule that has ended; `duration` in ms."""

    at: str
    exit_code: int | None
    duration: int | None


class Schedule(TypedDict):
    """A rule, and what it runs where. Times RFC 3339; `timeout` and `misfire_window` in ms.

    One of `machine_id`, `machine_ids` and `tags` says where, the others are None.
    """

    id: str
    name: str
    description: str
    machine_id: str | None
    machine_ids: list[str] | None
    tags: list[str] | None  # all machines that carry every one of them, also those to come
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
    notify: Notify
    next_run: str | None  # None: it is disabled
    last_run: LastRun | None
    paused: str | None  # why the hub starts no schedule at all, such as its clock
    user_email: str
    created_at: str
    updated_at: str


class ScheduleOptions(TypedDict, total=False):
    """What a schedule may have beside its name, rule and command."""

    description: str | None
    machine_id: str | None  # one of these three says where it runs
    machine_ids: Sequence[str] | None
    tags: Sequence[str] | None
    timezone: str | None  # such as "Europe/Berlin"; the hub's default is "UTC"
    enabled: bool | None
    timeout_ms: int | None
    cwd: str | None
    env: Mapping[str, str] | None
    user: str | None
    overlap: Overlap | None  # what becomes of a firing while the one before is under way
    misfire: Misfire | None  # what becomes of a firing that nobody could start in time
    misfire_window_ms: int | None
    notify: Notify | None


class ScheduleChanges(TypedDict, total=False):
    """What a schedule is to have from now on; None takes it off."""

    name: str
    description: str
    machine_id: str  # one of these three takes the place of what said where it runs
    machine_ids: Sequence[str]
    tags: Sequence[str]
    command: str
    cron: str
    timezone: str
    enabled: bool
    timeout_ms: int | None
    cwd: str | None
    env: Mapping[str, str]  # all that it is to have
    user: str | None
    overlap: Overlap
    misfire: Misfire
    misfire_window_ms: int
    notify: Notify


class ScheduleRun(TypedDict):
    """What became of a firing on one machine, or of one that ran nothing. `duration` in ms.

    With `first_scheduled_at` it stands for every firing from then to `scheduled_at`. Of each output
    there are 16 KiB, its head and its tail; None: the key may not read commands.
    """

    id: str
    schedule_id: str
    scheduled_at: str | None  # None: it was asked for by hand
    first_scheduled_at: str | None
    machine_id: str | None
    command_id: str | None
    status: str  # of its command; "missed" or "skipped": it has none
    reason: str | None  # why nothing ran: a code
    message: str | None  # the same for people
    clock_was_ahead: bool  # the hub's clock was set back later: its times are wrong
    started_at: str | None
    finished_at: str | None
    exit_code: int | None
    duration: int | None
    stdout: str | None
    stderr: str | None
    stdout_truncated: bool
    stderr_truncated: bool


class RunNow(TypedDict):
    """What a run by hand started; `commands` by machine id, `command_id` the first of them."""

    command_id: str
    status: str
    commands: dict[str, str]


class NextRun(TypedDict):
    """An instant at which a rule fires; `local` in its time zone. `note`: what DST does to it."""

    utc: str
    local: str
    note: str | None


class RulePreview(TypedDict):
    """A rule in words, and when it fires next."""

    description: str
    next_runs: list[NextRun]
