"""kill -9 of the hub around the minutes of its schedules: each instant has one row, each command
one start, by a ledger that the commands keep.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from random import Random
from typing import Any

from cmdop_appliance import RELEASED_MS
from tests.support.appliance import wait_for
from tests.support.quick_hub import FIRE, FIRED, FileClock, ms_of
from tests.support.stepped import Fault
from tests.torture.asks import PATIENCE_S, PatientApi
from tests.torture.parts import Case, Part, Stage
from tests.torture.site import Site, running_site

_FACTOR = 20.0  # a minute is 3 s
_TAG = "torture"
# Of commands: they end at once, within their minute, and beyond the next one.
_LASTS_S = (0.0, 0.8, 4.0)
_KILL_S = (-0.2, 0.6)  # from a minute's beginning
_UP_S = (0.0, 0.0, 4.0)  # of the hub, between its first answer and when its death is planned
_DEAD_S = (0.0, 0.0, 0.0, 0.1, 0.5, 0.5, 4.0)  # from its death to the start of the next hub
_FALLS = (("before", FIRE), ("after", FIRE), ("before", FIRED))
_REASONS = {
    "missed": {"newer_firing", "misfire_skip"},
    "skipped": {"overlap"},
}
_IN_TIME_MS = 20_000  # a firing is decided by then, if the hub is up: 1 s for those who wait
_MISSED_MOST = 0.02  # of what came due while the hub was up: this machine may stand still, too
_MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Expected:
    """A schedule as it was made, and the ledger of its commands."""

    record: Any
    minutes: int  # between two instants
    exit_code: int
    ledger: Path

    @property
    def name(self) -> str:
        return str(self.record["name"])

    def instants(self, until_ms: int) -> list[int]:
        """Every one since it was made."""
        step_ms = self.minutes * _MINUTE_MS
        first_ms = (ms_of(self.record["created_at"]) // step_ms + 1) * step_ms
        return list(range(first_ms, until_ms + 1, step_ms))


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    stage.place.mkdir(parents=True)
    clock = FileClock(stage.place / "clock")
    clock.set(max(RELEASED_MS, time.time_ns() // 1_000_000), _FACTOR)
    with running_site(stage.place, clock=clock) as site:
        schedules = _make_schedules(site)
        fell: Counter[str] = Counter()
        up: list[tuple[int, int]] = []  # from when to when the hub certainly was

        def case(number: int, dice: Random) -> None:
            wait_for(lambda: site.api.call("GET", "/auth/me").status == 200, "the hub", PATIENCE_S)
            since_ms = clock.now_ms()
            time.sleep(dice.choice(_UP_S))
            up.append((since_ms, clock.now_ms()))
            how = "at random"
            if number % 2:
                when, of = dice.choice(_FALLS)
                how = f"{when}: {of}"
                site.steps.plan(Fault("hub", 1, when, of=of))
                wait_for(lambda: not site.hub.is_running, how, PATIENCE_S)
            else:
                left_s = clock.left_s(clock.next_minute_ms())
                time.sleep(max(0, left_s + dice.uniform(*_KILL_S)))
                site.hub.kill()
            fell[how] += 1
            time.sleep(dice.choice(_DEAD_S))
            site.start_hub()

        yield case
        site.steps.plan_nothing()
        site.wait_up()
        rows = _judge(site.api, schedules, _end(site.api, clock))
        late = _missed_while_up(rows, up)
        told = _listed(Counter(row["status"] for row in rows))
        stage.say(f"schedules-kills: {len(rows)} rows: {told}; killed {_listed(fell)}; {late}")


def _make_schedules(site: Site) -> list[Expected]:
    api, machine_id = site.api, site.agent.machine_id
    api.call("PATCH", f"/machines/{machine_id}", {"tags": [_TAG]})
    ways = product(("skip", "queue", "allow", "cancel_previous"), ("run_once", "skip"), _LASTS_S)
    targets = cycle(({"machine_id": machine_id}, {"machine_ids": [machine_id]}, {"tags": [_TAG]}))
    made = []
    for number, ((overlap, misfire, lasts_s), target) in enumerate(
        zip(ways, targets, strict=False)
    ):
        exit_code, minutes, ledger = number % 3, 1 + (number % 8 == 5), site.place / f"{number}"
        record = api.post(
            "/schedules",
            name=f"{number}: {overlap}, {misfire}, {lasts_s} s",
            command=f"echo +$CMDOP_COMMAND_ID >>{ledger}; sleep {lasts_s};"
            f" echo -$CMDOP_COMMAND_ID >>{ledger}; exit {exit_code}",
            cron=f"*/{minutes} * * * *",
            overlap=overlap,
            misfire=misfire,
            **target,
        )
        made.append(Expected(record, minutes, exit_code, ledger))
    return made


def _end(api: PatientApi, clock: FileClock) -> int:
    """When time came to its end, with everything before it decided and done."""
    end_ms = clock.stop()

    def is_over() -> bool:
        open_ = api.get("/commands?status=pending") + api.get("/commands?status=running")
        return not open_ and all(ms_of(each["next_run"]) > end_ms for each in api.all("/schedules"))

    wait_for(is_over, "all that came due has ended", PATIENCE_S)
    return end_ms


# ── the judgement ────────────────────────────────────────────────────────────────────────────────


def _judge(api: PatientApi, schedules: list[Expected], end_ms: int) -> list[Any]:
    """All rows; fail unless each schedule did what it promises."""
    found: list[Any] = []
    for schedule in schedules:
        rows = api.all(f"/schedules/{schedule.record['id']}/history")
        _judge_instants(schedule, rows, end_ms)
        marks = schedule.ledger.read_text().split() if schedule.ledger.exists() else []
        starts = Counter(mark[1:] for mark in marks if mark.startswith("+"))
        for row in rows:
            where = f"{schedule.name}: {row['scheduled_at']} {row['status']} {row['reason']}"
            if row["command_id"] is None:
                _judge_nothing(schedule, row, where)
            else:
                _judge_command(schedule, row, starts.pop(row["command_id"], 0), where)
        found += rows
        assert not starts, f"{schedule.name}: commands without a row: {starts}"
        cancelled = {row["command_id"] for row in rows if row["status"] == "cancelled"}
        if schedule.record["overlap"] != "allow":
            _judge_one_at_a_time(schedule, marks, cancelled)
    commands = {command["id"] for command in api.all("/commands", sort="created_at")}
    known = {row["command_id"] for row in found if row["command_id"]}
    assert commands == known, f"commands and rows differ by {commands ^ known}"
    return found


def _judge_instants(schedule: Expected, rows: list[Any], end_ms: int) -> None:
    """Each has one row: nothing is left out, nothing comes twice."""
    times = Counter(ms_of(row["scheduled_at"]) for row in rows)
    for row in rows:
        assert row["first_scheduled_at"] is None, f"{schedule.name}: nobody missed 1000: {row}"
        assert not row["clock_was_ahead"], f"{schedule.name}: the clock was never set back: {row}"
    expected = Counter(schedule.instants(end_ms))
    wrong = f"{dict(times - expected)} too many, {dict(expected - times)} missing"
    assert times == expected, f"{schedule.name}: {wrong}"


def _judge_nothing(schedule: Expected, row: Any, where: str) -> None:
    """What ran nothing says why, and that may be why."""
    overlap, misfire = schedule.record["overlap"], schedule.record["misfire"]
    assert row["reason"] in _REASONS[row["status"]], where
    if row["reason"] == "misfire_skip":
        assert misfire == "skip", where
    if row["reason"] == "overlap":
        assert overlap in ("skip", "queue"), where
        assert "cmd_" in row["message"], where


def _judge_command(schedule: Expected, row: Any, starts: int, where: str) -> None:
    """One start, unless it is said that there was none."""
    match row["status"], row["reason"]:
        case "completed" | "failed" as status, None:
            assert row["exit_code"] == schedule.exit_code, where
            assert status == ("failed" if schedule.exit_code else "completed"), where
            assert starts == 1, f"{where}: started {starts} times"
        case "cancelled", "superseded":
            assert starts == 0, f"{where}: started {starts} times"
        case "cancelled", _:
            assert schedule.record["overlap"] == "cancel_previous", where
            assert starts <= 1, f"{where}: started {starts} times"
        case "expired", _:
            assert schedule.record["misfire"] == "skip", where
            assert starts == 0, f"{where}: started {starts} times"
        case _:
            raise AssertionError(where)


def _judge_one_at_a_time(schedule: Expected, marks: list[str], cancelled: set[str]) -> None:
    """No command began before the one before it had ended."""
    under_way = None
    for mark in marks:
        if mark.startswith("-"):
            assert under_way == mark[1:], f"{schedule.name}: {under_way} and {mark[1:]} at once"
            under_way = None
        else:
            ended = under_way is None or under_way in cancelled
            assert ended, f"{schedule.name}: {under_way} and {mark[1:]} at once"
            under_way = mark[1:]


def _missed_while_up(rows: list[Any], up: list[tuple[int, int]]) -> str:
    """How much was; fail if it is more than a machine that is busy explains."""
    due = [
        row["status"] == "missed"
        for row in rows
        for since_ms, until_ms in up
        if since_ms <= ms_of(row["scheduled_at"]) <= until_ms - _IN_TIME_MS
    ]
    told = f"{sum(due)} of {len(due)} missed while it was up"
    assert sum(due) <= _MISSED_MOST * len(due), told
    return told


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


SCHEDULES_KILLS = Part("schedules-kills", 200, 20.0, _stage)
