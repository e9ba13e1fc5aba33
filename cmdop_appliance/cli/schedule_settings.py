"""What a schedule may have, as options: what `create` and `edit` of `cmdop schedules` share."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

import click

from cmdop_appliance.cli.durations import Duration
from cmdop_appliance.cli.machine_names import MachineName
from cmdop_appliance.cli.names import Names
from cmdop_appliance.cli.options import said, with_options
from cmdop_appliance.cli.targets import pick
from cmdop_appliance.cli.words import variables
from cmdop_appliance.sdk import Client
from cmdop_appliance.sdk.schedule_types import Misfire, Overlap

RULE: Final = "Minute, hour, day of month, month, day of week: '30 3 * * mon-fri'; or @daily."

# No defaults in the texts: with `edit` what is not said stays as it is.
_SETTINGS: Final = (
    click.option(
        *("-m", "--machine", "machines"),
        type=MachineName(),
        metavar="MACHINE",
        multiple=True,
        help="Where it runs; may be repeated.",
    ),
    click.option(
        "--tags",
        type=Names(),
        metavar="A,B",
        help="On all machines that have all of these.",
    ),
    click.option("--tz", metavar="ZONE", help="The rule's time zone: Europe/Berlin."),
    click.option("--timeout", type=Duration(), help="End the command after this: 30s, 5m, 1h."),
    click.option("--cwd", metavar="DIR", help="Working directory on the machine."),
    click.option("--env", metavar="K=V", multiple=True, help="Set a variable; may be repeated."),
    click.option("--user", help="Run as this user of the machine."),
    click.option(
        "--overlap",
        type=click.Choice(get_args(Overlap)),
        help="If the one before still runs.",
    ),
    click.option(
        "--misfire",
        type=click.Choice(get_args(Misfire)),
        help="If nobody could start it in time.",
    ),
    click.option("--misfire-window", type=Duration(), help="How late it may start: 30m, 6h."),
    click.option(
        "--notify-failure/--no-notify-failure",
        default=None,
        help="Tell of runs that fail, as schedule.failed.",
    ),
    click.option(
        "--notify-success/--no-notify-success",
        default=None,
        help="Tell of runs that succeed, as schedule.completed.",
    ),
    click.option("--description", metavar="TEXT"),
    click.option("--enabled/--disabled", default=None, help="Whether its rule counts."),
)


settings = with_options(_SETTINGS)


def options_of(client: Client, given: Mapping[str, Any]) -> dict[str, Any]:
    """What those options say, by the names of the SDK.

    Raises:
        Failure, UsageError: no such machine, or more than one thing says where.
    """
    notify = {"on_success": given["notify_success"], "on_failure": given["notify_failure"]}
    options = {
        "description": given["description"],
        "timezone": given["tz"],
        "enabled": given["enabled"],
        "timeout_ms": given["timeout"],
        "cwd": given["cwd"],
        "env": variables(given["env"]) or None,
        "user": given["user"],
        "overlap": given["overlap"],
        "misfire": given["misfire"],
        "misfire_window_ms": given["misfire_window"],
        "notify": said(notify) or None,
    }
    return said({**options, **_where(client, given["machines"], given["tags"])})


def _where(client: Client, wanted: Sequence[str], tags: list[str] | None) -> dict[str, Any]:
    if not wanted:
        return {"tags": tags}
    if tags is not None:
        raise click.UsageError("give -m or --tags, not both")
    known = list(client.machines.list())
    found = [pick(name, known)["id"] for name in wanted]
    return {"machine_id": found[0]} if len(found) == 1 else {"machine_ids": found}
