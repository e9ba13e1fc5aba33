"""Names of machines where a command takes one: a shell completes them as it does files."""

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cmdop_appliance.cli.connection import Chosen, Hub, find_hub, open_client
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.sdk import CmdopError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_FRESH_S: Final = 60.0
# The most that the hub is waited for: whoever has pressed the key does.
_HUB_S: Final = 0.15
# A shell runs what it has completed: nothing that it would read otherwise comes from elsewhere.
_HARMLESS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class MachineName(click.ParamType[str]):
    """What names a machine, as it stands."""

    name = "text"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem[str]]":
        """The names that begin so, as they were at most a minute ago."""
        from click.shell_completion import CompletionItem

        chosen = _chosen(ctx.find_root()).overridden_by(_chosen(ctx))
        names = known_names(chosen, os.environ)
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class MachinePlace(MachineName):
    """MACHINE:PATH, as it stands."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem[str]]":
        """The machines; a path on one is not known here."""
        found = super().shell_complete(ctx, param, incomplete)
        for item in found:
            item.value += ":"
        return found


class AnyPlace(MachinePlace):
    """A path here or MACHINE:PATH, as it stands."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem[str]]":
        """What is here and begins so; if nothing does, the machines."""
        from click.shell_completion import CompletionItem

        is_here = any(path.name.startswith(incomplete) for path in Path.cwd().iterdir())
        if is_here or "/" in incomplete:
            return [CompletionItem(incomplete, type="file")]
        return super().shell_complete(ctx, param, incomplete)


def known_names(chosen: Chosen, environ: Mapping[str, str]) -> list[str]:
    """The names of the hub's machines, from the cache or from the hub; [] if nobody knows now."""
    try:
        hub = find_hub(chosen, environ)
    except Failure:
        return []
    cache = _cache_file(hub, environ)
    kept = _read(cache)
    if kept is not None and kept[0] < _FRESH_S:
        return kept[1]
    try:
        names = _ask(hub)
    except (CmdopError, Failure):
        return [] if kept is None else kept[1]
    if cache is not None:
        _write(cache, names)
    return names


def _chosen(ctx: click.Context) -> Chosen:
    names = ("hub", "key", "data_dir", "context")
    return Chosen(**{name: ctx.params.get(name) for name in names})


def _ask(hub: Hub) -> list[str]:
    give_up = time.monotonic() + _HUB_S
    names = []
    with open_client(hub, timeout_s=_HUB_S) as client:
        for machine in client.machines.list():
            names.append(machine["name"])
            if time.monotonic() > give_up:
                break
    return sorted(name for name in names if _HARMLESS.fullmatch(name))


def _cache_file(hub: Hub, environ: Mapping[str, str]) -> Path | None:
    base = environ.get("XDG_CACHE_HOME") or f"{environ['HOME']}/.cache" if "HOME" in environ else ""
    if not base:
        return None
    whose = hashlib.sha256(f"{hub.url}\n{hub.key}".encode()).hexdigest()[:16]
    return Path(base) / f"cmdop/machines-{whose}.json"


def _read(cache: Path | None) -> tuple[float, list[str]] | None:
    """(how old it is in seconds, the names); None: there is nothing of use."""
    if cache is None:
        return None
    try:
        age_s = time.time() - cache.stat().st_mtime
        names = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return (age_s, [*filter(_HARMLESS.fullmatch, names)]) if is_list else None


def _write(cache: Path, names: list[str]) -> None:
    from cmdop_appliance.private import write_private

    with suppress(OSError):  # a cache that cannot be kept costs time only
        cache.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(cache, json.dumps(names))
