"""`cmdop schedules`: commands that the hub starts by a rule."""

import itertools
import sys
from typing import Any, Final

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.durations import Duration, ago
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.follow import FollowingCommand
from cmdop_appliance.cli.follow import follow as follow_command
from cmdop_appliance.cli.machine_names import MachineName
from cmdop_appliance.cli.options import is_removal_meant, said, with_unset
from cmdop_appliance.cli.output import nameless_output_option, output_option, show_one
from cmdop_appliance.cli.schedule_settings import RULE, options_of, settings
from cmdop_appliance.cli.schedule_views import show_history, show_preview, show_schedules
from cmdop_appliance.cli.targets import find_machine, pick_by
from cmdop_appliance.cli.text import visible
from cmdop_appliance.cli.words import WordsCommand, shell_text, words_behind
from cmdop_appliance.sdk import Client
from cmdop_appliance.sdk.resources.resource import PAGE_ITEMS
from cmdop_appliance.sdk.schedule_types import Schedule

_CREATE: Final = "cmdop schedules create NAME --cron RULE -m MACHINE -- COMMAND…"
_UNSET: Final = {"timeout": "timeout_ms", "cwd": "cwd", "env": "env", "user": "user"}
_SHOWN_FIRINGS: Final = 5  # of a schedule that was just made or changed


class RunCommand(FollowingCommand):
    """With --follow it ends as its command does, like `cmdop exec`; otherwise as all others do."""

    parse_args = click.Command.parse_args

    def invoke(self, ctx: click.Context) -> Any:
        """See the class."""
        return super().invoke(ctx) if ctx.params["follow"] else click.Command.invoke(self, ctx)


@click.group()
def schedules() -> None:
    """Commands that the hub starts by a rule.

    A SCHEDULE is named by its id, its name, or a unique beginning of one.
    """


@schedules.command("ls")
@client_options
@output_option
@click.option("--machine", type=MachineName(), help="Only those that run on this machine.")
@click.option("--enabled/--disabled", default=None, help="Only such.")
def list_schedules(
    client: Client, form: str | None, machine: str | None, *, enabled: bool | None
) -> None:
    """List the schedules."""
    machine_id = find_machine(client, machine)["id"] if machine else None
    found = client.schedules.list(machine_id=machine_id, enabled=enabled)
    show_schedules(client, found, form)


@schedules.command("create", cls=WordsCommand, options_metavar="[OPTIONS]")
@client_options
@output_option
@click.argument("name", metavar="NAME -- COMMAND…")
@click.option("--cron", required=True, metavar="RULE", help=RULE)
@settings
@click.option("-q", "--quiet", is_flag=True, help="Print only the id.")
def create_schedule(
    client: Client,
    /,
    form: str | None,
    name: str,
    cron: str,
    *,
    quiet: bool,
    **given: Any,
) -> None:
    """Run COMMAND whenever RULE comes due, and show when that is.

    One word is shell text as it stands: -- 'df -h | sort'. Several are one command and its
    arguments. Unless said otherwise: --tz UTC, --overlap skip, --misfire run_once and
    --misfire-window 24h, and nothing is told of runs.
    """
    text = shell_text((), words_behind(), _CREATE)
    if not given["machines"] and given["tags"] is None:
        raise click.UsageError("say where it runs: give -m or --tags")
    made = client.schedules.create(name, text, cron, **options_of(client, given))
    if quiet:
        print(visible(made["id"]))
    else:
        _show_changed(client, made, form)


@schedules.command("edit", cls=WordsCommand, options_metavar="[OPTIONS]")
@client_options
@output_option
@click.argument("schedule", metavar="SCHEDULE [-- COMMAND…]")
@click.option("--name", help="What it is called from now on.")
@click.option("--cron", metavar="RULE", help=RULE)
@settings
@click.option(
    "--unset", type=click.Choice([*_UNSET]), multiple=True, help="Take it off; may be repeated."
)
def edit_schedule(
    client: Client,
    /,
    form: str | None,
    schedule: str,
    name: str | None,
    cron: str | None,
    unset: tuple[str, ...],
    **given: Any,
) -> None:
    """Change what is given, and show when it runs; what came due before is not made up for.

    --env adds variables to those that it has. What waits for a machine that is away is cancelled if
    what it runs, or where, is changed.
    """
    changes = options_of(client, given) | said({"name": name, "cron": cron})
    unset_fields: dict[str, Any] = {
        _UNSET[field]: {} if field == "env" else None for field in unset
    }
    changes = with_unset(changes, unset_fields)
    if words_behind() is not None:
        changes["command"] = shell_text((), words_behind(), "cmdop schedules edit …")
    if not changes:
        raise click.UsageError("nothing to change: give an option, or a command behind --")
    found = find_schedule(client, schedule)
    if "env" in changes and "env" not in unset:
        changes["env"] = {**found["env"], **changes["env"]}
    _show_changed(client, client.schedules.update(found["id"], **changes), form)


@schedules.command("show")
@client_options
@output_option
@click.argument("schedule")
def show_schedule(client: Client, form: str | None, schedule: str) -> None:
    """Show one schedule."""
    found = find_schedule(client, schedule)
    show_one(found, form)
    _tell_if_paused(found)


@schedules.command("rm")
@client_options
@click.argument("schedule")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def remove_schedule(client: Client, schedule: str, *, yes: bool) -> int:
    """Remove a schedule; a command of it that runs goes on, one that waits never starts."""
    found = find_schedule(client, schedule)
    name = visible(f"{found['name']} ({found['id']})")
    if not is_removal_meant(name, yes=yes):
        return failures.OTHER
    client.schedules.delete(found["id"])
    print(f"removed {name}", file=sys.stderr)
    return 0


@schedules.command("run", cls=RunCommand)
@client_options
@click.argument("schedule")
@click.option("--follow", is_flag=True, help="Show its output, and exit with its exit code.")
def run_schedule(client: Client, schedule: str, *, follow: bool) -> int:
    """Start it now, also when it is paused, and print the ids of its commands.

    --follow is for one that runs on one machine. Exit codes with it are those of cmdop exec. Ctrl-C
    ends the view; the command runs on.
    """
    found = find_schedule(client, schedule)
    if follow and (found["tags"] is not None or len(found["machine_ids"] or ()) > 1):
        raise Failure(
            f"{found['name']} runs on a group, and --follow is for one machine: nothing is started",
            exit_code=failures.OTHER,
            hint="start it without --follow, then cmdop commands follow ID",
        )
    started = client.schedules.run(found["id"])
    if follow:
        return follow_command(client, started["command_id"])
    for command_id in started["commands"].values():
        print(visible(command_id))
    return 0


@schedules.command("history")
@client_options
@output_option
@click.argument("schedule")
@click.option("--since", type=Duration(), help="How far back: 12h, 7d. Default: all that is kept.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True)
def list_history(
    client: Client, form: str | None, schedule: str, since: int | None, limit: int
) -> None:
    """List what became of its firings, the newest first, and why where nothing ran."""
    runs = client.schedules.history(
        find_schedule(client, schedule)["id"],
        since=ago(since),
        page_items=min(limit, PAGE_ITEMS),
    )
    show_history(client, itertools.islice(runs, limit), form)


@schedules.command("preview")
@client_options
@nameless_output_option
@click.argument("schedule", metavar="SCHEDULE|RULE")
@click.option("--tz", metavar="ZONE", help="It is a rule, in this time zone. Default: UTC.")
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=5, show_default=True)
def preview(client: Client, form: str | None, schedule: str, tz: str | None, count: int) -> None:
    """Show in words what a rule says, and its next instants; nothing is made or changed.

    RULE is minute, hour, day of month, month and day of week: '30 3 * * mon-fri'; or @daily.
    """
    found = None if tz else _named(client, schedule)
    if found is not None:
        shown = client.schedules.preview(found["id"], count=count)
        zone = found["timezone"]
    else:
        zone = tz or "UTC"
        shown = client.schedules.preview_rule(schedule, timezone=zone, count=count)
    if form in ("json", "jsonl"):
        show_one(shown, form)
    else:
        show_preview(shown, zone, form)


@schedules.command("pause")
@client_options
@click.argument("schedule")
def pause(client: Client, schedule: str) -> None:
    """Let its rule count no more, until it is resumed; what waits for a machine never starts."""
    found = find_schedule(client, schedule)
    client.schedules.update(found["id"], enabled=False)
    print(visible(f"paused {found['name']} ({found['id']})"), file=sys.stderr)


@schedules.command("resume")
@client_options
@click.argument("schedule")
def resume(client: Client, schedule: str) -> None:
    """Let its rule count from now on; what came due before is not made up for."""
    found = find_schedule(client, schedule)
    made = client.schedules.update(found["id"], enabled=True)
    shown = f"resumed {found['name']} ({found['id']}): it runs at {made['next_run']}"
    print(visible(shown), file=sys.stderr)
    _tell_if_paused(made)


def find_schedule(client: Client, wanted: str) -> Schedule:
    """The one schedule that `wanted` names: by id, by name, or by the beginning of one.

    Raises:
        Failure: none fits, or more than one does.
    """
    found = list(client.schedules.list())
    return pick_by(("id", "name"), wanted, found, "schedule", _CREATE)


def _named(client: Client, wanted: str) -> Schedule | None:
    """The schedule that `wanted` names, or None: it is a rule."""
    try:
        return find_schedule(client, wanted)
    except Failure as exc:
        is_rule = wanted.startswith("@") or " " in wanted.strip()
        if exc.exit_code == failures.NOT_FOUND and is_rule:
            return None
        raise


def _show_changed(client: Client, schedule: Schedule, form: str | None) -> None:
    if form in ("json", "jsonl", "name"):
        show_one(schedule, form)
    else:
        state = "" if schedule["enabled"] else ", paused"
        print(visible(f"{schedule['name']} ({schedule['id']}){state}"))
        shown = client.schedules.preview(schedule["id"], count=_SHOWN_FIRINGS)
        show_preview(shown, schedule["timezone"], form)
    _tell_if_paused(schedule)


def _tell_if_paused(schedule: Schedule) -> None:
    if schedule["paused"] is not None:
        print(f"note: no schedule is started: {visible(schedule['paused'])}", file=sys.stderr)
