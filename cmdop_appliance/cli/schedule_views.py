"""Schedules, their runs and their next instants, as people and pipes get them."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from cmdop_appliance.cli.output import is_table, show
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk import Client, Forbidden
from cmdop_appliance.sdk.schedule_types import RulePreview, Schedule, ScheduleRun

_RECORDS: Final = ("json", "jsonl", "name")


def show_schedules(client: Client, schedules: Iterable[Schedule], form: str | None) -> None:
    """Print a list of schedules, with the names of their machines."""
    if form in _RECORDS:
        show(schedules, ["id"], form)
        return
    names = _machine_names(client)
    columns = ["name", "next_run_at", "last_run_at", "exit", "cron", "timezone", "where", "id"]
    show([_row(schedule, names) for schedule in schedules], columns, form, spare=["id", "timezone"])


def show_history(client: Client, runs: Iterable[ScheduleRun], form: str | None) -> None:
    """Print runs of a schedule, with the names of their machines."""
    if form in _RECORDS:
        show(runs, ["id"], form)
        return
    names = _machine_names(client)
    columns = [
        *("scheduled_at", "status", "exit", "duration", "machine", "command_id"),
        *("reason", "message"),
    ]
    rows = [_history_row(run, names) for run in runs]
    show(rows, columns, form, spare=["command_id"], last_is_whole=True)


def show_preview(preview: RulePreview, zone: str, form: str | None) -> None:
    """The rule in words; each instant in UTC, in the zone of the rule, and as it is here."""
    print(visible(f"{preview['description']} ({zone})"))
    rows: list[dict[str, Any]] = [
        {**firing, "here": _here(firing["utc"])} for firing in preview["next_runs"]
    ]
    columns = ["utc", "local", "here", "note"]
    if not is_table(form):
        show(rows, columns, form)
        return
    shown = [
        {name: _minute(row[name]) for name in columns[:-1]} | {"note": row["note"]} for row in rows
    ]
    told: list[list[str | None]] = []  # a column that tells what another one does is left out
    for name in columns.copy():
        cells = [row[name] for row in shown]
        if cells in told or not any(cells):
            columns.remove(name)
        told.append(cells)
    show(shown, columns, form, last_is_whole="note" in columns)


def _minute(moment: str | None) -> str | None:
    """`2027-03-28 03:00 +02:00`, or `2027-03-28 01:00Z`; what is no time, as it is."""
    with suppress(ValueError):
        text = datetime.fromisoformat(moment or "").isoformat(" ", "minutes")
        clock, zone = text[:16], text[16:]
        return f"{clock}Z" if zone == "+00:00" else f"{clock} {zone}"
    return moment


def _here(moment: str) -> str | None:
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(moment).astimezone().isoformat()
    return None


def _machine_names(client: Client) -> dict[str, str]:
    """By id, as far as the key may see them."""
    with suppress(Forbidden):
        return {machine["id"]: machine["name"] for machine in client.machines.list()}
    return {}


def _row(schedule: Schedule, names: Mapping[str, str]) -> dict[str, Any]:
    last = schedule["last_run"]
    ids = schedule["machine_ids"] or [schedule["machine_id"] or ""]
    tags = schedule["tags"]
    return {
        **schedule,
        "next_run_at": schedule["next_run"] if schedule["enabled"] else "paused",
        "last_run_at": last and last["at"],
        "exit": last and last["exit_code"],
        "where": [names.get(one, one) for one in ids] if tags is None else "tag:" + ",".join(tags),
    }


def _history_row(run: ScheduleRun, names: Mapping[str, str]) -> dict[str, Any]:
    machine_id, duration, first = run["machine_id"], run["duration"], run["first_scheduled_at"]
    notes = [f"and all before, from {first} on"] if first else []
    notes += [run["message"]] if run["message"] else []
    notes += ["the hub's clock was ahead"] if run["clock_was_ahead"] else []
    return {
        **run,
        "exit": run["exit_code"],
        "scheduled_at": run["scheduled_at"] or "by hand",
        "duration": None if duration is None else f"{duration / 1000:g} s",
        "machine": names.get(machine_id, machine_id) if machine_id else None,
        "message": "; ".join(notes) or None,
    }
