"""What has to change on a hub so that it is as a file says."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final, Literal, TypeVar

import msgspec

from cmdop_appliance.cli.configuration import (
    Configuration,
    Entry,
    MachineEntry,
    Names,
    ScheduleEntry,
    WebhookEntry,
    filled,
    host_of,
    machine_entry,
    oldest_first,
    schedule_entry,
    settings_of,
    variables_in,
    webhook_entry,
)
from cmdop_appliance.cli.durations import milliseconds
from cmdop_appliance.cli.failures import USAGE, Failure
from cmdop_appliance.sdk import Client
from cmdop_appliance.sdk.types import Machine

W = TypeVar("W")
H = TypeVar("H")

# Which are not shown as they are: they may be secrets, or have them in them.
_VEILED: Final = ("env", "headers", "secret", "url")
_API_NAMES: Final = {"timeout": "timeout_ms", "misfire_window": "misfire_window_ms"}


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to do. `make` does it, and gives a secret that is shown only now, or None."""

    sign: Literal["+", "~", "-"]
    what: str
    make: Callable[[], str | None]
    fields: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is to be done, in order, and what is there but not in the file."""

    changes: list[Change]
    kept: list[str]


def plan(client: Client, wanted: Configuration, environ: Mapping[str, str], *, prune: bool) -> Plan:
    """What has to be done. `prune`: also what is not in the file goes; never a machine.

    Raises:
        Failure: the file says what cannot be; nothing was done.
    """
    changes: list[Change] = []
    removals: list[Change] = []
    machines: list[Machine] = []
    if wanted.machines or wanted.schedules is not None:
        machines = list(client.machines.list())
    names = {machine["id"]: machine["name"] for machine in machines}
    for machine, entry in _machines(wanted.machines or [], machines, Names(names)):
        names[machine["id"]] = entry.name
        changes += _machine_changes(client, machine, entry)
    if wanted.schedules is not None:
        made, gone = _schedules(client, wanted.schedules, Names(names))
        changes, removals = changes + made, removals + gone
    if wanted.webhooks is not None:
        made, gone = _webhooks(client, wanted.webhooks, environ)
        changes, removals = changes + made, removals + gone
    if prune:
        return Plan(changes + removals, [])
    return Plan(changes, [removal.what for removal in removals])


def _machines(
    entries: Iterable[MachineEntry], machines: Sequence[Machine], names: Names
) -> Iterator[tuple[Machine, MachineEntry]]:
    by_id, seen = {machine["id"]: machine for machine in machines}, set[str]()
    for entry in entries:
        machine_id = entry.id if entry.id in by_id else names.id_of(entry.name)
        assert machine_id is not None
        if machine_id in seen:
            raise Failure(f'machine "{entry.name}" is there twice', exit_code=USAGE)
        seen.add(machine_id)
        yield by_id[machine_id], entry


def _machine_changes(client: Client, machine: Machine, entry: MachineEntry) -> list[Change]:
    held = machine_entry(machine)
    tags = held.tags if entry.tags is None else sorted(set(entry.tags))
    after = msgspec.structs.replace(held, name=entry.name, tags=tags)
    if after == held:
        return []

    def make() -> None:
        client.machines.edit(machine["id"], name=after.name, tags=after.tags)

    return [Change("~", f"machine {held.name} ({machine['id']})", make, _differences(held, after))]


def _schedules(
    client: Client, entries: Iterable[ScheduleEntry], names: Names
) -> tuple[list[Change], list[Change]]:
    changes, removals = [], []
    records = oldest_first(client.schedules.list())
    for record, entry in _paired(records, _name_of, entries, lambda entry: entry.name):
        if entry is None:
            gone = _removal(f"schedule {record['name']}", client.schedules.delete, record["id"])
            removals.append(gone)
            continue
        held = None if record is None else schedule_entry(record, names)
        if entry.machines is not None and (held is None or entry.machines != held.machines):
            shown = {names.shown(names.id_of(each)) for each in entry.machines}
            entry = msgspec.structs.replace(entry, machines=sorted(shown))
        if held is None:
            changes.append(_new_schedule(client, entry, names))
        elif entry != held:
            changes.append(_schedule_change(client, record["id"], held, entry, names))
    return changes, removals


def _new_schedule(client: Client, entry: ScheduleEntry, names: Names) -> Change:
    def make() -> None:
        options = _options(entry, entry.__struct_fields__, names)
        of = [options.pop(name) for name in ("name", "command", "cron")]
        client.schedules.create(*of, **options)

    return Change("+", f"schedule {entry.name}", make, _settings(entry))


def _schedule_change(
    client: Client, schedule_id: str, held: ScheduleEntry, entry: ScheduleEntry, names: Names
) -> Change:
    def make() -> None:
        client.schedules.update(schedule_id, **_options(entry, _differing(held, entry), names))

    return Change("~", f"schedule {entry.name}", make, _differences(held, entry))


def _options(entry: ScheduleEntry, fields: Iterable[str], names: Names) -> dict[str, Any]:
    """These fields by the names that the SDK has for them."""
    options: dict[str, Any] = {}
    for name in fields:
        value = getattr(entry, name)
        match name:
            case "machines" | "tags":
                if value is not None:
                    options |= _where(name, value, names)
            case "timeout" | "misfire_window":
                options[_API_NAMES[name]] = None if value is None else milliseconds(value)
            case "notify_success" | "notify_failure":
                key = name.replace("notify_", "on_")
                options["notify"] = {**options.get("notify", {}), key: value}
            case _:
                options[name] = value
    return options


def _where(name: str, value: Sequence[str], names: Names) -> dict[str, Any]:
    if name == "tags":
        return {"tags": value}
    ids = [names.id_of(each) for each in value]
    return {"machine_id": ids[0]} if len(ids) == 1 else {"machine_ids": ids}


def _webhooks(
    client: Client, entries: Iterable[WebhookEntry], environ: Mapping[str, str]
) -> tuple[list[Change], list[Change]]:
    changes, removals = [], []
    known = [_Known.of(entry, environ) for entry in entries]
    records = oldest_first(client.webhooks.list())
    for record, wanted in _paired(records, _receiver_of, known, lambda each: each.key):
        if wanted is None:
            name = f"webhook {_called(webhook_entry(record))}"
            removals.append(_removal(name, client.webhooks.delete, record["id"]))
        elif record is None:
            changes.append(_new_webhook(client, wanted, environ))
        else:
            held = msgspec.structs.replace(webhook_entry(record), url=record["url"])
            after = msgspec.structs.replace(wanted.entry, secret=None)
            if {*map(str.lower, after.headers)} == {*map(str.lower, held.headers)}:
                held.headers = after.headers  # their values nobody can compare
            if after != held:
                sent = wanted.sent
                changes.append(_webhook_change(client, record["id"], held, after, sent, environ))
    return changes, removals


@dataclass(frozen=True, slots=True)
class _Known:
    """A wanted webhook whose URL is the one that the hub gets."""

    entry: WebhookEntry
    sent: list[str]  # says which variables go to whom, if any do

    @classmethod
    def of(cls, entry: WebhookEntry, environ: Mapping[str, str]) -> "_Known":
        url = filled(entry.url, environ, _called(entry))
        names = ", ".join(variables_in(entry.url, *entry.headers.values()))
        sent = [f"sent to {host_of(url) or 'its address'}: {names}"] if names else []
        return cls(msgspec.structs.replace(entry, url=url), sent)

    @property
    def key(self) -> str:
        return self.entry.description or self.entry.url


def _new_webhook(client: Client, wanted: _Known, environ: Mapping[str, str]) -> Change:
    entry = wanted.entry
    name = _called(entry)
    headers = _headers(entry, environ)
    secret = None if entry.secret is None else filled(entry.secret, environ, name)

    def make() -> str | None:
        made = client.webhooks.create(
            entry.url,
            entry.events,
            description=entry.description,
            preset=entry.preset,
            headers=headers,
            secret=secret,
            enabled=entry.enabled,
        )
        return made.get("secret") if secret is None else None

    return Change("+", f"webhook {name}", make, _settings(entry) + wanted.sent)


def _webhook_change(
    client: Client,
    webhook_id: str,
    held: WebhookEntry,
    entry: WebhookEntry,
    sent: list[str],
    environ: Mapping[str, str],
) -> Change:
    changes: dict[str, Any] = {name: getattr(entry, name) for name in _differing(held, entry)}
    is_sent = bool({"headers", "url"} & changes.keys())
    if entry.headers and is_sent:  # the hub sends none elsewhere
        changes["headers"] = _headers(entry, environ)

    def make() -> None:
        client.webhooks.update(webhook_id, **changes)

    lines = _differences(held, entry) + (sent if is_sent else [])
    return Change("~", f"webhook {_called(entry)}", make, lines)


def _headers(entry: WebhookEntry, environ: Mapping[str, str]) -> dict[str, str]:
    whose = _called(entry)
    return {name: filled(value, environ, whose) for name, value in entry.headers.items()}


def _removal(what: str, delete: Callable[[str], None], record_id: str) -> Change:
    def make() -> None:
        delete(record_id)

    return Change("-", what, make)


def _paired(
    records: Iterable[H],
    key_of: Callable[[H], Hashable],
    entries: Iterable[W],
    key_in: Callable[[W], Hashable],
) -> Iterator[tuple[Any, Any]]:
    """(what is there, what is wanted) by name, those of one name in their order; None: neither."""
    groups: dict[Hashable, tuple[list[H], list[W]]] = defaultdict(lambda: ([], []))
    for entry in entries:
        groups[key_in(entry)][1].append(entry)
    for record in records:
        groups[key_of(record)][0].append(record)
    for group in groups.values():
        yield from zip_longest(*group)


def _name_of(record: Mapping[str, Any]) -> str:
    return str(record["name"])


def _receiver_of(record: Mapping[str, Any]) -> str:
    return str(record["description"] or record["url"])


def _called(entry: WebhookEntry) -> str:
    """What a webhook is called where its URL, which may have a token in it, is not shown."""
    return entry.description or f"to {host_of(entry.url) or 'an address'}"


def _differing(held: Entry, entry: Entry) -> list[str]:
    return [n for n in entry.__struct_fields__ if getattr(held, n) != getattr(entry, n)]


def _differences(held: Entry, entry: Entry) -> list[str]:
    lines = []
    for name in _differing(held, entry):
        if name in _VEILED:
            lines.append(f"{name}: changed")
        else:
            lines.append(f"{name}: {_said(getattr(held, name))} → {_said(getattr(entry, name))}")
    return lines


def _settings(entry: Entry) -> list[str]:
    """What a new entry says beyond its defaults."""
    return [
        f"{name}: {'(not shown)' if name in _VEILED else _said(value)}"
        for name, value in settings_of(entry).items()
        if name not in ("name", "description")
    ]


def _said(value: object) -> str:
    match value:
        case None | "":
            return "none"
        case bool():
            return str(value).lower()
        case list():
            return ", ".join(value) or "none"
    return str(value)
