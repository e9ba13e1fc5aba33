"""A hub's machines, schedules and webhooks as entries of a file: what `cmdop export` writes and
`cmdop apply` reads (docs/config-as-code.md).

What an entry leaves out has its default, so that two entries that mean the same are equal.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import tomli_w
from msgspec import Struct

from cmdop_appliance.cli.durations import milliseconds, shortest
from cmdop_appliance.cli.failures import NOT_FOUND, USAGE, Failure
from cmdop_appliance.cli.text import escaped
from cmdop_appliance.cli.webhook_settings import expand
from cmdop_appliance.sdk.schedule_types import Misfire, Overlap, Schedule
from cmdop_appliance.sdk.types import Machine
from cmdop_appliance.sdk.webhook_types import Preset, Webhook

_VARIABLE: Final = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_OURS: Final = "CMDOP_"  # begins variables that no file gets, such as the key that applies it
_DURATIONS: Final = ("timeout", "misfire_window")


class Entry(Struct, kw_only=True, forbid_unknown_fields=True):
    """One table of the file."""


class MachineEntry(Entry, kw_only=True):
    """A machine that is there, found by its `id` or else its name; without `tags` it keeps them."""

    id: str | None = None
    name: str
    tags: list[str] | None = None


class ScheduleEntry(Entry, kw_only=True):
    """A schedule. Durations as people write them: 30s, 5m, 1d."""

    name: str
    description: str = ""
    cron: str
    timezone: str = "UTC"
    machines: list[str] | None = None  # by name, or by id where a name is another's, too
    tags: list[str] | None = None
    command: str
    enabled: bool = True
    timeout: str | None = None
    cwd: str | None = None
    user: str | None = None
    env: dict[str, str] = {}
    overlap: Overlap = "skip"
    misfire: Misfire = "run_once"
    misfire_window: str = "1d"
    notify_success: bool = False
    notify_failure: bool = False

    def __post_init__(self) -> None:
        if (self.machines is None) == (self.tags is None):
            raise ValueError(f"schedule {self.name!r} needs either `machines` or `tags`")
        if self.tags is not None:
            self.tags = sorted(set(self.tags))
        for name in _DURATIONS:
            if (text := getattr(self, name)) is not None:
                try:
                    setattr(self, name, shortest(milliseconds(text)))
                except ValueError as exc:
                    raise ValueError(f"{name} of schedule {self.name!r} {exc}") from None


class WebhookEntry(Entry, kw_only=True):
    """A webhook. Of what the hub never shows, the file names a variable: `${NAME}`.

    In `url`, `headers` and `secret` a literal `${` is written `$${`.
    """

    description: str = ""
    url: str
    events: list[str]
    preset: Preset | None = None
    headers: dict[str, str] = {}
    secret: str | None = None  # what it is made with; later it says nothing
    enabled: bool = True

    def __post_init__(self) -> None:
        self.events = sorted(expand(self.events))


class Configuration(Entry, kw_only=True):
    """The file. A kind that it does not name is left as it is; an empty one has nothing in it."""

    machines: list[MachineEntry] | None = None
    schedules: list[ScheduleEntry] | None = None
    webhooks: list[WebhookEntry] | None = None


class Names:
    """Machines by the names that people know them by."""

    def __init__(self, names: Mapping[str, str]) -> None:
        """`names`: by id."""
        shared = Counter(names.values())
        self._ids = {name: id_ for id_, name in names.items() if shared[name] == 1}
        self._names = {id_: name for name, id_ in self._ids.items()}
        self._all = names

    def shown(self, machine_id: str) -> str:
        """Its name, or the id where that is the only thing that names it."""
        return self._names.get(machine_id, machine_id)

    def id_of(self, wanted: str) -> str:
        """The id of the one machine of that name, or with that id.

        Raises:
            Failure: there is none, or there are several.
        """
        if wanted in self._all:
            return wanted
        if wanted in self._ids:
            return self._ids[wanted]
        is_shared = wanted in self._all.values()
        raise Failure(
            f'machine "{wanted}" is {"more than one" if is_shared else "not on this hub"}',
            exit_code=NOT_FOUND,
            hint="name it by its id: cmdop machines ls" if is_shared else "cmdop machines ls",
        )


def machine_entry(machine: Machine) -> MachineEntry:
    """What a file says of a machine."""
    return MachineEntry(id=machine["id"], name=machine["name"], tags=sorted(machine["tags"]))


def schedule_entry(schedule: Schedule, names: Names) -> ScheduleEntry:
    """What a file says of a schedule."""
    ids = schedule["machine_ids"]
    if schedule["machine_id"] is not None:
        ids = [schedule["machine_id"]]
    timeout = schedule["timeout"]
    return ScheduleEntry(
        name=schedule["name"],
        description=schedule["description"],
        cron=schedule["cron"],
        timezone=schedule["timezone"],
        machines=None if ids is None else sorted(map(names.shown, ids)),
        tags=schedule["tags"],
        command=schedule["command"],
        enabled=schedule["enabled"],
        timeout=None if timeout is None else shortest(timeout),
        cwd=schedule["cwd"],
        user=schedule["user"],
        env=schedule["env"],
        overlap=schedule["overlap"],
        misfire=schedule["misfire"],
        misfire_window=shortest(schedule["misfire_window"]),
        notify_success=schedule["notify"].get("on_success", False),
        notify_failure=schedule["notify"].get("on_failure", False),
    )


def webhook_entry(webhook: Webhook) -> WebhookEntry:
    """What a file says of a webhook: of its headers the names, of its secret nothing.

    Whoever made it chose its texts: none of them names a variable. Those of its headers have its
    receiver in their names, so that what is set for one receiver never goes to another.
    """
    host = host_of(webhook["url"])
    return WebhookEntry(
        description=webhook["description"],
        url=webhook["url"].replace("${", "$${"),
        events=webhook["events"],
        preset=webhook["preset"],
        headers={name: f"${{{_variable(name, host)}}}" for name in webhook["header_names"]},
        enabled=webhook["enabled"],
    )


def oldest_first(records: Iterable[Any]) -> list[Any]:
    """The order in which they were made, in which those of one name are told apart."""
    return [*records][::-1]


def settings_of(entry: Entry) -> dict[str, Any]:
    """What an entry says beyond its defaults."""
    values = msgspec.structs.asdict(entry)
    for known in msgspec.structs.fields(entry):
        is_made = known.default_factory is not msgspec.NODEFAULT
        if values[known.name] == (known.default_factory() if is_made else known.default):
            del values[known.name]
    return values


def to_toml(kinds: Mapping[str, Iterable[Entry]]) -> str:
    """The text of a file with these; what is invisible in it stands as an escape."""
    content = {kind: [settings_of(entry) for entry in entries] for kind, entries in kinds.items()}
    text = tomli_w.dumps(content, multiline_strings=True)
    if tomllib.loads(text) != content:  # which has no \r\n within lines
        text = tomli_w.dumps(content)
    return escaped(text)


def from_toml(raw: bytes, where: str) -> Configuration:
    """What a file says.

    Raises:
        Failure: it says nothing of the kind; what is wrong is named.
    """
    try:
        return msgspec.convert(tomllib.loads(raw.decode()), Configuration)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        why = str(exc)
    except msgspec.ValidationError as exc:
        why = str(exc).replace("`$.", "`")
    raise Failure(f"{where}: {why[:1].lower()}{why[1:]}", exit_code=USAGE)


def host_of(url: str) -> str:
    """The host in it; "": it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def variables_in(*texts: str) -> list[str]:
    """The names of the variables that these have in them."""
    return sorted({name for text in texts for name in _VARIABLE.findall(text) if name})


def filled(text: str, environ: Mapping[str, str], whose: str) -> str:
    """`text` with the values of its variables, and `${` for `$${`.

    Raises:
        Failure: one is not set, or is not for files.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] is None:
            return "${"
        hint = f"the file has it as ${{{found[1]}}}"
        if found[1].startswith(_OURS):
            message = f"{whose}: {found[1]} is not for files, as are all {_OURS}…"
            raise Failure(message, exit_code=USAGE, hint=hint)
        if found[1] not in environ:
            raise Failure(f"{whose}: {found[1]} is not set", exit_code=USAGE, hint=hint)
        return environ[found[1]]

    return _VARIABLE.sub(value, text)


def _variable(header: str, host: str) -> str:
    """Another name for each host: what stands behind the header's decides whose it is."""
    signs = {".": "_", "-": "__"}
    receiver = re.sub(r"[^a-z0-9]", lambda found: signs.get(found[0], f"_{ord(found[0]):X}_"), host)
    return re.sub(r"[^A-Z0-9]", "_", f"WEBHOOK_{header}_{receiver}".upper())
