"""`cmdop apply`: a hub becomes what a file says."""

import os
from typing import BinaryIO

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.changes import Change, plan
from cmdop_appliance.cli.configuration import from_toml
from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.options import is_meant
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk import Client, CmdopError


@click.command("apply")
@client_options
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--prune", is_flag=True, help="Remove schedules and webhooks that FILE has not.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def apply_file(client: Client, file: BinaryIO, *, dry_run: bool, prune: bool, yes: bool) -> int:
    """Show what differs from FILE, and make it so; - is standard input.

    Schedules are known by their names, webhooks by their descriptions, or else by their URLs. A
    kind that FILE does not name is left as it is. ${NAME} in what is said of a webhook stands for
    a variable of the environment.
    """
    where = getattr(file, "name", "standard input")
    planned = plan(client, from_toml(file.read(), where), os.environ, prune=prune)
    for change in planned.changes:
        _show(change)
    for what in planned.kept:
        print(visible(f"  {what} is not in the file; --prune removes it"))
    if not planned.changes:
        print("nothing to change")
    elif not dry_run:
        if not is_meant(f"make these changes ({len(planned.changes)})?", yes=yes):
            return failures.OTHER
        for number, change in enumerate(planned.changes):
            _make(change, f"{number} of {len(planned.changes)} changes are made")
    return 0


def _make(change: Change, progress: str) -> None:
    try:
        secret = change.make()
    except CmdopError as exc:
        failed = failures.as_failure(exc)
        failed.message = f"{change.what}: {failed.message}; {progress}"
        raise failed from exc
    if secret is not None:
        print(visible(f"the secret of {change.what}, shown only now: {secret}"))


def _show(change: Change) -> None:
    print(visible(f"{change.sign} {change.what}"))
    for line in change.fields:
        print(visible(f"    {line}"))
